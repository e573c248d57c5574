"""Dark Room: a dark square room whose goal only its reward reveals.

The agent begins in the middle and sees where it is. Dark Room pays 1 in every step that ends at the
goal; the hard one is larger and pays in a trial once. A trial is truncated after ``horizon`` steps.
In a later trial a memory knows where to go.

Source: Laskin et al., "In-Context Reinforcement Learning with Algorithm Distillation" (2022), whose
rooms are 9 × 9 and 17 × 17, with 20 steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLACK, GREEN, GREY, canvas, paint, pixel_grid, side_by_side
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.meta.task import TaskEnvironment
from ssmrl.envs.spaces import Discrete, MultiDiscrete

MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.int32)
"""Rows and columns that each action moves by: none, up, down, left, right."""


@struct.dataclass
class DarkRoomParams:
    """``once``: whether a goal pays once in a trial, and not in every step spent there."""

    size: int = struct.field(pytree_node=False, default=9)
    horizon: int = struct.field(pytree_node=False, default=20)
    once: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class DarkRoomState:
    """``task`` i32[2]: the goal. ``position`` i32[2]. ``found``: whether this trial has been."""

    task: Leaf
    position: Leaf
    found: Leaf
    time: Leaf


class DarkRoom(TaskEnvironment[DarkRoomState, DarkRoomParams]):
    """Observation: row and column, ``MultiDiscrete([size, size])``. Actions: stay, up, down, left,
    right; walls stop them."""

    @property
    def default_params(self) -> DarkRoomParams:
        return DarkRoomParams()

    def check_params(self, params: DarkRoomParams) -> None:
        if params.size < 2 or params.horizon < 1:
            raise ValueError(f"{self.name} needs 2 × 2 places and a step, got {params}")

    def observation_space(self, params: DarkRoomParams) -> MultiDiscrete:
        return MultiDiscrete([params.size, params.size])

    def action_space(self, params: DarkRoomParams) -> Discrete:
        return Discrete(len(MOVES))

    def sample_task(self, key: PRNGKeyArray, params: DarkRoomParams) -> Array:
        return jax.random.randint(key, (2,), 0, params.size, jnp.int32)

    def reset_trial(
        self, key: PRNGKeyArray, task: Any, params: DarkRoomParams
    ) -> tuple[Array, DarkRoomState]:
        middle = jnp.full(2, params.size // 2, jnp.int32)
        return middle, DarkRoomState(task, middle, jnp.asarray(False), jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: DarkRoomState, action: Any, params: DarkRoomParams
    ) -> Transition:
        position = jnp.clip(state.position + jnp.asarray(MOVES)[action], 0, params.size - 1)
        there = jnp.all(position == state.task)
        pays = there & ~state.found if params.once else there
        time = state.time + 1
        truncated = time >= params.horizon
        state = DarkRoomState(state.task, position, state.found | there, time)
        return (
            position,
            state,
            pays.astype(jnp.float32),
            jnp.zeros_like(truncated),
            truncated,
            {},
        )

    def references(
        self, params: DarkRoomParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Knowing the goal beforehand, and always going to the nearest place not yet seen."""
        size, horizon, once = params.size, params.horizon, params.once
        if hazard:
            return {"informed": np.full((1, trials), informed_return(size, horizon, once))}
        return {
            "informed": np.full((1, trials), informed_return(size, horizon, once)),
            "search": search_returns(size, horizon, once, trials),
        }

    def render(self, state: DarkRoomState, params: DarkRoomParams) -> UInt8[Array, "S W 3"]:
        """Where the agent is, without and with the goal."""
        scale = max(1, 72 // params.size)
        side = scale * params.size
        rows, columns = (x // scale for x in pixel_grid(side, side))
        here = (rows == state.position[0]) & (columns == state.position[1])
        goal = (rows == state.task[0]) & (columns == state.task[1])
        dark = paint(canvas(side, side), np.ones((side, side), bool), GREY)
        truth = paint(paint(dark, goal, GREEN), here, BLACK)
        return side_by_side(paint(dark, here, BLACK), truth)


# ------------------------------------------------------------------------------------ optimum


def paid(distance: Any, horizon: int, once: bool) -> Any:
    """What the shortest way to a goal that is ``distance`` steps away earns in a trial.

    Who begins at the goal stays, or is paid for the first step: as if it were one step away.
    """
    steps_there = np.maximum(horizon - np.maximum(distance, 1) + 1, 0)
    return np.minimum(steps_there, 1) if once else steps_there


def informed_return(size: int, horizon: int, once: bool) -> float:
    """Mean over all goals of what a trial pays who knows the goal."""
    places = np.indices((size, size)).reshape(2, -1)
    distance = np.abs(places - size // 2).sum(axis=0)
    return float(paid(distance, horizon, once).mean())


def search_returns(size: int, horizon: int, once: bool, trials: int) -> np.ndarray:
    """Returns by trial ``[size², trials]`` for each goal: going to the nearest place not yet seen
    until the goal pays, and to the goal ever after.

    It may be reached by everyone, and is no bound: it reckons with neither the horizon nor the ways
    that later trials still have to go.
    """
    middle = (size // 2, size // 2)
    distance = np.abs(np.indices((size, size)) - size // 2).sum(axis=0)
    returns = np.zeros((size, size, trials))
    unseen = set(np.ndindex(size, size))
    # Until it is found the goal makes no difference: all searches are the beginning of one.
    for trial in range(trials):
        position = middle
        for time in range(horizon):
            position = _towards(position, _nearest(position, unseen))
            if position in unseen:
                unseen.discard(position)
                returns[position][trial] = 1 if once else horizon - time
                returns[position][trial + 1 :] = paid(distance[position], horizon, once)
    return returns.reshape(size**2, trials)


def _distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _nearest(position: tuple[int, int], places: set[tuple[int, int]]) -> tuple[int, int]:
    """The nearest of ``places``, the first of those that are as near."""
    return min(places, key=lambda place: (_distance(position, place), place), default=position)


def _towards(position: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """One step closer: along the rows first."""
    row, column = position
    if row != target[0]:
        return row + (1 if target[0] > row else -1), column
    return row, column + int(np.sign(target[1] - column))
