"""Every memory's published equations as plain NumPy loops in double precision.

Written from the papers and from nothing in ssmrl.memory but the layout of its parameters. A
reference is `reference(params, options, x, reset, carry) → (carry, y)`, x `[T, B, F]`; `carry` is
the inner memory's own, and `params` and `options` are nested dictionaries.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    """Hendrycks and Gimpel 2016, the tanh form (which S5's own code uses)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def layer_norm(params, x):
    """Ba, Kiros, Hinton 2016, equation 3; flax adds 1e-6 to the variance."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * params["scale"] + params["bias"]


def started(options, params, reset, h):
    """h, or where an episode begins the initial state."""
    start = np.zeros(h.shape[-1])
    if options.get("learned_initial_carry"):
        start = params["initial_carry"]
        start = start[:, 0] + 1j * start[:, 1] if np.iscomplexobj(h) else start
    return np.where(reset[:, None], start, h)


def none(params, options, x, reset, carry):
    return (), dense(params["Dense_0"], x) if "Dense_0" in params else x


def gru(params, options, x, reset, h):
    """Cho et al. 2014, reset gate behind the recurrent product; weights side by side as r, z, n."""
    H = options["features"]
    W_r, W_z, W_n = (params["input"]["kernel"][:, i * H : (i + 1) * H] for i in range(3))
    b_r, b_z, b_n = (params["input"]["bias"][i * H : (i + 1) * H] for i in range(3))
    U_r, U_z, U_n = (params["U"][:, i * H : (i + 1) * H] for i in range(3))
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        h = started(options, params, reset_t, h)
        r = sigmoid(x_t @ W_r + h @ U_r + b_r)
        z = sigmoid(x_t @ W_z + h @ U_z + b_z)
        n = np.tanh(x_t @ W_n + b_n + r * (h @ U_n + params["c"]))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return h, np.stack(outputs)


def silu_of_rms_norm(params, x):
    """SiLU behind a root-mean-square normalisation, with 1e-4 added to the square."""
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * params["scale"]
    return x * sigmoid(x)


def block_gru(params, options, x, reset, h):
    """Hafner et al. 2023: each block of the state sees itself, a summary of all, and the input."""
    H = options["features"]
    J = options["blocks"] or np.gcd(8, H)
    blocks = [slice(j * H // J, (j + 1) * H // J) for j in range(J)]
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        h = started(options, params, reset_t, h)
        s = silu_of_rms_norm(params["norm_summary"], dense(params["summarize"], h))
        g = [
            np.concatenate([h[:, block], s, x_t], -1) @ params["hidden"][j]
            + params["hidden_bias"][j]
            for j, block in enumerate(blocks)
        ]
        g = silu_of_rms_norm(params["norm_hidden"], np.concatenate(g, -1))
        new = np.empty_like(h)
        for j, block in enumerate(blocks):
            gates = g[:, block] @ params["gates"][j] + params["gates_bias"][j]
            r, c, z = np.split(gates, 3, axis=-1)
            z = sigmoid(z - 1)
            new[:, block] = z * np.tanh(sigmoid(r) * c) + (1 - z) * h[:, block]
        h = new
        outputs.append(h)
    return h, np.stack(outputs)


def s5_discrete(params, options):
    """Λ̄ `[N]` and B̄ `[N, F]`: zero-order hold (Smith et al. 2023, equation 6) or bilinear."""
    N = params["log_decay"].shape[0]
    Lambda = -np.exp(params["log_decay"]) + 1j * params["frequency"]
    B = (params["B"][:, :N] + 1j * params["B"][:, N:]).T
    step = np.exp(params["log_step"])
    if options["discretization"] == "zoh":
        decay = np.exp(Lambda * step)
        return decay, ((decay - 1) / Lambda)[:, None] * B
    inverse = 1 / (1 - step / 2 * Lambda)
    return inverse * (1 + step / 2 * Lambda), (inverse * step)[:, None] * B


def s5_output_matrix(params):
    """C̃ `[H, N]`; its parameter holds the rows (2 Re C̃, -2 Im C̃)."""
    N = params["log_decay"].shape[0]
    return (params["C"][:N] - 1j * params["C"][N:]).T / 2


def s5(params, options, x, reset, h):
    """The full system of conjugate pairs: what is kept, and its mirror image."""
    decay, B = s5_discrete(params, options)
    C = s5_output_matrix(params)
    decay, B = np.concatenate([decay, decay.conj()]), np.concatenate([B, B.conj()])
    C = np.concatenate([C, C.conj()], axis=1)
    N = h.shape[-1]
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        h = started(options, params, reset_t, h[:, :N])
        h = np.concatenate([h, h.conj()], axis=1)
        h = decay * h + x_t @ B.T
        y = h @ C.T
        np.testing.assert_allclose(y.imag, 0, atol=1e-12 * np.abs(y).max())
        D = params["D"]
        outputs.append(y.real + (D * x_t if D.ndim == 1 else x_t @ D))
    return h[:, :N], np.stack(outputs)


REFERENCES = {"block_gru": block_gru, "gru": gru, "none": none, "s5": s5}


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
    y = x + g if options["residual"] else g
    return carry, layer_norm(params["norm"], y) if options["norm"] == "post" else y


def stack(name, params, options, x, reset, carry):
    """All layers of `make_memory(name, **options)`."""
    carries = []
    for i, layer_carry in enumerate(carry):
        layer = params.get(f"layers_{i}", {})
        layer_carry, x = block(REFERENCES[name], layer, options, x, reset, layer_carry)
        carries.append(layer_carry)
    return tuple(carries), x
