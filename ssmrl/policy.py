"""A trained policy as a function of NumPy observations, and as a file that jax alone can run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ssmrl.envs.contract import describe, leaves_of, length, signature
from ssmrl.envs.spaces import Box, Dict, Space, Tuple
from ssmrl.envs.vector import VectorEnv
from ssmrl.envs.wrappers import find_extras
from ssmrl.training import streams
from ssmrl.training.agent import Agent
from ssmrl.training.errors import RunError, writing


class Policy:
    """Actions for observations, one step at a time; the memory is kept between calls.

        policy = ssmrl.load("runs/<id>").policy()
        observation, _ = env.reset()
        action = policy(observation, reset=True)

    Observations and actions are NumPy arrays, or nested dicts and tuples of them, as the
    environment that the agent was trained in gives and takes them. What the run added to its
    observations (the previous action and reward, a flag at the first step) is added here too.

    Args:
        agent: whose policy.
        state: the agent's, of one seed.
        venv: environments like those that it was trained in; only read.
        num_envs: number of environments to act in. With 1, observations, rewards, resets and
            actions have no batch axis; with more they have a leading one.
        greedy: take the most likely action instead of sampling one.
        seed: of the sampling.

    Raises:
        ValueError: where ``num_envs`` is not positive.
    """

    def __init__(
        self,
        agent: Agent,
        state: Any,
        venv: VectorEnv,
        *,
        num_envs: int = 1,
        greedy: bool = True,
        seed: int = 0,
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: must be at least 1")
        self.num_envs, self.greedy = num_envs, greedy
        self._agent, self._venv = agent, venv
        self._extras = find_extras(venv)
        inside = venv if self._extras is None else self._extras.venv
        self.observation_space: Space = inside.observation_space
        self.action_space: Space = venv.action_space
        self._key, self._calls = streams.acting_key(seed), 0
        self._batch = () if num_envs == 1 else (num_envs,)
        self._first = np.ones(num_envs, bool)
        self._leaves, self._act = self._keep_what_acts(state)
        self._carry = self._empty_carry(num_envs)
        self._compiled = jax.jit(self._step)

    def __repr__(self) -> str:
        how = "greedy" if self.greedy else "sampling"
        return (
            f"Policy({self._venv.name}, num_envs={self.num_envs}, {how}: "
            f"{self.observation_space} -> {self.action_space})"
        )

    @property
    def needs_reward(self) -> bool:
        """Whether it reads the reward of the step before: ``env.previous_reward`` of the run."""
        return self._extras is not None and self._extras.previous_reward

    def __call__(self, observation: Any, reset: Any = None, reward: Any = None) -> Any:
        """The action for an observation.

        Args:
            observation: an element of ``observation_space``, or ``num_envs`` of them.
            reset: True where the observation begins an episode; the memory starts afresh there.
                Left out: at the first call, and where :meth:`reset` has said so.
            reward: of the step that led to the observation, where the policy needs it
                (:attr:`needs_reward`); ignored where an episode begins.

        Raises:
            ValueError: an observation that is not in the space; a shape that is not the number of
                environments; a missing reward. The message says what was expected and what came.
        """
        observation = self._venv.encode_observation(observation)
        batch = _as_batch(self.observation_space, observation, self._batch, "observation")
        if not self._batch:
            batch = jax.tree.map(lambda x: x[None], batch)
        first = self._first | self._flags("reset", reset)
        key = jax.random.fold_in(self._key, self._calls)
        arguments = (self._carry, batch, first, self._rewards(reward, first), key)
        self._carry, action = self._compiled(self._leaves, *arguments)
        # Only now: after an error the same call can be made again.
        self._first, self._calls = np.zeros(self.num_envs, bool), self._calls + 1
        return self._answer(action)

    def reset(self, which: Any = None) -> None:
        """The next observation begins an episode, everywhere or in the environments named.

        Args:
            which: bool ``[num_envs]``, an index or several; None: all.

        Raises:
            ValueError, IndexError: there are no such environments.
        """
        first = self._first.copy()
        first[slice(None) if which is None else which] = True
        self._first = first

    def export(self, path: str | Path, *, platforms: Sequence[str] = ("cpu", "cuda")) -> Path:
        """Write the policy as a StableHLO program, parameters included, that jax alone can run.

        The program is ``step(observation, reset, carry) -> (action, carry)``, for any number of
        environments ``B``:

        - ``observation``: leaves ``[B, ...]`` of ``observation_space``; where the policy needs the
          reward (:attr:`needs_reward`), a dict of ``observation`` and ``reward``, float32 ``[B]``;
        - ``reset``: bool ``[B]``, True where an episode begins;
        - ``carry``: a tuple of arrays, zeros at first (it is not read where ``reset``);
        - ``action``: leaves ``[B, ...]`` of ``action_space``.

        A policy that is not greedy takes one more argument, ``key``, uint32 ``[2]``: another one
        for every step. To run it::

            import jax, numpy as np
            from pathlib import Path

            step = jax.export.deserialize(bytearray(Path("policy.stablehlo").read_bytes()))
            (_, _, carry), _ = jax.tree.unflatten(step.in_tree, step.in_avals)
            carry = jax.tree.map(lambda x: np.zeros((B, *x.shape[1:]), x.dtype), carry)
            action, carry = step.call(observation, reset, carry)

        (``(_, _, carry, _), _`` with a key.) Writing and reading such a file takes the package
        flatbuffers beside jax. Spaces are this library's: discrete values of
        gymnasium that do not begin at 0 are counted from 0. jax reads such files for at least six
        months after the version that wrote them. docs/export.md says why there is no ONNX.

        Args:
            path: of the file, ``policy.stablehlo``, say.
            platforms: where it is to run, in jax's names.

        Returns:
            The path.

        Raises:
            RunError: it cannot be written, or flatbuffers is not installed.
        """
        path = Path(path)
        try:
            content = self.program(platforms).serialize()
        except ImportError as error:
            raise RunError(f'{error}: pip install "ssmrl[export]"') from error
        with writing(path):
            path.write_bytes(content)
        return path

    def program(self, platforms: Sequence[str] = ("cpu", "cuda")) -> export.Exported:
        """What :meth:`export` writes, as jax has it; ``program().call(...)`` runs it."""
        (size,) = export.symbolic_shape("batch")

        def batched(x: Any) -> Any:
            return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: self._empty_carry(1)))
        observation = _shapes(self.observation_space, (size,))
        reward = jax.ShapeDtypeStruct((size,), np.float32)
        if self.needs_reward:
            observation = {"observation": observation, "reward": reward}
        arguments = [
            observation,
            jax.ShapeDtypeStruct((size,), np.bool_),
            tuple(map(batched, leaves)),
        ]
        if not self.greedy:
            arguments.append(jax.ShapeDtypeStruct((2,), np.uint32))

        def step(observation: Any, reset: Any, carry: Any, key: Any = None) -> Any:
            reward = jnp.zeros(reset.shape, jnp.float32)
            if self.needs_reward:
                observation, reward = observation["observation"], observation["reward"]
            key = jax.random.key(0) if key is None else jax.random.wrap_key_data(key)
            carry = jax.tree.unflatten(structure, carry)
            carry, action = self._step(self._leaves, carry, observation, reset, reward, key)
            return action, tuple(jax.tree.leaves(carry))

        return export.export(jax.jit(step), platforms=tuple(platforms))(*arguments)

    # ............................................................................ one step

    def _keep_what_acts(self, state: Any) -> tuple[list[Any], Callable[..., Any]]:
        """The leaves of the state that acting reads, and `act` of them.

        A state also holds optimisers and environments, and a replay buffer that may be larger than
        all else: they go with the state.
        """
        leaves, structure = jax.tree.flatten(state)
        agent, greedy = self._agent, self.greedy

        def act(leaves: Sequence[Any], *arguments: Any) -> Any:
            return agent.act(jax.tree.unflatten(structure, leaves), *arguments, greedy=greedy)

        carry = jax.eval_shape(lambda: agent.initialize_carry(1))
        observation = _shapes(self._venv.observation_space, (1,))
        reset = jax.ShapeDtypeStruct((1,), np.bool_)
        traced, self._action_shapes = jax.make_jaxpr(act, return_shape=True)(
            leaves, carry, observation, reset, self._key
        )
        program = traced.jaxpr
        read = {id(v) for eqn in program.eqns for v in eqn.invars} | set(map(id, program.outvars))
        kept = [i for i in range(len(leaves)) if id(program.invars[i]) in read]
        shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]

        def act_with(kept_leaves: Sequence[Any], *arguments: Any) -> Any:
            # Zeros for the others, which the compiler leaves out as nothing comes of them.
            full = [_zeros(*shape) for shape in shapes]
            for i, leaf in zip(kept, kept_leaves, strict=True):
                full[i] = leaf
            return act(full, *arguments)

        return [leaves[i] for i in kept], act_with

    def _empty_carry(self, num_envs: int) -> tuple[Any, Any]:
        """The agent's carry, and the previous action where the observation has it."""
        action = None
        if self._extras is not None and self._extras.previous_action:
            action = jax.tree.map(
                lambda x: jnp.zeros((num_envs, *x.shape[1:]), x.dtype), self._action_shapes[1]
            )
        return self._agent.initialize_carry(num_envs), action

    def _step(
        self, leaves: Any, carry: Any, observation: Any, first: Any, reward: Any, key: Any
    ) -> tuple[Any, Any]:
        memory, previous = carry
        if self._extras is not None:
            if previous is None:
                previous = self._extras.none(first.shape[0])
            observation = self._extras.extend(observation, previous, reward, first)
        memory, action = self._act(leaves, memory, observation, first, key)
        return (memory, action if carry[1] is not None else None), action

    # ............................................................................ in and out

    def _flags(self, name: str, value: Any) -> np.ndarray:
        """bool ``[num_envs]``."""
        flags = np.asarray(False if value is None else value)
        if flags.dtype != bool or flags.shape not in ((), self._batch):
            raise ValueError(
                f"{name} must be True, False or {signature('bool', self._batch)}, "
                f"got {signature(flags.dtype, flags.shape)}"
            )
        return np.broadcast_to(flags, (self.num_envs,))

    def _rewards(self, value: Any, first: np.ndarray) -> np.ndarray:
        """float32 ``[num_envs]``, zeros where it does not matter."""
        if not self.needs_reward or (value is None and first.all()):
            return np.zeros(self.num_envs, np.float32)
        if value is None:
            raise ValueError(
                "this policy reads the previous reward (env.previous_reward of its run): "
                "call policy(observation, reward=...), or reset=True where an episode begins"
            )
        space = Box(-np.inf, np.inf, (), np.float32)
        return _as_batch(space, value, self._batch, "reward").reshape(self.num_envs)

    def _answer(self, action: Any) -> Any:
        # A copy: what jax hands out is read-only, and environments may write to their actions.
        action = jax.tree.map(lambda x: np.array(x if self._batch else x[0]), action)
        action = self._venv.decode_action(action)
        return jax.tree.map(lambda x: x[()], action)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape)
    return jax.lax.full(shape, 0, dtype)


