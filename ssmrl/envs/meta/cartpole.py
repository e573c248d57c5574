"""MetaCartPole: a cart and a pole; tasks differ in their dynamics, even in which way a push goes.

The rules are those of gymnasium's CartPole: a trial terminates when the cart leaves ±2.4 m or the
pole ±12°, and is truncated after ``horizon`` steps. Every step pays ``1 / horizon``, so that the
best return of a trial is 1. The masses of cart and pole, the pole's length and the force are drawn
log-uniformly within a factor of ``spread`` around the usual ones, and a coin says whether action 1
pushes to the right or to the left: a policy that cannot find out drops the pole half the time.

Equations of motion: :mod:`ssmrl.envs.popgym._cartpole`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import gauges, side_by_side
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.meta.task import TaskEnvironment
from ssmrl.envs.popgym import _cartpole as physics
from ssmrl.envs.spaces import Box, Discrete

DRAWN = ("cart_mass", "pole_mass", "length", "force")
"""What a task draws, of the physics' parameters."""


@struct.dataclass
class CartPoleParams:
    """``spread``: the factor around the usual parameters within which a task draws them."""

    horizon: Leaf = 200
    spread: Leaf = 2.0


@struct.dataclass
class CartPoleState:
    """``task`` f32[4]: the parameters of :data:`DRAWN`, a force below 0 pushing the other way;
    ``physics`` f32[4]: [x, ẋ, θ, θ̇]."""

    task: Leaf
    physics: Leaf
    time: Leaf


class MetaCartPole(TaskEnvironment[CartPoleState, CartPoleParams]):
    """Observation: float32 [x, ẋ, θ, θ̇], in m, m/s, rad, rad/s. Action: push one way (0) or the
    other (1)."""

    @property
    def default_params(self) -> CartPoleParams:
        return CartPoleParams()

    def check_params(self, params: CartPoleParams) -> None:
        if params.horizon < 1 or not 1 <= params.spread < math.inf:
            raise ValueError(
                f"{self.name} needs a step and a finite spread of at least 1, got {params}"
            )

    def observation_space(self, params: CartPoleParams) -> Box:
        return Box(-np.inf, np.inf, (4,), np.float32)

    def action_space(self, params: CartPoleParams) -> Discrete:
        return Discrete(2)

    def sample_task(self, key: PRNGKeyArray, params: CartPoleParams) -> Array:
        key_factors, key_sign = jax.random.split(key)
        usual = jnp.asarray([getattr(physics.EnvParams(), name) for name in DRAWN], jnp.float32)
        exponent = jax.random.uniform(key_factors, (len(DRAWN),), jnp.float32, -1.0, 1.0)
        drawn = usual * jnp.asarray(params.spread, jnp.float32) ** exponent
        sign = jnp.where(jax.random.bernoulli(key_sign), 1.0, -1.0)
        return drawn.at[DRAWN.index("force")].multiply(sign)

    def reset_trial(
        self, key: PRNGKeyArray, task: Any, params: CartPoleParams
    ) -> tuple[Array, CartPoleState]:
        start = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return start, CartPoleState(task, start, jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: CartPoleState, action: Any, params: CartPoleParams
    ) -> Transition:
        moved = physics.integrate(state.physics, action, dynamics(state.task))
        time = state.time + 1
        limits = physics.EnvParams()
        fallen = (jnp.abs(moved[0]) > limits.x_threshold) | (
            jnp.abs(moved[2]) > limits.theta_threshold
        )
        reward = jnp.asarray(1.0 / params.horizon, jnp.float32)
        truncated = time >= params.horizon
        return moved, CartPoleState(state.task, moved, time), reward, fallen, truncated, {}

    def references(
        self, params: CartPoleParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """A bound: no trial returns more than 1."""
        return {"bound": np.ones((1, trials))}

    def render(self, state: CartPoleState, params: CartPoleParams) -> UInt8[Array, "64 W 3"]:
        """Cart and pole, beside gauges of what the task drew: the logarithms of the factors around
        the usual masses and length, and the force, with its sign."""
        usual = jnp.asarray([getattr(physics.EnvParams(), name) for name in DRAWN])
        factors = state.task / usual
        spread = jnp.maximum(jnp.asarray(params.spread, jnp.float32), 1.01)
        shown = jnp.log(jnp.abs(factors)) / jnp.log(spread)
        shown = shown.at[-1].set(factors[-1] / spread)
        seen = physics.draw(state.physics[jnp.array([0, 2])], dynamics(state.task))
        return side_by_side(seen, gauges(shown, 1.0, height=64))


def dynamics(task: Array) -> physics.EnvParams:
    """The physics' parameters of a task."""
    return physics.EnvParams(**dict(zip(DRAWN, task, strict=True)))
