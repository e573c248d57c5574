"""Memories on a suite: python scripts/benchmark.py suite=popgym memory=[s5,gru] seeds=3"""

import sys
from pathlib import Path

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import benchmark_command

if __name__ == "__main__":
    here = Path(__file__).parent
    arguments = (COMPONENTS, here.parent / "configs", here / "train.py")
    sys.exit(benchmark_command(sys.argv[1:], *arguments))
