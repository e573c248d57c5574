"""XLand-MiniGrid's grid worlds (Nikulin et al., 2023), with rule sets as tasks.

In a world of ``R1`` to ``R9``, one room to nine, a task is a rule set: the objects that lie about,
what becomes of objects that meet, and the goal, none of which is shown. The reward is
``1 - 0.9 · t / max_steps`` in the step that reaches the goal, which terminates the episode; an
episode of ``max_steps`` is truncated. The ports of MiniGrid have one task each. The package's own
auto-reset loses the observation that ended an episode and is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray, UInt8

from ssmrl.envs.adapters import require
from ssmrl.envs.adapters._types import cast, stable_types
from ssmrl.envs.drawing import BLACK, WHITE, paint, side_by_side
from ssmrl.envs.environment import Transition
from ssmrl.envs.meta.task import TaskEnvironment
from ssmrl.envs.spaces import Discrete, MultiDiscrete

_WORLDS = {
    "R1": (9, 11, 13, 15, 17),
    "R2": (9, 11, 13, 15, 17),
    "R4": (9, 11, 13, 15, 17),
    "R6": (13, 17, 19),
    "R9": (16, 19, 25),
}
LAYOUTS = {
    f"{rooms.lower()}_{n}x{n}": f"XLand-MiniGrid-{rooms}-{n}x{n}"
    for rooms, sizes in _WORLDS.items()
    for n in sizes
}
"""Worlds whose tasks are rule sets; canonical id to the package's, which is accepted too."""
ENVIRONMENTS = LAYOUTS | {
    "blocked_unlock_pick_up": "MiniGrid-BlockedUnlockPickUp",
    **{f"door_key_{n}x{n}": f"MiniGrid-DoorKey-{n}x{n}" for n in (5, 6, 8, 16)},
    **{f"empty_{n}x{n}": f"MiniGrid-Empty-{n}x{n}" for n in (5, 6, 8, 16)},
    **{f"empty_random_{n}x{n}": f"MiniGrid-EmptyRandom-{n}x{n}" for n in (5, 6, 8, 16)},
    "four_rooms": "MiniGrid-FourRooms",
    "locked_room": "MiniGrid-LockedRoom",
    **{f"memory_s{n}": f"MiniGrid-MemoryS{n}" for n in (8, 16, 32, 64, 128)},
    "playground": "MiniGrid-Playground",
    "unlock": "MiniGrid-Unlock",
    "unlock_pick_up": "MiniGrid-UnlockPickUp",
}
"""Those, and the ports of MiniGrid."""
DRAWN = "drawn"


@struct.dataclass
class XLandParams:
    """``view_size``: of the square that the agent sees, odd. ``max_steps`` of an episode."""

    view_size: int = struct.field(pytree_node=False)
    max_steps: int = struct.field(pytree_node=False)


@struct.dataclass
class XLandState:
    """``task``: the rule set, () of a port; ``inner``: the package's time step."""

    task: Any
    inner: Any


def make_xland(
    id_: str, *, rulesets: str = DRAWN, objects: int = 4, **overrides: Any
) -> tuple[XLand, XLandParams]:
    """One of the package's worlds and its parameters.

    Args:
        id_: one of the values of :data:`ENVIRONMENTS`.
        rulesets: where the tasks of a world in :data:`LAYOUTS` come from: ``"drawn"``, see
            :func:`draw_ruleset`, or the name of one of the package's benchmarks, such as
            ``"trivial-21k"`` or ``"medium-1m"``, which it downloads once.
        objects: that lie about, where rule sets are drawn.
        **overrides: fields of :class:`XLandParams`.

    Raises:
        ImportError: if xminigrid is not installed.
        RuntimeError: if a benchmark has to be downloaded and cannot be.
        ValueError: for options that are unknown or out of their ranges.
    """
    package = require("xminigrid", "xland")
    sample = None
    if id_ in LAYOUTS.values():
        sample = _source(package, rulesets, objects)
    elif (rulesets, objects) != (DRAWN, 4):
        raise ValueError(f"{id_} has one task: it takes no rulesets and objects")
    inner, params = package.make(id_)
    env = XLand(inner, params, id_, sample)
    return env, env.make_params(**overrides)


