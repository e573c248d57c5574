"""Battleship and MineSweeper against the ``popgym`` package, and how their boards are drawn."""

from collections import Counter
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.popgym import DIFFICULTIES, battleship, minesweeper
from ssmrl.envs.popgym import _bitboard as bitboard
from tests.compiling import quick_jit
from tests.envs.popgym.distributions import assert_distribution
from tests.envs.popgym.upstream import Comparison, few_and_many, upstream


def any_of(rng, cells):
    """One of the cells [n, n] that are set."""
    return rng.permutation(np.argwhere(cells))[0]


def battleship_player(theirs, style):
    """Random, knowing, knowing but of ships last, or a mixture."""

    def choose(rng, t):
        fresh = theirs.guesses == 0
        targets, water = fresh & (theirs.board == 1), fresh & (theirs.board == 0)
        if style == 2 and water.any():
            return any_of(rng, water)
        if style in (1, 2) or (style == 3 and rng.random() < 0.5):
            return any_of(rng, targets)
        return rng.integers(theirs.board_size, size=2)

    return choose


@few_and_many
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_battleship_agrees_with_upstream(difficulty, episodes):
    env, params = ssmrl.envs.make(f"popgym/battleship_{difficulty}")
    both = Comparison(f"battleship_{difficulty}", env, params, params.board_size**2)
    ends = set()
    for seed in range(episodes):
        episode = both.play(
            seed,
            lambda theirs: battleship.begin(bitboard.from_cells(theirs.board)),
            battleship_player(both.theirs, seed % 4),
        )
        assert episode["obs"][0] == 0
        ends.add((bool(episode["terminated"][-1]), bool(episode["truncated"][-1])))
        if seed % 4 in (1, 2):  # hits alone, or every cell once
            expected = 1 if seed % 4 == 1 else 0
            np.testing.assert_allclose(episode["reward"].sum(), expected, atol=1e-6)
    assert ends == {(True, False), (False, True), (True, True)}


def minesweeper_player(theirs, style):
    """Random, winning, looking at one cell for ever, or winning but for slips."""

    def choose(rng, t):
        clear = theirs.hidden_grid == 0
        if style == 2:
            return np.argwhere(theirs.hidden_grid != 1)[0]
        if style == 1 or (style == 3 and rng.random() < 0.9):
            return any_of(rng, clear)
        return rng.integers(theirs.dims)

    return choose


@few_and_many
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_minesweeper_agrees_with_upstream(difficulty, episodes):
    env, params = ssmrl.envs.make(f"popgym/minesweeper_{difficulty}")
    longest = minesweeper.num_clear(params)
    both = Comparison(f"minesweeper_{difficulty}", env, params, longest)
    assert longest == both.theirs.max_episode_length
    outcomes = set()
    for seed in range(episodes):
        episode = both.play(
            seed,
            lambda theirs: minesweeper.begin(bitboard.from_cells(theirs.hidden_grid == 1)),
            minesweeper_player(both.theirs, seed % 4),
        )
        assert episode["obs"][0] == 0
        won = bool(episode["reward"][-1] > 0 and episode["terminated"][-1])
        outcomes.add((bool(episode["terminated"][-1]), bool(episode["truncated"][-1]), won))
        if seed % 4 == 1:
            np.testing.assert_allclose(episode["reward"].sum(), 1, atol=1e-6)
    # Won, lost, out of time.
    assert outcomes == {(True, False, True), (True, False, False), (False, True, False)}


def draw_boards(draw, num_boards, seed=0):
    """bool ``[num_boards, n, n]`` of ``draw(key)``, a board."""
    keys = jax.random.split(jax.random.key(seed), num_boards)
    return np.asarray(quick_jit(jax.vmap(lambda key: bitboard.to_cells(draw(key))))(keys))


def draw_ships(size, lengths, num_boards):
    env, params = ssmrl.envs.make(
        "popgym/battleship_easy", board_size=size, ship_sizes=list(lengths)
    )
    return draw_boards(lambda key: env.reset_env(key, params)[1].ships, num_boards)


