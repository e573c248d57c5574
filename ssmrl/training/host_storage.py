"""Iterations of agents that keep a part of their state with the host (`HostStoringAgent`).

What is too large for the device lives in NumPy arrays among the state's leaves. An iteration is
then two programs, and between them the host takes what is to be kept, and hands out what is asked
for, in one block. The arrays are changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.training.agent import HostStoringAgent, Metrics
from ssmrl.training.errors import RunError


def stores_on_host(agent: Any) -> bool:
    """Whether a part of the agent's state belongs to the host."""
    return isinstance(agent, HostStoringAgent) and agent.stores_on_host


def with_empty_storage(agent: Any, state: Any, seeds: int) -> Any:
    """What `Agent.init` gave, with room on the host; `state` itself where nothing is stored there.

    Args:
        agent: whose state.
        state: arrays or ShapeDtypeStructs, leaves ``[seeds, ...]`` when ``seeds > 1``.
        seeds: how many train side by side.

    Raises:
        RunError: the host has not enough memory.
    """
    if not stores_on_host(agent):
        return state
    leading = (seeds,) if seeds > 1 else ()
    try:
        # Zeros take no memory before they are written to.
        empty = jax.tree.map(lambda x: np.zeros(leading + x.shape, x.dtype), agent.storage_shapes())
    except MemoryError as error:
        raise RunError(f"the host has no room for what the agent keeps there: {error}") from error
    return agent.with_storage(state, empty)


class HostStoredIteration:
    """An `Agent.iteration` with the host between two compiled programs. Takes over its argument.

    Args:
        agent: stores on the host.
        state: to begin with; only its shapes are read.
        seeds: how many train side by side.
        over_seeds: of a function of one seed, that of all of them; see `ssmrl.training.loop`.
        options: for ``jax.jit``.
    """

    def __init__(
        self,
        agent: HostStoringAgent,
        state: Any,
        seeds: int,
        over_seeds: Callable[[Callable[..., Any]], Callable[..., Any]],
        **options: Any,
    ):
        self.agent, self.seeds = agent, seeds
        before, after = agent.before_exchange, lambda given: agent.after_exchange(*given)
        if seeds > 1:
            before, after = over_seeds(before), over_seeds(after)

        def finish(state: Any, carried: Any, block: Any) -> tuple[Any, Metrics]:
            return after((state, carried, block))

        rest = agent.with_storage(state, None)
        self._shapes = jax.eval_shape(before, rest)
        block = self._block_shapes(self._shapes[2])
        self.shapes_after = jax.eval_shape(finish, *self._shapes[:2], block)
        self._before, self._after = before, finish
        if not jax.config.jax_disable_jit:
            jitted = jax.jit(before, donate_argnums=0, **options)
            self._before = jitted.lower(rest).compile()
            jitted = jax.jit(finish, donate_argnums=0, **options)
            self._after = jitted.lower(*self._shapes[:2], block).compile()

    def __call__(self, state: Any) -> tuple[Any, Metrics]:
        storage = self.agent.storage_of(state)
        rest, carried, request = self._before(self.agent.with_storage(state, None))
        block = self._exchange(storage, jax.device_get(request))
        rest, metrics = self._after(rest, carried, block)
        return self.agent.with_storage(rest, storage), metrics

    def _exchange(self, storage: Any, request: Any) -> Any:
        if self.seeds == 1:
            return self.agent.exchange(storage, request)
        # A seed's part is a view, so that writing to it changes the whole.
        each = [
            self.agent.exchange(*jax.tree.map(lambda x, seed=seed: x[seed], (storage, request)))
            for seed in range(self.seeds)
        ]
        return jax.tree.map(lambda *blocks: np.stack(blocks), *each)

    def _block_shapes(self, request: Any) -> Any:
        def of_one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

        if self.seeds == 1:
            return self.agent.block_shapes(request)
        one = self.agent.block_shapes(jax.tree.map(of_one, request))
        return jax.eval_shape(
            lambda tree: jax.tree.map(lambda x: jnp.stack([x] * self.seeds), tree), one
        )
