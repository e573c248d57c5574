"""The memories of other libraries that have a namesake here, as plain functions of arrays.

Nothing of a peer is copied or edited: `install_memorax` and `install_memax` make an untouched clone
importable, and supply in this process only what its layers name and do not use. Each function says
what is missing and why. What runs is the peer's own layer, on arrays in its own order of axes.

`PEERS` pairs a peer's layer with the options under which our memory of that name is its size.
"""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.peers import popjaxrl_shim

Forward = Callable[[Any, jax.Array, jax.Array], jax.Array]
HEADS = 4
TRACES, CONTEXTS = 32, 4  # of FFM
MATRIX = 32  # rows and columns of SHM's memory
ONE_HEAD = 64  # keys and values of memax's matrices, which have one head


@dataclass(frozen=True)
class Layer:
    """A layer as a function of (parameters, x, reset), from its initial carry to the outputs.

    Attributes:
        forward: x `[T, B, F]` and bool reset `[T, B]`, or `[B, T, ...]` where `batch_major`.
        run: the same from and to a given carry, `(params, carry, x, reset) -> (carry, y)`.
        parameters: a pytree of arrays.
        carry: the initial carry.
        batch_major: whether time is the second axis.
    """

    run: Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, jax.Array]]
    parameters: Any
    carry: Any
    batch_major: bool

    def forward(self, parameters: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
        """The outputs from the initial carry."""
        return self.run(parameters, self.carry, x, reset)[1]

    @property
    def parameter_count(self) -> int:
        """Real numbers that are learned."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.parameters))


@dataclass(frozen=True)
class Peer:
    """Another library's layer beside our memory of the same size.

    Attributes:
        library: "memorax" or "memax".
        memory: our name of it.
        module: the peer's module from (features, steps of the window).
        options: ours from the same two.
        differs: what makes it another function of the inputs, if anything; for the table.
    """

    library: str
    memory: str
    module: Callable[[int, int], Any]
    options: Callable[[int, int], dict[str, Any]] = lambda features, time: {}
    differs: str = ""

    def layer(self, features: int, time: int, batch: int) -> Layer:
        """The peer's layer with random parameters."""
        make = {"memorax": memorax_layer, "memax": memax_layer}[self.library]
        return make(self.module(features, time), features, batch)


def our_layer(name: str, features: int, batch: int, options: dict[str, Any]) -> Layer:
    """Our memory alone, without the block around it, with random parameters."""
    from ssmrl.memory import make_memory
    from ssmrl.memory.registry import BARE

    memory = make_memory(name, features=features, layers=1, **(BARE | options))
    x, reset = jnp.zeros((1, 1, features)), jnp.zeros((1, 1), bool)
    parameters = memory.init(jax.random.key(0), memory.initialize_carry((1,)), x, reset)
    return Layer(memory.apply, parameters, memory.initialize_carry((batch,)), batch_major=False)


def memorax_layer(module: nn.Module, features: int, batch: int) -> Layer:
    """A `SequenceModel` of memorax."""
    x, reset = jnp.zeros((batch, 1, features)), jnp.zeros((batch, 1), bool)
    carry = module.initialize_carry(jax.random.key(0), (batch, features))
    parameters = jax.jit(module.init)(jax.random.key(0), x, reset, carry)

    def run(parameters, carry, x, reset):
        return module.apply(parameters, x, reset, carry)

    return Layer(run, parameters, carry, batch_major=True)


def memax_layer(module: Any, features: int, batch: int) -> Layer:
    """A `GRAS` of memax, which knows no batches: vmapped over them, as its own training does."""
    import equinox

    parameters, rest = equinox.partition(module, equinox.is_inexact_array)
    single = module.initialize_carry()
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), single)

    def run(parameters, carry, x, reset):
        layer = equinox.combine(parameters, rest)
        states, y = jax.vmap(lambda carry, x, reset: layer(carry, (x, reset)))(carry, x, reset)
        return jax.tree.map(lambda leaf: leaf[:, -1], states), y

    return Layer(run, parameters, carry, batch_major=True)


def install_memorax(path: str | Path) -> None:
    """Makes `memorax.networks.sequence_models` importable from the clone at `path`.

    Raises:
        FileNotFoundError: where `path` is no clone of memorax.
    """
    root = _clone(path, "memorax", "memorax/networks/sequence_models/memoroid.py")
    # Its packages import the agents, environments and loggers with dozens of dependencies; the
    # layers need none of them.
    for package in ("memorax", "memorax.utils", "memorax.networks"):
        stub = types.ModuleType(package)
        stub.__path__ = [str(root / package.replace(".", "/"))]
        sys.modules[package] = stub
    # utils/typing.py names flashbax's replay buffer in two aliases that layers never use.
    flashbax: Any = types.ModuleType("flashbax")
    flashbax.trajectory_buffer = types.SimpleNamespace(
        TrajectoryBuffer=object, TrajectoryBufferState=object
    )
    sys.modules.setdefault("flashbax", flashbax)