def places(size, length):
    """All places of a ship on an empty board, as sets of cells."""
    lines = [[(i, j) for j in range(size)] for i in range(size)]
    lines += [[(i, j) for i in range(size)] for j in range(size)]
    starts = range(size - length + 1)
    return [frozenset(line[start : start + length]) for line in lines for start in starts]


def ship_distribution(size, lengths):
    """Probability of every set of cells: each ship in a free place, all equally likely."""
    boards = {frozenset(): 1.0}
    for length in lengths:
        larger = Counter()
        for board, probability in boards.items():
            free = [place for place in places(size, length) if not place & board]
            for place in free:
                larger[board | place] += probability / len(free)
        boards = larger
    return boards


def as_sets(boards):
    return Counter(frozenset(map(tuple, np.argwhere(board).tolist())) for board in boards)


@pytest.mark.parametrize(("size", "lengths"), [(3, (2, 2)), (4, (2, 3)), (3, (1, 2))])
def test_small_fleets_have_the_distribution_of_the_rules(size, lengths):
    """Exactly, all boards enumerated. Which ship is where within a set of cells is not seen.

    20 000 boards of at most 400 sets: where a share of .05 of them is moved from some sets to
    others, χ² is larger by 200 at least, and that is found with probability .95.
    """
    ships = draw_ships(size, lengths, 20_000)
    assert_distribution(as_sets(ships), ship_distribution(size, lengths))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_fleets_have_the_distribution_of_upstream(difficulty):
    """How often each cell is taken, and how often ships touch, in 40 000 and 4 000 boards.

    Largest of 144 standard normal deviates: above 5 once in 10⁴. One cell in 12 standard errors of
    .008: a cell taken .05 too often is found.
    """
    theirs = upstream(f"battleship_{difficulty}")
    theirs.reset(seed=0)

    def place():
        board = np.zeros((theirs.board_size,) * 2, np.int8)
        for size in theirs.ship_sizes:
            board = theirs.place_ship(board, size)
        return board

    reference = np.stack([place() for _ in range(4_000)]).astype(bool)
    ours = draw_ships(theirs.board_size, theirs.ship_sizes, 40_000)
    assert (ours.sum(axis=(1, 2)) == 12).all()
    for statistic in (lambda board: board.astype(float), contacts):
        a, b = statistic(ours), statistic(reference)
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error).all()


def contacts(boards):
    """How many cells with a ship adjoin another, as indicators of each number, and on average."""
    pairs = (boards[:, 1:] & boards[:, :-1]).sum(axis=(1, 2))
    pairs = pairs + (boards[:, :, 1:] & boards[:, :, :-1]).sum(axis=(1, 2))
    # Ships of 2, 3, 3 and 4 cells have 8 such pairs within.
    assert (pairs >= 8).all()
    indicators = [pairs == 8, pairs == 9, pairs == 10, pairs == 11, pairs]
    return np.stack(indicators, axis=-1).astype(float)


def test_mines_are_any_set_with_equal_probability():
    """All 120 sets of two in 16 cells, and all 126 of five in nine; 30 000 boards of each."""
    for size, num_mines in ((4, 2), (3, 5)):
        boards = draw_boards(
            lambda key, n=size, m=num_mines: minesweeper.draw_mines(key, n, m), 30_000
        )
        cells = [(i, j) for i in range(size) for j in range(size)]
        sets = [frozenset(cells) for cells in combinations(cells, num_mines)]
        assert_distribution(as_sets(boards), {x: 1 / len(sets) for x in sets})


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_mines_are_as_likely_in_every_cell(difficulty):
    env, params = ssmrl.envs.make(f"popgym/minesweeper_{difficulty}")
    boards = draw_boards(lambda key: env.reset_env(key, params)[1].mines, 20_000)
    assert (boards.sum(axis=(1, 2)) == params.num_mines).all()
    expected = params.num_mines / params.board_size**2
    error = np.sqrt(expected * (1 - expected) / len(boards))
    assert (np.abs(boards.mean(axis=0) - expected) < 5 * error).all()


