"""The package ``memory-maze`` itself (Pašukonis, Lillicrap, Hafner 2023; MuJoCo), for comparisons.

Spaces and actions are those of ``memory_maze/…``, so that what was trained in one is evaluated in
the other. It runs in processes of its own, several environments in each: MuJoCo's drawing is kept
out of this process, all processors are used, and the package may be installed in another
interpreter than this one (its dependency labmaze has no wheel for the newest Pythons).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.envs.adapters import require
from ssmrl.envs.adapters.gymnasium import HostVectorEnv
from ssmrl.envs.memory_maze import EnvParams, EnvState, MemoryMaze
from ssmrl.envs.memory_maze.layout import make_maze
from ssmrl.envs.memory_maze.motion import at_rest
from ssmrl.envs.spaces import Box, Dict, Space

SIZES = (9, 11, 13, 15)
PYTHON_VARIABLE = "SSMRL_MEMORY_MAZE_PYTHON"
"""Names the interpreter that has the package, where it is another one."""
_SMALLEST_FRAMED = 64
"""Pixels a side. The package's frame is 2 √(side // 64) wide; at 0 it fills the picture."""
_WORKER = Path(__file__).with_name("memory_maze_worker.py")
_GIGABYTES, _GIGABYTES_MORE = 1.6, 0.9
"""Of memory, for the first environment of a process and for each further one: each holds all walls'
textures ten times over."""


