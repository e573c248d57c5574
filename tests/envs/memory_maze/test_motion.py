"""The motion against episodes of the original, replayed from recorded states, and by facts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs.memory_maze.environment import TOUCH_DISTANCE
from ssmrl.envs.memory_maze.motion import (
    FORWARD,
    FORWARD_LEFT,
    LEFT,
    NOOP,
    NUM_ACTIONS,
    RADIUS,
    RIGHT,
    at_rest,
    move,
)
from tests.compiling import quick_jit
from tests.envs.memory_maze.recorded import SIZES, episodes, maze, policies, replay

LENGTH = 50


def errors(is_oracle, steps):
    """Distances (cells) and angles (degrees) after so many steps, over windows of both sizes."""
    apart, turned = [], []
    for size in SIZES:
        windows = replay(size, LENGTH, 5)
        chosen = policies(size)[windows["episode"]] == is_oracle
        at = windows["position"][chosen, steps - 1]
        apart.append(np.linalg.norm(at - windows["true_position"][chosen, steps - 1], axis=-1))
        angle = (windows["heading"] - windows["true_heading"])[chosen, steps - 1]
        turned.append(np.abs((angle + np.pi) % (2 * np.pi) - np.pi))
    return np.concatenate(apart), np.degrees(np.concatenate(turned))


def test_the_oracles_walks():
    assert errors(True, 1)[0].mean() < 0.001
    assert errors(True, 10)[0].mean() < 0.015
    assert errors(True, LENGTH)[0].mean() < 0.05


def test_the_oracles_heading():
    assert errors(True, 10)[1].max() < 1
    assert errors(True, LENGTH)[1].mean() < 0.6


def test_random_actions_along_walls():
    """Chaotic in the long run: a wall touched or missed by a hair turns the agent elsewhere."""
    assert errors(False, 1)[0].mean() < 0.003
    assert errors(False, 10)[0].mean() < 0.025
    assert np.median(errors(False, 10)[0]) < 0.01
    assert np.median(errors(False, LENGTH)[0]) < 0.10


@pytest.mark.parametrize("size", SIZES)
def test_the_same_steps_are_rewarded(size):
    """Windows of 50 that follow each other. The border is the target's, so it is the same too."""
    windows = replay(size, LENGTH, 5)
    of_oracle = policies(size)[windows["episode"]]
    current = np.take_along_axis(windows["distance"], windows["target"][..., None], axis=-1)[..., 0]
    rewarded = current < TOUCH_DISTANCE
    true = windows["true_reward"] > 0
    assert true[of_oracle].sum() >= 40
    assert (rewarded == true)[of_oracle].mean() > 0.999


@pytest.mark.parametrize("size", SIZES)
def test_touching_at_recorded_places(size):
    """Over single steps from recorded states, without exception."""
    windows = replay(size, 1, 1)
    current = np.take_along_axis(windows["distance"], windows["target"][..., None], axis=-1)[..., 0]
    true = windows["true_reward"] > 0
    np.testing.assert_array_equal(current < TOUCH_DISTANCE, true)
    assert true.sum() >= 4


def hall():
    """9 × 9 free cells."""
    is_wall = np.ones((11, 11), bool)
    is_wall[1:-1, 1:-1] = False
    return is_wall


@quick_jit
def walk(body, actions, is_wall):
    """The body after each of `actions`."""

    def step(body, action):
        body = move(body, action, is_wall)
        return body, body

    return jax.lax.scan(step, body, actions)[1]


def from_rest(actions, x=3.0, y=3.0, heading=0.0):
    actions = np.pad(np.array(actions, np.int32), (0, 10 - len(actions)))
    return walk(at_rest(*np.float32([x, y, heading])), actions, hall())


def test_forward_from_rest_and_coasting():
    """Cells a step, as measured on the original; from full speed the first step coasts 0.1376."""
    x = np.asarray(from_rest([FORWARD] * 6 + [NOOP] * 4).x)
    steps = np.diff(x, prepend=3.0)
    expected = [0.111, 0.219, 0.243, 0.248, 0.249, 0.25, 0.1376]
    np.testing.assert_allclose(steps[:7], expected, atol=0.0015)
    np.testing.assert_allclose(steps[7:] / steps[6:-1], 0.23, atol=0.02)


def test_turning():
    """Degrees a step: from rest, on, the other way, and let go."""
    heading = np.degrees(from_rest([LEFT, LEFT, LEFT, RIGHT, RIGHT, NOOP]).heading)
    steps = np.diff(heading, prepend=0.0)[:6]
    np.testing.assert_allclose(steps, [14.5, 18.3, 18.4, -10.5, -18.3, -3.2], atol=0.4)


def test_left_is_to_the_left():
    """Counter-clockwise, y up."""
    body = from_rest([FORWARD_LEFT] * 5)
    assert body.y[4] > 3.2 and 0 < body.heading[4] < np.pi / 2


def test_standing_still():
    body = from_rest([NOOP] * 10, heading=1.0)
    assert (body.x == 3).all() and (body.y == 3).all() and (body.heading == 1).all()


@pytest.mark.parametrize(("degrees", "creep"), [(27, 0.034), (45, 0.018), (67, 0.005)])
def test_walls_are_sticky(degrees, creep):
    """Pushed at an angle, the agent creeps (cells a step) and turns to face the wall."""
    heading = np.float32(np.radians(degrees))
    body = from_rest([FORWARD] * 3, x=5.0, y=10 - RADIUS, heading=heading)
    steps = np.diff(np.asarray(body.x), prepend=5.0)
    np.testing.assert_allclose(steps[0], creep, atol=0.008)
    assert (np.diff(np.asarray(body.heading[:3]), prepend=heading) > 0).all()
    np.testing.assert_allclose(body.y[:3], 10 - RADIUS, atol=1e-5)


def test_facing_a_wall_nothing_moves():
    body = from_rest([FORWARD] * 10, x=5.0, y=10 - RADIUS, heading=np.pi / 2)
    np.testing.assert_allclose(body.x, 5.0, atol=0.01)
    np.testing.assert_allclose(body.heading, np.pi / 2, atol=np.radians(3))


def test_corners_hold():
    body = from_rest([FORWARD] * 10, x=9.9, y=9.9, heading=np.pi / 4)
    np.testing.assert_allclose([body.x[-1], body.y[-1]], 9.9, atol=1e-3)


def test_no_way_through_walls():
    """Random actions in a recorded maze: never closer to a wall than the ball is large."""
    is_wall = np.asarray(maze(15, 0).is_wall)
    pos = episodes(15)["pos"][0, 0] + 1
    shares = [0.05, 0.5, 0.05, 0.05, 0.17, 0.18]
    actions = np.random.default_rng(0).choice(NUM_ACTIONS, 1500, p=shares)
    body = walk(at_rest(*pos, jnp.float32(0)), np.repeat(actions, 2).astype(np.int32), is_wall)
    place = np.stack([body.y, body.x], axis=-1)
    walls = np.argwhere(is_wall)
    nearest = np.clip(place[:, None], walls, walls + 1)
    distance = np.linalg.norm(place[:, None] - nearest, axis=-1).min(axis=1)
    assert distance.min() > RADIUS - 1e-3
    assert np.ptp(place, axis=0).min() > 3  # it got about
