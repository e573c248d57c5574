"""Multi-armed bandits: find the arm that pays best; a trial is one pull.

The first two are those of RL² (Duan et al., 2016), the third one switches, as the sources of
Genewein et al., "Memory-Based Meta-Learning on Non-Stationary Distributions" (2023) do: its hazard
rate, known to whoever plays optimally, is the option ``hazard`` of
:class:`~ssmrl.envs.meta.trials.Trials`. What the best policies earn is computed in
:mod:`ssmrl.envs.meta.bandit_policies`.
"""

from __future__ import annotations

import abc
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLUE, GREEN, ORANGE, canvas, paint, pixel_grid, side_by_side
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.meta import bandit_policies as policies
from ssmrl.envs.meta.task import TaskEnvironment
from ssmrl.envs.spaces import Discrete

Params = TypeVar("Params")


@struct.dataclass
class BanditState:
    """``task`` f32[arms]: what each arm pays on average; ``arm``: pulled last, -1 before."""

    task: Leaf
    arm: Leaf
    paid: Leaf


class Bandit(TaskEnvironment[BanditState, Params]):
    """Action: an arm. Observation: ``Discrete(1)``, nothing; what the arm paid is the reward.

    Every pull terminates a trial.
    """

    @abc.abstractmethod
    def pay(self, key: PRNGKeyArray, mean: Array, params: Params) -> Array:
        """What an arm with this mean pays, f32[]."""

    def bar(self, mean: Float[Array, "N"], params: Params) -> Array:
        """Heights of the arms in a picture, from 0 to 1."""
        return mean

    def check_params(self, params: Any) -> None:
        if params.arms < 2:
            raise ValueError(f"{self.name} needs at least 2 arms, got {params.arms}")

    def observation_space(self, params: Params) -> Discrete:
        return Discrete(1)

    def action_space(self, params: Any) -> Discrete:
        return Discrete(params.arms)

    def reset_trial(
        self, key: PRNGKeyArray, task: Any, params: Params
    ) -> tuple[Array, BanditState]:
        return jnp.int32(0), BanditState(task, jnp.int32(-1), jnp.float32(0))

    def step_env(
        self, key: PRNGKeyArray, state: BanditState, action: Any, params: Params
    ) -> Transition:
        arm = jnp.asarray(action, jnp.int32)
        paid = self.pay(key, state.task[arm], params).astype(jnp.float32)
        yes = jnp.asarray(True)
        return jnp.int32(0), BanditState(state.task, arm, paid), paid, yes, ~yes, {}

    def render(self, state: BanditState, params: Any) -> UInt8[Array, "64 132 3"]:
        """The arm pulled in this trial, none at first, beside all means; the best is green."""
        rows, columns = pixel_grid(64, 64)
        place = columns * (params.arms / 64)
        arm, inside = place.astype(np.int32), place % 1 > 0.25
        view = paint(canvas(64, 64), inside & (arm == state.arm), ORANGE)
        bars = jnp.clip(self.bar(state.task, params), 0.02, 1.0)
        filled = inside & (1 - rows / 64 < bars[arm])
        best = (state.task == state.task.max())[arm]
        return side_by_side(view, paint(paint(canvas(64, 64), filled, BLUE), filled & best, GREEN))


@struct.dataclass
class BernoulliParams:
    """``arms``: how many."""

    arms: int = struct.field(pytree_node=False, default=5)


