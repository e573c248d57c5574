"""In-context reinforcement learning: an episode is a sequence of trials in one task.

Tasks are bandits, random MDPs, dark rooms, carts and poles whose dynamics are drawn, any
environment of ours whose episodes are repeated, and joined environments seen through random
projections. :class:`Trials` makes episodes of trials of all of them; :data:`MAKERS` are the ids.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ssmrl.envs.environment import Environment, check_truth
from ssmrl.envs.meta.bandits import BernoulliBandit, GaussianBandit, OneGoodArm
from ssmrl.envs.meta.cartpole import MetaCartPole
from ssmrl.envs.meta.dark_room import DarkRoom
from ssmrl.envs.meta.families import SUITES, make_family
from ssmrl.envs.meta.joined import Joined, Member
from ssmrl.envs.meta.mdp import RandomMDP
from ssmrl.envs.meta.task import Episodes, TaskEnvironment
from ssmrl.envs.meta.trials import Trials, split_options
from ssmrl.envs.registry import make

__all__ = [
    "MAKERS",
    "SUITES",
    "BernoulliBandit",
    "DarkRoom",
    "Episodes",
    "GaussianBandit",
    "Joined",
    "Member",
    "MetaCartPole",
    "OneGoodArm",
    "RandomMDP",
    "TaskEnvironment",
    "Trials",
    "make_family",
    "make_repeated",
    "make_tasks",
]


def make_tasks(
    cls: Callable[[], TaskEnvironment],
    defaults: dict[str, Any],
    *,
    projected: bool = False,
    observation_width: int | None = None,
    **options: Any,
) -> tuple[Trials, Any]:
    """A task distribution in :class:`Trials`, and its parameters.

    Args:
        cls: makes the task distribution.
        defaults: options unless others are given.
        projected: the task draws a linear map of the observation and a permutation of the actions
            as well, see :class:`Joined`.
        observation_width: of the projection; None for 16.
        **options: of :class:`Trials`, or fields of the parameters.

    Raises:
        ValueError: for options that are unknown or out of their ranges.
    """
    own, options = split_options({**defaults, **options})
    tasks = cls()
    params = tasks.make_params(**own)
    return _in_trials(Member(tasks, params), tasks.name, projected, observation_width, options)


def _in_trials(
    member: Member,
    label: str,
    projected: bool,
    observation_width: int | None,
    options: dict[str, Any],
) -> tuple[Trials, Any]:
    """Trials of one kind of tasks, seen as they are or through random projections."""
    check_truth("projected", projected)
    if not projected:
        if observation_width is not None:
            raise ValueError(
                f"observation_width={observation_width} is of a projection; add projected=true"
            )
        return Trials(member.env, **options), member.params
    width = 16 if observation_width is None else observation_width
    joined = Joined({label: member}, observation_width=width, label=label)
    return Trials(joined, **options), joined.default_params


def make_repeated(
    env: str = "popgym/minesweeper_easy",
    *,
    repeat: bool = True,
    projected: bool = False,
    observation_width: int | None = None,
    **options: Any,
) -> tuple[Trials, Any]:
    """Any environment in JAX, by name: its episodes are trials that begin alike.

    Args:
        env: its name.
        repeat: every trial begins where the first did, see :class:`Episodes`.
        projected, observation_width: see :func:`make_tasks`.
        **options: of :class:`Trials`, or of the environment.

    Raises:
        UnknownEnvironmentError: there is no such environment.
        ValueError: for a Python environment, and for options that are unknown or out of their
            ranges; for trials of what has trials already.
    """
    check_truth("repeat", repeat)
    own, options = split_options({"trials": 4, **options})
    inner, params = make(env, **own)
    if isinstance(inner, Trials):
        raise ValueError(f"env={env} has trials already; take it for itself")
    member = Member(Episodes(inner, repeat), params)
    return _in_trials(member, inner.name, projected, observation_width, options)


def make_xland(layout: str = "r1_9x9", **options: Any) -> tuple[Trials, Any]:
    """XLand-MiniGrid: trials in one rule set, the task (`ssmrl.envs.adapters.xland`).

    Args:
        layout: the world, a name below ``xland/`` that has rule sets.
        **options: of :class:`Trials`, or of the world: ``rulesets``, ``objects`` and such.

    Raises:
        ImportError: if xminigrid is not installed.
        UnknownEnvironmentError: there is no such world.
        ValueError: for options that are unknown or out of their ranges.
    """
    own, options = split_options({"trials": 10, **options})
    env, params = make(f"xland/{layout}", **own)
    return Trials(env, **options), params


MAKERS: dict[str, Callable[..., tuple[Environment, Any]]] = {
    "bernoulli_bandit": partial(make_tasks, BernoulliBandit, {"trials": 100}),
    "gaussian_bandit": partial(make_tasks, GaussianBandit, {"trials": 100}),
    "switching_bandit": partial(make_tasks, OneGoodArm, {"trials": 100, "hazard": 0.05}),
    "random_mdp": partial(make_tasks, RandomMDP, {"trials": 10}),
    "dark_room": partial(make_tasks, DarkRoom, {"trials": 10}),
    "dark_room_hard": partial(make_tasks, DarkRoom, {"trials": 20, "size": 17, "once": True}),
    "cartpole": partial(make_tasks, MetaCartPole, {"trials": 8}),
    "repeated": make_repeated,
    "classic_control": partial(make_family, "classic_control", trials=8, max_trial_steps=200),
    "popgym": partial(make_family, "popgym", trials=4),
    "brax": partial(make_family, "brax", trials=4, max_trial_steps=200),
    "xland": make_xland,
}
"""``meta/<id>`` to a function of its options that makes it."""