@quick_jit
def operations(a, b, row, column):
    board, other = bitboard.from_cells(a), bitboard.from_cells(b)
    size = len(board)
    sets = {
        "a": board,
        "around": bitboard.around(size, row, column),
        "cell": bitboard.one_cell(size, row, column),
    }
    found = jax.vmap(lambda k: jnp.stack(bitboard.find(board, k)))(jnp.arange(size**2))
    numbers = (bitboard.count(board), bitboard.overlap(board, other), found)
    return {name: bitboard.to_cells(x) for name, x in sets.items()}, numbers


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_bitboards_are_sets_of_cells(size):
    rng = np.random.default_rng(size)
    a, index = rng.random((size, size)) < 0.4, np.arange(size)
    for row, column in {(0, 0), (0, size - 1), (size - 1, size - 1), (size // 2, size // 3)}:
        near = (abs(index - row) <= 1)[:, None] & (abs(index - column) <= 1)
        cell = (index == row)[:, None] & (index == column)
        for b in (rng.random((size, size)) < 0.1, ~a, cell):
            sets, (count, overlap, found) = operations(a, b, row, column)
            np.testing.assert_array_equal(sets["a"], a)
            np.testing.assert_array_equal(sets["around"], near)
            np.testing.assert_array_equal(sets["cell"], cell)
            assert count == a.sum() and overlap == (a & b).any()
            np.testing.assert_array_equal(found[: a.sum()], np.argwhere(a))


def test_random_integers_from_bits():
    """The floor of n · bits / 2^32, for the largest n too; every value as often as it should be."""
    bits = np.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 2**16, 2**32 - 1], np.uint32)
    for n in (1, 2, 7, 288, 2**16):
        ours = bitboard.random_below(jnp.asarray(bits), n)
        assert ours.tolist() == [int(b) * n >> 32 for b in bits]


@pytest.mark.parametrize("family", ["battleship", "minesweeper", "concentration"])
def test_the_left_half_of_a_picture_keeps_the_secret(family):
    env, params = ssmrl.envs.make(f"popgym/{family}_easy")
    render = quick_jit(lambda key: env.render(env.reset_env(key, params)[1], params))
    pictures = [np.asarray(render(jax.random.key(seed))) for seed in (0, 1)]
    assert all(picture.shape[0] % 12 == 0 for picture in pictures)
    half = (pictures[0].shape[1] - 6) // 2
    np.testing.assert_array_equal(pictures[0][:, :half], pictures[1][:, :half])
    assert (pictures[0][:, half:] != pictures[1][:, half:]).any()


@pytest.mark.parametrize(
    ("id_", "options", "message"),
    [
        ("battleship_easy", {"board_size": 33}, "board_size from 1 to 32, got 33"),
        ("battleship_easy", {"board_size": 3}, "needs both ships and water"),
        ("battleship_easy", {"board_size": 4}, "room for each"),
        ("battleship_easy", {"ship_sizes": ()}, "needs both ships and water"),
        ("battleship_easy", {"ship_sizes": (0, 2)}, "at least one cell"),
        ("battleship_easy", {"ship_sizes": (9,)}, "room for each"),
        ("battleship_easy", {"ship_sizes": 3}, "ship_sizes as integers, got 3"),
        ("battleship_easy", {"ship_sizes": (2, 2.5)}, "ship_sizes as integers"),
        ("minesweeper_easy", {"board_size": 0}, "board_size from 1 to 32, got 0"),
        ("minesweeper_easy", {"num_mines": 0}, "at least one mine"),
        ("minesweeper_easy", {"num_mines": 14}, "three cells without one"),
    ],
)
def test_boards_that_make_no_game(id_, options, message):
    with pytest.raises(ValueError, match=message):
        ssmrl.envs.make(f"popgym/{id_}", **options)
