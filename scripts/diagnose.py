"""What a memory remembers: python scripts/diagnose.py memory=s5 [memory.layers=2 ...]"""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["diagnose", *sys.argv[1:]]))
