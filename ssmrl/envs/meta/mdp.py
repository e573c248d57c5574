"""Random tabular MDPs, those of RL² (Duan et al., 2016); the optimum of each is computed.

A task draws the transitions from each state and action from a flat Dirichlet distribution over all
states, and the mean rewards from N(1, 1); a reward has a deviation of 1 around its mean. A trial
begins in state 0 and is truncated after ``horizon`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLACK, BLUE, GREY, canvas, paint, pixel_grid, side_by_side
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.meta.task import TaskEnvironment
from ssmrl.envs.spaces import Discrete

MEAN_REWARD, REWARD_DEVIATION, NOISE = 1.0, 1.0, 1.0
"""Of the mean rewards, of these around it, and of rewards around theirs."""


@struct.dataclass
class MDPParams:
    """Numbers of states and actions, and of the steps of a trial."""

    states: int = struct.field(pytree_node=False, default=10)
    actions: int = struct.field(pytree_node=False, default=5)
    horizon: int = struct.field(pytree_node=False, default=10)


@struct.dataclass
class MDP:
    """A task: ``transitions`` f32[states, actions, states] and ``rewards`` f32[states, actions]."""

    transitions: Leaf
    rewards: Leaf


@struct.dataclass
class MDPState:
    """``place`` i32[]: the state of the MDP. ``time`` i32[]: steps of the trial."""

    task: MDP
    place: Leaf
    time: Leaf


class RandomMDP(TaskEnvironment[MDPState, MDPParams]):
    """Observation: the state, ``Discrete(states)``. What an action does, only the task says."""

    @property
    def default_params(self) -> MDPParams:
        return MDPParams()

    def check_params(self, params: MDPParams) -> None:
        if params.states < 2 or params.actions < 2 or params.horizon < 1:
            raise ValueError(f"{self.name} needs 2 states, 2 actions and a step, got {params}")

    def observation_space(self, params: MDPParams) -> Discrete:
        return Discrete(params.states)

    def action_space(self, params: MDPParams) -> Discrete:
        return Discrete(params.actions)

    def sample_task(self, key: PRNGKeyArray, params: MDPParams) -> MDP:
        key_move, key_reward = jax.random.split(key)
        pairs = (params.states, params.actions)
        # Exponential numbers over their sum are a draw from the flat Dirichlet distribution.
        draws = jax.random.exponential(key_move, (*pairs, params.states), jnp.float32)
        rewards = MEAN_REWARD + REWARD_DEVIATION * jax.random.normal(key_reward, pairs, jnp.float32)
        return MDP(draws / draws.sum(axis=-1, keepdims=True), rewards)

    def reset_trial(
        self, key: PRNGKeyArray, task: MDP, params: MDPParams
    ) -> tuple[Array, MDPState]:
        zero = jnp.int32(0)
        return zero, MDPState(task, zero, zero)

    def step_env(
        self, key: PRNGKeyArray, state: MDPState, action: Array, params: MDPParams
    ) -> Transition:
        key_move, key_reward = jax.random.split(key)
        chances = state.task.transitions[state.place, action]
        # By the inverse of the distribution function: one number for each step.
        draw = jax.random.uniform(key_move, (), jnp.float32)
        place = jnp.sum(draw >= jnp.cumsum(chances)[:-1]).astype(jnp.int32)
        noise = NOISE * jax.random.normal(key_reward, (), jnp.float32)
        reward = state.task.rewards[state.place, action] + noise
        time = state.time + 1
        truncated = time >= params.horizon
        return (
            place,
            MDPState(state.task, place, time),
            reward,
            jnp.zeros_like(truncated),
            truncated,
            {},
        )

    def references(
        self, params: MDPParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Knowing the MDP beforehand, posterior sampling, and the action that has paid best in each
        state. Nothing with a hazard."""
        if hazard:
            return {}
        sizes = (params.states, params.actions, params.horizon)
        return play_mdps(*sizes, trials, episodes, seed)

    def render(self, state: MDPState, params: MDPParams) -> UInt8[Array, "64 W 3"]:
        """The state, beside the mean rewards of its actions (a line is 0)."""
        rows, columns = pixel_grid(64, 8 * params.states)
        here = (columns // 8).astype(np.int32) == state.place
        view = paint(canvas(64, 8 * params.states), here & (np.abs(rows - 32) < 8), BLACK)
        rows, columns = pixel_grid(64, 8 * params.actions)
        level = (32 - rows) / 8  # four units up and down
        reward = state.task.rewards[state.place][(columns // 8).astype(np.int32)]
        between = jnp.where(reward > 0, (level > 0) & (level < reward), level < 0)
        between &= jnp.where(reward > 0, True, level > reward) & (columns % 8 > 2)
        truth = paint(canvas(64, 8 * params.actions), between, BLUE)
        return side_by_side(view, paint(truth, np.abs(rows - 32) < 1, GREY))


# ------------------------------------------------------------------------------------ optimum


def plan(
    transitions: Float[np.ndarray, "E S A S"], rewards: Float[np.ndarray, "E S A"], horizon: int
) -> tuple[Float[np.ndarray, "E S"], np.ndarray]:
    """Values of ``E`` MDPs with so many steps to come, and the best actions ``[E, horizon, S]``.

    Backward induction: V_n(s) = max over a of r(s, a) + Σ P(s' | s, a) V_{n-1}(s').
    """
    value = np.zeros(rewards.shape[:2])
    actions = np.zeros((len(rewards), horizon, rewards.shape[1]), int)
    for time in reversed(range(horizon)):
        q = rewards + np.einsum("esat,et->esa", transitions, value)
        actions[:, time] = q.argmax(axis=2)
        value = q.max(axis=2)
    return value, actions


def play_mdps(
    states: int, actions: int, horizon: int, trials: int, episodes: int, seed: int = 0
) -> dict[str, Float[np.ndarray, "E trials"]]:
    """Returns by trial in ``episodes`` random MDPs of policies that know how MDPs are drawn.

    Of ``informed``, which knows the MDP, they are expected ones. ``posterior_sampling`` (Strens
    2000; Osband, Russo, Van Roy 2013) plans each trial for an MDP drawn from what is believed:
    Dirichlet counts of transitions, and normal means of rewards. ``greedy`` takes in each state the
    action of the largest believed mean and plans nothing, which earns more while there are few
    steps for each of many states and actions.
    """
    rng = np.random.default_rng(seed)
    pairs = (episodes, states, actions)
    transitions = rng.dirichlet(np.ones(states), pairs)
    rewards = rng.normal(MEAN_REWARD, REWARD_DEVIATION, pairs)
    value, _ = plan(transitions, rewards, horizon)
    informed = np.repeat(value[:, :1], trials, axis=1)
    play = partial(_play, transitions, rewards, horizon, trials)
    sampled = play(partial(_sampled_plan, horizon), rng)
    return {"informed": informed, "posterior_sampling": sampled, "greedy": play(_greedy, rng)}


Policy = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""Counts of transitions, one more than there were, ``[E, S, A, S]``; believed mean and precision of
rewards ``[E, S, A]``; a generator → the actions of a trial that begins, ``[E, horizon or 1, S]``.
One of a single time is asked again at every step."""


def _sampled_plan(
    horizon: int,
    counts: np.ndarray,
    mean: np.ndarray,
    precision: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    draws = rng.standard_gamma(counts)
    drawn = rng.normal(mean, 1 / np.sqrt(precision))
    return plan(draws / draws.sum(axis=-1, keepdims=True), drawn, horizon)[1]


def _greedy(
    counts: np.ndarray, mean: np.ndarray, precision: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return mean.argmax(axis=2)[:, None]


def _play(
    transitions: Float[np.ndarray, "E S A S"],
    rewards: Float[np.ndarray, "E S A"],
    horizon: int,
    trials: int,
    policy: Policy,
    rng: np.random.Generator,
) -> Float[np.ndarray, "E trials"]:
    """Returns by trial of a policy in ``E`` MDPs that it does not know."""
    episodes = len(rewards)
    cumulative = transitions.cumsum(axis=-1)
    counts, sums, pulls = np.ones_like(transitions), np.zeros_like(rewards), np.zeros_like(rewards)
    returns = np.zeros((episodes, trials))
    every = np.arange(episodes)
    for trial in range(trials):
        place, chosen = np.zeros(episodes, int), np.zeros((episodes, 0, 1), int)
        for time in range(horizon):
            if time >= chosen.shape[1]:
                precision = 1 / REWARD_DEVIATION**2 + pulls / NOISE**2
                mean = (MEAN_REWARD / REWARD_DEVIATION**2 + sums / NOISE**2) / precision
                chosen = policy(counts, mean, precision, rng)
            action = chosen[every, min(time, chosen.shape[1] - 1), place]
            here = (every, place, action)
            reward = rng.normal(rewards[here], NOISE)
            after = (rng.random((episodes, 1)) >= cumulative[here][:, :-1]).sum(axis=1)
            counts[(*here, after)] += 1
            sums[here] += reward
            pulls[here] += 1
            returns[:, trial] += reward
            place = after
    return returns
