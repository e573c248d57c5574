"""Memory Maze in JAX, in the original's four sizes and a smaller one of ours, and its variants."""

from __future__ import annotations

from ssmrl.envs.memory_maze.environment import VARIANTS, EnvParams, EnvState, MemoryMaze
from ssmrl.envs.memory_maze.layout import SIZES

__all__ = ["SIZES", "VARIANTS", "EnvParams", "EnvState", "MemoryMaze"]
