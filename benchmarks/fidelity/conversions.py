"""Parameters of other libraries' layers in the places of ours.

A parameter is named by its path, "/" between the parts. Conversions take and return dictionaries of
NumPy arrays; `fill` puts them where they belong and fails where a name or a shape does not fit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Named = dict[str, np.ndarray]

ONE = 1.2784645  # silu(ONE) = 1, which opens a gate that has no bias
OPEN = 30.0  # σ(OPEN) = 1 in float32, and silu(OPEN + v) = OPEN + v


def named(tree: Any) -> Named:
    """The leaves of `tree` by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(path): np.array(leaf) for path, leaf in leaves}


def _path(path: tuple) -> str:
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", "")))) for p in path]
    return "/".join(parts)


def fill(tree: Any, values: Named) -> Any:
    """`tree` with the leaves whose paths end in the names of `values` replaced.

    Raises:
        ValueError: where a leaf of `tree` has no value, or one of another size.
    """

    def find(path: tuple, leaf: jax.Array) -> jax.Array:
        name = _path(path)
        found = [key for key in values if f"/{name}".endswith(f"/{key}")]
        if len(found) != 1 or values[found[0]].size != leaf.size:
            raise ValueError(f"{name} {leaf.shape} needs one value of its size, found {found}")
        return jnp.asarray(values[found[0]], leaf.dtype).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(find, tree)


def _last(theirs: Named) -> Named:
    """By the last part of the path alone, for layers without parts."""
    return {name.rpartition("/")[2]: value for name, value in theirs.items()}


def _within(theirs: Named) -> Named:
    """By the last two parts of the path, "part/kernel"."""
    return {"/".join(name.split("/")[-2:]): value for name, value in theirs.items()}


def s5(theirs: Named) -> Named:
    """lindermanlab's: one of each conjugate pair is kept, the output has a factor 2."""
    p = _last(theirs)
    return _s5(p["Lambda_re"], p["Lambda_im"], p["log_step"], p["B"], 2 * p["C"], p["D"])


def memorax_s5(theirs: Named) -> Named:
    """memorax's: all of a smaller HiPPO matrix's states, without the factor 2."""
    p = _last(theirs)
    return _s5(p["lambda_real"], p["lambda_imag"], p["log_step"], p["b"], p["c"], p["d"])


def _s5(real, imaginary, log_step, B, C, D) -> Named:
    return {
        "log_decay": np.log(-real),
        "frequency": imaginary,
        "log_step": log_step,
        "B": np.concatenate([B[..., 0].T, B[..., 1].T], axis=1),
        "C": np.concatenate([C[..., 0].T, -C[..., 1].T]),
        "D": D,
    }


def lru(theirs: Named) -> Named:
    """All three have Orvieto et al.'s parameters, under two spellings."""
    p = {name.replace("_real", "_re").replace("_imag", "_im"): v for name, v in theirs.items()}
    p = _last(p)
    return {
        "log_decay": p["nu_log"],
        "log_phase": p["theta_log"],
        "log_gamma": p["gamma_log"],
        "B": np.concatenate([p["B_re"].T, p["B_im"].T], axis=1),
        "C": np.concatenate([p["C_re"].T, -p["C_im"].T]),
        "D": p["D"],
    }


def memorax_ffm(theirs: Named) -> Named:
    """Kernels as flax has them."""
    p = _within(theirs)
    rates = {"log_decay": np.log(-p["cell/alpha"]), "frequency": p["cell/omega"]}
    around, gate = ([p[f"{name}/{k}"] for k in _DENSE] for name in ("skip", "output_gate"))
    inputs = [np.concatenate([p[f"pre/{k}"], p[f"input_gate/{k}"]], -1) for k in _DENSE]
    read = {
        "read": _ffm_read(p["mix/kernel"], len(p["cell/alpha"])),
        "read_bias": p["mix/bias"],
    }
    ways = _dense("around", *around) | _dense("gate", *gate)
    return rates | read | ways | _dense("input", *inputs)


def equinox_ffm(theirs: Named) -> Named:
    """proroklab's and memax's, with the output gate held open: the way around is not read."""
    p = _within({name.replace("gate_in/linear", "gate_in"): v for name, v in theirs.items()})
    a, b = (v for name, v in theirs.items() if name.split("/")[-2] in ("params", "ffa_params"))
    inputs = [np.concatenate([p[f"pre/{k}"], p[f"gate_in/{k}"]]) for k in ("weight", "bias")]
    features = p["mix/weight"].shape[0]
    nothing = np.zeros((features, features))
    return {
        "log_decay": np.log(np.abs(a)),
        "frequency": b,
        **_dense("input", inputs[0].T, inputs[1]),
        "read": _ffm_read(p["mix/weight"].T, len(a)),
        "read_bias": p["mix/bias"],
        **_dense("around", nothing, np.zeros(features)),
        **_dense("gate", nothing, np.full(features, OPEN)),
    }


_DENSE = ("kernel", "bias")


def _dense(name: str, kernel: np.ndarray, bias: np.ndarray) -> Named:
    return {f"{name}/kernel": kernel, f"{name}/bias": bias}


def _ffm_read(kernel: np.ndarray, traces: int) -> np.ndarray:
    """Rows in the order (real | imaginary) of all states, from that of each trace's."""
    pairs = kernel.reshape(traces, 2, -1, kernel.shape[-1])
    return np.swapaxes(pairs, 0, 1).reshape(kernel.shape)


def memorax_linear_attention(theirs: Named) -> Named:
    """Without the output, which follows its norm (`memorax_normed`)."""
    p = _within(theirs)
    features = p["query/kernel"].shape[0]
    kernels = [p[f"{part}/kernel"].reshape(features, -1) for part in ("query", "key", "value")]
    kernel = np.concatenate(kernels, axis=1)
    return _dense("input", kernel, np.zeros(kernel.shape[1])) | _identity(features)


