"""Evaluate a run: python scripts/evaluate.py run=runs/<id> episodes=256 [env=...] [video=true]"""

import sys
from pathlib import Path

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import evaluate_command

if __name__ == "__main__":
    sys.exit(evaluate_command(sys.argv[1:], COMPONENTS, Path(__file__).parent.parent / "configs"))
