"""scripts/train.py with the stub's registries, to be run as a process and killed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).parent / "configs"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from ssmrl.training.cli import train_command
    from tests.training.stub import STUB

    sys.exit(train_command(sys.argv[1:], STUB, CONFIGS))
