"""One episode on film: a GIF where the environment draws itself, text where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from sys import maxsize
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssmrl.training.agent import Agent

_SMALLEST_SIDE = 256  # Pixels; smaller frames are enlarged by a whole factor, without blurring.


def record_episode(
    agent: Agent,
    state: Any,
    venv: Any,
    path: Path,
    *,
    key: jax.Array,
    greedy: bool = True,
    max_steps: int = 1000,
    frame_seconds: float = 0.1,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Play one episode and write it down.

    Args:
        agent: whose policy.
        state: of one seed.
        venv: a single environment (``num_envs == 1``).
        path: without a suffix; ``.gif`` or ``.txt`` is added.
        key: draws the episode.
        greedy: the policy's mode rather than a draw.
        max_steps: longer episodes are cut here.
        frame_seconds: how long the GIF shows each step.
        warn: called with the reason where text is written instead of a GIF.

    Returns:
        The file written.

    Raises:
        ValueError: ``venv`` has more than one environment.
        OSError: the file cannot be written.
    """
    if venv.num_envs != 1:
        raise ValueError(f"a video shows one environment; this has {venv.num_envs}")
    frames: list[np.ndarray] = []
    lines: list[str] = []

    missing = ""

    def draw(env_state: Any) -> None:
        nonlocal missing
        try:
            frames.append(np.asarray(venv.render(env_state)))
        except NotImplementedError as error:
            missing = str(error) or "the environment does not draw itself"

    _play(agent, state, venv, key, greedy, max_steps, draw, lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames:
        return write_gif(path.with_name(f"{path.name}.gif"), frames, frame_seconds)
    if warn is not None:
        warn(f"text instead of a picture: {missing}")
    path = path.with_name(f"{path.name}.txt")
    path.write_text("\n".join(lines) + "\n")
    return path


def _play(
    agent: Agent,
    state: Any,
    venv: Any,
    key: jax.Array,
    greedy: bool,
    max_steps: int,
    draw: Callable[[Any], None],
    lines: list[str],
) -> None:
    """Step until the episode ends; ``draw`` sees every state, ``lines`` gets a line a step."""
    act = jax.jit(agent.act, static_argnames="greedy")
    step = jax.jit(venv.step)
    key, reset_key = jax.random.split(key)
    observation, env_state = jax.jit(venv.reset)(reset_key)
    carry, reset, total = agent.initialize_carry(1), jnp.ones(1, bool), 0.0
    for time in range(max_steps):
        draw(env_state)
        key, act_key = jax.random.split(key)
        carry, action = act(state, carry, observation, reset, act_key, greedy=greedy)
        seen = describe(observation)
        observation, env_state, reward, _, _, info = step(env_state, action)
        total += reward.item()
        lines.append(
            f"{time:>5}  sees {seen}  does {describe(action)}  "
            f"reward {reward.item():+.4f}  return {total:+.4f}"
        )
        reset = info["episode"]["done"]
        if reset.item():
            # The environment has moved on to its next episode; its state is no longer this one's.
            return


def describe(value: Any) -> str:
    """The one environment's value (leaves ``[1, ...]``) on one line."""
    leaves = [leaf for (leaf,) in map(np.asarray, jax.tree.leaves(value))]
    return " ".join(np.array2string(leaf, precision=3, max_line_width=maxsize) for leaf in leaves)


def write_gif(path: Path, frames: list[np.ndarray], frame_seconds: float) -> Path:
    """Frames uint8 ``[H, W, 3]`` of one size as an endless GIF; small ones are enlarged."""
    images = []
    for frame in frames:
        scale = max(1, _SMALLEST_SIDE // min(frame.shape[:2]))
        images.append(Image.fromarray(frame.repeat(scale, axis=0).repeat(scale, axis=1)))
    first, *rest = images
    first.save(
        path, save_all=True, append_images=rest, duration=round(1000 * frame_seconds), loop=0
    )
    return path