def memax_attention(theirs: Named) -> Named:
    """Queries, keys and values of one head; biases are held at zero."""
    p = _within(theirs)
    kernel = np.concatenate([p[f"{part}/weight"] for part in "QKV"]).T
    return _dense("input", kernel, np.zeros(kernel.shape[1])) | _identity(kernel.shape[0])


def _identity(features: int) -> Named:
    return _dense("output", np.eye(features), np.zeros(features))


def memorax_attention(theirs: Named) -> Named:
    """Biases of queries, keys and values are held at zero."""
    p = _within(theirs)
    features = p["query/kernel"].shape[0]
    kernels = [p[f"{part}/kernel"].reshape(features, -1) for part in ("query", "key", "value")]
    output = p["output_projection/kernel"].reshape(features, features)
    return {
        "input/kernel": np.concatenate(kernels, axis=1),
        **_dense("output", output, p["output_projection/bias"]),
    }


def memorax_mamba2(theirs: Named) -> Named:
    """With gates that are 1; its output has a bias, which is held at zero."""
    p = _within(theirs)
    hidden, gate = np.split(p["input_projection/kernel"], 2, axis=1)
    parts = [gate, hidden, p["B/kernel"], p["C/kernel"], p["dt/kernel"]]
    return {
        "input/kernel": np.concatenate(parts, axis=1),
        "conv/kernel": p["conv/kernel"][::-1, 0],  # ours has the newest input first
        "conv/bias": p["conv/bias"],
        "log_A": p["cell/A_log"],
        "step_bias": p["cell/dt_bias"],
        "D": p["cell/D"],
        "norm/scale": p["norm/scale"],
        "output/kernel": p["output_projection/kernel"],
    }


def memorax_shm(theirs: Named) -> Named:
    """With all θ held at zero."""
    p = _within(theirs)
    parts = [p[f"{part}/kernel"] for part in ("query", "key", "value", "v_c", "eta")]
    return {
        "input/kernel": np.concatenate(parts, axis=1),
        "theta": p["cell/theta_table"],
        "norm/scale": p["ln/scale"],
        "norm/bias": p["ln/bias"],
        **_dense("output", p["output_projection/kernel"], p["output_projection/bias"]),
    }


def memorax_mingru(theirs: Named) -> Named:
    """For candidates that are not negative, where its positive function adds 1/2."""
    p = _within(theirs)
    kernel = np.concatenate([p["z/kernel"], p["h/kernel"]], axis=1)
    half = kernel.shape[1] // 2
    return _dense("input", kernel, np.concatenate([np.zeros(half), np.full(half, 0.5)]))


def flax_gru(theirs: Named) -> Named:
    """flax's GRUCell, in memorax's loop."""
    p = _within(theirs)
    zeros = np.zeros_like(p["hn/bias"])
    return {
        **_dense("input", *(_joined(p, [f"i{gate}" for gate in "rzn"], k) for k in _DENSE)),
        "U": _joined(p, [f"h{gate}" for gate in "rzn"], "kernel"),
        "c": np.concatenate([zeros, zeros, p["hn/bias"]]),
    }


def flax_lstm(theirs: Named) -> Named:
    """flax's OptimizedLSTMCell, in memorax's loop; our forget gate adds 1 by itself."""
    p = _within(theirs)
    p["hf/bias"] = p["hf/bias"] - 1
    recurrent = [f"h{gate}" for gate in "ifgo"]
    kernel = _joined(p, [f"i{gate}" for gate in "ifgo"], "kernel")
    return {
        **_dense("input", kernel, np.zeros(kernel.shape[1])),
        "U": _joined(p, recurrent, "kernel"),
        "c": _joined(p, recurrent, "bias"),
    }


def memax_lstm(theirs: Named) -> Named:
    """memax's; its candidate is "c"."""
    p = _within(theirs)
    p["W_f/bias"] = p["W_f/bias"] - 1
    kernels = [np.concatenate([p[f"{w}_{gate}/weight"] for gate in "ifco"]).T for w in "WU"]
    bias = np.concatenate([p[f"W_{gate}/bias"] for gate in "ifco"])
    return _dense("input", kernels[0], bias) | {"U": kernels[1], "c": np.zeros_like(bias)}


def _joined(p: Named, parts: list[str], leaf: str) -> np.ndarray:
    return np.concatenate([p[f"{part}/{leaf}"] for part in parts], axis=-1)


def memax_gated_deltanet(theirs: Named) -> Named:
    """One head; the first input is 1 throughout, and stands for the biases that ours has not.

    σ(w x + b) = exp(-softplus(-w x - b)) turns its decay into ours, and its β = 2 σ(b) is a
    constant. With values far above zero silu(v) = v.
    """
    p = _within(theirs)
    features = p["Q/weight"].shape[1]
    beta = 2 / (1 + np.exp(-p["w/bias"][0]))
    constant = np.eye(1, features)
    logit = np.log(beta / (1 - beta)) * constant
    rows = [p["Q/weight"], p["K/weight"], p["V/weight"], logit, -p["alpha/weight"]]
    width = 3 * p["Q/weight"].shape[0]
    return {
        "input/kernel": np.concatenate(rows).T,
        "conv/kernel": np.stack([np.ones(width), np.zeros(width)]),  # this input alone
        "conv/bias": np.zeros(width),
        "step_bias": -p["alpha/bias"],
        "log_A": np.zeros(1),
        "gate/kernel": np.repeat(ONE * constant.T, features, axis=1),
        "norm/scale": np.ones(features),
        "output/kernel": np.eye(features),
    }
