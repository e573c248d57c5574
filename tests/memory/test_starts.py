"""Every memory starts as it was published: the distribution of each of its initial parameters.

Starts are part of a memory, and tests of its equations do not see them. Of each parameter many
draws, of many keys, are compared with the published distribution (Kolmogorov and Smirnov's test;
draws that do not differ from key to key fail it, too); what is not drawn is compared with its
values. Each entry names its source. Where it says "plain", the source leaves linear layers to its
framework's defaults or to no rule at all, and they start LeCun normal with biases of zero (see
`ssmrl.memory.linear`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ssmrl.memory import list_memories, make_memory
from ssmrl.memory.s5 import hippo_legs_eigen
from tests.compiling import quick_jit
from tests.memory.cases import every_memory

WIDTH = 16  # of inputs and outputs
KEYS = 512
DRAWS = 100_000
"""Most draws that are looked at."""
LARGEST = 2.4
"""Of √n times the largest difference of distributions: more has a probability of 2e-5."""

Rule = Callable[[np.ndarray], None]
"""Checks all draws of a parameter, `[keys, ...]`."""


@dataclass(frozen=True)
class Start:
    """How a memory starts.

    Attributes:
        source: where that is published.
        rules: of every parameter by its path; what is missing must be a plain layer's.
        options: of the memory, in the test.
    """

    source: str
    rules: dict[str, Rule]
    options: tuple = ()


def drawn(distribution, function=lambda x: x) -> Rule:
    """`function` of the draws has the distribution."""

    def check(draws):
        values = function(draws.astype(float)).ravel()[:DRAWS]
        test = stats.kstest(values, distribution.cdf)
        assert test.statistic * np.sqrt(values.size) <= LARGEST, test

    return check


def uniform(low: float, high: float, function=lambda x: x) -> Rule:
    return drawn(stats.uniform(low, high - low), function)


def normal(variance: float) -> Rule:
    return drawn(stats.norm(scale=np.sqrt(variance)))


def always(values, function=lambda x: x) -> Rule:
    """`function` of the parameter is `values`, whatever the key."""

    def check(draws):
        draws = function(draws.astype(float))
        want = np.broadcast_to(values, draws.shape)
        np.testing.assert_allclose(draws, want, rtol=1e-5, atol=1e-6)

    return check


def lecun(draws: np.ndarray) -> None:
    """Normal with variance 1 / fan-in, cut off at two deviations."""
    cut = stats.truncnorm(-2, 2)
    scale = 1 / (cut.std() * np.sqrt(draws.shape[-2]))
    drawn(stats.truncnorm(-2, 2, scale=scale))(draws)


def orthogonal_gates(draws: np.ndarray) -> None:
    for key in draws[:8]:
        for gate in np.split(key, key.shape[1] // key.shape[0], axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(len(gate)), atol=1e-5)


def softplus(x):
    return np.log1p(np.exp(x))


zeros, ones = always(0.0), always(1.0)
PLAIN: dict[str, Rule] = {"kernel": lecun, "bias": zeros, "scale": ones}
"""Of linear layers and norms, by the last part of the path."""

STEP_RANGE = np.log(1e-3), np.log(1e-1)
LOG_STEP = uniform(*STEP_RANGE)
STEP_BIAS = uniform(*STEP_RANGE, lambda bias: np.log(softplus(bias)))
CONV = uniform(-0.5, 0.5)  # PyTorch's ±1/√width of a depthwise convolution over 4 steps
PAIRS = hippo_legs_eigen(WIDTH)
"""Eigenvalues and vectors of HiPPO-LegS' normal part; test_published.py rebuilds it from them."""


def rates(eigenvalues) -> dict[str, Rule]:
    return {
        "log_decay": always(-eigenvalues.real, np.exp),
        "frequency": always(eigenvalues.imag),
        "log_step": LOG_STEP,
        "D": normal(1.0),
    }


def both_parts(numbers) -> np.ndarray:
    return np.concatenate([numbers.real, numbers.imag])


def decays_of_rglru(draws):
    """a at r = 1."""
    return np.exp(-8 * softplus(draws))


def gates_of_mlstm(draws):
    """Input gates are drawn, forget gates rise in equal steps."""
    accept, forget = np.split(draws, 2, axis=-1)
    normal(0.01)(accept)
    always(np.linspace(3, 6, 4))(forget)


# The authors' code works in double precision: rates from log(max double) / 1024 - .02.
RATES_OF_FFM = np.linspace(0.69315 - 0.02, 4.60517 / 1024, 32)

RECURRENT = {"U": orthogonal_gates, "c": zeros}
SELECTIVE = {"conv/kernel": CONV, "D": ones}

