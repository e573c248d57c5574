"""Memories on a suite: python scripts/benchmark.py suite=popgym memory=[s5,gru] seeds=3"""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
