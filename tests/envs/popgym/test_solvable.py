"""Scripted policies with the right memory earn what they should from observations alone.

Where the theory says what a policy earns, its mean is that within 4 standard errors (a false alarm
an id has probability 6e-5): dealing, rules, rewards and the order of observations all have to be
right for it. The harder ids repeat the same code with other numbers, and are slow.
"""

import numpy as np
import pytest

import ssmrl.envs
from tests.envs import policies_cards as policies
from tests.envs.popgym.table import TABLE


def easy_is_fast(rows):
    marks = [() if row[0].endswith("_easy") else (pytest.mark.slow,) for row in rows]
    return [pytest.param(*row, marks=m) for row, m in zip(rows, marks, strict=True)]


def earned(policy, id_, num_envs):
    """Mean return, its standard error, and the lengths of ``num_envs`` episodes."""
    longest, *_ = TABLE[id_]
    returns, lengths = policies.first_episodes(policy, f"popgym/{id_}", num_envs, longest)
    return returns, returns.std() / np.sqrt(num_envs), lengths


@pytest.mark.parametrize(
    ("id_", "policy"),
    easy_is_fast(
        [
            ("autoencode_easy", policies.recite(52)),
            ("autoencode_medium", policies.recite(104)),
            ("autoencode_hard", policies.recite(156)),
            ("count_recall_easy", policies.tally(2)),
            ("count_recall_medium", policies.tally(4)),
            ("count_recall_hard", policies.tally(13)),
        ]
    ),
)
def test_a_perfect_memory_earns_one(id_, policy):
    returns, _, lengths = earned(policy, id_, 4)
    np.testing.assert_allclose(returns, 1.0, atol=1e-4)
    assert (lengths == TABLE[id_][0]).all()


@pytest.mark.parametrize(
    ("id_", "num_decks", "published"),
    easy_is_fast(
        [
            ("higher_lower_easy", 1, 0.529),
            ("higher_lower_medium", 2, 0.511),
            ("higher_lower_hard", 3, 0.506),
        ]
    ),
)
def test_counting_cards_earns_what_the_best_guesses_do(id_, num_decks, published):
    best = policies.count_cards_return(num_decks)
    # A trained GRU's mean return (Morad et al., 2023, appendix), a maximum over epochs: as good.
    assert abs(best - published) < 0.01
    returns, error, _ = earned(policies.count_cards(num_decks), id_, 1024)
    assert error < 0.004 and abs(returns.mean() - best) < 4 * error


@pytest.mark.parametrize(
    ("id_", "num_cards", "kinds", "expected"),
    easy_is_fast(
        [
            ("concentration_easy", 52, 2, 0.8137),
            ("concentration_medium", 104, 2, 0.8131),
            ("concentration_hard", 52, 13, 0.6981),
        ]
    ),
)
def test_remembering_cards_pairs_them_all(id_, num_cards, kinds, expected):
    theory = policies.pair_up_return(num_cards, kinds)
    assert abs(theory - expected) < 1e-4
    returns, error, lengths = earned(policies.pair_up(num_cards, kinds), id_, 512)
    assert error < 0.003 and abs(returns.mean() - theory) < 4 * error
    # Every step is one of a pair found, or of a mismatch that costs 1 / N.
    np.testing.assert_allclose(returns, 1 - (lengths / 2 - num_cards / 2) / num_cards, atol=1e-4)


@pytest.mark.parametrize(
    ("id_", "size", "floor"),
    easy_is_fast(
        [
            ("battleship_easy", 8, 0.45),
            ("battleship_medium", 10, 0.49),
            ("battleship_hard", 12, 0.52),
        ]
    ),
)
def test_a_map_of_shots_sinks_the_fleet(id_, size, floor):
    """One's own shots remembered earn 1 / 13; the hits too, about half of what knowledge would."""
    returns, error, _ = earned(policies.shoot_everywhere(size), id_, 1024)
    assert error < 0.004 and abs(returns.mean() - 1 / 13) < 4 * error
    returns, _, lengths = earned(policies.hunt(size), id_, 256)
    assert floor < returns.mean() < 1 and (lengths < size**2).all()
    # Twelve hits pay 1; every miss, and nothing else, lengthens the episode.
    np.testing.assert_allclose(returns, 1 - (lengths - 12) / (size**2 - 12), atol=1e-4)


@pytest.mark.parametrize(
    ("id_", "floor", "won"),
    easy_is_fast(
        [
            ("minesweeper_easy", 0.65, 0.7),
            ("minesweeper_medium", 0.25, 0.3),
            ("minesweeper_hard", 0.25, 0.3),
        ]
    ),
)
def test_deduction_wins_at_minesweeper(id_, floor, won):
    """Random play earns -.36, -.43 and -.44 and never wins; no play avoids the blind first look."""
    _, params = ssmrl.envs.make(f"popgym/{id_}")
    board = (params.board_size, params.num_mines)
    returns, error, lengths = earned(policies.deduce(*board), id_, 1024)
    assert floor < returns.mean() < policies.blind_first_look(*board) + 4 * error
    all_seen = lengths == TABLE[id_][0]
    assert all_seen.mean() > won
    is_won = np.isclose(returns, 1.0, atol=1e-4)
    # An episode without a mistake pays 1; a mine on the last step is the other way to its end.
    assert (is_won <= all_seen).all() and is_won.mean() > won
