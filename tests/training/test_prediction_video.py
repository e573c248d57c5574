"""Open-loop predictions on film: what is played, what is shown, and where the context ends."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssmrl.envs import EpisodeStatistics, JaxVectorEnv
from ssmrl.training.agent import PredictingAgent
from ssmrl.training.prediction_video import _frame, play_episode, record_prediction
from ssmrl.training.video import describe, record_episode, write_gif
from tests.envs.counting import Counting
from tests.training.stub import StubAgent


class Oracle:
    """Never ends an episode early; predicts the truth plus 100, as numbers or as pictures."""

    def __init__(self, pictures: bool = False):
        self.pictures, self.asked = pictures, []

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size)

    def act(self, state, carry, observation, reset, key, *, greedy):
        assert greedy
        return carry + 1, jnp.zeros(len(reset), jnp.int32)

    def open_loop(self, state, observation, action, context):
        self.asked.append((observation, action, context))
        if not self.pictures:
            return [(observation, observation + 100)]
        # Not quite black: equal frames are one frame in a GIF.
        black = jnp.zeros((len(observation), 32, 64, 3)) + observation[:, :1, None, None] / 100
        return [(black, black + 1.0)]


@pytest.fixture
def venv():
    return EpisodeStatistics(JaxVectorEnv(Counting(), None, 1))


def test_the_final_observation_belongs_to_the_episode(venv):
    observation, action = play_episode(Oracle(), None, venv, jax.random.key(0), 100)
    assert observation[:, 0].tolist() == [0, 1, 2, 3]  # truncated after three steps
    assert len(set(observation[:, 1].tolist())) == 1
    assert action.shape == (4,)


def test_text_says_what_is_seen_and_what_is_predicted(venv, tmp_path):
    agent = Oracle()
    assert isinstance(agent, PredictingAgent)
    path = record_prediction(
        agent, None, venv, tmp_path / "deep" / "x", key=jax.random.key(0), context=2
    )
    lines = path.read_text().splitlines()
    assert path.name == "x.txt"
    assert [line.split()[1] for line in lines] == ["sees", "sees", "predicts", "predicts"]
    assert re.search(r"truth \[ *3\..*model \[ *103\.", lines[3])


def test_short_episodes_leave_something_to_predict(venv, tmp_path):
    path = record_prediction(
        Oracle(), None, venv, tmp_path / "x", key=jax.random.key(0), context=99
    )
    words = [line.split()[1] for line in path.read_text().splitlines()]
    assert words == ["sees", "sees", "sees", "predicts"]


def test_frames_show_truth_prediction_and_error(venv, tmp_path):
    agent = Oracle(pictures=True)
    path = record_prediction(agent, None, venv, tmp_path / "x", key=jax.random.key(0), context=2)
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        for t in range(4):
            gif.seek(t)
            frame = np.asarray(gif.convert("RGB")).astype(int)
            height, width = frame.shape[:2]
            bar, rest = frame[0], frame[height // 2]
            green = bar[:, 1] > bar[:, 0]
            assert green.all() if t < 2 else not green.any()
            thirds = [rest[width * k // 6].mean() for k in (1, 3, 5)]
            np.testing.assert_allclose(thirds, [0, 255, 255], atol=10)  # black, white, too bright


@pytest.mark.parametrize(("channels", "shown"), [(1, [51]), (2, [102]), (3, [51, 102, 153])])
def test_pictures_of_any_number_of_channels_are_shown(channels, shown):
    """One is grey, three are colours, of other numbers the mean is."""
    values = np.array({1: [0.2], 2: [0.2, 0.6], 3: [0.2, 0.4, 0.6]}[channels], np.float32)
    picture = np.broadcast_to(values, (1, 8, 5, channels))
    frame = _frame((picture, picture), 0, seen=True)
    assert frame.shape == (10, 15, 3) and frame.dtype == np.uint8
    np.testing.assert_allclose(frame[2:, :10], np.broadcast_to(shown, (8, 10, 3)), atol=1)
    np.testing.assert_allclose(frame[2:, 10:], 127, atol=1)  # no error


def test_the_bar_grows_with_the_picture():
    """A sixteenth of its height, and two pixels at least."""
    for height, bar in ((16, 2), (64, 4)):
        picture = np.zeros((1, height, 3, 3), np.float32)
        frame = _frame((picture, picture), 0, seen=False)
        assert len(frame) == height + bar
        assert (frame[:bar, :, 0] > frame[:bar, :, 1]).all() and not frame[bar, 0].any()


def test_folders_on_the_way_are_made(venv, tmp_path):
    path = tmp_path / "a" / "b" / "x"
    written = record_prediction(Oracle(), None, venv, path, key=jax.random.key(0), context=1)
    assert written == path.with_name("x.txt") and written.exists()
    assert record_prediction(Oracle(), None, venv, path, key=jax.random.key(0), context=1)


def test_a_film_lasts_as_long_as_its_steps(tmp_path):
    frames = [np.full((8, 8, 3), 100 * shade, np.uint8) for shade in range(3)]
    with Image.open(write_gif(tmp_path / "film.gif", frames, 1.0)) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 1000 and gif.info["loop"] == 0
        assert min(gif.size) >= 64


def test_numbers_are_told_to_three_places():
    leaves = {"a": np.array([[0.12345, 2.0]], np.float32), "b": np.array([7])}
    assert describe(leaves) == "[0.123 2.   ] 7"


class Carrying(StubAgent):
    """Whose carry counts from 5, for as many environments as it was asked for."""

    def __init__(self):
        self.steps_per_iteration, self.seen = 1, []

    def initialize_carry(self, batch_size):
        return jnp.full(batch_size, 5.0)

    def act(self, state, carry, observation, reset, key, *, greedy):
        jax.debug.callback(self.seen.append, carry)
        return carry + 1, jnp.zeros(len(reset), jnp.int32)


def test_one_environment_is_played(venv, tmp_path):
    """With a carry for one, which the agent gets back."""
    agent = Carrying()
    record_episode(agent, None, venv, tmp_path / "x", key=jax.random.key(0))
    jax.effects_barrier()
    assert [carry.tolist() for carry in agent.seen] == [[5.0], [6.0], [7.0]]
