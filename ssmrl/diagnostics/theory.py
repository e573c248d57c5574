"""What is known about the states that a memory can keep track of, whatever its training.

Merrill, Petty, Sabharwal, "The Illusion of State in State-Space Models" (2024): a linear recurrence
whose transitions commute (diagonal ones do) computes nothing that a circuit of constant depth with
threshold gates could not, so that no fixed number of layers composes permutations of five things.
Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues" (2024),
theorem 1: in finite precision even parity is out of reach where no transition matrix has an
eigenvalue that is negative or complex with a phase that the input decides on.
"""

_ANY = (
    "tracks any finite state in principle: the transition is not linear in the state "
    "(Siegelmann and Sontag, 1995)"
)
_NOT_PARITY = (
    "cannot track parity over unbounded lengths: decays that depend on the input are positive, and "
    "others do not depend on it (Grazzi et al., 2024, theorem 1)"
)
_COMMUTING = (
    "can track parity (its decays turn with the input), but not permutations of five things: "
    "its transitions commute (Merrill et al., 2024)"
)
_DELTA = (
    "cannot track parity over unbounded lengths: with β < 1 the eigenvalues of I - β k kᵀ stay "
    "positive (Grazzi et al., 2024, theorem 1)"
)
_WINDOW = "cannot track anything beyond its window of inputs"
_ATTENTION = (
    "cannot track permutations of five things with a fixed number of layers "
    "(Merrill and Sabharwal, 2023), nor anything beyond its window"
)
_HADAMARD = (
    "can change signs of nothing (gains lie in (0, 2)), so that parity over unbounded lengths is "
    "out of reach (Grazzi et al., 2024, theorem 1)"
)

STATE_TRACKING = {
    **dict.fromkeys(("block_gru", "gru", "lstm"), _ANY),
    **dict.fromkeys(("frame_stack", "none"), _WINDOW),
    **dict.fromkeys(("deltanet", "gated_deltanet"), _DELTA),
    "gateloop": _COMMUTING,
    "transformer": _ATTENTION,
    "shm": _HADAMARD,
    **dict.fromkeys(
        ("aaren", "dss", "ffm", "gla", "hgrn2", "linear_attention", "lmu", "longhorn", "lru"),
        _NOT_PARITY,
    ),
    **dict.fromkeys(
        ("mamba", "mamba2", "mingru", "minlstm", "mlstm", "retnet", "rglru", "s4", "s4d", "s5"),
        _NOT_PARITY,
    ),
}


def state_tracking(name: str) -> str:
    """What is known of the named memory, or that nothing is."""
    return STATE_TRACKING.get(name, "nothing is known here about what states it can track")
