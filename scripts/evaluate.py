"""Evaluate a run: python scripts/evaluate.py run=runs/<id> episodes=256 [env=...] [video=true]"""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
