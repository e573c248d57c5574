"""What POPGym is worth at best: cases worked by hand, and two ways to the same number."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import popgym_optimum
from benchmarks.learning.optimum import (
    bandit,
    battleship,
    cards,
    concentration,
    labyrinth,
    minesweeper,
    pendulum,
)
from ssmrl.envs.popgym import DIFFICULTIES, FAMILIES
from ssmrl.envs.popgym._labyrinth import GOAL, START
from tests.envs.policies_cards import count_cards_return

IDS = {f"popgym/{family}_{difficulty}" for family in FAMILIES for difficulty in DIFFICULTIES}

BANDIT = "popgym/multiarmed_bandit_easy"


def maze(text):
    """# wall, S start, G goal."""
    kinds = {"#": 1, " ": 0, "S": START, "G": GOAL}
    return np.array([[kinds[square] for square in row] for row in text.split("/")])


def test_higher_lower_of_two_and_three_cards():
    # Two different cards: the first says all, and right pays 1 / 2.
    assert cards.best_guesses(1, ranks=2) == pytest.approx(1 / 2)
    # Three: a low or high one says all; after the middle one it is heads or tails, then certain.
    assert cards.best_guesses(1, ranks=3) == pytest.approx((2 / 3 * 1 + 1) / 3)
    # Two equal cards: nothing is won or lost.
    assert cards.best_guesses(2, ranks=1) == 0


def test_higher_lower_is_what_the_environments_tests_say():
    assert cards.best_guesses(4) == pytest.approx(count_cards_return(1), abs=1e-9)


def test_concentration_of_few_cards():
    assert concentration.fewest_mismatches(1, 4) == 0
    # Two pairs: two new cards match by 1/3. Else the next one has its mate, and so has the last.
    assert concentration.fewest_mismatches(2, 2) == pytest.approx(2 / 3)


def test_concentration_keeps_known_pairs_as_mates():
    """With four of each of two kinds, the player is no better than the best, and nearly so."""
    best, player = (f(2, 4) for f in (concentration.fewest_mismatches, mismatches_of_player))
    assert best <= player < best + 0.1
    assert concentration.fewest_mismatches(2, 12) < mismatches_of_player(2, 12)


mismatches_of_player = concentration.mismatches_of_player


def test_the_player_of_concentration_needs_what_is_computed():
    rng, mismatches = np.random.default_rng(0), []
    for _ in range(2000):
        deck = rng.permutation([0, 0, 0, 0, 1, 1, 1, 1])
        mismatches.append(turns_to_pair(deck) - 4)
    error = np.std(mismatches) / np.sqrt(len(mismatches))
    assert abs(np.mean(mismatches) - mismatches_of_player(2, 4)) < 4 * error < 0.1


def turns_to_pair(deck):
    """Turns of the player until all cards of ``deck`` are face up."""
    player, up, obs, turns = concentration.Player(2), np.zeros(8, bool), np.full(8, 2), 0
    while not up.all():
        first = player.act(obs)
        assert not up[first]
        obs = np.where(up | (np.arange(8) == first), deck, 2)
        second = player.act(obs)
        assert not up[second] and second != first
        turned = up.copy()
        turned[[first, second]] = True
        obs = np.where(turned, deck, 2)
        up, turns = (turned if deck[first] == deck[second] else up), turns + 1
    return turns


def test_one_pull_and_two():
    # One pull pays by 1/2: worth less than a price of 0.6, and 0.2 more than one of 0.3.
    assert bandit.one_arm(1, 0.6) == 0
    assert bandit.one_arm(1, 0.3) == pytest.approx(0.2)
    # At 0.6: a first pull loses 0.1, and pays by 1/2; then the next pays by 2/3. 1/30 < 0.1.
    assert bandit.one_arm(2, 0.6) == 0
    # At 0.5: the first costs nothing on average, and a second is worth 1/6 where it paid.
    assert bandit.one_arm(2, 0.5) == pytest.approx(1 / 12)


def test_the_bandits_bound_holds_what_policies_earn():
    for policy in (bandit.thompson, bandit.optimistic):
        returns = policy(3, 20, 2000)
        assert 0.2 < returns.mean() < bandit.lagrangian_bound(3, 20) < bandit.best_arm_return(3)
    # One arm leaves nothing to decide.
    assert bandit.lagrangian_bound(1, 20) == pytest.approx(0, abs=1e-5)


