"""Curves and tables over runs: python scripts/plot.py runs/<id> [runs/<id> ...] [--out FILE]"""

import sys

from ssmrl.training.cli import plot_command

if __name__ == "__main__":
    sys.exit(plot_command(sys.argv[1:]))