def _source(package: Any, rulesets: str, objects: int) -> Callable[[PRNGKeyArray], Any]:
    """The function that draws a task with a key."""
    if rulesets == DRAWN:
        if isinstance(objects, bool) or not isinstance(objects, int) or not 2 <= objects <= 12:
            raise ValueError(f"objects must be an integer from 2 to 12, got {objects!r}")
        return lambda key: draw_ruleset(key, objects)
    known = package.registered_benchmarks()
    if rulesets not in known:
        names = ", ".join([DRAWN, *known])
        raise ValueError(f"rulesets must be one of {names}, got {rulesets!r}")
    try:
        return package.load_benchmark(rulesets).sample_ruleset
    except OSError as error:
        raise RuntimeError(
            f"the benchmark {rulesets} is downloaded by xminigrid, and that failed: {error}"
        ) from error


def draw_ruleset(key: PRNGKeyArray, objects: int) -> Any:
    """A task without rules: to hold one of the objects, to stand beside it, or to put it beside
    another, each with probability 1/3.

    Args:
        key: for the task.
        objects: how many lie about; all differ: one of 6 shapes in one of 11 colours each.

    Returns:
        The package's ``RuleSet``.
    """
    types = require("xminigrid.types", "xland")
    goals = require("xminigrid.core.goals", "xland")
    constants = require("xminigrid.core.constants", "xland")
    key_objects, key_goal = jax.random.split(key)
    shapes = np.asarray(constants.PICKABLE)
    colours = np.setdiff1d(np.arange(constants.NUM_COLORS), [constants.Colors().EMPTY])
    kinds = np.stack([np.repeat(shapes, len(colours)), np.tile(colours, len(shapes))], axis=1)
    chosen = jax.random.permutation(key_objects, jnp.asarray(kinds, jnp.uint8))[:objects]
    possible = jnp.stack(
        [
            goals.AgentHoldGoal(chosen[0]).encode(),
            goals.AgentNearGoal(chosen[0]).encode(),
            goals.TileNearGoal(chosen[0], chosen[1]).encode(),
        ]
    )
    rules = require("xminigrid.core.rules", "xland").EmptyRule().encode()[None]
    goal = possible[jax.random.randint(key_goal, (), 0, len(possible))]
    return types.RuleSet(goal=goal, rules=rules, init_tiles=chosen)


