"""`python -m ssmrl train …`: the command ``ssmrl`` without an entry in PATH."""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
