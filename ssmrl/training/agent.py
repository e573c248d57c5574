"""What the training loop, the evaluator and the checkpoints ask of an agent, and nothing more."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax

State = Any
Carry = Any
Metrics = dict[str, jax.Array]


@runtime_checkable
class Player(Protocol):
    """What an evaluation asks for: a policy that may have a memory."""

    def initialize_carry(self, batch_size: int) -> Carry:
        """The memory's carry at the start of an episode; leaves are ``[batch_size, ...]``."""
        ...

    def act(
        self,
        state: State,
        carry: Carry,
        observation: Any,
        reset: jax.Array,
        key: jax.Array,
        *,
        greedy: bool,
    ) -> tuple[Carry, Any]:
        """One action for each of ``B`` environments. Pure and jittable.

        Args:
            state: what ``init`` or ``iteration`` returned; only read.
            carry: leaves ``[B, ...]``.
            observation: leaves ``[B, ...]``, as the environment gives them.
            reset: bool ``[B]``, True where ``observation`` is the first of an episode.
            key: a typed PRNG key, for the draw when not ``greedy``.
            greedy: take the mode of the policy rather than a draw.

        Returns:
            The carry after this observation, and the actions (leaves ``[B, ...]``).
        """
        ...


@runtime_checkable
class Agent(Player, Protocol):
    """A learner whose whole life is two pure functions, ``init`` and ``iteration``.

    Everything that changes lives in the state, a pytree of arrays: parameters, optimiser,
    environment state, memory carry, keys, normalisers, counters. That is what makes resuming
    exact and running N seeds in one program a matter of ``vmap``.
    """

    steps_per_iteration: int
    """Environment steps that one ``iteration`` takes, per seed (environments x time)."""

    def init(self, key: jax.Array) -> State:
        """The state before the first iteration. Pure and jittable; ``key`` is a typed PRNG key."""
        ...

    def iteration(self, state: State) -> tuple[State, Metrics]:
        """Collect experience once and learn from it. Pure and jittable.

        The returned state has the structure, shapes and dtypes of ``state``. Metrics are scalar
        floats, except for those whose names begin with ``starts/``, which say when the episodes
        that ended began (`ssmrl.agents.rollout.episode_starts`); an agent without them has no
        training return. ``episodes`` counts those that finished; where it is 0, a metric whose
        name starts with ``episode_`` or ``info/``, a mean over them, is not reported. Such a metric
        may also be NaN, which means the same but trips ``jax_debug_nans``, and one of ``info/``
        infinite, which does not; every other one that is NaN or infinite stops the run.
        """
        ...


@runtime_checkable
class LeanAgent(Protocol):
    """An agent that knows what of its state it can act without (optional).

    What training alone needs is then not read where a run is evaluated or played, so that it may be
    larger than memory there.
    """

    def for_acting(self, state: State) -> State:
        """``state`` with None in the place of what neither ``act`` nor ``parts`` reads."""
        ...


@runtime_checkable
class ShardedAgent(Protocol):
    """An agent that can spread one seed over several devices (optional)."""

    def shardings(self, mesh: jax.sharding.Mesh, state: State) -> Any:
        """A pytree like ``state`` of ``NamedSharding``: environment batches over axis ``data``."""
        ...


@runtime_checkable
class RestartableAgent(Protocol):
    """An agent that can start its environments afresh (optional, for host environments).

    A host environment lives outside the state, so that no checkpoint holds it. After a resume the
    loop calls this to begin new episodes with the learned parameters.
    """

    def restart(self, state: State, key: jax.Array) -> State:
        """``state`` with freshly reset environments and fresh carries."""
        ...


@runtime_checkable
class NotingAgent(Protocol):
    """An agent that has something to say before a training (optional)."""

    def training_notes(self, seeds: int) -> list[str]:
        """Lines for the user, about a training of so many seeds side by side.

        Raises:
            ValueError: the training cannot be; the message says why and what to do.
        """
        ...


@runtime_checkable
class HostStoringAgent(Protocol):
    """An agent that can keep a part of its state in the host's memory (optional).

    That part is NumPy arrays among the leaves of the state, and everything is said of one seed. An
    iteration is then ``before_exchange``, ``exchange`` and ``after_exchange``, one after the other;
    see `ssmrl.training.host_storage`.
    """

    stores_on_host: bool
    """Whether it does; if not, nothing of this is called."""

    def storage_shapes(self) -> Any:
        """ShapeDtypeStructs of the part, which begins with zeros."""
        ...

    def storage_of(self, state: State) -> Any:
        """The part. Only selects from ``state``."""
        ...

    def with_storage(self, state: State, storage: Any) -> State:
        """``state`` with that part; with None, which is also what ``init`` leaves, without it."""
        ...

    def before_exchange(self, state: State) -> tuple[State, Any, Any]:
        """The iteration's beginning. Pure and jittable; the part is not in ``state``.

        Returns:
            The state, what ``after_exchange`` is to be given beside it, and the request.
        """
        ...

    def exchange(self, storage: Any, request: Any) -> Any:
        """On the host: write to the part, in place, and read from it, as the request says.

        All arrays are NumPy's.
        """
        ...

    def block_shapes(self, request: Any) -> Any:
        """ShapeDtypeStructs of what ``exchange`` returns for a request of these shapes."""
        ...

    def after_exchange(self, state: State, carried: Any, block: Any) -> tuple[State, Metrics]:
        """The rest of the iteration. Pure and jittable; the part is not in ``state``."""
        ...


@runtime_checkable
class TransferableAgent(Protocol):
    """An agent that can begin with what another has learned (optional; ``init_from``)."""

    def parts(self, state: State) -> dict[str, Any]:
        """What was learned, by the part of the agent that it belongs to, ``memory`` among them.

        A part is everything that makes its parameters the function that they were learned as: the
        encoder's observation statistics, the units of the critic's values. Optimisers, replay and
        environments are no part. Only selects from ``state``, whose leaves may have leading axes.
        """
        ...

    def with_parts(self, state: State, parts: dict[str, Any]) -> State:
        """``state`` with some of its parts replaced by others of the same structure."""
        ...


@runtime_checkable
class PredictingAgent(Protocol):
    """An agent with a world model that can be watched predicting (optional)."""

    def open_loop(
        self, state: State, observation: Any, action: Any, context: int
    ) -> list[tuple[jax.Array, jax.Array]]:
        """See the first observations of an episode, and predict the rest from the actions alone.

        Args:
            state: what ``init`` or ``iteration`` returned; only read.
            observation: leaves ``[T, ...]``, of one episode from its beginning.
            action: leaves ``[T, ...]``; the one that led to each observation, the first unused.
            context: how many observations are seen, at least 1 and less than T.

        Returns:
            For each elementary part of the observation, what was and what the model says: pictures
            as floats ``[T, height, width, channels]`` from 0 to 1, everything else as ``[T]`` or
            ``[T, K]``.
        """
        ...
