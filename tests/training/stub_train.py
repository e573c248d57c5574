"""scripts/train.py with the stub's registries, to be run as a process and killed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stub import STUB

from ssmrl.training.cli import train_command

CONFIGS = Path(__file__).parent / "configs"

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], STUB, CONFIGS))
