"""Steps the package ``memory-maze`` in a process of its own, for :mod:`.memory_maze_original`.

A program, not a module of the library: it imports nothing of it, so that an interpreter that has
the package runs it whether or not it has JAX. It answers each pickled request on its standard input
with one pickled answer on its standard output: ``("ok", result)``, or a line on what went wrong as
``("missing", line)`` (a package), ``("unusable", line)`` (it cannot draw) or ``("error", line)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

GL_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
"""What each headless way of drawing needs, the fastest first."""
INSTALL_GL = (
    "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0, or libosmesa6 and "
    "MUJOCO_GL=osmesa"
)
_WALLS = ("blue", "cerise", "green_bright", "green", "purple", "red_bright", "red", "yellow")
_FILM_SIZE = 192


def load_tasks() -> Any:
    """``memory_maze.tasks``, past the package's own ``__init__``, which wants the old ``gym``.

    Raises:
        ModuleNotFoundError: if the package or one that it needs is missing.
        ImportError: if there is nothing to draw with, or it does not work.
    """
    spec = importlib.util.find_spec("memory_maze")
    if spec is None:
        raise ModuleNotFoundError("No module named 'memory_maze'")
    way = os.environ.setdefault("MUJOCO_GL", _drawing())
    sys.modules["memory_maze"] = importlib.util.module_from_spec(spec)
    try:
        tasks = importlib.import_module("memory_maze.tasks")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # PyOpenGL raises an AttributeError where a library is missing
        raise ImportError(
            f"memory-maze cannot draw with MUJOCO_GL={way} ({one_line(error)}): {INSTALL_GL}"
        ) from error
    finally:
        del sys.modules["memory_maze"]
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # it warns at each reset
    return tasks


def _drawing() -> str:
    """The first way of drawing whose library is there; the first of all if none is."""
    for way, library in GL_LIBRARIES.items():
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            return way
    return next(iter(GL_LIBRARIES))


def one_line(error: BaseException) -> str:
    """Type and message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def vectorise_contacts() -> None:
    """Look for a target's contacts in all at once: the same results in a third of the time.

    dm_control makes a Python object of each contact, for each target and each of 50 substeps.
    """
    from dm_control.locomotion.props import target_sphere

    def update(self: Any, physics: Any) -> None:
        if not self._activated and (physics.data.contact.geom == self._geom_id).any():
            self._activated = True
            physics.bind(self._material).rgba[-1] = 0

    target_sphere.TargetSphere._update_activation = update