class BernoulliBandit(Bandit[BernoulliParams]):
    """Arms pay 1 with a probability that a task draws from U(0, 1) for each, else 0."""

    @property
    def default_params(self) -> BernoulliParams:
        return BernoulliParams()

    def sample_task(self, key: PRNGKeyArray, params: BernoulliParams) -> Array:
        return jax.random.uniform(key, (params.arms,), jnp.float32)

    def pay(self, key: PRNGKeyArray, mean: Array, params: BernoulliParams) -> Array:
        return (jax.random.uniform(key, (), jnp.float32) < mean).astype(jnp.float32)

    def references(
        self, params: BernoulliParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """The best arm, known beforehand; Gittins indices of the horizon, Thompson sampling, UCB1;
        for few arms and pulls the Bayes-optimal policy as well. Nothing with a hazard."""
        if hazard:
            return {}
        arms, simulate = params.arms, policies.play_bernoulli
        found = {"best_arm": np.full((1, trials), arms / (arms + 1))}
        if policies.optimum_states(arms, trials) <= policies.MOST_STATES:
            choose = policies.bayes_optimal(arms, trials)
            found["bayes_optimal"] = simulate(choose, arms, trials, episodes, seed)
        for name, choose in policies.bernoulli_policies(trials).items():
            found[name] = simulate(choose, arms, trials, episodes, seed)
        return found


@struct.dataclass
class GaussianParams:
    """Deviations of the arms' means around 0, and of what an arm pays around its mean."""

    arms: int = struct.field(pytree_node=False, default=5)
    mean_deviation: Leaf = 1.0
    reward_deviation: Leaf = 1.0


class GaussianBandit(Bandit[GaussianParams]):
    """Arms pay from N(μ, ``reward_deviation``²); a task draws μ from N(0, ``mean_deviation``²)."""

    @property
    def default_params(self) -> GaussianParams:
        return GaussianParams()

    def check_params(self, params: GaussianParams) -> None:
        super().check_params(params)
        if not all(0 < x < math.inf for x in (params.mean_deviation, params.reward_deviation)):
            raise ValueError(f"{self.name} needs positive, finite deviations, got {params}")

    def sample_task(self, key: PRNGKeyArray, params: GaussianParams) -> Array:
        return params.mean_deviation * jax.random.normal(key, (params.arms,), jnp.float32)

    def pay(self, key: PRNGKeyArray, mean: Array, params: GaussianParams) -> Array:
        return mean + params.reward_deviation * jax.random.normal(key, (), jnp.float32)

    def bar(self, mean: Float[Array, "N"], params: GaussianParams) -> Array:
        return 0.5 + mean / (6 * params.mean_deviation)

    def references(
        self, params: GaussianParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """The best arm, known beforehand; Thompson sampling; Bayes-UCB. Nothing with a hazard."""
        if hazard:
            return {}
        sigma = float(params.mean_deviation), float(params.reward_deviation)
        best = sigma[0] * policies.largest_normal(params.arms)
        found = {"best_arm": np.full((1, trials), best)}
        for name, choose in policies.gaussian_policies(trials, *sigma).items():
            found[name] = policies.play_gaussian(
                choose, params.arms, trials, *sigma, episodes, seed
            )
        return found


@struct.dataclass
class OneGoodArmParams:
    """Probabilities that the good arm pays, and any other."""

    arms: int = struct.field(pytree_node=False, default=2)
    good: Leaf = 0.8
    bad: Leaf = 0.2


class OneGoodArm(Bandit[OneGoodArmParams]):
    """One arm pays 1 with probability ``good``, the others with ``bad``; which, the task draws.

    With a hazard rate h another draw is made before a pull with probability h; it may be the same.
    """

    @property
    def default_params(self) -> OneGoodArmParams:
        return OneGoodArmParams()

    def check_params(self, params: OneGoodArmParams) -> None:
        super().check_params(params)
        if not 0 <= params.bad < params.good <= 1:
            raise ValueError(f"{self.name} needs 0 <= bad < good <= 1, got {params}")

    def sample_task(self, key: PRNGKeyArray, params: OneGoodArmParams) -> Array:
        is_good = jnp.arange(params.arms) == jax.random.randint(key, (), 0, params.arms)
        return jnp.where(is_good, params.good, params.bad).astype(jnp.float32)

    def pay(self, key: PRNGKeyArray, mean: Array, params: OneGoodArmParams) -> Array:
        return (jax.random.uniform(key, (), jnp.float32) < mean).astype(jnp.float32)

    def references(
        self, params: OneGoodArmParams, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """The arm likeliest to be good, by exact filtering with the hazard rate, and by filtering
        as if nothing ever switched; with two arms the optimum as well."""
        play = policies.play_one_good_arm
        rule = (params.arms, trials, float(params.good), float(params.bad))
        found = {
            "filter": play(*rule, hazard, hazard, episodes, seed),
            "static_filter": play(*rule, hazard, 0.0, episodes, seed),
        }
        if params.arms == 2:
            value = policies.one_good_arm_value(*rule[1:], hazard)
            found["bayes_optimal"] = value[None]
        return found