def _shapes(space: Space, batch: tuple[Any, ...]) -> Any:
    """Elements of ``space`` with leading axes, as ShapeDtypeStructs."""
    if isinstance(space, Dict):
        return {name: _shapes(part, batch) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_shapes(part, batch) for part in space.spaces)
    return jax.ShapeDtypeStruct((*batch, *space.shape), space.dtype)


def _as_batch(space: Space, value: Any, batch: tuple[int, ...], where: str) -> Any:
    """``value`` as elements of ``space`` in its own dtypes, leaves ``[*batch, ...]``.

    Raises:
        ValueError: it is not; the message names the leaf, what was expected and what came.
    """
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            got = (
                f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else describe(value)
            )
            raise ValueError(f"{where} must be a dict of {sorted(space.spaces)}, got {got}")
        return {
            name: _as_batch(part, value[name], batch, f"{where}[{name!r}]")
            for name, part in space.spaces.items()
        }
    if isinstance(space, Tuple):
        if length(value) != len(space.spaces):
            count = len(space.spaces)
            raise ValueError(f"{where} must be a tuple of {count}, got {describe(value)}")
        pairs = zip(space.spaces, value, strict=True)
        return tuple(_as_batch(s, v, batch, f"{where}[{i}]") for i, (s, v) in enumerate(pairs))
    return _as_array(space, value, batch, where)


