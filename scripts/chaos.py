"""Kill a training again and again: python scripts/chaos.py kills=20 agent=ppo eval_every=10_000"""

import sys
from pathlib import Path

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import chaos_command

if __name__ == "__main__":
    here = Path(__file__).parent
    sys.exit(chaos_command(sys.argv[1:], COMPONENTS, here.parent / "configs", here / "train.py"))
