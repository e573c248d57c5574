"""The optimiser that agents share: AdamW with clipping, a schedule, and a group for time scales."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from ssmrl.memory import Memory

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class OptimizerConfig:
    """Options of the optimiser.

    Attributes:
        lr: learning rate at the start.
        lr_schedule: "constant", or "linear" or "cosine" down to zero over the training.
        ssm_lr_scale: factor on the learning rate of parameters that set a memory's time scales.
        weight_decay: decoupled weight decay of all other parameters.
        max_grad_norm: gradients are scaled down to this global norm.
    """

    lr: float = 1e-3
    lr_schedule: str = "linear"
    ssm_lr_scale: float = 1.0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.5

    def __post_init__(self):
        if self.lr_schedule not in SCHEDULES:
            raise ValueError(
                f"agent.lr_schedule must be one of {', '.join(SCHEDULES)}, got {self.lr_schedule!r}"
            )
        for name in ("lr", "ssm_lr_scale", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"agent.{name} must be at least 0 and finite, got {value}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"agent.max_grad_norm must be positive, got {self.max_grad_norm}")


def make_schedule(config: OptimizerConfig, updates: int) -> Callable[[Array], Array]:
    """The learning rate by the number of updates before, of `updates` in the whole training."""
    return {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, 0.0, updates),
        "cosine": optax.cosine_decay_schedule(config.lr, updates),
    }[config.lr_schedule]


def make_optimizer(
    config: OptimizerConfig, memory: Memory, *, skip_nonfinite: bool
) -> optax.GradientTransformation:
    """The optimiser, whose updates are those of a learning rate of one.

    The agent multiplies them by its schedule's rate: the optimiser counts the updates it makes, and
    where some are left out a schedule by that count would not reach the training's end.

    Args:
        config: options.
        memory: its time scale parameters (`Memory.ssm_parameters`) become their own group.
        skip_nonfinite: leave parameters and moments as they are where a gradient is not finite.
    """
    groups = {
        "default": optax.adamw(1.0, eps=1e-5, weight_decay=config.weight_decay),
        "ssm": optax.adam(config.ssm_lr_scale, eps=1e-5),
    }
    names = memory.all_ssm_parameters()
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.multi_transform(groups, lambda params: label_ssm_parameters(params, names)),
    )
    return leave_out_nonfinite(optimizer) if skip_nonfinite else optimizer


def leave_out_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """No update where a gradient is not finite, however many of those come one after the other."""
    endless = int(np.iinfo(np.int32).max)
    return optax.apply_if_finite(optimizer, max_consecutive_errors=endless)


def label_ssm_parameters(params: Any, ssm_names: frozenset[str]) -> Any:
    """The group of each parameter: "ssm" below "memory" under one of these names, or "default"."""

    def label(path, _):
        keys = [getattr(key, "key", None) for key in path]
        return "ssm" if keys[-1] in ssm_names and "memory" in keys else "default"

    return jax.tree_util.tree_map_with_path(label, params)
