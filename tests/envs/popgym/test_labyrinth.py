"""The labyrinths against the ``popgym`` package, and their mazes against mazelib's."""

import random
import warnings
from collections import Counter, deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ssmrl.envs
from ssmrl.envs.popgym import DIFFICULTIES
from ssmrl.envs.popgym._labyrinth import GOAL, START, EnvState
from ssmrl.envs.popgym._labyrinth import observe as eager_observe
from ssmrl.envs.popgym._maze import FREE, WALL, _geometric, entrances, hunt_and_kill
from ssmrl.envs.popgym.labyrinth_explore import EnvState as ExploreState
from tests.compiling import quick_jit
from tests.envs.test_popgym import few_and_many, record, replay, upstream

FAMILIES = ("labyrinth_escape", "labyrinth_explore")
IDS = [f"{family}_{difficulty}" for family in FAMILIES for difficulty in DIFFICULTIES]
observe = jax.jit(eager_observe)
MOVES = [(0, -1), (0, 1), (-1, 0), (1, 0)]  # left, right, up, down


def labyrinth(id_):
    """The package warns at construction that mazes need no memory: its opinion, not a defect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return upstream(id_)


def neighbours(grid, here):
    """(action, square) of every move that is not into a wall."""
    for action, (dy, dx) in enumerate(MOVES):
        there = (here[0] + dy, here[1] + dx)
        inside = 0 <= there[0] < grid.shape[0] and 0 <= there[1] < grid.shape[1]
        if inside and grid[there] != WALL:
            yield action, there


def distances(grid, start):
    """Steps from ``start`` to every square that can be reached, by breadth-first search."""
    found, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for _, there in neighbours(grid, here):
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


def towards(env, is_target):
    """The first action of a shortest way to a square with ``is_target``; None if there is none."""
    start = tuple(env.position)
    queue, seen = deque([(start, None)]), {start}
    while queue:
        here, first = queue.popleft()
        if is_target[here]:
            return first
        for action, there in neighbours(env.maze.grid, here):
            if there not in seen:
                seen.add(there)
                queue.append((there, action if first is None else first))
    return None


def explorer(env):
    """Mostly to the goal, or to the nearest new square: episodes that terminate."""

    def choose(rng, t):
        is_goal = env.maze.grid == GOAL
        action = towards(env, is_goal if is_goal.any() else env.explored == 0)
        return int(rng.integers(4)) if action is None or rng.random() < 0.2 else action

    return choose


def hidden(env):
    return {"maze": env.maze.grid.copy(), "position": env.position}


def first_state(id_, maze, position):
    """Ours at the start of upstream's episode."""
    state = EnvState(
        maze=jnp.asarray(maze, jnp.int8),
        position=jnp.asarray(position, jnp.int32),
        time=jnp.int32(0),
        last_action=jnp.int32(4),
    )
    if "escape" in id_:
        return state
    num_free = jnp.int32((maze == FREE).sum())
    explored = jnp.zeros(maze.shape, bool).at[position].set(True)
    return ExploreState(**vars(state), explored=explored, num_free=num_free, num_left=num_free)


@few_and_many
@pytest.mark.parametrize("id_", IDS)
def test_labyrinths_agree_with_upstream_over_whole_episodes(id_, episodes):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    run = quick_jit(partial(replay, env, params))
    ends = Counter()
    for seed in range(episodes):
        random.seed(seed)  # mazelib's generator; the package does not pass the seed on
        np.random.seed(seed)
        theirs = labyrinth(id_)
        # One in four is random and long.
        choose = explorer(theirs) if seed % 4 else lambda rng, t: int(rng.integers(4))
        episode = record(theirs, seed, hidden, choose)
        first = episode["hidden"][0]
        state = first_state(id_, first["maze"], first["position"])
        np.testing.assert_array_equal(observe(state), episode["obs"][0])
        length = len(episode["action"])
        ours = run(state, np.pad(episode["action"], (0, params.max_episode_length - length)))
        names = ("obs", "reward", "terminated", "truncated")
        for mine, name in zip(ours, names, strict=True):
            theirs_ = episode[name][1:] if name == "obs" else episode[name]
            np.testing.assert_allclose(mine[:length], theirs_, atol=1e-6, rtol=0)
        ends[bool(episode["terminated"][-1]), bool(episode["truncated"][-1])] += 1
    assert ends[True, False] > episodes / 2 and ends[False, True] > 0


def test_mazes_are_trees_that_leave_out_few_cells():
    """Free squares connected without loops, walls around."""
    mazes = our_mazes(5, 200)
    assert set(np.unique(mazes)) == {FREE, WALL} and mazes.dtype == np.int8
    for maze in mazes:
        cells = maze[1::2, 1::2] == FREE
        num_passages = (maze == FREE).sum() - cells.sum()
        assert num_passages == cells.sum() - 1
        assert (maze[[0, -1]] == WALL).all() and (maze[:, [0, -1]] == WALL).all()
        assert (maze[2:-1:2, 2:-1:2] == WALL).all()
        first = tuple(2 * np.argwhere(cells)[0] + 1)
        assert len(distances(maze, first)) == (maze == FREE).sum()
    assert (mazes[:, 1::2, 1::2] == FREE).mean() > 0.99


def mazelib_mazes(num_cells, count, hunt_order="random"):
    from mazelib.generate.HuntAndKill import HuntAndKill

    random.seed(0)
    np.random.seed(0)
    return [HuntAndKill(num_cells, num_cells, hunt_order).generate() for _ in range(count)]


