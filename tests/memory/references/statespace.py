"""Linear state space models: every conjugate pair in full, and S4's matrices dense."""

import numpy as np
import scipy.linalg

from tests.memory.references.common import dense, learned_start, softplus, unroll


def eigenvalues(params, options, fastest):
    """Λ = -rate + i frequency; `fastest` is the largest rate at initialisation (StableSSM's b)."""
    kind = options.get("reparameterization", "exp")
    if kind == "exp":
        rate = np.exp(params["log_decay"])
    elif kind == "softplus":
        rate = softplus(params["decay_weight"])
    else:  # Wang and Li 2024, section 3.3: f(w) = -1 / (w² + b)
        rate = 1 / (params["decay_weight"] ** 2 + 1 / (2 * fastest))
    return -rate + 1j * params["frequency"] if "frequency" in params else -rate


def polarized(options, decay):
    """Wang et al. 2025, section 4: one channel's decay is 0, another's is 1."""
    if not options.get("polarized"):
        return decay
    decay = decay.copy()
    decay[..., 0], decay[..., 1] = 0, 1
    return decay


def discretized(options, Lambda, step):
    """Λ̄, and the factor of B: zero-order hold (Smith et al. 2023, equation 6) or bilinear."""
    step = step * options.get("step_rescale", 1)
    if options["discretization"] == "zoh":
        decay = np.exp(Lambda * step)
        return decay, (decay - 1) / Lambda
    inverse = 1 / (1 - step / 2 * Lambda)
    return inverse * (1 + step / 2 * Lambda), inverse * step


def with_mirror_images(*numbers):
    """Every last axis twice as long: what is kept of conjugate pairs, and the other halves."""
    return [np.concatenate([a, a.conj()], axis=-1) for a in numbers]


def real_part(y):
    np.testing.assert_allclose(np.imag(y), 0, atol=1e-12 * max(np.abs(y).max(), 1))
    return np.real(y)


def skip(params, x):
    return params["D"] * x if params["D"].ndim == 1 else x @ params["D"]


def from_pair(pair, axis=-1):
    re, im = np.split(pair, 2, axis=axis)
    return re + 1j * im


def s5_discrete(params, options):
    """Λ̄ `[N]` and B̄ `[N, F]`, which is real where states are."""
    is_complex = "frequency" in params
    N = params["log_step"].shape[0]
    fastest = 0.5 if is_complex else N / options.get("blocks", 1)
    Lambda = eigenvalues(params, options, fastest)
    B = (from_pair(params["B"]) if is_complex else params["B"]).T
    decay, scale = discretized(options, Lambda, np.exp(params["log_step"]))
    if options.get("normalized"):  # Orvieto et al. 2023, section 3.4
        scale = np.sqrt(1 - np.abs(decay) ** 2)
    return polarized(options, decay), scale[:, None] * B


def s5_output_matrix(params):
    """C̃ `[H, N]`; its parameter holds the rows (2 Re C̃, -2 Im C̃)."""
    return from_pair(params["C"], axis=0).conj().T / 2


def s5(params, options, x, reset, carry):
    """Smith et al. 2023, equation 5, with all states of the conjugate pairs, or real states."""
    decay, B = s5_discrete(params, options)
    start = learned_start(params, options, carry)
    if not options["complex_state"]:

        def real_step(h, x):
            h = decay * h + B @ x
            return h, params["C"].T @ h + skip(params, x)

        return unroll(real_step, x, reset, carry, start)
    decay, B, C = with_mirror_images(decay, B.T, s5_output_matrix(params))

    def step(h, x):
        h = decay * h + B.T @ x
        return h, real_part(C @ h) + skip(params, x)

    return unroll(step, x, reset, carry, start, lambda h: with_mirror_images(h)[0], first_half)


