"""Open-loop predictions on film: what is played, what is shown, and where the context ends."""

import inspect
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
        assert greedy and carry.shape == reset.shape == (1,)
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
    for height, bar in ((16, 2), (240, 15)):
        picture = np.zeros((1, height, 3, 3), np.float32)
        frame = _frame((picture, picture), 0, seen=False)
        assert len(frame) == height + bar
        assert (frame[:bar] == (190, 60, 60)).all() and not frame[bar, 0].any()
        frame = _frame((picture, picture), 0, seen=True)
        assert (frame[:bar] == (60, 160, 60)).all()


def test_what_is_out_of_range_is_black_or_white():
    """Exactly: a byte more or less would be the opposite."""
    truth, predicted = (np.full((1, 4, 2, 3), value, np.float32) for value in (-0.5, 1.5))
    for pair, shown in (
        ((truth, predicted), [0, 255, 255]),
        ((predicted, truth), [255, 0, 0]),
        ((truth + 0.5, truth + 0.5), [0, 0, 127]),
        ((predicted - 0.5, predicted - 0.5), [255, 255, 127]),
    ):
        frame = _frame(pair, 0, seen=True)[2:]
        assert frame.tolist() == [[[value] * 3 for value in np.repeat(shown, 2)]] * 4


def test_the_first_of_several_pictures_is_filmed(venv, tmp_path, monkeypatch):
    class Two(Oracle):
        def open_loop(self, state, observation, action, context):
            numbers = super().open_loop(state, observation, action, context)
            shape = (len(observation), 4, 4, 3)
            # Of numbers the prediction alone might be taken for a picture.
            return [*numbers, (jnp.zeros(shape), jnp.ones(shape)), (jnp.ones(shape),) * 2]

    shown = []
    monkeypatch.setattr(
        "ssmrl.training.prediction_video.write_gif",
        lambda path, frames, seconds: shown.append((frames, seconds)) or path,
    )
    written = record_prediction(Two(), None, venv, tmp_path / "x", key=jax.random.key(0), context=1)
    assert written == tmp_path / "x.gif"
    ((frames, seconds),) = shown
    assert seconds == 0.1 and len(frames) == 4
    assert [frame[-1, 0].tolist() for frame in frames] == [[0] * 3] * 4
    assert [bool(frame[0, 0, 1] > frame[0, 0, 0]) for frame in frames] == [
        True,
        False,
        False,
        False,
    ]


def test_films_are_cut_before_they_are_too_long(venv):
    lengths = {
        record: inspect.signature(record).parameters["max_steps"].default
        for record in (record_prediction, record_episode)
    }
    assert lengths == {record_prediction: 200, record_episode: 1000}
    observation, action = play_episode(Oracle(), None, venv, jax.random.key(0), 1)
    assert observation[:, 0].tolist() == [0, 1] and action.shape == (2,)


def test_folders_on_the_way_are_made(venv, tmp_path):
    path = tmp_path / "a" / "b" / "x"
    written = record_prediction(Oracle(), None, venv, path, key=jax.random.key(0), context=1)
    assert written == path.with_name("x.txt") and written.exists()
    assert record_prediction(Oracle(), None, venv, path, key=jax.random.key(0), context=1)


def test_a_film_lasts_as_long_as_its_steps(tmp_path):
    frames = [np.full((8, 8, 3), 100 * shade, np.uint8) for shade in range(3)]
    with Image.open(write_gif(tmp_path / "film.gif", frames, 10.0)) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 10_000 and gif.info["loop"] == 0


@pytest.mark.parametrize(
    ("height", "width", "size"), [(1, 1, (256, 256)), (8, 4, (256, 512)), (300, 310, (310, 300))]
)
def test_small_frames_are_enlarged_as_they_are(height, width, size, tmp_path):
    """Their shorter side to 256 pixels, in proportion; large ones stay."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[0, 0] = 255
    with Image.open(write_gif(tmp_path / "film.gif", [frame], 0.1)) as gif:
        assert gif.size == size
        picture = np.asarray(gif.convert("L"))
    scale = size[0] // width
    np.testing.assert_array_equal(picture, frame[..., 0].repeat(scale, 0).repeat(scale, 1))


def test_a_film_without_pictures_is_a_table_of_steps(venv, tmp_path):
    said = []
    path = tmp_path / "deep" / "er" / "x.y"
    arguments = {"key": jax.random.key(0), "warn": said.append}
    for _ in range(2):  # over an older one
        written = record_episode(Carrying(), None, venv, path, **arguments)
    assert written == path.with_name("x.y.txt")
    lines = [re.sub(r"\[.*\]", "[...]", line) for line in written.read_text().split("\n")]
    assert lines == [
        "    0  sees [...]  does 0  reward +10.0000  return +10.0000",
        "    1  sees [...]  does 0  reward +20.0000  return +30.0000",
        "    2  sees [...]  does 0  reward +30.0000  return +60.0000",
        "",
    ]
    assert said == ["text instead of a picture: Counting has no picture"] * 2


def test_why_there_is_no_picture_is_told_where_the_environment_does_not(
    venv, tmp_path, monkeypatch
):
    def render(state):
        raise NotImplementedError

    monkeypatch.setattr(venv, "render", render, raising=False)
    said = []
    arguments = {"key": jax.random.key(0), "max_steps": 1}
    record_episode(Carrying(), None, venv, tmp_path / "x", warn=said.append, **arguments)
    assert said == ["text instead of a picture: the environment does not draw itself"]
    written = record_episode(Carrying(), None, venv, tmp_path / "x", **arguments)
    assert len(written.read_text().splitlines()) == 1


def test_an_environment_that_draws_itself_is_filmed(venv, tmp_path, monkeypatch):
    monkeypatch.setattr(
        venv, "render", lambda state: np.full((4, 4, 3), 90, np.uint8), raising=False
    )
    films = []
    monkeypatch.setattr(
        "ssmrl.training.video.write_gif",
        lambda path, frames, seconds: films.append((len(frames), seconds)) or path,
    )
    written = record_episode(Carrying(), None, venv, tmp_path / "x", key=jax.random.key(0))
    assert written == tmp_path / "x.gif" and films == [(3, 0.1)]


def test_a_film_is_of_one_environment(tmp_path):
    two = EpisodeStatistics(JaxVectorEnv(Counting(), None, 2))
    with pytest.raises(ValueError, match="^a video shows one environment; this has 2$"):
        record_episode(Carrying(), None, two, tmp_path / "x", key=jax.random.key(0))


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
