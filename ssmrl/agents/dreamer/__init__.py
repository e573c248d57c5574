"""Dreamer, R2I and DreamerV3 as one agent; see `ssmrl.agents.dreamer.dreamer`."""

from ssmrl.agents.dreamer.config import SIZES, DreamerConfig, DreamerV3Config, R2IConfig
from ssmrl.agents.dreamer.dreamer import Dreamer, make_dreamer

__all__ = ["SIZES", "Dreamer", "DreamerConfig", "DreamerV3Config", "R2IConfig", "make_dreamer"]
