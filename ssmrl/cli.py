"""The command ``ssmrl``: a word for what to do, and the arguments that it takes.

`ssmrl train …` and `python scripts/train.py …` are the same. Nothing heavy is imported before a
command has been chosen, so that a package without its extras can say what is missing.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from ssmrl import zoo
from ssmrl.experiment import COMPONENTS, CONFIGS, diagnose
from ssmrl.training import cli

TRAIN = (sys.executable, "-m", "ssmrl", "train")
"""How a benchmark starts each of its trainings."""

COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": (
        "train an agent: ssmrl train agent=ppo memory=s5 env=popgym/repeat_previous_easy",
        lambda arguments: cli.train_command(arguments, COMPONENTS, CONFIGS),
    ),
    "evaluate": (
        "evaluate a run: ssmrl evaluate run=runs/<id> episodes=256 [video=true]",
        lambda arguments: cli.evaluate_command(arguments, COMPONENTS, CONFIGS),
    ),
    "plot": (
        "draw and tabulate runs: ssmrl plot runs/<id> [runs/<id> ...]",
        lambda arguments: cli.plot_command(arguments),
    ),
    "diagnose": (
        "see what a memory remembers: ssmrl diagnose memory=s5",
        lambda arguments: cli.diagnose_command(arguments, COMPONENTS, CONFIGS, diagnose),
    ),
    "benchmark": (
        "train memories on a suite: ssmrl benchmark suite=popgym memory=[s5,gru] seeds=3",
        lambda arguments: cli.benchmark_command(arguments, COMPONENTS, CONFIGS, TRAIN),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command and what it takes; None: those of the process.

    Returns:
        The exit code: 2 where there is no such command, else the command's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    if name in ("-h", "--help", "help"):
        return cli.run_command(lambda: _answer(_help()))
    if name == "--version":
        from importlib.metadata import version

        return cli.run_command(lambda: _answer(f"ssmrl {version('ssmrl')}"))
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(COMMANDS)
        print(f"error: no command {name}{hint}\ncommands: {known}", file=sys.stderr)
        return 2
    return cli.run_command(lambda: COMMANDS[name][1](_from_zoo(rest)))


def _answer(text: str) -> int:
    print(text)
    return 0


def _from_zoo(arguments: Sequence[str]) -> list[str]:
    """``run=zoo:<name>`` and ``init_from=zoo:<name>`` as folders of runs, unpacked."""
    unpacked = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in ("run", "init_from") and value.startswith(zoo.PREFIX):
            argument = f"{key}{equals}{zoo.unpack(value)}"
        unpacked.append(argument)
    return unpacked


def _help() -> str:
    rows = [f"  {name:<10} {text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join(
        [
            "ssmrl: reinforcement learning with memory",
            "",
            *rows,
            "",
            "ssmrl <command> --help says more",
        ]
    )