def test_fleets_have_all_the_probability():
    """On 4 by 4 cells the last ship often finds no room; else it is one of the sets of 12."""
    total = sum(
        battleship.fleet_probability(4, frozenset(cells)) for cells in combinations(range(16), 12)
    )
    rng, placed = np.random.default_rng(0), 0
    for _ in range(1000):
        try:
            placed += len(battleship.draw_fleet(4, rng)) == battleship.HITS
        except ValueError:  # no place to choose from
            continue
    assert 0.1 < total < 0.9
    assert placed / 1000 == pytest.approx(total, abs=4 * 0.5 / 1000**0.5)


def test_a_fleets_ways_to_lie():
    # A row of twelve: any order of the ships, 12 of them, and the threes either way round.
    line = frozenset(range(12))
    cuts = list(battleship.layouts(12, line))
    assert len(cuts) == 12
    # Apart from each other, only one.
    apart = frozenset([0, 1, 24, 25, 26, 48, 49, 50, 72, 73, 74, 75])
    assert len(list(battleship.layouts(12, apart))) == 1
    total = battleship.layout_probability(12, next(battleship.layouts(12, apart)))
    ways = 264 * (240 - blocked(12, [0, 1], 3))
    assert 1 / (ways * 240 * 216) < total < 4 / (ways * 240 * 216)


def blocked(size, cells, length):
    return int(battleship.places(size, length)[:, cells].any(axis=1).sum())


def test_the_fewest_misses_of_equally_probable_fleets():
    # One fleet: no miss. 14 = C(12, 0) + 12 + 1: one without, 12 with one, one with two misses.
    assert battleship.fewest_misses(np.ones(5)) == pytest.approx(0)
    assert battleship.fewest_misses(np.full(5, 1 / 14)) == pytest.approx((12 + 2) / 14)


def test_battleships_player_sinks_a_fleet_with_no_shot_twice():
    fleet = {(0, 0), (0, 1), (3, 3), (4, 3), (5, 3), (7, 0), (7, 1), (7, 2)}
    fleet |= {(1, 6), (2, 6), (3, 6), (4, 6)}
    player, shots, hit = battleship.Player(8), [], False
    while not fleet <= set(shots):
        shots.append(player.act(np.int32(hit)))
        assert len(set(shots)) == len(shots)
        # Beside the first hit is where the rest of a ship must be.
        if hit and sum(shot in fleet for shot in shots[:-1]) == 1:
            (row, column), (before, beside) = shots[-1], shots[-2]
            assert abs(row - before) + abs(column - beside) == 1
        hit = shots[-1] in fleet
    assert len(shots) < 50


def test_one_mine_in_four_cells():
    """A mine in 2 by 2 cells: the first look tells nothing, all cells are around each."""
    clear = 3
    after = {1: 0.0}  # of none, one, two cells seen: value of what is left, by hand

    def look(p, future):
        return (1 - p) * (1 / clear + future) - p * (0.5 + 1 / clear)

    # Looking at an old cell costs 0.5 / (3 - 2) a step; with one step left, to look is better.
    after[2] = max(look(1 / 2, 0.0), -0.5)
    after[1] = max(look(1 / 3, after[2]), -0.5 + max(look(1 / 3, 0.0), -0.5))
    assert minesweeper.best_return(2, 1) == pytest.approx(look(1 / 4, after[1]))


@pytest.mark.parametrize("numbers", [{}, {0: 0}, {0: 1}, {0: 1, 15: 1}, {5: 2, 0: 1, 12: 0}])
def test_mine_probabilities_are_shares_of_boards(numbers):
    size, mines = 4, 3
    boards = [set(board) for board in combinations(range(size**2), mines)]
    possible = [
        board
        for board in boards
        if all(
            cell not in board and len(board & set(minesweeper.around(size, cell))) == number
            for cell, number in numbers.items()
        )
    ]
    assert minesweeper.count_boards(size, mines, numbers) == len(possible) > 0
    share = [sum(cell in board for board in possible) / len(possible) for cell in range(size**2)]
    np.testing.assert_allclose(minesweeper.mine_probabilities(size, mines, numbers), share)