def our_mazes(num_cells, count):
    draw = quick_jit(jax.vmap(lambda key: hunt_and_kill(key, num_cells)))
    return np.asarray(draw(jax.random.split(jax.random.key(1), count)))


def two_sample_p(a, b):
    """p of the χ² test of homogeneity of two samples of labels; rare labels are one class."""
    a, b = Counter(a), Counter(b)
    n, m = a.total(), b.total()
    scarce = min(n, m) / (n + m)
    common = [label for label in a | b if (a[label] + b[label]) * scarce >= 5]
    rest = [n - sum(a[label] for label in common), m - sum(b[label] for label in common)]
    table = [[a[label], b[label]] for label in common]
    table += [rest] if sum(rest) * scarce >= 5 else []
    return stats.chi2_contingency(np.array(table)).pvalue


def labels(mazes):
    return [maze.astype(np.int8).tobytes() for maze in mazes]


def test_small_mazes_are_drawn_as_mazelib_draws_them():
    """The whole distribution over mazes of 3 × 3 cells, by a χ² test, p > 1e-4.

    There are 192 mazes without loops. Power: mazelib's own generator with its other order of
    hunting, samples of the same size, is told apart with p < 1e-12.
    """
    theirs = labels(mazelib_mazes(3, 4000))
    ours = labels(our_mazes(3, 40_000))
    assert two_sample_p(ours, theirs) > 1e-4
    assert two_sample_p(labels(mazelib_mazes(3, 4000, "serpentine")), ours) < 1e-12


def statistics(mazes):
    """Of each maze: dead ends, squares from corner to corner (-1: no way), free squares."""
    rows = []
    for maze in mazes:
        free = np.pad(maze == FREE, 1)
        degree = free[:-2, 1:-1] * 1 + free[2:, 1:-1] + free[1:-1, :-2] + free[1:-1, 2:]
        dead_ends = ((maze == FREE) & (degree == 1)).sum()
        last = maze.shape[0] - 2
        way = distances(maze, (1, 1)).get((last, last), -1) if maze[1, 1] == FREE else -1
        rows.append((int(dead_ends), way // 8, int((maze == FREE).sum())))
    return list(zip(*rows, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("num_cells", [5, 7, 9])
def test_published_mazes_are_drawn_as_mazelib_draws_them(num_cells):
    """Dead ends, ways from corner to corner, cells left out: χ² tests, each p > 1e-4.

    Power: hunting in mazelib's other order changes the dead ends, with p < 1e-6 at this size.
    """
    ours, theirs = our_mazes(num_cells, 4000), mazelib_mazes(num_cells, 2000)
    other = mazelib_mazes(num_cells, 2000, "serpentine")
    for mine, yours in zip(statistics(ours), statistics(theirs), strict=True):
        assert two_sample_p(mine, yours) > 1e-4
    assert two_sample_p(statistics(ours)[0], statistics(other)[0]) < 1e-6


def test_waiting_times_are_geometric():
    uniform = (jnp.arange(100_000) + 0.5) / 100_000
    for probability in (0.02, 0.3, 0.75):
        draws = np.asarray(jax.vmap(_geometric, (0, None))(uniform, jnp.float32(probability)))
        for k in (1, 2, 5):
            expected = stats.geom(probability).cdf(k)
            assert (draws <= k).mean() == pytest.approx(expected, abs=1e-4)
    assert _geometric(jnp.float32(0.5), jnp.float32(1.0)) == 1
    assert _geometric(jnp.float32(0.5), jnp.float32(0.0)) == jnp.inf


def test_entrances_are_opposite_and_uniform():
    """All 4 · 3 · 3 pairs equally often: χ² over 36,000 draws, p > 1e-4.

    One pair of the 36 at 1.4 times its share is missed with probability below 1e-4.
    """
    keys = jax.random.split(jax.random.key(0), 36_000)
    start, end = jax.jit(jax.vmap(lambda key: entrances(key, 3)))(keys)
    start, end = np.asarray(start), np.asarray(end)
    pairs, counts = np.unique(np.concatenate([start, end], axis=1), axis=0, return_counts=True)
    assert len(pairs) == 36 and stats.chisquare(counts).pvalue > 1e-4
    for y, x, goal_y, goal_x in pairs:
        across = [(y, goal_y), (x, goal_x)]
        outer = [pair in ((0, 6), (6, 0)) for pair in across]
        assert sum(outer) == 1
        assert {*across[outer.index(False)]} <= {1, 3, 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_episode_begins_at_an_entrance(family):
    env, params = ssmrl.envs.make(f"popgym/{family}_easy")
    keys = jax.random.split(jax.random.key(3), 100)
    obs, state = quick_jit(jax.vmap(env.reset_env, (0, None)))(keys, params)
    mazes, positions = np.asarray(state.maze), np.asarray(state.position)
    assert (mazes[np.arange(100), *positions.T] == START).all()
    assert ((mazes == START).sum((1, 2)) == 1).all() and (np.asarray(obs)[:, 9] == 4).all()
    assert ((mazes == GOAL).sum((1, 2)) == ("escape" in family)).all()


def test_other_sizes_and_impossible_ones():
    env, params = ssmrl.envs.make("popgym/labyrinth_escape_easy", maze_size=6)
    assert env.reset(jax.random.key(0), params)[1].maze.shape == (7, 7)
    for size in (4, 7, 0):
        with pytest.raises(ValueError, match="even maze_size of at least 6"):
            ssmrl.envs.make("popgym/labyrinth_explore_easy", maze_size=size)
    with pytest.raises(ValueError, match="max_episode_length of at least 2"):
        ssmrl.envs.make("popgym/labyrinth_escape_hard", max_episode_length=1)