def first_half(h):
    return h[..., : h.shape[-1] // 2]


def lru(params, options, x, reset, carry):
    """Orvieto et al. 2023, section 3 and equation 7: y = Re(C h) + D x, no conjugate pairs."""
    log_decay = eigenvalues(params, options, fastest=-np.log(options["r_min"]))
    B, C = params["B"], params["C"]
    if options["complex_state"]:
        log_decay = log_decay + 1j * np.exp(params["log_phase"])
        B, C = from_pair(B), from_pair(C, axis=0).conj()  # rows (Re C, -Im C)
    decay = polarized(options, np.exp(log_decay) ** options["step_rescale"])
    gamma = np.exp(params["log_gamma"])

    def step(h, x):
        h = decay * h + gamma * (B.T @ x)
        return h, (C.T @ h).real + skip(params, x)

    return unroll(step, x, reset, carry, learned_start(params, options, carry))


def lmu(params, options, x, reset, carry):
    """Voelker et al. 2019, equations 2 and 5, channel by channel; outputs as Chilkuri et al. 2021.

    The zero-order hold over one step is Ā = exp(A / θ), B̄ = A⁻¹ (Ā - I) B.
    """
    N = options["order"]
    A, B = np.zeros((N, N)), np.zeros(N)
    for i in range(N):
        B[i] = (2 * i + 1) * (-1) ** i
        for j in range(N):
            A[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
    decay = scipy.linalg.expm(A / options["theta"])
    held = np.linalg.solve(A, (decay - np.eye(N)) @ B)

    def step(m, x):
        u = dense(params["input"], x)
        m = np.stack([decay @ m_c + held * u_c for m_c, u_c in zip(m, u, strict=True)])
        return m, dense(params["output"], np.concatenate([m.ravel(), x]))

    return unroll(step, x, reset, carry)


def bank(params, x, reset, carry, systems, *, mirrored):
    """Systems (Ā, B̄, C) side by side, one for each feature; Ā is a matrix or a diagonal."""
    x = dense(params["embed"], x) if "embed" in params else x

    def step(states, x):
        moved, outputs = [], []
        for (A, B, C), h, u in zip(systems, states, x, strict=True):
            h = (A @ h if A.ndim == 2 else A * h) + B * u
            moved.append(h)
            outputs.append(real_part(C @ h) if mirrored else np.real(C @ h))
        return np.stack(moved), np.array(outputs) + params["D"] * x

    if not mirrored:
        return unroll(step, x, reset, carry)
    return unroll(step, x, reset, carry, None, lambda h: with_mirror_images(h)[0], first_half)


def largest_rate(options, states):
    """Of the states of S4D at initialisation (Gu et al. 2022, section 4)."""
    is_real = not options["complex_state"] or options["initialization"] == "real"
    return states if is_real else 0.5


def s4d(params, options, x, reset, carry):
    """Gu et al. 2022, equations 2 to 4: diagonal systems of conjugate pairs, or of real states."""
    is_complex = options["complex_state"]
    Lambda = eigenvalues(params, options, largest_rate(options, carry.shape[-1]))
    decay, scale = discretized(options, Lambda, np.exp(params["log_step"])[:, None])
    B, C = (from_pair(params[n]) if is_complex else params[n] for n in "BC")
    system = polarized(options, decay), scale * B, C
    system = with_mirror_images(*system) if is_complex else system
    return bank(params, x, reset, carry, list(zip(*system, strict=True)), mirrored=is_complex)


def dss(params, options, x, reset, carry):
    """Gupta et al. 2022, proposition 1 (a): K[l] = Re(Σ w (e^{λΔ} - 1) / λ e^{λlΔ}), no pairs."""
    Lambda = eigenvalues(params, options, largest_rate(options, carry.shape[-1]))
    decay, scale = discretized(options, Lambda, np.exp(params["log_step"])[:, None])
    w = from_pair(params["C"]) if options["complex_state"] else params["C"]
    systems = list(zip(polarized(options, decay), scale, w, strict=True))
    return bank(params, x, reset, carry, systems, mirrored=False)


def s4_dense(params):
    """Λ - P Pᴴ, B and C of every feature over all states of the conjugate pairs."""
    Lambda = -np.exp(params["log_decay"]) + 1j * params["frequency"]
    Lambda, P, B, C = with_mirror_images(Lambda, *(from_pair(params[n]) for n in "PBC"))
    A = [
        np.diag(eigenvalue) - np.outer(p, p.conj()) for eigenvalue, p in zip(Lambda, P, strict=True)
    ]
    return A, B, C


def s4(params, options, x, reset, carry):
    """Gu, Goel, Ré 2021, equation 3: the bilinear form, by inverting I - Δ/2 A."""
    systems = []
    for A, B, C, step in zip(*s4_dense(params), np.exp(params["log_step"]), strict=True):
        eye = np.eye(len(A))
        inverse = np.linalg.inv(eye - step / 2 * A)
        systems.append((inverse @ (eye + step / 2 * A), inverse @ (step * B), C))
    return bank(params, x, reset, carry, systems, mirrored=True)