class XLand(TaskEnvironment[XLandState, XLandParams]):
    """Observation: shape and colour of each cell in a square of V = ``view_size`` cells, with the
    agent in the middle of its lower edge, ``MultiDiscrete`` of shape ``[V, V, 2]``. Actions:
    forward, turn right, turn left, pick up, put down, toggle.

    Args:
        env: the package's environment.
        params: its parameters.
        name: its id.
        sample: draws a rule set with a key; None: a port, which has none.
    """

    def __init__(
        self, env: Any, params: Any, name: str, sample: Callable[[PRNGKeyArray], Any] | None
    ):
        self._env, self._params, self._name, self._sample = env, params, name, sample
        constants = require("xminigrid.core.constants", "xland")
        self._sizes = (int(constants.NUM_TILES), int(constants.NUM_COLORS))

        def first(key: PRNGKeyArray) -> Any:
            task = self.sample_task(key, self.default_params)
            return env.reset(self._inner(self.default_params, task), key)

        self._types, _ = stable_types(first, lambda key, state: env.step(params, state, 0))

    @property
    def name(self) -> str:
        return self._name

    @property
    def default_params(self) -> XLandParams:
        return XLandParams(self._params.view_size, int(self._params.max_steps))

    def check_params(self, params: XLandParams) -> None:
        if params.view_size < 3 or params.view_size % 2 == 0 or params.max_steps < 1:
            raise ValueError(f"{self.name} needs an odd view_size from 3 and a step, got {params}")

    def observation_space(self, params: XLandParams) -> MultiDiscrete:
        square = (params.view_size, params.view_size, 2)
        return MultiDiscrete(np.broadcast_to(np.array(self._sizes), square))

    def action_space(self, params: XLandParams) -> Discrete:
        return Discrete(self._env.num_actions(self._params))

    def sample_task(self, key: PRNGKeyArray, params: XLandParams) -> Any:
        return () if self._sample is None else self._sample(key)

    def reset_trial(
        self, key: PRNGKeyArray, task: Any, params: XLandParams
    ) -> tuple[Array, XLandState]:
        inner = cast(self._env.reset(self._inner(params, task), key), self._types)
        return self._seen(inner), XLandState(task, inner)

    def step_env(
        self, key: PRNGKeyArray, state: XLandState, action: Any, params: XLandParams
    ) -> Transition:
        inner = self._env.step(self._inner(params, state.task), state.inner, action)
        inner = cast(inner, self._types)
        terminated = inner.discount == 0
        truncated = inner.last() & ~terminated
        reward = inner.reward.astype(jnp.float32)
        return self._seen(inner), XLandState(state.task, inner), reward, terminated, truncated, {}

    def _inner(self, params: XLandParams, task: Any) -> Any:
        """The package's parameters: ours, and the task."""
        inner = self._params.replace(view_size=params.view_size, max_steps=params.max_steps)
        return inner if self._sample is None else inner.replace(ruleset=task)

    @staticmethod
    def _seen(inner: Any) -> Array:
        return inner.observation.astype(jnp.int32)

    def render(self, state: XLandState, params: XLandParams) -> UInt8[Array, "H W 3"]:
        """What the agent sees, beside the world, where it is a white frame."""
        world, view = state.inner.state, state.inner.observation
        size = 8 * max(world.grid.shape[0], params.view_size)
        truth = _pad(_tiles(world.grid), size)
        row, column = world.agent.position
        rows, columns = np.mgrid[: truth.shape[0], : truth.shape[1]]
        inside = (rows // 8 == row) & (columns // 8 == column)
        edge = np.isin(rows % 8, (0, 7)) | np.isin(columns % 8, (0, 7))
        return side_by_side(_pad(_tiles(view), size), paint(truth, inside & edge, WHITE))


_PALETTE = np.array(
    [
        (40, 40, 40),
        (220, 60, 50),
        (70, 200, 90),
        (70, 110, 210),
        (150, 80, 190),
        (230, 210, 70),
        (120, 120, 120),
        (0, 0, 0),
        (230, 140, 50),
        (240, 240, 240),
        (130, 90, 50),
        (240, 150, 190),
    ],
    np.uint8,
)
"""By the package's numbers of colours."""
_FLOOR, _WHOLE = 1, (2, 6, 8, 9, 10)
"""By its numbers of shapes: floor, which is black; walls, goals and doors, which fill a place."""


def _tiles(grid: Array) -> Array:
    """uint8 ``[8 H, 8 W, 3]`` of shapes and colours ``[H, W, 2]``; objects have a margin."""
    shape = jnp.repeat(jnp.repeat(grid[..., 0], 8, 0), 8, 1)
    colour = jnp.asarray(_PALETTE)[jnp.repeat(jnp.repeat(grid[..., 1], 8, 0), 8, 1)]
    rows, columns = np.mgrid[: shape.shape[0], : shape.shape[1]] % 8
    middle = (np.abs(rows - 3.5) < 3) & (np.abs(columns - 3.5) < 3)
    filled = jnp.isin(shape, jnp.asarray(_WHOLE)) | middle
    return paint(colour, (shape <= _FLOOR) | ~filled, BLACK)


def _pad(picture: Array, height: int) -> Array:
    """With black below, up to so many rows."""
    below = height - picture.shape[0]
    return jnp.pad(picture, ((0, below), (0, 0), (0, 0)))
