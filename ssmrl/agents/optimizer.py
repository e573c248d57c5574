"""The optimiser that agents share: AdamW with clipping, a schedule, and a group for time scales."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
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
        for name, low in (("lr", 0), ("ssm_lr_scale", 0), ("weight_decay", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"agent.{name} must be at least {low}, got {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"agent.max_grad_norm must be positive, got {self.max_grad_norm}")


def make_optimizer(
    config: OptimizerConfig, updates: int, memory: Memory, *, skip_nonfinite: bool
) -> tuple[optax.GradientTransformation, Callable[[Array], Array]]:
    """The optimiser, and the learning rate as a function of the number of updates so far.

    Args:
        config: options.
        updates: number of updates in the whole training, for the schedule.
        memory: its time scale parameters (`Memory.ssm_parameters`) become their own group.
        skip_nonfinite: leave parameters and moments as they are where a gradient is not finite.
    """
    schedule = {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, 0.0, updates),
        "cosine": optax.cosine_decay_schedule(config.lr, updates),
    }[config.lr_schedule]

    def ssm_schedule(count):
        return schedule(count) * config.ssm_lr_scale

    groups = {
        "default": optax.adamw(schedule, eps=1e-5, weight_decay=config.weight_decay),
        "ssm": optax.adam(ssm_schedule, eps=1e-5),
    }
    names = memory.all_ssm_parameters()
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.multi_transform(groups, lambda params: label_ssm_parameters(params, names)),
    )
    if skip_nonfinite:
        optimizer = optax.apply_if_finite(optimizer, max_consecutive_errors=2**31 - 1)
    return optimizer, schedule


def label_ssm_parameters(params: Any, ssm_names: frozenset[str]) -> Any:
    """The group of each parameter: "ssm" below "memory" under one of these names, or "default"."""

    def label(path, _):
        keys = [getattr(key, "key", None) for key in path]
        return "ssm" if keys[-1] in ssm_names and "memory" in keys else "default"

    return jax.tree_util.tree_map_with_path(label, params)
