"""Environments that are joined, by suite: what they are called, and the unit of their rewards.

Scales make the returns of trials be of one size, about 1 between bad and good: one value function
is learned for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ssmrl.envs.meta.joined import Joined, Member, chosen_names
from ssmrl.envs.meta.trials import Trials, split_options
from ssmrl.envs.popgym import FAMILIES
from ssmrl.envs.popgym.position_only_pendulum import HALF_COST
from ssmrl.envs.registry import make


@dataclasses.dataclass(frozen=True)
class Suite:
    """Environments that can be joined.

    Attributes:
        members: by member, the environment's name and what its rewards are multiplied by.
        tasks: those that are trained in unless told otherwise.
    """

    members: dict[str, tuple[str, float]]
    tasks: tuple[str, ...]


# With trials of 200 steps, the limit below: a pole that stands returns 1, an acrobot or a car that
# is slow -1, a pendulum that hangs about -1/2.
_CLASSIC_CONTROL = {
    "cartpole": ("gymnax/cartpole", 1 / 200),
    "acrobot": ("gymnax/acrobot", 1 / 200),
    "mountain_car": ("gymnax/mountain_car", 1 / 200),
    "pendulum": ("gymnax/pendulum", 1 / (200 * 2 * HALF_COST)),
    "mountain_car_continuous": ("gymnax/mountain_car_continuous", 1 / 100),
}
_BRAX = {
    "inverted_pendulum": ("brax/inverted_pendulum", 1 / 200),
    "inverted_double_pendulum": ("brax/inverted_double_pendulum", 1 / 2000),
    "reacher": ("brax/reacher", 1 / 50),
}

SUITES = {
    "classic_control": Suite(_CLASSIC_CONTROL, tuple(_CLASSIC_CONTROL)),
    # Returns lie in [-1, 1] already. The others have 16 to 104 actions, or continuous ones.
    "popgym": Suite(
        {family: (f"popgym/{family}_easy", 1.0) for family in FAMILIES},
        (
            "autoencode",
            "repeat_first",
            "repeat_previous",
            "higher_lower",
            "multiarmed_bandit",
            "position_only_cartpole",
            "velocity_only_cartpole",
            "noisy_position_only_cartpole",
            "labyrinth_escape",
            "labyrinth_explore",
        ),
    ),
    "brax": Suite(_BRAX, tuple(_BRAX)),
}


def make_family(
    suite: str,
    *,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    split: str = "train",
    observation_width: int = 16,
    action_width: int | None = None,
    **options: Any,
) -> tuple[Trials, Any]:
    """The environments of a suite in one: :class:`Joined` in :class:`Trials`.

    Args:
        suite: one of :data:`SUITES`.
        tasks, held_out, split, observation_width, action_width: see :class:`Joined`.
        **options: of :class:`Trials`; of one environment alone, fields of its parameters too.

    Raises:
        ImportError: if the environments' package is not installed.
        ValueError: see :class:`Joined` and :class:`Trials`.
    """
    known = SUITES[suite]
    tasks, held_out = chosen_names(list(known.members), tasks, held_out, known.tasks)
    members = {}
    for name in [*tasks, *held_out]:
        id_, scale = known.members[name]
        members[name] = Member(*make(id_), scale)
    joined = Joined(
        members,
        tasks=tasks,
        held_out=held_out,
        split=split,
        observation_width=observation_width,
        action_width=action_width,
        label=suite,
    )
    own, options = split_options(options)
    params = joined.make_params(**own)
    return Trials(joined, split=split, **options), params
