"""The library as a whole: training and loading runs with every registered part.

`train` is what the command line calls after reading its arguments; `load_run` brings back what it
wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssmrl.training.components import Components


def _configs() -> Path:
    """The folder of YAML files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


CONFIGS = _configs()
"""What Hydra composes from: ``train.yaml``, ``experiment/`` and so on."""


def _lazy(module: str, name: str) -> Any:
    """A function of a module that is imported at its first call."""

    def call(*arguments: Any, **options: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


COMPONENTS = Components(
    list_agents=_lazy("ssmrl.agents", "list_agents"),
    agent_config=_lazy("ssmrl.agents", "agent_config"),
    make_agent=_lazy("ssmrl.agents", "make_agent"),
    list_memories=_lazy("ssmrl.memory", "list_memories"),
    memory_config=_lazy("ssmrl.memory", "memory_config"),
    list_envs=_lazy("ssmrl.envs", "list_envs"),
    canonical_name=_lazy("ssmrl.envs", "canonical_name"),
    make_vector=_lazy("ssmrl.envs", "make_vector"),
)


def train(config: Any, **options: Any) -> Any:
    """Train as a `TrainConfig` says; see `ssmrl.training.run_training.run_training`."""
    from ssmrl.training.run_training import run_training

    return run_training(config, COMPONENTS, **options)


def diagnose(config: Any) -> Path:
    """Examine the memory that a `DiagnoseConfig` names: prints, and returns the picture's path.

    Raises:
        UsageError: the memory's options do not fit together.
        RunError: it does not fit into memory.
    """
    import dataclasses

    import jax

    from ssmrl.diagnostics.measure import examine
    from ssmrl.diagnostics.report import write_report
    from ssmrl.diagnostics.theory import state_tracking
    from ssmrl.memory import make_memory
    from ssmrl.training.fit import check_size, check_width, refusals

    options = dataclasses.asdict(config.memory)
    name = options.pop("name")
    x = jax.ShapeDtypeStruct((1, 1, options["features"]), "float32")
    reset = jax.ShapeDtypeStruct((1, 1), bool)
    check_width(options["features"])
    with refusals(memory=name):
        memory = make_memory(name, **options)
        carry = jax.eval_shape(lambda: memory.initialize_carry((1,)))
        check_size(jax.eval_shape(memory.init, jax.random.key(0), carry, x, reset))
    print(f"{name}: {state_tracking(name)}")
    results = examine(memory, config.steps, config.seed)
    path = Path(config.out or f"runs/diagnose-{name}.png")
    data = write_report(results, f"{name}, {config.steps} updates a task", path)
    print(f"{path}, {data}")
    return path


def load_run(path: str | Path, **options: Any) -> Any:
    """Read a run back; see `ssmrl.training.loading.load_run`."""
    from ssmrl.training.loading import load_run

    return load_run(path, COMPONENTS, **options)
