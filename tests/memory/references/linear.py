"""Memories of keys and values: one matrix a head (or a channel), updated step by step."""

import numpy as np

from tests.memory.references.common import (
    causal_conv,
    complex_pairs,
    dense,
    layer_norm,
    parts,
    phases,
    relu,
    rms_norm,
    sigmoid,
    silu,
    softplus,
    unroll,
)


def projections(params, options, x, keys):
    """q, k `[H, K]` and v `[H, V]` from the layer "input", and what else it computes."""
    H = options["heads"]
    q, k, v, rest = parts(dense(params["input"], x), H * keys, H * keys, options["features"], -1)
    return q.reshape(H, -1), k.reshape(H, -1), v.reshape(H, -1), rest


def recall(S, q, k, v, decay):
    """diag(a) S + k vᵀ and its transpose times q, head by head; `decay` `[H, K]` or `[H, 1]`."""
    states, outputs = [], []
    for S_h, q_h, k_h, v_h, a_h in zip(S, q, k, v, decay, strict=True):
        S_h = np.diag(np.broadcast_to(a_h, len(S_h))) @ S_h + np.outer(k_h, v_h)
        states.append(S_h)
        outputs.append(S_h.T @ q_h)
    return np.stack(states), np.stack(outputs)


def gated_output(params, y, x):
    """W_o (norm(y) ⊙ silu(W_g x)), every head normalised by itself."""
    return dense(
        params["output"], rms_norm(params["norm"], y).ravel() * silu(dense(params["gate"], x))
    )


def linear_attention(params, options, x, reset, carry):
    """Katharopoulos et al. 2020, equations 16 to 20; their code adds 1e-6 to the denominator.

    The state of a head is [S | z].
    """

    def feature_map(x):
        return np.where(x > 0, x, np.exp(x) - 1) + 1

    def step(state, x):
        q, k, v, _ = projections(params, options, x, carry.shape[-2])
        states, outputs = [], []
        for state_h, q_h, k_h, v_h in zip(state, feature_map(q), feature_map(k), v, strict=True):
            S, z = state_h[:, :-1], state_h[:, -1]
            S, z = S + np.outer(k_h, v_h), z + k_h
            states.append(np.concatenate([S, z[:, None]], axis=1))
            outputs.append(S.T @ q_h / (z @ q_h + 1e-6))
        return np.stack(states), dense(params["output"], np.concatenate(outputs))

    return unroll(step, x, reset, carry)


