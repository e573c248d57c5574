"""Hyperparameters of Dreamer, its sizes, and the published agents that are configurations of it."""

import math
from dataclasses import dataclass, fields
from typing import Any

from ssmrl.networks.encoders import PICTURE_ENCODERS

POSTERIORS = ("parallel", "recurrent")
POLICY_INPUTS = ("output", "hidden", "full")
BOUNDED_ACTIONS = ("squashed", "clipped")
REPLAY_STORAGES = ("device", "host")
DTYPES = ("auto", "float32", "bfloat16")

_LONGEST_ROLLOUT = 16


@dataclass(frozen=True)
class Size:
    """Widths of all networks.

    Attributes:
        deter: width of the memory's output h.
        hidden: of the memory's input and of the layers after the prior and the posterior.
        classes: of each of the latent's categoricals.
        depth: unit of the pictures' channels.
        units: of all other layers.
        variables: number of categoricals in the latent z.
        layers: hidden layers of encoder, decoder, actor and critic.
        rollout_length: the shortest that stands for an `agent.rollout_length` of null. Metrics,
            checkpoints and signals wait for an iteration's end: of updates that take seconds each
            (12m: 14 of a CPU core), it had better hold one.
    """

    deter: int
    hidden: int
    classes: int
    depth: int
    units: int
    variables: int = 32
    layers: int = 3
    rollout_length: int = 1


# But for pico and nano the widths are published.
# So are the names: roughly, the parameters of DreamerV3 on pictures of
# 64 × 64 pixels, the slow critic included, in millions: 0.75, 11.4, 25.4, 44.9, 100.8, 178.8 and
# 401.6. agent=dreamerv3 memory=block_gru has the same layers; other memories, vectors instead of
# pictures, and the parallel posterior come to other numbers.
SIZES = {
    "pico": Size(64, 64, 8, 2, 64, variables=4, layers=1, rollout_length=_LONGEST_ROLLOUT),
    "nano": Size(128, 128, 8, 4, 128, variables=4, layers=1, rollout_length=_LONGEST_ROLLOUT),
    "1m": Size(512, 64, 4, 4, 64, rollout_length=_LONGEST_ROLLOUT),
    "12m": Size(2048, 256, 16, 16, 256),
    "25m": Size(3072, 384, 24, 24, 384),
    "50m": Size(4096, 512, 32, 32, 512),
    "100m": Size(6144, 768, 48, 48, 768),
    "200m": Size(8192, 1024, 64, 64, 1024),
    "400m": Size(12288, 1536, 96, 96, 1536),
}