def install_memax(path: str | Path) -> None:
    """Makes `memax.equinox` importable from the clone at `path`; needs equinox and beartype.

    Raises:
        FileNotFoundError: where `path` is no clone of memax.
        ModuleNotFoundError: without equinox, which is no dependency of this library.
    """
    root = _clone(path, "memax", "memax/equinox/gras.py")
    import_module("equinox")
    sys.path.insert(0, str(root))


def install_single(library: str, path: str | Path) -> None:
    """Makes one of the papers' own layers importable: lindermanlab/S5, minimal-LRU or ffm.

    Raises:
        FileNotFoundError: where `path` is no clone of it.
    """
    files = {"s5": "s5/ssm.py", "lru": "lru/model.py", "ffm": "standalone_jax/ffm/ffa.py"}
    file = Path(files[library])
    sys.path.insert(0, str(_clone(path, library, str(file)) / file.parent.parent))
    popjaxrl_shim.install_jax_aliases()  # s5/ssm.py is from the same time as popjaxrl
    if library == "ffm":
        # ffa.py clips with an argument a_max, which jax.numpy has renamed to max.
        clip = jnp.clip

        def clip_to_either(x, *bounds, **named):
            return clip(
                x, *bounds, **{name.replace("a_max", "max"): v for name, v in named.items()}
            )

        jnp.clip = clip_to_either


def _clone(path: str | Path, name: str, file: str) -> Path:
    root = Path(path).resolve()
    if not (root / file).is_file():
        raise FileNotFoundError(f"{root} is not a clone of {name}: no {file}")
    return root


def single_s5(features: int, batch: int) -> Layer:
    """lindermanlab's S5, with as many conjugate pairs as half its features. It has no carry."""
    ssm, start = import_module("s5.ssm"), import_module("s5.ssm_init")
    module = s5_ssm(ssm.init_S5SSM, start.make_DPLR_HiPPO, features, features)
    return _without_carry(module(), features)


def s5_ssm(init: Callable, make_hippo: Callable, features: int, states: int) -> Callable[..., Any]:
    """S5's state space model as popjaxrl's run_popgym.py has it, from the code of it or of S5.

    Args:
        init: `init_S5SSM` of either.
        make_hippo: `make_DPLR_HiPPO` of either.
        features: its width.
        states: real ones; half of each conjugate pair is kept.
    """
    eigenvalues, _, _, basis, _ = make_hippo(states)
    half = states // 2
    eigenvalues, basis = eigenvalues[:half], basis[:, :half]
    return init(
        H=features,
        P=half,
        Lambda_re_init=eigenvalues.real,
        Lambda_im_init=eigenvalues.imag,
        V=basis,
        Vinv=basis.conj().T,
        C_init="lecun_normal",
        discretization="zoh",
        dt_min=0.001,
        dt_max=0.1,
        conj_sym=True,
        clip_eigs=False,
        bidirectional=False,
    )


def single_lru(features: int, batch: int) -> Layer:
    """minimal-LRU's layer. It has no carry."""
    return _without_carry(import_module("lru.model").LRU(features, features), features)


def _without_carry(module: nn.Module, features: int) -> Layer:
    """A flax layer of `[T, F]` alone, vmapped over the batch; it knows nothing of episodes."""
    parameters = module.init(jax.random.key(0), jnp.zeros((2, features)))

    def run(parameters, carry, x, reset):
        return carry, jax.vmap(lambda x: module.apply(parameters, x))(x)

    return Layer(run, parameters, None, batch_major=True)


def single_ffm(features: int, batch: int) -> Layer:
    """proroklab's FFM in equinox."""
    equinox = import_module("equinox")
    sizes = (features, features, features, TRACES, CONTEXTS)
    module = import_module("ffm").FFM(*sizes, key=jax.random.key(0))
    parameters, rest = equinox.partition(module, equinox.is_inexact_array)
    carry = jnp.zeros((batch, 1, TRACES, CONTEXTS), jnp.complex64)

    def run(parameters, carry, x, reset):
        layer = equinox.combine(parameters, rest)
        y, states = jax.vmap(type(layer).__call__, (None, 0, 0, 0))(layer, x, carry, reset)
        return states[:, -1:], y

    return Layer(run, parameters, carry, batch_major=True)


def memax_fart(features: int, batch: int) -> Layer:
    """memax's linear attention with keys as wide as the features."""
    return memax_layer(_memax("semigroups.fart", "FART", features, features), features, batch)


def memax_gdn(features: int, batch: int) -> Layer:
    """memax's gated DeltaNet with keys as wide as the features."""
    return memax_layer(_memax("semigroups.gdn", "GDN", features, features), features, batch)


def memax_attention(features: int, batch: int, window: int) -> Layer:
    """memax's attention without positions."""
    module = _memax("semigroups.attn", "Attention", features, window, None)
    return memax_layer(module, features, batch)


def _memoroid(cell: str, **config: Any) -> Any:
    """memorax's scan around one of its cells."""
    models = import_module("memorax.networks.sequence_models")
    settings = getattr(models, f"{cell}Config")(**config)
    return models.Memoroid(cell=getattr(models, f"{cell}Cell")(config=settings))


