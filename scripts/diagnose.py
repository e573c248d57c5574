"""What a memory remembers: python scripts/diagnose.py memory=s5 [memory.layers=2 ...]"""

import sys
from pathlib import Path

from ssmrl.experiment import COMPONENTS, diagnose
from ssmrl.training.cli import diagnose_command

if __name__ == "__main__":
    configs = Path(__file__).parent.parent / "configs"
    sys.exit(diagnose_command(sys.argv[1:], COMPONENTS, configs, diagnose))
