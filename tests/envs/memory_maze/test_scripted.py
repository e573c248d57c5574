"""The oracle: where it steers, and what it earns beside one in the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssmrl.envs.memory_maze import MemoryMaze
from ssmrl.envs.memory_maze.environment import EnvState
from ssmrl.envs.memory_maze.layout import make_maze
from ssmrl.envs.memory_maze.motion import FORWARD, FORWARD_LEFT, FORWARD_RIGHT, LEFT, at_rest
from ssmrl.envs.memory_maze.scripted import oracle
from tests.compiling import quick_jit, shipped_jit

ZERO = jnp.int32(0)


@pytest.fixture(scope="module")
def act():
    """The oracle's action with the agent somewhere in a maze of one bend, the target at its end.

    #####
    #  ##   the target is in the upper left cell, (1, 3); the way leads from (1, 1) up, or from
    # ###   (3, 1) left, then up
    #   #
    #####
    """
    rows = ["#####", "#  ##", "# ###", "#   #", "#####"]
    is_wall = np.array([[c == "#" for c in row] for row in rows[::-1]])
    zeros = np.zeros((5, 5))
    maze = make_maze(is_wall, zeros, zeros, np.float32([[1.5, 3.5]]))

    @quick_jit
    def action(x, y, heading):
        return oracle(EnvState(at_rest(x, y, heading), maze, jnp.zeros(1, jnp.int32), ZERO, ZERO))

    return lambda *place: int(action(*np.float32(place)))


def test_it_steers_to_the_farthest_cell_in_sight(act):
    assert act(1.5, 1.5, np.pi / 2) == FORWARD
    assert act(1.5, 1.5, np.pi / 2 - 0.3) == FORWARD_LEFT
    assert act(1.5, 1.5, np.pi / 2 + 0.3) == FORWARD_RIGHT
    assert act(1.5, 1.5, 0.0) == LEFT
    assert act(3.5, 1.5, np.pi) == FORWARD  # the bend hides what comes after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "mean", "deviation", "count"),
    [(9, 28.68, 4.91, 22), (11, 49.30, 9.29, 23), (13, 59.95, 11.38, 19), (15, 72.62, 9.49, 13)],
)
def test_it_earns_what_one_earned_in_the_original(size, mean, deviation, count):
    """The means of whole episodes, by Welch's test; theirs steered likewise, with other limits."""
    env = MemoryMaze(size)
    params = env.make_params(view="above", picture_size=16)
    length = params.episode_length

    @shipped_jit
    @jax.vmap
    def play(key):
        def step(state, key):
            _, state, reward, *_ = env.step_env(key, state, oracle(state), params)
            return state, reward

        state = env.reset_env(key, params)[1]
        return jnp.sum(jax.lax.scan(step, state, jax.random.split(key, length))[1])

    returns = np.asarray(play(jax.random.split(jax.random.key(0), 32)))
    ours = (returns.mean(), returns.std(ddof=1), len(returns))
    print(size, ours)
    result = stats.ttest_ind_from_stats(*ours, mean, deviation, count, equal_var=False)
    assert result.pvalue > 0.01
