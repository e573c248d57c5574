"""Reinforcement learning with memory, in JAX.

    import ssmrl

    run = ssmrl.train(memory="s5", env="popgym/repeat_previous_easy", total_steps=300_000)
    policy = ssmrl.load(run.path).policy()

Importing the package imports nothing else, not even jax: every name below is looked up when it is
first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmrl.agents import list_agents
    from ssmrl.api import Run, load, train
    from ssmrl.envs import list_envs
    from ssmrl.memory import list_memories
    from ssmrl.policy import Policy
    from ssmrl.training.errors import RunError, StopTraining, UsageError

_WHERE = {
    "Policy": "ssmrl.policy",
    "Run": "ssmrl.api",
    "RunError": "ssmrl.training.errors",
    "StopTraining": "ssmrl.training.errors",
    "UsageError": "ssmrl.training.errors",
    "list_agents": "ssmrl.agents",
    "list_envs": "ssmrl.envs",
    "list_memories": "ssmrl.memory",
    "load": "ssmrl.api",
    "train": "ssmrl.api",
}
_MODULES = ("agents", "envs", "experiment", "memory", "networks", "scan", "training", "zoo")

__all__ = [
    "Policy",
    "Run",
    "RunError",
    "StopTraining",
    "UsageError",
    "list_agents",
    "list_envs",
    "list_memories",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _WHERE:
        value = globals()[name] = getattr(import_module(_WHERE[name]), name)
        return value
    if name in _MODULES:
        return import_module(f"ssmrl.{name}")
    raise AttributeError(f"module 'ssmrl' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