def _as_array(space: Any, value: Any, batch: tuple[int, ...], where: str) -> np.ndarray:
    shape = (*batch, *space.shape)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(value, object)
    allowed = "biu" if space.dtype.kind in "iub" else "biuf"
    if array.shape != shape or array.dtype.kind not in allowed:
        raise ValueError(
            f"{where} must be {signature(space.dtype, shape)}, got "
            f"{signature(array.dtype, array.shape)}{_batch_hint(array.shape, shape, space.shape)}"
        )
    with np.errstate(over="ignore"):  # an infinity, which is refused below
        converted = array.astype(space.dtype)
    if space.dtype.kind in "iub" and not (converted == array).all():
        lost = array[converted != array].flat[0]
        raise ValueError(f"{where} must be an element of {space}, got {lost}")
    (leaf,) = leaves_of(space, where)
    if fault := leaf.fault(converted.reshape(math.prod(batch), *space.shape)):
        raise ValueError(fault[1])
    return converted


def _batch_hint(got: tuple[int, ...], wanted: tuple[int, ...], one: tuple[int, ...]) -> str:
    """What to do about a batch axis too many or too few."""
    if got == wanted:
        return ""
    if wanted == one and got[1:] == one:
        return "; a policy for num_envs=1 takes observations without a batch axis"
    if wanted != one and got == one:
        return f"; a policy for num_envs={wanted[0]} takes one for each environment"
    if wanted != one and got[1:] == one:
        return f"; this policy was made with num_envs={wanted[0]}"
    return ""
