"""Gated cells and elementwise recurrences."""

import numpy as np

from tests.memory.references.common import (
    causal_conv,
    dense,
    gelu,
    learned_start,
    normalized,
    parts,
    sigmoid,
    silu,
    softplus,
    unroll,
)


def none(params, options, x, reset, carry):
    """The input, through a linear layer where the width changes."""
    return (), dense(params["Dense_0"], x) if "Dense_0" in params else x


def cell_start(params, options, names):
    """The learned state of a cell, one row for each of its parts; None for zeros."""
    if not options["learned_initial_carry"]:
        return None
    return dict(zip(names, params["initial_carry"], strict=True))


def gru(params, options, x, reset, carry):
    """Cho et al. 2014, reset gate behind the recurrent product; weights side by side as r, z, n."""
    W_r, W_z, W_n = np.split(params["input"]["kernel"], 3, axis=1)
    b_r, b_z, b_n = np.split(params["input"]["bias"], 3)
    U_r, U_z, U_n = np.split(params["U"], 3, axis=1)
    c_r, c_z, c_n = np.split(params["c"], 3)

    def step(state, x):
        h = state["h"]
        r = sigmoid(x @ W_r + b_r + h @ U_r + c_r)
        z = sigmoid(x @ W_z + b_z + h @ U_z + c_z)
        n = np.tanh(x @ W_n + b_n + r * (h @ U_n + c_n))
        h = (1 - z) * n + z * h
        return {"h": h}, h

    return unroll(step, x, reset, carry, cell_start(params, options, ["h"]))


def block_gru(params, options, x, reset, carry):
    """Hafner et al. 2023: each block of the state sees itself, a summary of all, and the input."""
    H = options["features"]
    J = options["blocks"] or np.gcd(8, H)
    start = params["initial_carry"] if options["learned_initial_carry"] else None

    def normed(name, x):
        return silu(x / np.sqrt((x**2).mean() + 1e-4) * params[name]["scale"])

    def block_dense(name, inputs):
        kernels, biases = params[name], params[f"{name}_bias"]
        return [v @ W + b for v, W, b in zip(inputs, kernels, biases, strict=True)]

    def step(h, x):
        s = normed("norm_summary", dense(params["summarize"], h))
        seen = [np.concatenate([part, s, x]) for part in np.split(h, J)]
        g = normed("norm_hidden", np.concatenate(block_dense("hidden", seen)))
        r, c, z = (
            np.concatenate(gate)
            for gate in zip(
                *(np.split(v, 3) for v in block_dense("gates", np.split(g, J))), strict=True
            )
        )
        update = sigmoid(z - 1)
        h = update * np.tanh(sigmoid(r) * c) + (1 - update) * h
        return h, h

    return unroll(step, x, reset, carry, start)


def lstm(params, options, x, reset, carry):
    """Gers et al. 2000, equations 2 to 7 without peepholes; 1 is added to the forget gate's bias.

    Weights side by side as input gate, forget gate, cell input, output gate.
    """
    W_i, W_f, W_g, W_o = np.split(params["input"]["kernel"], 4, axis=1)
    b_i, b_f, b_g, b_o = np.split(params["input"]["bias"] + params["c"], 4)
    U_i, U_f, U_g, U_o = np.split(params["U"], 4, axis=1)

    def step(state, x):
        c, h = state["c"], state["h"]
        i = sigmoid(x @ W_i + h @ U_i + b_i)
        f = sigmoid(x @ W_f + h @ U_f + b_f + 1)
        g = np.tanh(x @ W_g + h @ U_g + b_g)
        o = sigmoid(x @ W_o + h @ U_o + b_o)
        c = f * c + i * g
        h = o * np.tanh(c)
        return {"c": c, "h": h}, h

    return unroll(step, x, reset, carry, cell_start(params, options, ["c", "h"]))


def mingru(params, options, x, reset, carry):
    """Feng et al. 2024 ("Were RNNs All We Needed?"), section 3.1."""

    def step(h, x):
        gate, candidate = np.split(dense(params["input"], x), 2)
        z = sigmoid(gate)
        h = (1 - z) * h + z * candidate
        return h, h

    return unroll(step, x, reset, carry, learned_start(params, options, carry))


def minlstm(params, options, x, reset, carry):
    """Feng et al. 2024, section 3.2: forget and input gate divided by their sum."""

    def step(h, x):
        forget, accept, candidate = np.split(dense(params["input"], x), 3)
        f, i = sigmoid(forget), sigmoid(accept)
        h = f / (f + i) * h + i / (f + i) * candidate
        return h, h

    return unroll(step, x, reset, carry, learned_start(params, options, carry))


def frame_stack(params, options, x, reset, carry):
    """Mnih et al. 2015: the last frames side by side, the newest first, zeros before the episode.

    Each frame goes through a linear layer before it is kept.
    """

    def step(history, x):
        frames = np.concatenate([dense(params["frame"], x)[None], history])
        return frames[:-1], dense(params["output"], frames.reshape(-1))

    return unroll(step, x, reset, carry)


def ffm(params, options, x, reset, carry):
    """Morad et al. 2023, equations 4 to 14, trace by trace and context by context."""
    alpha, omega = np.exp(params["log_decay"]), params["frequency"]

    def step(S, x):
        value, gate = np.split(dense(params["input"], x), 2)
        trace = value * sigmoid(gate)
        S = np.array(
            [
                [np.exp(-a + 1j * w) * S[j, k] + trace[j] for k, w in enumerate(omega)]
                for j, a in enumerate(alpha)
            ]
        )
        pair = np.concatenate([S.real.ravel(), S.imag.ravel()])
        z = pair @ params["read"] + params["read_bias"]
        skip, gate = dense(params["around"], x), sigmoid(dense(params["gate"], x))
        return S, normalized(z) * gate + skip * (1 - gate)

    return unroll(step, x, reset, carry, learned_start(params, options, carry))


def gateloop(params, options, x, reset, carry):
    """Katsch 2023, equations 8, 9 and 21, heads of one channel; decays start at σ(α + 3)."""

    def step(h, x):
        alpha, beta, k, v = np.split(dense(params["input"], x), 4)
        h = sigmoid(alpha + 3) * np.exp(1j * beta) * h + k * v
        q, gate = np.split(dense(params["query"], x), 2)
        return h, dense(params["output"], (q * h).real * silu(gate))

    return unroll(step, x, reset, carry, learned_start(params, options, carry))


def rglru(params, options, x, reset, carry):
    """De et al. 2024, equations 1 to 4 with a = exp(-softplus(Λ)), in the block of figure 2."""
    a = np.exp(-softplus(params["decay_weight"]))

    def step(state, x):
        u, gate = parts(dense(params["input"], x), options["features"], -1)
        conv, u = causal_conv(params["conv"], state["conv"], u)
        r, i = np.split(sigmoid(dense(params["gates"], u)), 2)
        a_t = a ** (8 * r)
        h = a_t * state["h"] + np.sqrt(1 - a_t**2) * (i * u)
        return {"conv": conv, "h": h}, dense(params["output"], h * gelu(gate))

    return unroll(step, x, reset, carry)
