"""What the references share: the loop over steps, layers without time, and the block."""

import jax
import numpy as np


def unroll(step, x, reset, carry, start=None, load=lambda carry: carry, save=lambda state: state):
    """Every batch entry by itself, one step after the other.

    Args:
        step: (state, x `[F]`) → (state, y `[H]`).
        x: `[T, B, F]`.
        reset: bool `[T, B]`.
        carry: of the batch, leaves `[B, ...]`.
        start: where episodes begin, as a carry without a batch axis; zeros where None.
        load: what `step` works on, from a carry without a batch axis.
        save: the inverse of `load`.

    Returns:
        The last carry and y `[T, B, H]`.
    """
    entries = [jax.tree.map(lambda leaf, b=b: leaf[b], carry) for b in range(x.shape[1])]
    start = jax.tree.map(np.zeros_like, entries[0]) if start is None else start
    last, outputs = [], []
    for b, entry in enumerate(entries):
        state, rows = load(entry), []
        for x_t, reset_t in zip(x[:, b], reset[:, b], strict=True):
            state, y = step(load(start) if reset_t else state, x_t)
            rows.append(y)
        last.append(save(state))
        outputs.append(np.stack(rows))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *last), np.stack(outputs, axis=1)


def learned_start(params, options, carry):
    """The learned initial state of a memory with one array as its carry; None for zeros."""
    if not options["learned_initial_carry"]:
        return None
    start = params["initial_carry"]
    return start[..., 0] + 1j * start[..., 1] if np.iscomplexobj(carry) else start


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def relu(x):
    return np.maximum(x, 0)


def softplus(x):
    return np.log(1 + np.exp(x))


def gelu(x):
    """Hendrycks and Gimpel 2016, the tanh form (which S5's own code uses)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"none": lambda x: x, "gelu": gelu, "silu": silu, "relu": relu, "tanh": np.tanh}


def dense(params, x):
    y = x @ params["kernel"]
    return y + params["bias"] if "bias" in params else y


def parts(x, *sizes):
    """`x` `[..., n]` cut into parts of the given sizes; -1 stands for what is left."""
    free = x.shape[-1] - sum(size for size in sizes if size >= 0)
    ends = np.cumsum([free if size < 0 else size for size in sizes])
    assert ends[-1] == x.shape[-1]
    return np.split(x, ends[:-1], axis=-1)


def normalized(x):
    """Ba, Kiros, Hinton 2016, equation 3; flax adds 1e-6 to the variance."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def layer_norm(params, x):
    return normalized(x) * params["scale"] + params["bias"]


def rms_norm(params, x):
    """Zhang and Sennrich 2019, equation 4; flax adds 1e-6 to the mean square."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"]


def causal_conv(params, history, x):
    """The next history and Σ_l w_l x[t-l] + b; `history` `[L, F]` has the newest input first."""
    seen = np.concatenate([x[None], history])
    y = params["bias"]
    for weight, lagged in zip(params["kernel"], seen, strict=True):
        y = y + weight * lagged
    return seen[:-1], y


def turns_per_step(pairs):
    """RoFormer's frequencies 10000^(-2i/d) in whole 2⁻³² of a turn, for i = 0 ... pairs - 1."""
    radians = [10_000.0 ** (-2 * i / (2 * pairs)) for i in range(pairs)]
    return [round(frequency / (2 * np.pi) * 2**32) for frequency in radians]


def phases(position, pairs):
    """e^{i θ p} of an integer position, exact for every one: whole turns are taken off first."""
    turns = np.array([position * turn % 2**32 / 2**32 for turn in turns_per_step(pairs)])
    return np.exp(2j * np.pi * turns)


def complex_pairs(x):
    """The pairs (x[i], x[i + K/2]) as complex numbers, `[..., K]` → `[..., K/2]`."""
    re, im = np.split(x, 2, axis=-1)
    return re + 1j * im


def block(reference, params, options, x, reset, carry):
    """g = act(memory(norm(x))), y = x + W₁g ⊙ σ(W₂g) (Smith et al. 2023, section 3.3)."""
    if options["residual"] and "embed" in params:
        x = dense(params["embed"], x)
    inner = layer_norm(params["norm"], x) if options["norm"] == "pre" else x
    carry, g = reference(params.get("memory", {}), options, inner, reset, carry)
    g = ACTIVATIONS[options["activation"]](g)
    if options["glu"] == "half":
        g = g * sigmoid(dense(params["glu"], g))
    elif options["glu"] == "full":
        value, gate = np.split(dense(params["glu"], g), 2, axis=-1)
        g = value * sigmoid(gate)
    y = join(params.get("gate"), options, x, g)
    y = layer_norm(params["norm"], y) if options["norm"] == "post" else y
    return carry, feedforward(params, options, y) if options["feedforward"] else y


def feedforward(params, options, x):
    """Vaswani et al. 2017, section 3.3, with gelu, and its norm before or after."""
    inner = layer_norm(params["feedforward_norm"], x) if options["norm"] == "pre" else x
    branch = dense(params["feedforward_out"], gelu(dense(params["feedforward_in"], inner)))
    y = join(params.get("feedforward_gate"), options, x, branch)
    return layer_norm(params["feedforward_norm"], y) if options["norm"] == "post" else y


def join(params, options, x, y):
    """The branch y alone, the sum, or GTrXL's gate (Parisotto et al. 2020, equation 10, b = 2)."""
    if not options["residual"]:
        return y
    if options["gate"] == "none":
        return x + y
    W_r, W_z, W_g = np.split(params["branch"]["kernel"], 3, axis=1)
    U_r, U_z = np.split(params["stream"]["kernel"], 2, axis=1)
    r = sigmoid(y @ W_r + x @ U_r)
    z = sigmoid(y @ W_z + x @ U_z - params["bias"])
    return (1 - z) * x + z * np.tanh(y @ W_g + (r * x) @ params["reset"]["kernel"])
