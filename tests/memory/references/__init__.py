"""Every memory's published equations as plain NumPy loops in double precision.

Written from the papers and from nothing in ssmrl.memory but the layout of its parameters. A
reference is `reference(params, options, x, reset, carry) → (carry, y)`, x `[T, B, F]`; `carry` is
the inner memory's own, and `params` and `options` are nested dictionaries.
"""

from tests.memory.references.attention import aaren, transformer
from tests.memory.references.common import block
from tests.memory.references.linear import (
    deltanet,
    gated_deltanet,
    gla,
    hgrn2,
    linear_attention,
    longhorn,
    mamba,
    mamba2,
    mlstm,
    retnet,
    shm,
)
from tests.memory.references.recurrent import (
    block_gru,
    ffm,
    frame_stack,
    gateloop,
    gru,
    lstm,
    mingru,
    minlstm,
    none,
    rglru,
)
from tests.memory.references.statespace import (
    discretized,
    dss,
    lmu,
    lru,
    s4,
    s4_dense,
    s4d,
    s5,
    s5_discrete,
    s5_output_matrix,
)

REFERENCES = {
    "aaren": aaren,
    "block_gru": block_gru,
    "deltanet": deltanet,
    "dss": dss,
    "ffm": ffm,
    "frame_stack": frame_stack,
    "gated_deltanet": gated_deltanet,
    "gateloop": gateloop,
    "gla": gla,
    "gru": gru,
    "hgrn2": hgrn2,
    "linear_attention": linear_attention,
    "lmu": lmu,
    "longhorn": longhorn,
    "lru": lru,
    "lstm": lstm,
    "mamba": mamba,
    "mamba2": mamba2,
    "mingru": mingru,
    "minlstm": minlstm,
    "mlstm": mlstm,
    "none": none,
    "retnet": retnet,
    "rglru": rglru,
    "s4": s4,
    "s4d": s4d,
    "s5": s5,
    "shm": shm,
    "transformer": transformer,
}


def stack(name, params, options, x, reset, carry):
    """All layers of `make_memory(name, **options)`."""
    carries = []
    for i, layer_carry in enumerate(carry):
        layer = params.get(f"layers_{i}", {})
        layer_carry, x = block(REFERENCES[name], layer, options, x, reset, layer_carry)
        carries.append(layer_carry)
    return tuple(carries), x


__all__ = ["REFERENCES", "discretized", "s4_dense", "s5_discrete", "s5_output_matrix", "stack"]