def retnet(params, options, x, reset, carry):
    """Sun et al. 2023, equations 5 to 8, with complex keys: k e^{iθp} is what is remembered.

    Channels i and i + K/2 are real and imaginary part. The carry holds real numbers.
    """
    K = carry["S"].shape[-2]
    gammas = [1 - 2 ** (-5 - h) for h in range(options["heads"])]

    def load(carry):
        return carry["S"][:, : K // 2] + 1j * carry["S"][:, K // 2 :], int(carry["position"])

    def save(state):
        S, position = state
        return {"S": np.concatenate([S.real, S.imag], axis=1), "position": np.array(position)}

    def step(state, x):
        S, position = state
        q, k, v, _ = projections(params, options, x, K)
        phase = phases(position, K // 2)
        states, outputs = [], []
        for S_h, q_h, k_h, v_h, gamma in zip(S, q, k, v, gammas, strict=True):
            S_h = gamma * S_h + np.outer(complex_pairs(k_h) * phase, v_h)
            states.append(S_h)
            outputs.append((S_h.T.conj() @ (complex_pairs(q_h) * phase)).real / np.sqrt(K))
        return (np.stack(states), position + 1), gated_output(params, np.stack(outputs), x)

    return unroll(step, x, reset, carry, None, load, save)


def gla(params, options, x, reset, carry):
    """Yang et al. 2023, equation 3 and section 4.4, τ = 16."""
    K = carry.shape[-2]

    def step(S, x):
        q, k, v, low = projections(params, options, x, K)
        alpha = sigmoid(dense(params["decay"], low)).reshape(k.shape) ** (1 / 16)
        S, y = recall(S, q / np.sqrt(K), k, v, alpha)
        return S, gated_output(params, y, x)

    return unroll(step, x, reset, carry)


def hgrn2(params, options, x, reset, carry):
    """Qin et al. 2024, equation 6: input gates tied to forget gates, with a lower bound.

    Activations (the sigmoid of queries, silu of values) and LayerNorm as in the authors' code.
    """
    beta = options["lower_bound"]

    def step(S, x):
        q, f, v, _ = projections(params, options, x, carry.shape[-2])
        forget = beta + (1 - beta) * sigmoid(f)
        S, y = recall(S, sigmoid(q), 1 - forget, silu(v), forget)
        return S, dense(params["output"], layer_norm(params["norm"], y.ravel()))

    return unroll(step, x, reset, carry)


def delta_rule(params, options, carry, x, gates):
    """α (I - β k kᵀ) S + β k vᵀ with unit keys, and the heads' outputs (Yang et al. 2024).

    Queries, keys and values come from a short convolution and silu (as in the authors' code, and
    there too 1e-6 is added to squared lengths). `gates` gives β and α, `[H]` each.
    """
    H, (K, V) = options["heads"], carry["S"].shape[-2:]
    mixed, inputs = parts(dense(params["input"], x), 2 * H * K + H * V, -1)
    conv, mixed = causal_conv(params["conv"], carry["conv"], mixed)
    q, k, v = (a.reshape(H, -1) for a in parts(silu(mixed), H * K, H * K, H * V))
    states, outputs = [], []
    for S, q_h, k_h, v_h, beta, alpha in zip(carry["S"], q, k, v, *gates(inputs), strict=True):
        q_h, k_h = (a / np.sqrt(a @ a + 1e-6) for a in (q_h, k_h))
        S = alpha * (np.eye(K) - beta * np.outer(k_h, k_h)) @ S + beta * np.outer(k_h, v_h)
        states.append(S)
        outputs.append(S.T @ q_h)
    return {"conv": conv, "S": np.stack(states)}, np.stack(outputs)


def deltanet(params, options, x, reset, carry):
    """Schlag et al. 2021, equation 24."""

    def gates(inputs):
        return sigmoid(inputs), np.ones_like(inputs)

    def step(state, x):
        state, y = delta_rule(params, options, state, x, gates)
        return state, dense(params["output"], rms_norm(params["norm"], y).ravel())

    return unroll(step, x, reset, carry)


def gated_deltanet(params, options, x, reset, carry):
    """Yang et al. 2024 ("Gated Delta Networks"), equation 10, with Mamba-2's decay."""

    def gates(inputs):
        beta, step = np.split(inputs, 2)
        step = softplus(step + params["step_bias"])
        return sigmoid(beta), np.exp(-step * np.exp(params["log_A"]))

    def step(state, x):
        state, y = delta_rule(params, options, state, x, gates)
        return state, gated_output(params, y, x)

    return unroll(step, x, reset, carry)


def mamba2(params, options, x, reset, carry):
    """Dao and Gu 2024, section 7.1: A a number for each head, B and C the same for all heads."""
    H, (K, V) = options["heads"], carry["S"].shape[-2:]

    def step(state, x):
        gate, mixed, step = parts(dense(params["input"], x), H * V, H * V + 2 * K, H)
        conv, mixed = causal_conv(params["conv"], state["conv"], mixed)
        u, b, c = parts(silu(mixed), H * V, K, K)
        step, u = softplus(step + params["step_bias"]), u.reshape(H, V)
        decay = np.exp(-np.exp(params["log_A"]) * step)
        S, y = recall(state["S"], [c] * H, [b] * H, step[:, None] * u, decay[:, None])
        y = (y + params["D"] * u).ravel() * silu(gate)
        return {"conv": conv, "S": S}, dense(params["output"], rms_norm(params["norm"], y))

    return unroll(step, x, reset, carry)


def mlstm(params, options, x, reset, carry):
    """Beck et al. 2024, equations 19 to 27, without the stabilisation; heads normalised after.

    The carry is divided by e^m (equations 15 to 17); the recurrence here is not.
    """
    H, K = options["heads"], carry["C"].shape[-2]

    def load(carry):
        whole = carry["C"] * np.exp(carry["m"])[:, None, None]
        return whole[..., :-1], whole[..., -1], carry["m"]

    def save(state):
        C, n, m = state
        whole = np.concatenate([C, n[..., None]], axis=-1)
        return {"C": whole * np.exp(-m)[:, None, None], "m": m}

    def step(state, x):
        C, n, m = state
        q, k, v, _ = projections(params, options, x, K)
        log_i, log_f = np.split(dense(params["gates"], x), 2)
        i, f, k = np.exp(log_i), sigmoid(log_f), k / np.sqrt(K)
        C = np.stack([f[h] * C[h] + i[h] * np.outer(k[h], v[h]) for h in range(H)])
        n = np.stack([f[h] * n[h] + i[h] * k[h] for h in range(H)])
        h = np.stack([C[h].T @ q[h] / max(abs(n[h] @ q[h]), 1) for h in range(H)])
        gate = sigmoid(dense(params["gate"], x))
        y = dense(params["output"], gate * rms_norm(params["norm"], h).ravel())
        return (C, n, np.maximum(np.log(f) + m, log_i)), y

    return unroll(step, x, reset, carry, None, load, save)


def selective(params, x, reset, carry, recurrence):
    """The block of Mamba (Gu and Dao 2023, figure 3) around (h `[D, N]`, u `[D]`) → (h, c)."""
    D = params["D"].shape[0]

    def step(state, x):
        u, gate = parts(dense(params["input"], x), D, D)
        conv, u = causal_conv(params["conv"], state["conv"], u)
        u = silu(u)
        h, c = recurrence(state["h"].T, u)
        y = dense(params["output"], (h @ c + params["D"] * u) * silu(gate))
        return {"conv": conv, "h": h.T}, y

    return unroll(step, x, reset, carry)


def mamba(params, options, x, reset, carry):
    """Gu and Dao 2023, algorithm 2: A by zero-order hold, B by Euler (as in the authors' code)."""
    A, N = -np.exp(params["log_A"]), options["state_size"]

    def recurrence(h, u):
        low, b, c = parts(dense(params["select"], u), -1, N, N)
        delta = softplus(dense(params["step"], low))
        rows = [np.exp(delta[d] * A[d]) * h[d] + delta[d] * b * u[d] for d in range(len(u))]
        return np.stack(rows), c

    return selective(params, x, reset, carry, recurrence)


def longhorn(params, options, x, reset, carry):
    """Liu et al. 2024, equation 10: the diagonal form, row by row."""
    N = options["state_size"]

    def recurrence(h, u):
        low, k, q = parts(dense(params["select"], u), -1, N, N)
        beta = sigmoid(dense(params["beta"], low))
        rate = beta / (1 + beta * (k @ k))
        rows = [(1 - rate[d] * k**2) * h[d] + rate[d] * u[d] * k for d in range(len(u))]
        return np.stack(rows), q

    return selective(params, x, reset, carry, recurrence)


def shm(params, options, x, reset, carry):
    """Le et al. 2024, equations 5 to 9; rows θ in the order of Weyl's sequence, centred."""
    N, L = options["memory_size"], options["rows"]
    theta = params["theta"] - params["theta"].mean(axis=0)

    def shares(x):
        return relu(x) / (relu(x).sum() + 1e-5)

    def load(carry):
        return carry["M"], int(carry["position"])

    def save(state):
        return {"M": state[0], "position": np.array(state[1])}

    def step(state, x):
        M, position = state
        q, k, v, w, eta = parts(dense(params["input"], x), N, N, N, N, 1)
        row = theta[position * 2654435769 % 2**32 * L // 2**32]
        M = M * (1 + np.tanh(np.outer(row, w))) + sigmoid(eta) * np.outer(v, shares(k))
        return (M, position + 1), dense(params["output"], M @ shares(q))

    return unroll(step, x, reset, carry, None, load, save)
