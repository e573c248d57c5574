"""Where an option's range ends: the last value within is taken, the first one outside refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ssmrl.agents.dreamer import DreamerConfig
from ssmrl.agents.optimizer import OptimizerConfig
from ssmrl.agents.ppo import PPOConfig
from ssmrl.agents.pqn import PQNConfig


def beyond(value, direction: int):
    """The next number of this type."""
    if isinstance(value, int):
        return value + direction
    return float(np.nextafter(value, direction * math.inf))


def at_least(low, nothing=False):
    """Within, and outside."""
    return [low, *([None] if nothing else [])], [beyond(low, -1)]


def up_to(high):
    return [high], [beyond(high, +1)]


def between(low, high):
    return [low, high], [beyond(low, -1), beyond(high, +1)]


def between_below(low, high):
    return [low, beyond(high, -1)], [beyond(low, -1), high]


def above(low, nothing=False):
    return [beyond(low, +1), *([None] if nothing else [])], [low]


def finite(cases):
    within, outside = cases
    return within, [*outside, math.inf]


def number(cases):
    within, outside = cases
    return within, [*outside, math.nan]


WIDTHS = [[1], []], [[0], [8, 0]]
OPTIMIZER = {
    **dict.fromkeys(("lr", "ssm_lr_scale", "weight_decay"), finite(number(at_least(0.0)))),
    "max_grad_norm": number(above(0.0)),
}
ROLLOUT = OPTIMIZER | {
    **dict.fromkeys(("num_envs", "rollout_length", "epochs", "minibatches"), at_least(1)),
    "picture_depth": at_least(1),
    "discount": number(between(0.0, 1.0)),
    "window_length": ([None, 1, 2, 64, 128], [0, -1, 3, 129, 256]),
    **dict.fromkeys(("encoder", "critic"), WIDTHS),
}
PPO = ROLLOUT | {
    "gae_lambda": number(between(0.0, 1.0)),
    **dict.fromkeys(("value_coefficient", "entropy_coefficient"), finite(number(at_least(0.0)))),
    "entropy_coefficient_final": finite(number(at_least(0.0, nothing=True))),
    "clip": number(above(0.0)),
    "dual_clip": number(above(1.0, nothing=True)),
    "value_clip": number(above(0.0, nothing=True)),
    "target_kl": ([0.0, -math.inf, math.inf, None], [math.nan]),
    "initial_log_std": ([0.0, -9.0], [math.nan, math.inf, -math.inf]),
    "actor": WIDTHS,
}
PQN = ROLLOUT | dict.fromkeys(
    ("return_lambda", "epsilon", "epsilon_final", "epsilon_decay"), number(between(0.0, 1.0))
)
DREAMER = {
    **dict.fromkeys(("num_envs", "batch_size", "batch_length", "imagination_length"), at_least(1)),
    **dict.fromkeys(("deter", "rollout_length", "imagination_starts"), at_least(1, nothing=True)),
    **dict.fromkeys(
        (
            *("lr", "ssm_lr_scale", "eps", "free_bits", "entropy_coefficient"),
            *("reconstruction_weight", "reward_weight", "dynamics_weight"),
            *("representation_weight", "replay_value_weight", "slow_critic_weight"),
        ),
        finite(number(at_least(0.0))),
    ),
    "warmup": at_least(0),
    "max_std": ([0.1], [math.inf]),
    **dict.fromkeys(
        ("return_lambda", "return_rate", "slow_critic_rate"), number(between(0.0, 1.0))
    ),
    **dict.fromkeys(("beta1", "beta2", "unimix", "policy_unimix"), number(between_below(0.0, 1.0))),
    "clip": number(above(0.0)),
    "reward_scale": finite(number(above(0.0))),
    "horizon": above(1),
    "bins": ([3, 5], [1, 2, 4, -3]),
    "min_std": ([beyond(0.0, +1), 0.1, 1.0], [0.0, beyond(1.0, +1)]),
    "train_ratio": ([4.0, 32.0], [0.0, beyond(0.0, +1), 2.0, 5.0, math.inf, math.nan]),
    "replay_capacity": ([1024], [1023]),
}
CASES = [
    (config, name, *values)
    for config, table in (
        (OptimizerConfig, OPTIMIZER),
        (PPOConfig, PPO),
        (PQNConfig, PQN),
        (DreamerConfig, DREAMER),
    )
    for name, values in table.items()
]


@pytest.mark.parametrize(
    ("config", "name", "within", "outside"), CASES, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_where_ranges_end(config, name, within, outside):
    # Of options that must fit to one another another one may be what is complained of.
    for value in within:
        try:
            assert getattr(config(**{name: value}), name) == value
        except ValueError as error:
            assert not str(error).startswith(f"agent.{name} must be"), value
    for value in outside:
        with pytest.raises(ValueError, match=rf"^agent\.{name} must be .*, got "):
            config(**{name: value})


@pytest.mark.parametrize("config", [OptimizerConfig, PPOConfig, PQNConfig, DreamerConfig])
def test_every_number_is_there(config):
    tested = {name for kind, name, *_ in CASES if kind is config}
    numbers = {
        f.name
        for f in dataclasses.fields(config)
        if "str" not in str(f.type) and "bool" not in str(f.type)
    }
    assert numbers == tested
