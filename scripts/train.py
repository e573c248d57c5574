"""Train an agent: python scripts/train.py agent=ppo memory=s5 env=popgym/repeat_previous_easy"""

import sys
from pathlib import Path

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import train_command

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], COMPONENTS, Path(__file__).parent.parent / "configs"))
