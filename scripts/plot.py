"""Curves and tables over runs: python scripts/plot.py runs/<id> [runs/<id> ...] [--out FILE]"""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