def _loop(cell: nn.RNNCellBase) -> Any:
    """memorax's loop around a flax cell; its users make GRUs and LSTMs like this."""
    return import_module("memorax.networks.sequence_models").RNN(cell=cell)


def _memorax_shm(features: int) -> Any:
    models = import_module("memorax.networks.sequence_models")
    config = models.SHMConfig(features=MATRIX, output_features=features)
    return models.RNN(cell=models.SHMCell(config))


def _memorax_attention(features: int, time: int) -> Any:
    models = import_module("memorax.networks.sequence_models")
    rotary = import_module("memorax.networks.positional_embeddings").RoPE()
    sizes = {"features": features, "num_heads": HEADS, "context_length": 2 * time}
    return models.SelfAttention(models.SelfAttentionConfig(**sizes, positional_embedding=rotary))


def _memax(module: str, name: str, *sizes: Any) -> Any:
    layer = getattr(import_module(f"memax.equinox.{module}"), name)
    return layer(*sizes, key=jax.random.key(0))


def _one_head(features: int, time: int) -> dict[str, Any]:
    """As many numbers in our heads' matrices as there are in memax's single one."""
    return {"heads": HEADS, "key_size": ONE_HEAD**2 // features}


PEERS = (
    Peer(
        "memorax",
        "s5",
        lambda features, time: _memoroid("S5", features=features, hidden_dim=features // 2),
        differs="both signs of the frequencies, and no factor 2",
    ),
    Peer(
        "memorax",
        "lru",
        lambda features, time: _memoroid("LRU", features=features, hidden_dim=features),
    ),
    Peer(
        "memorax",
        "mingru",
        lambda features, time: _memoroid("MinGRU", features=features),
        differs="in logarithms, candidates through a positive function",
    ),
    Peer(
        "memorax",
        "ffm",
        lambda features, time: _memoroid(
            "FFM", features=features, memory_size=TRACES, context_size=CONTEXTS
        ),
    ),
    Peer(
        "memorax",
        "linear_attention",
        lambda features, time: _memoroid(
            "LinearAttention", features=features, num_heads=HEADS, head_dim=features // HEADS
        ),
        differs="a norm in front of the output",
    ),
    Peer(
        "memorax",
        "mlstm",
        lambda features, time: _memoroid(
            "mLSTM", features=features, hidden_dim=features, num_heads=HEADS
        ),
        differs="a convolution, and queries and keys from their own head only",
    ),
    Peer(
        "memorax",
        "mamba2",
        lambda features, time: _memoroid(
            "Mamba2",
            features=features,
            num_heads=HEADS,
            head_dim=2 * features // HEADS,
            state_dim=MATRIX,
        ),
        differs="the norm before the gate",
    ),
    Peer(
        "memorax",
        "shm",
        lambda features, time: _memorax_shm(features),
        lambda features, time: {"norm": "pre"},
        differs="rows of θ at random, without an rng always the first",
    ),
    Peer(
        "memorax",
        "transformer",
        _memorax_attention,
        lambda features, time: {"window": time},
        differs="biases; a context of 2 T, as one of T forgets all that was carried in",
    ),
    Peer("memorax", "gru", lambda features, time: _loop(nn.GRUCell(features))),
    Peer("memorax", "lstm", lambda features, time: _loop(nn.OptimizedLSTMCell(features))),
    Peer(
        "memax", "lru", lambda features, time: _memax("semigroups.lru", "LRU", features, features)
    ),
    Peer(
        "memax",
        "ffm",
        lambda features, time: _memax("semigroups.ffm", "FFM", features, TRACES, CONTEXTS),
        differs="gates before its norm, and no weights on the way around",
    ),
    Peer(
        "memax",
        "linear_attention",
        lambda features, time: _memax("semigroups.fart", "FART", features, ONE_HEAD),
        _one_head,
        differs="one head, no output product",
    ),
    Peer(
        "memax",
        "deltanet",
        lambda features, time: _memax("semigroups.delta", "DeltaNet", features, ONE_HEAD),
        _one_head,
        differs="one head, no convolution, norm or output product",
    ),
    Peer(
        "memax",
        "gated_deltanet",
        lambda features, time: _memax("semigroups.gdn", "GDN", features, ONE_HEAD),
        _one_head,
        differs="one head, no convolution, norm, gate or output product",
    ),
    Peer(
        "memax",
        "transformer",
        lambda features, time: _memax("semigroups.attn", "Attention", features, 128, None),
        lambda features, time: {"window": 128, "positions": "none"},
        differs="one head, no output product",
    ),
    Peer(
        "memax",
        "gru",
        lambda features, time: _memax("set_actions.gru", "GRU", features),
        differs="resets before the recurrent product",
    ),
    Peer("memax", "lstm", lambda features, time: _memax("set_actions.lstm", "LSTM", features)),
)


def peers_of(memory: str, libraries: list[str]) -> list[Peer]:
    """The peers of a memory among `libraries`."""
    return [peer for peer in PEERS if peer.memory == memory and peer.library in libraries]
