"""Small worlds that a world model can only predict if it remembers, with a scripted policy each.

They ask, in vectors that two processor cores can learn from, what Deng, Park, Ahn, "Facing Off
World Model Backbones: RNNs, Transformers, and S4" (2023) ask in pictures: rewards that depend on
what was seen a hallway ago, doors that stay as they were left, rooms that are where they were.
:data:`POLICIES` plays them, to collect data without learning to act.
"""

from __future__ import annotations

from ssmrl.envs.environment import Environment
from ssmrl.envs.worlds.doors_keys import DoorsKeys
from ssmrl.envs.worlds.hallway import Hallway
from ssmrl.envs.worlds.rooms import Rooms
from ssmrl.envs.worlds.scripted import LOOKS, POLICIES, Policy

WORLDS: dict[str, type[Environment]] = {"doors_keys": DoorsKeys, "hallway": Hallway, "rooms": Rooms}

__all__ = ["LOOKS", "POLICIES", "WORLDS", "DoorsKeys", "Hallway", "Policy", "Rooms"]