@dataclass(frozen=True)
class DreamerConfig:
    """Hyperparameters of Dreamer; the defaults are DreamerV3's, with a parallel posterior.

    Attributes:
        size: widths of all networks: pico, nano, 1m, 12m, 25m, 50m, 100m, 200m or 400m. Its width
            of the memory becomes `memory.features`.
        deter: another width of the memory; None for the size's.
        num_envs: environments stepped side by side.
        rollout_length: steps of each environment per iteration. null: 16; for sizes from 12m on,
            whose updates take seconds on a CPU, the smallest number that makes whole updates (with
            the other defaults 2 steps, which make one update). Metrics, checkpoints and signals
            wait for an iteration's end.
        batch_size: windows in each update.
        batch_length: steps in each window.
        train_ratio: replayed steps per environment step. It must make a whole number of updates
            per iteration: train_ratio * num_envs * rollout_length / (batch_size * batch_length).
        replay_capacity: environment steps that the replay buffer holds; each takes the memory of
            two observations (the one acted on, and the one that the step led to).
        replay_storage: where the replay buffer keeps observations: on the "device", or on the
            "host", in RAM, for pictures that do not fit on the device. An iteration's windows are
            then copied to the device in one block, for which it waits; rewards, actions, flags and
            carries stay on the device. What is learned is the same. Not with several devices. While
            a checkpoint is written, the host needs the buffer's memory twice.
        replay_context: start windows from carries that are kept in the replay buffer, instead of
            from initial ones: the carries of acting, replaced by newer ones whenever an update has
            passed that step. The buffer then holds a carry for each step, which with large states
            is most of its memory; a run says at its start how much it takes.
        replay_online: first fill batches with windows that have not been learned from yet, so that
            all steps are used soon after they were taken; the other windows are drawn uniformly.
        reward_scale: factor on rewards. Near 0 the bins of two-hot codes are 0.17 apart: rewards
            much smaller than that are learned faster when scaled up. Returns are reported unscaled.
        posterior: "parallel" for q(z|o), trained in one scan, or "recurrent" for q(z|h, o).
        joint_input: pass z and action to the memory through one layer; otherwise through one layer
            each, which makes the memory's input twice as wide.
        policy_inputs: what actor and critic read beside z: "output" h, "hidden" the memory's
            state, or "full" for both. A GRU's output is its state. A state space model's is not:
            the world model trains the output to predict the present, and what the policy will need
            later may be in the state only.
        picture_encoder: how pictures are encoded and predicted: "convolutions", as published, or
            "patches", matrix products over patches that do not overlap, for CPUs.
        lr: learning rate.
        warmup: updates over which the learning rate rises to that value.
        ssm_lr_scale: factor on the learning rate of parameters that set a memory's time scales.
        clip: adaptive gradient clipping: a tensor's gradient is scaled down to at most this share
            of the tensor's norm.
        beta1: decay of the optimiser LaProp's first moment.
        beta2: decay of LaProp's second moment.
        eps: LaProp's ε.
        reconstruction_weight: weight of the loss of predicted observations, published as 1. A
            larger one lets the latent keep what shows in few observations.
        reward_weight: weight of the loss of predicted rewards, published as 1. Where rewards are
            rare, a larger one makes the world model attend to them sooner.
        dynamics_weight: weight of the KL loss that trains the prior.
        representation_weight: weight of the KL loss that trains the posterior.
        free_bits: nats below which KL losses have no gradient.
        replay_value_weight: weight of the critic's loss on replayed steps; 0 leaves it out.
        unimix: share of the uniform distribution in the latent's categoricals.
        policy_unimix: the same in the policy's: how much it explores however certain it becomes.
        bins: number of bins in the two-hot codes of rewards and values, an odd number.
        horizon: sets the discount: γ = 1 - 1 / horizon.
        continue_discount: let the continue head predict γ times the probability of going on.
        return_lambda: λ of the returns.
        imagination_length: H, steps imagined from each start.
        imagination_starts: number of states of each batch to imagine from, drawn at random; None
            for all of them, as published, which then make up most of the cost of an update.
        entropy_coefficient: weight of the policy's entropy.
        return_rate: rate at which the percentiles (5 and 95) that normalise returns are updated.
        slow_critic_rate: rate of the critic's running average, which regularises the critic.
        slow_critic_weight: weight of that regulariser.
        min_std: smallest standard deviation of continuous actions.
        max_std: largest standard deviation of continuous actions.
        bounded_actions: how continuous actions with two bounds stay inside: "squashed" by a tanh of
            a normal, or "clipped", a normal around tanh(mean) that is cut off at the bounds, as
            published. Clipped policies can rest on a bound; squashed ones know the density of what
            the environment gets.
        compute_dtype: dtype of activations: "float32", "bfloat16", or "auto", which is bfloat16
            except on CPUs.
    """

    name: str = "dreamer"
    size: str = "12m"
    deter: int | None = None
    num_envs: int = 16
    rollout_length: int | None = None
    batch_size: int = 16
    batch_length: int = 64
    train_ratio: float = 32.0
    replay_capacity: int = 200_000
    replay_storage: str = "device"
    replay_context: bool = False
    replay_online: bool = False
    reward_scale: float = 1.0
    posterior: str = "parallel"
    joint_input: bool = True
    policy_inputs: str = "output"
    picture_encoder: str = "convolutions"
    lr: float = 4e-5
    warmup: int = 1000
    ssm_lr_scale: float = 1.0
    clip: float = 0.3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-20
    reconstruction_weight: float = 1.0
    reward_weight: float = 1.0
    dynamics_weight: float = 1.0
    representation_weight: float = 0.1
    free_bits: float = 1.0
    replay_value_weight: float = 0.3
    unimix: float = 0.01
    policy_unimix: float = 0.01
    bins: int = 255
    horizon: int = 333
    continue_discount: bool = True
    return_lambda: float = 0.95
    imagination_length: int = 15
    imagination_starts: int | None = None
    entropy_coefficient: float = 3e-4
    return_rate: float = 0.01
    slow_critic_rate: float = 0.02
    slow_critic_weight: float = 1.0
    min_std: float = 0.1
    max_std: float = 1.0
    bounded_actions: str = "squashed"
    compute_dtype: str = "auto"

    def __post_init__(self):
        self._check_choices()
        self._check_numbers()
        self._check_replay()

    def _check_choices(self):
        choices = {
            "size": tuple(SIZES),
            "posterior": POSTERIORS,
            "policy_inputs": POLICY_INPUTS,
            "picture_encoder": PICTURE_ENCODERS,
            "bounded_actions": BOUNDED_ACTIONS,
            "replay_storage": REPLAY_STORAGES,
            "compute_dtype": DTYPES,
        }
        for name, known in choices.items():
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _check_numbers(self):
        counts = ("num_envs", "batch_size", "batch_length", "imagination_length")
        for name in counts:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("deter", "rollout_length", "imagination_starts"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1, or null")
        rates = ("lr", "warmup", "ssm_lr_scale", "eps", "free_bits", "entropy_coefficient")
        weights = (field.name for field in fields(self) if field.name.endswith("_weight"))
        for name in (*rates, *weights):
            self._require(name, 0 <= getattr(self, name) < math.inf, "at least 0 and finite")
        for name in ("return_lambda", "return_rate", "slow_critic_rate"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("beta1", "beta2", "unimix", "policy_unimix"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("clip", self.clip > 0, "positive")
        self._require("reward_scale", 0 < self.reward_scale < math.inf, "positive")
        self._require("train_ratio", 0 < self.train_ratio < math.inf, "positive")
        self._require("horizon", self.horizon > 1, "above 1")
        self._require("bins", self.bins >= 3 and self.bins % 2 == 1, "odd and at least 3")
        self._require("min_std", 0 < self.min_std <= self.max_std, "positive, at most max_std")
        self._require("max_std", self.max_std < math.inf, "finite")

    def _check_replay(self):
        expected = "enough for a whole number of updates per iteration, at least 1: a multiple of "
        step = self.batch_size * self.batch_length / self.steps_per_iteration
        whole = self._makes_whole_updates(self.steps_per_rollout)
        self._require("train_ratio", whole, f"{expected}{step:g}")
        low = self.smallest_capacity
        enough = self.replay_capacity >= low
        self._require("replay_capacity", enough, f"at least {low} for its windows")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"agent.{name} must be {expected}, got {getattr(self, name)}")

    @property
    def sizes(self) -> Size:
        """The widths that `size` names."""
        return SIZES[self.size]

    @property
    def discount(self) -> float:
        """γ."""
        return 1 - 1 / self.horizon

    @property
    def steps_per_rollout(self) -> int:
        """Steps of each environment in one iteration: `rollout_length`, or what stands for it."""
        if self.rollout_length is not None:
            return self.rollout_length
        lengths = range(self.sizes.rollout_length, _LONGEST_ROLLOUT)
        return next(filter(self._makes_whole_updates, lengths), _LONGEST_ROLLOUT)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps in one iteration."""
        return self.num_envs * self.steps_per_rollout

    @property
    def smallest_capacity(self) -> int:
        """Of the replay buffer: a window, and a rollout, of each environment."""
        return max(self.batch_length, self.steps_per_rollout) * self.num_envs

    @property
    def updates_per_iteration(self) -> int:
        """Gradient steps in one iteration."""
        return round(self._updates_per_rollout(self.steps_per_rollout))

    def _updates_per_rollout(self, length: int) -> float:
        replayed = self.train_ratio * self.num_envs * length
        return replayed / (self.batch_size * self.batch_length)

    def _makes_whole_updates(self, length: int) -> bool:
        updates = self._updates_per_rollout(length)
        return updates >= 1 and math.isclose(updates, round(updates))

    def loss_weight(self, name: str) -> float:
        """The weight of a loss in their sum."""
        weights = {
            "reconstruction": self.reconstruction_weight,
            "reward": self.reward_weight,
            "dynamics": self.dynamics_weight,
            "representation": self.representation_weight,
            "replay_value": self.replay_value_weight,
        }
        return weights.get(name, 1.0)

    def memory_width(self, memory_config: Any) -> int:
        """Width of the memory's output: `deter`, or else the size's.

        Raises:
            ValueError: where `memory.features` was given and is another; the agent's size sets it.
        """
        width = self.deter or self.sizes.deter
        default = type(memory_config)().features
        if memory_config.features not in (default, width):
            raise ValueError(
                f"memory.features={memory_config.features}, but agent.size={self.size} sets it to "
                f"{width}; leave it out, or give agent.deter={memory_config.features}"
            )
        return width


@dataclass(frozen=True)
class R2IConfig(DreamerConfig):
    """Recall to Imagine (Samsami et al. 2024): Dreamer on a state space model.

    Use it with memory=r2i, whose blocks are the published ones. Policies read the memory's state,
    as they did on POPGym and bsuite; on Memory Maze it was agent.policy_inputs=full. The critic's
    loss on replayed steps came after R2I and is left out: where the critic reads the memory's
    state it trains that state too, and RepeatPreviousMedium was not learned with it. Windows start
    afresh and are drawn uniformly, and continuous actions are clipped normals, as published; but
    their policy learns by REINFORCE, as the discrete one, not through the model's gradient.
    Optimiser, norms and layers are the newer DreamerV3's.
    """

    name: str = "r2i"
    policy_inputs: str = "hidden"
    dynamics_weight: float = 0.5
    replay_value_weight: float = 0.0
    bounded_actions: str = "clipped"


@dataclass(frozen=True)
class DreamerV3Config(DreamerConfig):
    """DreamerV3 (Hafner et al. 2023): Dreamer with the posterior q(z|h, o).

    Use it with memory=block_gru, the published recurrence. Windows start from stored carries, which
    updates refresh; batches begin with the newest steps; continuous actions are clipped normals.

    What still differs from the public code as of 2025:

    - Steps are collected agent.rollout_length at a time from each environment, and learned from
      afterwards; there, updates come after every step. The ratio of the two is the same.
    - The buffer holds 200,000 steps (agent.replay_capacity), on the device; there 5 million, in RAM
      and on disk.
    - A window is agent.batch_length steps and the final observations of episodes that end in it,
      which push as many at its end out; there final observations are steps of their own. The
      reward of a window's first observation is not learned, and the carry behind its last is not
      refreshed; there one step before the window is read, too.
    - Running percentiles leave out returns that are not finite.
    - Actions without two bounds: there cut to -1 … 1; here a softplus of a normal (one bound) or
      the normal itself (none), and the world model sees their symlog.
    - In evaluations latent and action are the most likely ones (greedy=true); there both are drawn.
    - The size is 12m (agent.size); there 200m. On CPUs activations are float32
      (agent.compute_dtype); there bfloat16 everywhere.
    - Action repeats, sizes of frames and other settings of environments are this library's.
    """

    name: str = "dreamerv3"
    posterior: str = "recurrent"
    joint_input: bool = False
    replay_context: bool = True
    replay_online: bool = True
    bounded_actions: str = "clipped"