class Original:
    """One environment of the package.

    Args:
        tasks: the package's module.
        size: of the maze.
        options: keyword arguments of its task.
        episode_length: in steps; None for its own.
        action_repeat: how many steps an action lasts.
        frames: whether the frame in the target's colour is drawn here and not by the package,
            which paints over the whole of pictures smaller than 64 pixels.
        image_only: whether the picture alone is the observation.
    """

    def __init__(
        self,
        tasks: Any,
        size: int,
        options: dict[str, Any],
        episode_length: int | None,
        action_repeat: int = 1,
        frames: bool = False,
        image_only: bool = True,
    ):
        self._make = getattr(tasks, f"memory_maze_{size}x{size}")
        self._colours = np.array(sys.modules["memory_maze.maze"].TARGET_COLORS)
        self._size = size
        self._frames, self._image_only = frames, image_only
        self._options = options | {
            "image_only_obs": image_only and not frames,
            "target_color_in_image": not frames,
        }
        self._limit = episode_length
        self._repeat = action_repeat
        self._env: Any = None
        self._time = 0

    def reset(self, seed: int | None = None) -> Any:
        """The first observation; with ``seed`` of episodes that depend on it alone."""
        if seed is not None or self._env is None:
            self.close()
            self._env = self._make(**self._options, seed=seed)
        self._time = 0
        return self._observation(self._env.reset())

    def step(self, action: int) -> tuple[Any, float, bool]:
        """Observation, the sum of rewards, and whether time is up, be it while the action lasts.

        Raises:
            RuntimeError: if an episode ends otherwise.
        """
        reward, over = 0.0, False
        for _ in range(self._repeat):
            timestep = self._env.step(action)
            self._time += 1
            reward += float(timestep.reward)
            if timestep.last() and timestep.discount == 0:
                raise RuntimeError("the original ended an episode by other means than time")
            over = timestep.last() or (self._limit is not None and self._time >= self._limit)
            if over:
                break
        return self._observation(timestep), reward, bool(over)

    def _observation(self, timestep: Any) -> Any:
        """With the types of ours."""
        obs = timestep.observation
        if self._frames:
            obs = {**obs, "image": _framed(obs["image"], obs["target_color"])}
            if self._image_only:
                return obs["image"]
        if not isinstance(obs, Mapping):
            return np.asarray(obs)
        return {name: np.asarray(x, _dtype(name)) for name, x in obs.items()}

    def state(self) -> dict[str, Any]:
        """Maze, targets and agent, in cells of the outer grid with y up, as ours has them."""
        task, physics = self._env._task, self._env.physics
        arena, outer = task._maze_arena, self._size + 2
        cells = np.array([list(row) for row in np.asarray(arena.maze.entity_layer)])[::-1]
        floors = np.array([list(row) for row in np.asarray(arena.maze.variations_layer)])[::-1]
        is_wall = ~np.isin(cells, [" ", "P", "G"])
        textures = np.zeros((outer, outer), np.uint8)
        for char, texture in arena._current_wall_texture.items():
            textures[cells == char] = _WALLS.index(texture.name)
        body = physics.bind(task._walker.root_body)
        ahead = np.array(body.xmat).reshape(3, 3)[:2, 1]
        targets = np.array([physics.bind(target.geom).xpos[:2] for target in task._targets])
        colours = np.array(task._target_colors)[: len(targets)]
        same = np.isclose(self._colours, colours[:, None]).all(axis=-1)
        return {
            "is_wall": is_wall,
            "is_room": ~is_wall & (floors != "."),
            "textures": textures,
            "targets": targets / 2 + outer / 2,
            "place": np.array(body.xpos[:2]) / 2 + outer / 2,
            "heading": float(np.arctan2(ahead[1], ahead[0])),
            "colours": np.argmax(same, axis=1),
            "current": int(task._current_target_ix),
            "time": self._time,
        }

    def film(self) -> np.ndarray:
        """The agent's view beside the maze from above, uint8 [192, 384, 3]."""
        cameras = ("walker/egocentric", "top_camera")
        views = [self._env.physics.render(_FILM_SIZE, _FILM_SIZE, camera_id=c) for c in cameras]
        return np.concatenate(views, axis=1)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def _framed(image: np.ndarray, colour: Any) -> np.ndarray:
    """One pixel wide, as dark as the package's."""
    image = np.array(image)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        edge[:] = np.asarray(colour) * 255 * 0.7
    return image


def _dtype(name: str) -> Any:
    return np.uint8 if name in ("image", "maze_layout") else np.float32


class Batch:
    """The environments of one process.

    Args:
        size, options, episode_length, action_repeat, frames, image_only: of each
            :class:`Original`.
        count: how many.
        stock: whether contacts are looked for as the package does.
    """

    def __init__(
        self,
        size: int,
        options: dict[str, Any],
        episode_length: int | None,
        action_repeat: int,
        frames: bool,
        image_only: bool,
        count: int,
        stock: bool = False,
    ):
        tasks = load_tasks()
        if not stock:
            vectorise_contacts()
        settings = tasks, size, options, episode_length, action_repeat, frames, image_only
        self._envs = [Original(*settings) for _ in range(count)]

    def reset(self, seeds: list[int]) -> list[Any]:
        return [env.reset(seed) for env, seed in zip(self._envs, seeds, strict=True)]

    def step(self, actions: list[int]) -> list[tuple[Any, float, bool, Any]]:
        """Of each environment what a step gives, and the next episode's first observation."""
        answers = []
        for env, action in zip(self._envs, actions, strict=True):
            obs, reward, over = env.step(action)
            answers.append((obs, reward, over, env.reset() if over else None))
        return answers

    def states(self) -> list[dict[str, Any]]:
        return [env.state() for env in self._envs]

    def film(self, index: int) -> np.ndarray:
        return self._envs[index].film()

    def close(self) -> None:
        for env in self._envs:
            env.close()


def serve(requests: Any, answers: Any) -> None:
    """Answer on binary files until the other side goes away.

    The first request makes the :class:`Batch`.
    """
    batch: Batch | None = None
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            break
        try:
            if batch is None:
                batch, answer = Batch(**arguments), None
            else:
                answer = getattr(batch, method)(*arguments)
            kind = "ok"
        except ModuleNotFoundError as error:
            kind, answer = "missing", str(error)
        except ImportError as error:
            kind, answer = "unusable", str(error)
        except Exception as error:
            kind, answer = "error", one_line(error)
        pickle.dump((kind, answer), answers, protocol=5)
        answers.flush()
    if batch is not None:
        batch.close()


if __name__ == "__main__":
    # What the packages print goes elsewhere than the answers.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel)
