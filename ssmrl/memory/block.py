"""One residual block, and the stack of them: both are memories themselves."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, Carry, Memory
from ssmrl.memory.linear import Dense

NORMS = ("none", "pre", "post")
GLUS = ("none", "half", "full")
GATES = ("none", "gtrxl")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "relu": nn.relu,
    "tanh": nn.tanh,
}


class ResidualBlock(Memory):
    """A memory inside a residual block; with everything switched off, the memory alone.

    g = activation(memory(norm(x)));  y = x + glu(g), where (Smith et al. 2023, section 3.3)
    full: glu(g) = W₁g ⊙ σ(W₂g);  half: glu(g) = g ⊙ σ(W₂g);  none: glu(g) = g.
    With a feed-forward layer, z = y + W₂ gelu(W₁ norm(y)) follows (Vaswani et al. 2017). Without
    `residual` the branch alone takes the place of each sum.

    Attributes:
        memory: the memory inside, of the same width.
        residual: add the input (projected where the width changes).
        norm: LayerNorm before the memory ("pre"), after the sum ("post"), or "none"; the same
            around the feed-forward layer.
        activation: applied after the memory: "none", "gelu", "silu", "relu" or "tanh".
        glu: gated linear unit after the memory: "full", "half" or "none".
        feedforward: hidden width of a feed-forward layer after the memory, as a multiple of
            `features`; 0 for none.
        gate: how branch and input are joined: "none" adds them, "gtrxl" mixes them with a GRU's
            gates (Parisotto et al. 2020, equation 10), which at first pass little but the input.
        dropout: dropout rate of each branch, applied only if `apply` is given an rng named
            "dropout".
    """

    memory: Memory
    residual: bool = True
    norm: str = "none"
    activation: str = "gelu"
    glu: str = "full"
    feedforward: int = 0
    gate: str = "none"
    dropout: float = 0.0

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        return self.memory.initialize_carry(batch_shape)

    def state_features(self, carry: Carry) -> Array:
        return self.memory.state_features(carry)

    def unroll(self, carry, x, reset, return_carries):
        self._check()
        if self.residual and x.shape[-1] != self.features:
            x = Dense(self.features, dtype=x.dtype, name="embed")(x)
        inner = nn.LayerNorm(dtype=x.dtype, name="norm")(x) if self.norm == "pre" else x
        last, g, *carries = self.memory(carry, inner, reset, return_carries)
        y = self._join(x, self._glu(ACTIVATIONS[self.activation](g)), "")
        y = nn.LayerNorm(dtype=x.dtype, name="norm")(y) if self.norm == "post" else y
        y = self._feedforward(y) if self.feedforward else y
        return last, y, carries[0] if carries else None

    def _check(self) -> None:
        _check_choice("norm", self.norm, NORMS)
        _check_choice("glu", self.glu, GLUS)
        _check_choice("activation", self.activation, tuple(ACTIVATIONS))
        _check_choice("gate", self.gate, GATES)
        if self.feedforward < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "feedforward must not be negative and dropout must be in [0, 1), got "
                f"{self.feedforward} and {self.dropout}"
            )

    def _glu(self, g: Array) -> Array:
        if self.glu == "none":
            return g
        if self.glu == "half":
            return g * nn.sigmoid(Dense(self.features, dtype=g.dtype, name="glu")(g))
        both = Dense(2 * self.features, dtype=g.dtype, name="glu")(g)
        value, gate = jnp.split(both, 2, axis=-1)
        return value * nn.sigmoid(gate)

    def _feedforward(self, x: Array) -> Array:
        width, normed = self.feedforward * self.features, x
        if self.norm == "pre":
            normed = nn.LayerNorm(dtype=x.dtype, name="feedforward_norm")(x)
        hidden = nn.gelu(Dense(width, dtype=x.dtype, name="feedforward_in")(normed))
        branch = Dense(self.features, dtype=x.dtype, name="feedforward_out")(hidden)
        y = self._join(x, branch, "feedforward_")
        if self.norm == "post":
            y = nn.LayerNorm(dtype=x.dtype, name="feedforward_norm")(y)
        return y

    def _join(self, x: Array, branch: Array, prefix: str) -> Array:
        """Input and branch become one."""
        if self.dropout and self.has_rng("dropout"):
            branch = nn.Dropout(self.dropout, deterministic=False)(branch)
        if not self.residual:
            return branch
        return GRUGate(name=f"{prefix}gate")(x, branch) if self.gate == "gtrxl" else x + branch


class GRUGate(nn.Module):
    """GTrXL's gate between a stream x and a branch y (Parisotto et al. 2020, equation 10):

    r = σ(W_r y + U_r x)    z = σ(W_z y + U_z x - 2)    (1 - z) ⊙ x + z ⊙ tanh(W_g y + U_g (r ⊙ x))
    """

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """x and y `[..., F]` mixed."""
        width = x.shape[-1]
        project = partial(Dense, dtype=x.dtype, use_bias=False)
        r_y, z_y, g_y = jnp.split(project(3 * width, name="branch")(y), 3, axis=-1)
        r_x, z_x = jnp.split(project(2 * width, name="stream")(x), 2, axis=-1)
        bias = self.param("bias", nn.initializers.constant(2.0), (width,), STATE_DTYPE)
        z = nn.sigmoid(z_y + z_x - bias.astype(x.dtype))
        candidate = jnp.tanh(g_y + project(width, name="reset")(nn.sigmoid(r_y + r_x) * x))
        return x + z * (candidate - x)


class Stack(Memory):
    """Memories in sequence. Carry: the tuple of their carries.

    Attributes:
        layers: of the same width.
        remat: steps whose activations a gradient holds at once, 0 for all of a sequence. Those of
            the other stretches of so many steps are computed again when their turn comes (Chen et
            al., "Training Deep Nets with Sublinear Memory Cost", 2016); between stretches carries
            are held.
    """

    layers: tuple[Memory, ...]
    remat: int = 0

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        return tuple(layer.initialize_carry(batch_shape) for layer in self.layers)

    def state_features(self, carry: Carry) -> Array:
        parts = zip(self.layers, carry, strict=True)
        rows = [layer.state_features(part) for layer, part in parts]
        # Those of a layer without any state have no leading axes.
        rows = [row for row in rows if row.shape[-1]] or rows[:1]
        return jnp.concatenate(rows, axis=-1)

    def unroll(self, carry, x, reset, return_carries):
        if not 0 < self.remat < x.shape[0] or self.is_initializing():
            return self._unroll_all(carry, x, reset, return_carries)

        def stretch(stack, carry, inputs):
            last, *rest = stack._unroll_all(carry, *inputs, return_carries)
            return last, rest

        # Nothing else tells a stretch's first computation from its second: a loop does.
        loop = nn.scan(
            nn.remat(stretch, prevent_cse=False),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
        )
        whole = x.shape[0] // self.remat * self.remat
        stretches = [part[:whole].reshape(-1, self.remat, *part.shape[1:]) for part in (x, reset)]
        carry, rest = loop(self, carry, stretches)
        rest = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), rest)
        if whole < x.shape[0]:
            carry, tail = nn.remat(stretch)(self, carry, [x[whole:], reset[whole:]])
            rest = jax.tree.map(lambda *parts: jnp.concatenate(parts), rest, tail)
        return carry, *rest

    def _unroll_all(self, carry, x, reset, return_carries):
        last, carries = [], []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            layer_last, x, *layer_carries = layer(layer_carry, x, reset, return_carries)
            last.append(layer_last)
            carries += layer_carries
        return tuple(last), x, tuple(carries)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(choices)}")