class _Worker:
    """A process with some of the environments. One request is under way at most."""

    def __init__(self, python: str):
        # MuJoCo writes its log where it runs. A session of its own, so that Ctrl-C is for us.
        self._folder = tempfile.TemporaryDirectory(prefix="ssmrl-memory-maze-")
        try:
            self._process = subprocess.Popen(
                [python, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._folder.name,
                start_new_session=True,
            )
        except OSError as error:
            self._folder.cleanup()
            raise ImportError(f"{PYTHON_VARIABLE}={python} does not run: {error}") from error
        self._is_waiting = False
        self._answers: list[Any] = []

    def send(self, method: str, arguments: Any) -> None:
        """Ask for something; :meth:`receive` gives the answer."""
        if self._is_waiting:  # what was asked for before an error elsewhere
            self.receive()
        assert self._process.stdin is not None
        try:
            pickle.dump((method, arguments), self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._end() from None
        self._is_waiting = True

    def receive(self) -> Any:
        """The answer to the last request.

        Raises:
            ImportError: if the package is missing or cannot draw.
            RuntimeError: for what went wrong elsewhere.
        """
        assert self._process.stdout is not None
        self._is_waiting = False
        try:
            kind, answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):  # at once, or in the middle of an answer
            raise self._end() from None
        if kind == "missing":
            raise ImportError(
                f'memory-maze could not be imported ({answer}); pip install "ssmrl[memory-maze]" '
                "on Python 3.11 or 3.12, or install it for another interpreter "
                f"(make memory-maze) and set {PYTHON_VARIABLE} to that"
            )
        if kind == "unusable":
            raise ImportError(answer)
        if kind == "error":
            raise RuntimeError(answer)
        return answer

    def answer(self, slot: int) -> Any:
        """Of environment ``slot``, from the list that was asked for."""
        if self._is_waiting:
            self._answers = self.receive()
        return self._answers[slot]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def _end(self) -> RuntimeError:
        code = self._process.wait()
        hint = ", as it does when memory runs out: take fewer environments" if code == -9 else ""
        return RuntimeError(f"the original's process ended with code {code}{hint}")


class _Remote:
    """One environment of a :class:`_Worker`, with gymnasium's interface.

    The worker has been asked for all its environments' steps before :meth:`step` is called, and an
    ended episode's successor comes with the step.
    """

    render_mode = "rgb_array"

    def __init__(self, worker: _Worker, slot: int, size: int, params: EnvParams):
        ours = MemoryMaze(size)
        spaces = require("gymnasium.spaces", "memory-maze")
        self.observation_space = _as_gymnasium(ours.observation_space(params), spaces)
        self.action_space = spaces.Discrete(ours.action_space(params).n)
        self.spec = SimpleNamespace(
            max_episode_steps=-(-params.episode_length // params.action_repeat)
        )
        self._worker, self._slot = worker, slot
        self._first: Any = None

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        return self._first if seed is None else self._worker.answer(self._slot), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, truncated, self._first = self._worker.answer(self._slot)
        return obs, reward, False, truncated, {}

    def render(self) -> np.ndarray:
        self._worker.send("film", (self._slot,))
        return self._worker.receive()

    def close(self) -> None:
        """Nothing: the processes are closed together."""


def _as_gymnasium(space: Space, spaces: Any) -> Any:
    if isinstance(space, Dict):
        return spaces.Dict({k: _as_gymnasium(part, spaces) for k, part in space.spaces.items()})
    assert isinstance(space, Box)
    return spaces.Box(space.low, space.high, space.shape, space.dtype)


class MemoryMazeOriginal(HostVectorEnv):
    """``num_envs`` of the package's environments, shared out over processes.

    :func:`make_memory_maze_original` makes it, and says what is raised.
    """

    def __init__(
        self,
        size: int,
        num_envs: int,
        params: EnvParams,
        *,
        name: str,
        workers: int,
        python: str,
        stock_contacts: bool,
        info: Sequence[str],
    ):
        arguments = {
            "size": size,
            "options": _task_options(params),
            "episode_length": params.episode_length,
            "action_repeat": params.action_repeat,
            "frames": params.picture_size < _SMALLEST_FRAMED,
            "image_only": not params.extra_observations,
            "stock": stock_contacts,
        }
        self._shares = np.array_split(np.arange(num_envs), workers)
        self._workers: list[_Worker] = []
        try:
            for share in self._shares:
                self._workers.append(_Worker(python))
                self._workers[-1].send("make", arguments | {"count": len(share)})
            for worker in self._workers:
                worker.receive()
            remotes = (
                _Remote(worker, slot, size, params)
                for worker, share in zip(self._workers, self._shares, strict=True)
                for slot in range(len(share))
            )
            super().__init__(lambda: next(remotes), num_envs, name=name, info=info)
        except BaseException:
            self.close()
            raise

    def states(self) -> EnvState:
        """Where everything is, as ``memory_maze/…`` keeps it: leaves ``[B, ...]``.

        Speed and rate of turning are not told, and are 0.
        """
        jax.effects_barrier()  # steps are dispatched before they are done
        for worker in self._workers:
            worker.send("states", ())
        each = [_as_state(told) for worker in self._workers for told in worker.receive()]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def render(self, state: Any, index: int = 0) -> np.ndarray:
        """The agent's view beside the maze from above, uint8 [192, 384, 3]."""
        jax.effects_barrier()
        return super().render(state, index)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _host_reset(self, seeds: Any) -> Any:
        self._ask("reset", np.asarray(seeds))
        return super()._host_reset(seeds)

    def _step_all(self, action: Any) -> Any:
        self._ask("step", action)
        return super()._step_all(action)

    def _ask(self, method: str, values: np.ndarray) -> None:
        """Ask all processes at once; the environments read the answers one by one."""
        for worker, share in zip(self._workers, self._shares, strict=True):
            self._call(int(share[0]), worker.send, method, (values[share].tolist(),))


def _task_options(params: EnvParams) -> dict[str, Any]:
    """Ours as keyword arguments of the package's task."""
    return {
        "global_observables": params.extra_observations or params.show_path,
        "show_path": params.show_path,
        "top_camera": params.view == "above",
        "camera_resolution": params.picture_size,
        "randomize_colors": params.shuffle_colours,
        "good_visibility": params.low_walls,
    }


def _as_state(told: dict[str, Any]) -> EnvState:
    x, y, heading = np.asarray([*told["place"], told["heading"]], np.float32)
    return EnvState(
        body=at_rest(x, y, heading),
        maze=make_maze(told["is_wall"], told["is_room"], told["textures"], told["targets"]),
        colours=jnp.asarray(told["colours"], jnp.int32),
        current=jnp.int32(told["current"]),
        time=jnp.int32(told["time"]),
    )


def make_memory_maze_original(
    size: int,
    variant: str,
    num_envs: int,
    *,
    workers: int | None = None,
    python: str | None = None,
    stock_contacts: bool = False,
    info: Sequence[str] = (),
    **options: Any,
) -> MemoryMazeOriginal:
    """``num_envs`` of the package's environments, with the spaces of ours.

    Args:
        size: 9, 11, 13 or 15.
        variant: what the id ends in, for messages.
        num_envs: how many; each needs about 1 GB of memory.
        workers: processes, by default one for each processor, and no more than environments.
        python: the interpreter that has the package; by default what the variable
            ``SSMRL_MEMORY_MAZE_PYTHON`` names, or else this one.
        stock_contacts: look for touches as the package does: the same, at a third of the speed.
        info: see :class:`HostVectorEnv`.
        **options: of ``memory_maze/…``, but for ``quality`` and ``targets``; episodes can be
            shorter than the original's, but not longer.

    Raises:
        ImportError: if the package is missing, or there is nothing to draw with.
        ValueError: for unknown options and values that there are not, and for more environments
            than memory holds.
    """
    name = f"memory_maze_original/{size}x{size}{variant and f'_{variant}'}"
    if fixed := {"quality", "targets"} & options.keys():
        raise ValueError(f"{name} has no option {sorted(fixed)[0]!r}: that is the original's own")
    params = MemoryMaze(size).make_params(**options)
    longest = MemoryMaze(size).default_params.episode_length
    if params.episode_length > longest:
        raise ValueError(
            f"{name} needs an episode_length of 1 to {longest}, where the original ends, "
            f"got {params.episode_length}"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(num_envs, cores or 1) if workers is None else workers
    if not 1 <= workers <= num_envs:
        raise ValueError(f"{name} needs 1 to {num_envs} workers, got {workers}")
    _check_memory(name, num_envs, workers)
    return MemoryMazeOriginal(
        size,
        num_envs,
        params,
        name=name,
        workers=workers,
        python=python or os.environ.get(PYTHON_VARIABLE) or sys.executable,
        stock_contacts=stock_contacts,
        info=info,
    )


def _check_memory(name: str, num_envs: int, workers: int) -> None:
    """Refuse what would be killed in the middle of a run."""
    needed = _GIGABYTES * workers + _GIGABYTES_MORE * (num_envs - workers)
    try:
        kilobytes = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    except OSError:  # not Linux
        return
    if kilobytes and needed > (free := int(kilobytes[1]) / 1e6):
        raise ValueError(
            f"{name}: {num_envs} environments need {needed:.0f} GB of memory, and {free:.0f} GB "
            "are free; take fewer (num_envs=4, in training agent.num_envs=4)"
        )
