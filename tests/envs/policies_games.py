"""Scripted policies with the memory that each family needs: they show that it can be solved.

A policy is a pair: ``begin(obs)`` gives the memory at an episode's first observation, ``act(memory,
obs, key)`` the memory after it and the action. Both are for one environment.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.envs.popgym import _cartpole, position_only_pendulum
from tests.envs.policies_cards import Policy


def random(space):
    """Remembers nothing, does anything."""
    return Policy(lambda obs: jnp.int32(0), lambda memory, obs, key: (memory, space.sample(key)))


def push_under(physics):
    """To the side to which the pole will have fallen, or the cart gone, a little later."""
    x, x_dot, theta, theta_dot = physics
    return (theta + 0.3 * theta_dot + 0.02 * x + 0.1 * x_dot > 0).astype(jnp.int32)


def position_only_cartpole(params):
    """Velocities are differences of the last two observations."""

    def act(before, obs, key):
        velocity = (obs - before) / params.seconds_per_step
        return obs, push_under(jnp.stack([obs[0], velocity[0], obs[1], velocity[1]]))

    return Policy(lambda obs: obs, act)


def velocity_only_cartpole(params):
    """Positions are the sum of all velocities, from those shown at reset."""

    def act(memory, obs, key):
        position, velocity, is_first = memory
        position = position + params.seconds_per_step * velocity
        velocity = jnp.where(is_first, 0.0, obs)  # the first observation is of positions
        action = push_under(jnp.stack([position[0], velocity[0], position[1], velocity[1]]))
        return (position, velocity, jnp.asarray(False)), action

    return Policy(lambda obs: (obs, jnp.zeros(2), jnp.asarray(True)), act)


def kalman_filter(dynamics, observe, noise_sigma, process_sigma, control, first_belief):
    """Acts on the mean of an extended Kalman filter's belief.

    Args:
        dynamics: state, action -> state.
        observe: state -> observation, without noise.
        noise_sigma: of the observation's noise.
        process_sigma: of what the filter distrusts the dynamics by, each step.
        control: state -> action.
        first_belief: first observation -> mean and covariance of the state before it is seen.
    """

    def update(mean, covariance, obs):
        H = jax.jacfwd(observe)(mean)
        S = H @ covariance @ H.T + noise_sigma**2 * jnp.eye(obs.shape[0])
        gain = jnp.linalg.solve(S, H @ covariance).T
        return mean + gain @ (obs - observe(mean)), covariance - gain @ H @ covariance

    def act(memory, obs, key):
        mean, covariance = update(*memory, obs)
        action = control(mean)
        F = jax.jacfwd(dynamics)(mean, action)
        covariance = F @ covariance @ F.T + process_sigma**2 * jnp.eye(mean.shape[0])
        return (dynamics(mean, action), covariance), action

    return Policy(first_belief, act)


def noisy_position_only_cartpole(params):
    """Knows the physics and that an episode begins within ±.05."""
    return kalman_filter(
        partial(_cartpole.integrate, params=params),
        _cartpole.positions,
        params.noise_sigma,
        1e-3,
        push_under,
        lambda obs: (jnp.zeros(4), 0.1**2 / 12 * jnp.eye(4)),
    )


def swing_up(physics):
    """Adds the energy that is missing, then holds the pendulum upright."""
    angle, speed = physics
    angle = position_only_pendulum.wrap(angle)
    energy = speed**2 / 2 + 15 * (jnp.cos(angle) - 1)  # of θ̈ = 15 sin θ, 0 at rest upright
    pump = jnp.where(speed == 0, 1.0, jnp.sign(speed)) * jnp.clip(-energy, -2.0, 2.0)
    hold = -(12 * angle + 3 * speed)
    near = jnp.abs(angle + 0.25 * speed) < 0.4
    return jnp.clip(jnp.where(near, hold, pump), -2.0, 2.0)[None]


def position_only_pendulum_policy(params):
    """The speed is the difference of the last two angles."""

    def act(before, obs, key):
        angle = jnp.arctan2(obs[1], obs[0])
        speed = position_only_pendulum.wrap(angle - before) / params.seconds_per_step
        return angle, swing_up(jnp.stack([angle, speed]))

    return Policy(lambda obs: jnp.arctan2(obs[1], obs[0]), act)


def noisy_position_only_pendulum(params):
    """Knows the physics; the first observation says about where it hangs."""

    def dynamics(physics, action):
        return position_only_pendulum.integrate(physics, action[0], params)

    def first_belief(obs):
        mean = jnp.stack([jnp.arctan2(obs[1], obs[0]), 0.0])
        return mean, jnp.diag(jnp.array([4 * params.noise_sigma**2, 1 / 3]))

    return kalman_filter(
        dynamics, position_only_pendulum.observe, params.noise_sigma, 1e-3, swing_up, first_belief
    )


def multiarmed_bandit(params):
    """Thompson (1933): pulls the arm that pays best in a world drawn from what it believes."""

    def begin(obs):
        return jnp.ones((2, params.num_bandits)), jnp.int32(-1)

    def act(memory, obs, key):
        counts, arm = memory  # of pulls that cost and that paid, and one more
        counts = jnp.where(arm >= 0, counts.at[obs, arm].add(1.0), counts)
        arm = jnp.argmax(jax.random.beta(key, counts[1], counts[0]))
        return (counts, arm), arm

    return Policy(begin, act)


CLOCKWISE = np.array([2, 1, 3, 0])
"""The actions up, right, down, left."""
AROUND = np.array([1, 5, 7, 3])
"""The squares up, right, down, left of the agent in a view of nine."""
OBSTACLE, START = 1, 2


def wall_follower(params):
    """Keeps a hand on the right wall: in a maze without loops it comes everywhere, and back."""

    def enter(obs):
        # On the edge, the view says by where the start is which edge; see the package's view.
        up = jnp.where(obs[4] == START, obs[1] != OBSTACLE, False)
        return jnp.where(obs[1] == START, 2, jnp.where(obs[3] == START, 1, jnp.where(up, 0, 3)))

    def act(heading, obs, key):
        is_first = obs[9] == 4
        turns = (heading + jnp.array([1, 0, 3, 2])) % 4  # right, ahead, left, back
        squares = obs[jnp.asarray(AROUND)[turns]]
        passable = (squares != OBSTACLE) & (squares != START)
        heading = jnp.where(is_first, enter(obs), turns[jnp.argmax(passable)])
        return heading, jnp.asarray(CLOCKWISE)[heading]

    return Policy(lambda obs: jnp.int32(0), act)


POLICIES = {
    "labyrinth_escape": wall_follower,
    "labyrinth_explore": wall_follower,
    "multiarmed_bandit": multiarmed_bandit,
    "noisy_position_only_cartpole": noisy_position_only_cartpole,
    "noisy_position_only_pendulum": noisy_position_only_pendulum,
    "position_only_cartpole": position_only_cartpole,
    "position_only_pendulum": position_only_pendulum_policy,
    "velocity_only_cartpole": velocity_only_cartpole,
}
"""By family: from parameters to a policy."""
