"""The Transformer's ring: it shows how long ago something was, not when, and forgets nothing."""

import numpy as np
import pytest

from tests.compiling import quick_jit
from tests.memory.cases import build, case, close, draw, flags, initial_carry

WINDOW, SAME, LAST = 4, 7, 10  # steps: of the window, alike at the end, in all


@pytest.mark.parametrize("positions", ["rotary", "alibi", "none"])
def test_equal_pasts_look_alike_whenever_they_happened(positions):
    """The last steps of two batch entries are alike; one episode is three steps old by then."""
    memory, params = build(case("transformer", layers=1, window=WINDOW, positions=positions))
    x = np.repeat(draw(LAST, 1, 5), 2, axis=1)
    x[: LAST - SAME, 1] += 1.0
    reset = flags((0, 0), (LAST - SAME, 1), shape=(LAST, 2))
    carry = initial_carry(case("transformer", layers=1, window=WINDOW, positions=positions), (2,))
    carry, y, carries = quick_jit(memory.apply, static_argnums=4)(params, carry, x, reset, True)
    # From here on a window lies within what is alike.
    full = slice(LAST - SAME + WINDOW - 1, None)
    close(y[full, 0], y[full, 1], 1e-5)
    features = np.asarray(memory.state_features(carries))
    close(features[full, 0], features[full, 1], 1e-5)
    (leaves,) = carry
    assert leaves["position"].tolist() == [LAST, SAME]
    assert not np.allclose(leaves["v"][0], leaves["v"][1])  # elsewhere in the ring
    # Oldest first: a step later everything has moved up by one, and keys have turned with it.
    _, values = np.split(features, 2, axis=-1)
    values = values.reshape(LAST, 2, 3, WINDOW, 2)
    close(values[-2, 0, :, 1:], values[-1, 0, :, :-1], 1e-6)


@pytest.mark.parametrize("before", [1, WINDOW - 1, WINDOW, WINDOW + 2])
def test_a_window_sees_all_of_an_episode_that_began_before(before):
    """The ring is not full, just full, or has been written over."""
    memory, params = build(case("transformer", layers=1, window=WINDOW))
    x, reset = draw(LAST, 1, 5), flags((0, 0), shape=(LAST, 1))
    run = quick_jit(memory.apply)
    carry = initial_carry(case("transformer", layers=1, window=WINDOW), (1,))
    last, y = run(params, carry, x, reset)
    carry, _ = run(params, carry, x[:before], reset[:before])
    close(run(params, carry, x[before:], reset[before:]), (last, y[before:]), 1e-5)