STARTS = {
    "aaren": Start("plain; the query is a learned vector without a published rule", {
        "query": normal(1.0)
    }),
    "block_gru": Start("Hafner et al. 2023, public code (nets.py): truncated normal, 1 / fan-in; "
        "a block's fan-in there counts the inputs of all blocks, here its own", {
        "hidden": lecun, "hidden_bias": zeros, "gates": lecun, "gates_bias": zeros,
    }),
    "deltanet": Start("Yang et al. 2024, public code (flash-linear-attention): plain", {
        "conv/kernel": CONV,
    }),
    "dss": Start("Gupta et al. 2022, public code (DSSKernel, hippo_skew_pos_imag)",
        rates(PAIRS[0]) | {"C": normal(1.0)}, (("state_size", WIDTH // 2),)
    ),
    "ffm": Start("Morad et al. 2023, public code (standalone/ffm/ffa.py)", {
        "log_decay": always(RATES_OF_FFM, np.exp),
        "frequency": always(2 * np.pi / np.array([1, 342, 683, 1024])),
        "read": lecun, "read_bias": zeros,
    }),
    "frame_stack": Start("plain", {}),
    "gated_deltanet": Start("Yang et al. 2024, public code (GatedDeltaNet)", {
        "conv/kernel": CONV,
        "log_A": uniform(0, 16, np.exp),
        "step_bias": STEP_BIAS,
    }),
    "gateloop": Start("Katsch 2023: plain, but for the 3 in front of σ, which is ours", {}),
    "gla": Start("Yang et al. 2023: plain", {}),
    "gru": Start("plain; recurrent matrices orthogonal as in flax's and Keras' cells (Saxe et al. "
        "2014)", RECURRENT
    ),
    "hgrn2": Start("Qin et al. 2024: plain", {}),
    "linear_attention": Start("Katharopoulos et al. 2020: plain", {}),
    "lmu": Start("Voelker et al. 2019: plain; A and B are no parameters", {}),
    "longhorn": Start("Liu et al. 2024, public code (models/longhorn.py)", SELECTIVE),
    "lru": Start("Orvieto et al. 2023, appendix A, and lemma 3.2 for the ring", {
        "log_decay": uniform(0.9**2, 0.999**2, lambda x: np.exp(-2 * np.exp(x))),
        "log_phase": uniform(0, 2 * np.pi, np.exp),
        "log_gamma": uniform(0.9**2, 0.999**2, lambda x: 1 - np.exp(2 * x)),
        "B": normal(1 / (2 * WIDTH)), "C": normal(1 / WIDTH), "D": normal(1.0),
    }),
    "lstm": Start("as GRU; the forget gate's 1 (Jozefowicz et al. 2015) is in the equation",
        RECURRENT
    ),
    "mamba": Start("Gu and Dao 2023, section 3.6, and public code (mamba_simple.py)", SELECTIVE | {
        "log_A": always(np.arange(1, 17), np.exp),
        "step/kernel": uniform(-1.0, 1.0),  # ±1/√rank, of a rank of 1
        "step/bias": STEP_BIAS,
    }),
    "mamba2": Start("Dao and Gu 2024, public code (mamba2.py)", SELECTIVE | {
        "log_A": uniform(1, 16, np.exp), "step_bias": STEP_BIAS,
    }),
    "mingru": Start("Feng et al. 2024: plain", {}),
    "minlstm": Start("Feng et al. 2024: plain", {}),
    "mlstm": Start("Beck et al. 2024, public code (mLSTMCell.reset_parameters)", {
        "gates/kernel": zeros, "gates/bias": gates_of_mlstm,
    }),
    "none": Start("no parameters", {}),
    "retnet": Start("Sun et al. 2023: plain; decays are no parameters", {}),
    "rglru": Start("De et al. 2024, section 2.4; the public code differs, see the module", {
        "conv/kernel": CONV, "decay_weight": uniform(0.9, 0.999, decays_of_rglru),
    }),
    "s4": Start("Gu et al. 2021, section 3.4, and public code", rates(PAIRS[0]) | {
        "P": always(both_parts(PAIRS[1].conj().T @ np.sqrt(np.arange(WIDTH) + 0.5))),
        "B": always(both_parts(PAIRS[1].conj().T @ np.sqrt(2 * np.arange(WIDTH) + 1))),
        "C": normal(0.5),
    }, (("state_size", WIDTH),)),
    "s4d": Start("Gu et al. 2022, section 4 (S4D-LegS), and public code (s4d.py)",
        rates(PAIRS[0]) | {"B": always(np.repeat([1.0, 0.0], WIDTH // 2)), "C": normal(0.5)},
        (("state_size", WIDTH),),
    ),
    "s5": Start("Smith et al. 2023, public code (ssm.py, C_init=trunc_standard_normal)",
        rates(PAIRS[0]) | {
            "B": normal(1 / (2 * WIDTH)),  # half of a real B's variance in each part of V* B
            "C": normal(4 / WIDTH),  # twice the parts of C̃, of variance 1 / states each
        }
    ),
    "shm": Start("Le et al. 2024, public code (shm.py): Glorot uniform rows", {
        "theta": uniform(-np.sqrt(6 / (128 + 32)), np.sqrt(6 / (128 + 32))),
    }),
    "transformer": Start("Vaswani et al. 2017: plain", {}),
}  # fmt: skip


def test_every_memory_has_an_entry():
    assert set(STARTS) == set(list_memories())
    assert all(start.source for start in STARTS.values())


@cache
def parameters(name: str) -> dict[str, np.ndarray]:
    """All draws `[keys, ...]` of every parameter of the memory inside one layer, by path."""
    stack = make_memory(name, layers=1, features=WIDTH, **dict(STARTS[name].options))
    memory = stack.layers[0].memory
    arguments = memory.initialize_carry((1,)), jnp.zeros((1, 1, WIDTH)), jnp.ones((1, 1), bool)
    init = jax.vmap(lambda key: memory.init(key, *arguments))
    draws = quick_jit(init)(jax.random.split(jax.random.key(0), KEYS)).get("params", {})
    leaves = jax.tree_util.tree_leaves_with_path(draws)
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


@every_memory
def test_it_starts_as_published(name):
    draws, rules = parameters(name), STARTS[name].rules
    assert set(rules) <= set(draws)  # no rule without a parameter
    for path, values in draws.items():
        rule = rules.get(path, PLAIN.get(path.rpartition("/")[2]))
        assert rule is not None, f"{path} has no rule"
        try:
            rule(values)
        except AssertionError as error:
            raise AssertionError(f"{path}: {error}") from None
