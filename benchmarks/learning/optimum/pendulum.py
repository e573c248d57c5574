"""PositionOnlyPendulum and NoisyPositionOnlyPendulum: backward dynamic programming on a grid.

``values[h]`` is the least cost of h more steps, for angles and speeds on a grid, interpolated
between them, with the torque that is best among some. The angle is periodic; speeds end at ±8 rad/s
by the rules.

Who sees angles without noise knows the speed from the second observation on, as the difference of
two angles is the speed times the time between them. What he lacks is the first speed, and so the
optimum is found: the best first torque for an angle whose speed is U(-1, 1), then dynamic
programming. Where there is noise, who knew the whole state would do as well as this or better: a
bound.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.learning.optimum.play import Sample, sample
from ssmrl.envs.popgym import position_only_pendulum as env_module
from ssmrl.envs.popgym.position_only_pendulum import HALF_COST, EnvParams, integrate, wrap

MAX_SPEED = 8.0
FIRST_SPEED = 1.0
TORQUES = np.linspace(-2, 2, 21, dtype=np.float32)
Values = Float[Array, "A S"]


def step_cost(angle: Array, speed: Array, torque: Array) -> Array:
    """What a step costs before it is scaled: at most 2 ``HALF_COST``."""
    return angle**2 + 0.1 * speed**2 + 0.001 * torque**2


def interpolate(values: Values, angle: Array, speed: Array) -> Array:
    """``values`` at an angle in [-π, π) and a speed in ±8, bilinearly between the grid's points."""
    angles, speeds = values.shape
    across = (angle + math.pi) / (2 * math.pi) * angles
    along = (speed + MAX_SPEED) / (2 * MAX_SPEED) * (speeds - 1)
    i = jnp.clip(jnp.floor(across).astype(jnp.int32), 0, angles - 1)
    j = jnp.clip(jnp.floor(along).astype(jnp.int32), 0, speeds - 2)
    a, b = across - i, along - j
    after = (i + 1) % angles
    left = (1 - b) * values[i, j] + b * values[i, j + 1]
    right = (1 - b) * values[after, j] + b * values[after, j + 1]
    return (1 - a) * left + a * right


def lookahead(values: Values, angle: Array, speed: Array, torque: Array) -> Array:
    """Cost of a step with ``torque`` and of ``values`` after it."""
    angle_after, speed_after = _step(angle, speed, torque)
    return step_cost(angle, speed, torque) + interpolate(values, angle_after, speed_after)


@partial(jnp.vectorize, signature="(),(),()->(),()")
def _step(angle: Array, speed: Array, torque: Array) -> tuple[Array, Array]:
    """Angle and speed after a step of the environment, of arrays of any shapes."""
    return tuple(integrate(jnp.stack([angle, speed]), torque, EnvParams()))


@partial(jax.jit, static_argnames=("angles", "speeds", "steps"))
def cost_to_go(angles: int, speeds: int, steps: int) -> Float[Array, "H A S"]:
    """Least costs of 0 … ``steps`` more steps, at ``angles`` by ``speeds`` points."""
    angle = -math.pi + 2 * math.pi * jnp.arange(angles) / angles
    speed = jnp.linspace(-MAX_SPEED, MAX_SPEED, speeds)
    angle, speed = jnp.meshgrid(angle, speed, indexing="ij")

    def one_more(values, _):
        per_torque = jax.lax.map(lambda u: lookahead(values, angle, speed, u), jnp.asarray(TORQUES))
        return per_torque.min(axis=0), values

    last, before = jax.lax.scan(one_more, jnp.zeros((angles, speeds)), None, length=steps)
    return jnp.concatenate([before, last[None]])


def as_return(cost: Array, steps: int) -> Array:
    """An episode's return, of its costs."""
    return 1 - cost / HALF_COST / steps


def known_state_return(values: Float[Array, "H A S"], steps: int) -> float:
    """Expected return of who sees the whole state."""
    angle, speed = _first_states()
    return float(as_return(interpolate(values[steps], angle, speed).mean(), steps))


def unknown_speed_return(values: Float[Array, "H A S"], steps: int) -> float:
    """The same of who does not know the first speed."""
    angle, speed = _first_states()
    cost = lambda u: lookahead(values[steps - 1], angle, speed, u).mean(axis=1)  # noqa: E731
    per_torque = jax.lax.map(cost, jnp.asarray(TORQUES))
    return float(as_return(per_torque.min(axis=0).mean(), steps))


def _first_states() -> tuple[Array, Array]:
    """A grid of the angles and speeds in which an episode begins, ``[angles, speeds]``."""
    angle = -math.pi + 2 * math.pi * (np.arange(1000) + 0.5) / 1000
    speed = -FIRST_SPEED + 2 * FIRST_SPEED * (np.arange(50) + 0.5) / 50
    return tuple(map(jnp.asarray, np.meshgrid(angle, speed, indexing="ij")))


@partial(jax.jit, static_argnames=("env", "steps", "episodes"))
def _played(env, params, values, steps, episodes, key):
    """Returns of the best torques by ``values`` [H, A, S] of who sees angles only, and what is
    expected in the first states of who sees all."""
    torques, speeds = jnp.asarray(TORQUES), FIRST_SPEED * jnp.linspace(-0.98, 0.98, 50)

    def first_torque(angle):
        one = lambda u: lookahead(values[steps - 1], jnp.full(50, angle), speeds, u)  # noqa: E731
        return torques[jax.vmap(one)(torques).mean(axis=1).argmin()]

    def torque(later, angle, speed):
        return torques[jax.vmap(lambda u: lookahead(later, angle, speed, u))(torques).argmin()]

    def move(state, action):
        transition = jax.vmap(env.step_env, (0, 0, 0, None))(keys, state, action[:, None], params)
        return transition[:3]

    def step(carry, later):
        obs, state, before, total = carry
        angle = jnp.arctan2(obs[:, 1], obs[:, 0])
        speed = wrap(angle - before) / EnvParams().seconds_per_step
        obs, state, reward = move(state, jax.vmap(torque, (None, 0, 0))(later, angle, speed))
        return (obs, state, angle, total + reward), None

    keys = jax.random.split(key, episodes)
    obs, state = jax.vmap(env.reset_env, (0, None))(keys, params)
    expected = as_return(interpolate(values[steps], *state.physics.T), steps)
    angle = jnp.arctan2(obs[:, 1], obs[:, 0])
    obs, state, reward = move(state, jax.vmap(first_torque)(angle))
    later = values[: steps - 1][::-1]  # after the second step, steps - 2 are left
    return jax.lax.scan(step, (obs, state, angle, reward), later)[0][-1], expected


def play(env, params, values: Float[Array, "H A S"], episodes: int, seed: int = 0) -> Sample:
    """What the best torques earn in the environment, seeing the angle alone.

    How lucky the first states were is known, and taken off (a control variate).
    """
    steps = int(params.max_episode_length)
    returns, expected = _played(env, params, values, steps, episodes, jax.random.key(seed))
    return sample(returns - expected + known_state_return(values, steps))


def control(values: Values):
    """From a state [θ, θ̇] to the best torque f32[1], by the cost of many more steps."""

    def torque(physics: Array) -> Array:
        angle, speed = env_module.wrap(physics[0]), jnp.clip(physics[1], -MAX_SPEED, MAX_SPEED)
        costs = jax.vmap(lambda u: lookahead(values, angle, speed, u))(jnp.asarray(TORQUES))
        return jnp.asarray(TORQUES)[costs.argmin()][None]

    return torque
