"""What a world model predicts, beside what happened: truth, prediction and error.

The model sees the beginning of an episode and then only the actions. Frames have a green bar on top
while it sees, a red one once it predicts; text says "sees" and "predicts".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.training.agent import PredictingAgent
from ssmrl.training.video import describe, write_gif

_GREEN, _RED = (60, 160, 60), (190, 60, 60)


def record_prediction(
    agent: Any,
    state: Any,
    venv: Any,
    path: Path,
    *,
    key: jax.Array,
    context: int,
    max_steps: int = 200,
    frame_seconds: float = 0.1,
) -> Path:
    """Play an episode, predict it, and write both down.

    Args:
        agent: acts in the episode and predicts it (`PredictingAgent`).
        state: of one seed.
        venv: a single environment (``num_envs == 1``).
        path: without a suffix; ``.gif`` or ``.txt`` is added.
        key: draws the episode.
        context: observations seen; fewer where the episode is shorter.
        max_steps: longer episodes are cut here.
        frame_seconds: how long the GIF shows each step.

    Returns:
        The file written: a GIF where there is a picture in the observation, else text.

    Raises:
        OSError: the file cannot be written.
    """
    assert isinstance(agent, PredictingAgent)
    observation, action = play_episode(agent, state, venv, key, max_steps)
    (length,) = {len(leaf) for leaf in jax.tree.leaves(observation)}
    context = min(context, length - 1)
    predict = jax.jit(agent.open_loop, static_argnames="context")
    pairs = jax.device_get(predict(state, observation, action, context=context))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [(truth, predicted) for truth, predicted in pairs if truth.ndim == 4]
    if pictures:
        frames = [_frame(pictures[0], t, seen=t < context) for t in range(length)]
        return write_gif(path.with_name(f"{path.name}.gif"), frames, frame_seconds)
    path = path.with_name(f"{path.name}.txt")
    path.write_text("".join(_line(pairs, t, seen=t < context) for t in range(length)))
    return path


def play_episode(agent: Any, state: Any, venv: Any, key: jax.Array, max_steps: int) -> Any:
    """Observations ``[T + 1, ...]`` of an episode, the final one included, and the actions that led
    to them (the first entry is not an action)."""
    act, step = jax.jit(agent.act, static_argnames="greedy"), jax.jit(venv.step)
    key, reset_key = jax.random.split(key)
    observation, env_state = jax.jit(venv.reset)(reset_key)
    carry, reset = agent.initialize_carry(1), jnp.ones(1, bool)
    observations, actions = [observation], []
    for _ in range(max_steps):
        key, act_key = jax.random.split(key)
        carry, action = act(state, carry, observation, reset, act_key, greedy=True)
        observation, env_state, _, _, _, info = step(env_state, action)
        reset = info["episode"]["done"]
        observations.append(info["final_observation"])
        actions.append(action)
        if reset.item():
            break

    def join(*rows):
        return jnp.concatenate(rows)

    return jax.tree.map(join, *observations), jax.tree.map(join, actions[0], *actions)


def _frame(pair: tuple[np.ndarray, np.ndarray], t: int, *, seen: bool) -> np.ndarray:
    """Truth, prediction and error side by side, uint8 ``[H, W, 3]``; grey is no error."""
    truth, predicted = (np.asarray(x[t], np.float32) for x in pair)
    row = np.concatenate([truth, predicted, (predicted - truth + 1) / 2], axis=1)
    if row.shape[-1] != 3:
        row = row.mean(-1, keepdims=True)
    row = np.broadcast_to(row, (*row.shape[:2], 3))
    row = (255 * row.clip(0, 1)).astype(np.uint8)
    bar = np.full((max(2, len(row) // 16), row.shape[1], 3), _GREEN if seen else _RED, np.uint8)
    return np.concatenate([bar, row])


def _line(pairs: list[tuple[np.ndarray, np.ndarray]], t: int, *, seen: bool) -> str:
    truth = describe([x[t : t + 1] for x, _ in pairs])
    predicted = describe([x[t : t + 1] for _, x in pairs])
    return f"{t:>5}  {'sees    ' if seen else 'predicts'}  truth {truth}  model {predicted}\n"
