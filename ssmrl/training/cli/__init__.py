"""The command line: ``key=value`` overrides composed by Hydra, checked before anything runs.

Hydra composes, sweeps (``-m``) and launches. What it says to a typing error is a page about search
paths, so every override is checked here first, and a wrong one is answered with what came, what
exists and the near match: exit code 2, no traceback.
"""

from ssmrl.training.cli.commands import (
    benchmark_command,
    chaos_command,
    compose_training,
    diagnose_command,
    evaluate_command,
    plot_command,
    train_command,
)
from ssmrl.training.cli.outcome import run_command

__all__ = [
    "benchmark_command",
    "chaos_command",
    "compose_training",
    "diagnose_command",
    "evaluate_command",
    "plot_command",
    "run_command",
    "train_command",
]