def test_minesweepers_bound_falls_to_the_optimum():
    bounds = [minesweeper.first_looks_bound(4, 2, looks) for looks in (1, 2)]
    # The first is blind: 2 in 16 are mines.
    assert bounds[0] == pytest.approx(1 - 1 / 8 * (1.5 + 1 / 14))
    assert bounds[0] > bounds[1] >= minesweeper.best_return(4, 2) - 1e-12


STRAIGHT, BRANCHED = maze("#####/S   G/#####"), maze("#######/S   # #/### # #/#     #/#######")


def test_the_shortest_way_out():
    assert labyrinth.escape_return(STRAIGHT, 100) == pytest.approx(1 - 4 / 100)
    shut = maze("#####/S # G/#####")
    assert labyrinth.escape_return(shut, 100) == pytest.approx(-99 / 100)


def test_the_shortest_walk_through_everything():
    # 3 + 1 + 5 + 2 = 11 squares. The end on the lower left is 7 away, the upper right one 9: in
    # all 2 · 11 - 9 = 13 steps, two of them over known squares.
    assert labyrinth.explore_return(BRANCHED, 100) == pytest.approx(1 - 2 / 100)
    walled_in = maze("#####/S#  #/#####")
    assert labyrinth.explore_return(walled_in, 100) == pytest.approx(-99 / 100)


def test_a_loop_is_no_tree():
    with pytest.raises(ValueError, match="expected a tree"):
        labyrinth.explore_return(maze("#####/S   #/# # #/#   #/#####"), 100)


def test_the_pendulums_costs_of_one_and_two_steps():
    angles, speeds = 8, 9
    values = np.asarray(pendulum.cost_to_go(angles, speeds, 2))
    assert (values[0] == 0).all()
    angle = -np.pi + 2 * np.pi * np.arange(angles) / angles
    speed = np.linspace(-8, 8, speeds)
    expected = angle[:, None] ** 2 + 0.1 * speed**2  # no torque costs the least
    np.testing.assert_allclose(values[1], expected, rtol=1e-5, atol=1e-5)
    # Upright and at rest it stays there at no cost.
    assert values[2][4, 4] == pytest.approx(0, abs=1e-5)


def test_interpolation_is_periodic_in_the_angle():
    values = np.arange(8.0)[:, None] + np.zeros((8, 3))
    at = pendulum.interpolate(values, np.array([-np.pi, np.pi - np.pi / 8]), np.array([0.0, 0.5]))
    np.testing.assert_allclose(at, [0.0, 3.5], atol=1e-5)  # between 7 and 0


def test_there_is_a_study_and_a_record_of_each_id():
    assert set(popgym_optimum.STUDIES) == set(FAMILIES)
    published = json.loads(popgym_optimum.PUBLISHED.read_text())["ids"]
    assert set(published) == IDS
    for found in published.values():
        assert found is None or {"value", "method", "source", "record"} == set(found)


def test_the_results_are_within_their_bounds_and_in_the_table():
    path = Path(popgym_optimum.ROOT) / "benchmarks/results/popgym_optimum.json"
    ids = json.loads(path.read_text())["ids"]
    assert set(ids) == IDS
    for found in ids.values():
        error = 4 * (found["bound_error"] ** 2 + found["reached_error"] ** 2) ** 0.5
        assert found["reached"] <= found["bound"] + error + 1e-4
    published = json.loads(popgym_optimum.PUBLISHED.read_text())["ids"]
    table = Path(popgym_optimum.ROOT) / "docs/popgym_optimum.md"
    text = table.read_text()
    assert text == popgym_optimum.page(ids, published)
    assert text.count("| missing |") == sum(found is None for found in published.values())
    assert f"Thompson sampling (1933) earns {ids[BANDIT]['thompson']:.3f} ± 0.006 on" in text


@pytest.mark.parametrize(("size", "mines"), [(4, 2), (6, 6), (8, 10)])
def test_no_looks_are_wasted(size, mines):
    """All mines in the last rows: the player looks at new cells only, until it has to guess."""
    board = set(range(size**2 - mines, size**2))
    player, seen, obs = minesweeper.Player(size, mines), set(), np.int32(0)
    for _ in range(size**2 - mines):
        row, column = player.act(obs)
        cell = row * size + column
        if cell in board:
            break
        assert cell not in seen
        seen.add(cell)
        obs = np.int32(len(board & set(minesweeper.around(size, cell))))
    assert len(seen) >= size
