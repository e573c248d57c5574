"""The library from Python: a run with objects of one's own, from training to its policy."""

import re
import runpy
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import linen as nn

import ssmrl
from ssmrl import api
from ssmrl.envs import make_vector
from ssmrl.memory import GRU, ScanMemory
from ssmrl.training.run import RunFolder
from tests.api.small import DREAMER, PPO, PQN, Drift, small
from tests.unchecked import unchecked

QUIET = {"progress": False, "total_steps": 48, "checkpoint_every": 0}


class Average(ScanMemory):
    """h[t] = 0.9 h[t-1] + 0.1 W x[t]."""

    decay: float = 0.9

    def initialize_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.features))

    def encode(self, x):
        return jnp.asarray(self.decay), (1 - self.decay) * nn.Dense(self.features)(x)

    def decode(self, states, x):
        return states


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def lines():
    return []


@pytest.fixture(scope="module")
def run(folder, lines):
    """Two iterations of PPO in an environment object, with a memory of one's own; two seeds."""
    return ssmrl.train(
        agent="ppo",
        memory=Average,
        env=Drift(),
        agent_options=PPO,
        memory_options={"features": 4, "decay": 0.8},
        env_options={"previous_action": True},
        run_dir=folder / "it's mine",
        seeds=2,
        callback=lines.append,
        **QUIET,
    )


def test_a_run_has_its_metrics_as_columns(run, lines):
    metrics = run.metrics
    np.testing.assert_array_equal(metrics["step"], [24, 48])
    assert metrics["loss/total"].shape == (2, 2) and np.isfinite(metrics["loss/total"]).all()
    assert metrics["time/steps_per_second"].shape == (2,)
    assert [line["step"] for line in lines] == [24, 48]
    for name in ("loss/total", "entropy", "episode_return"):
        np.testing.assert_array_equal(metrics[name], [line[name] for line in lines])


def test_columns_have_nan_where_a_line_has_nothing():
    np.testing.assert_array_equal(api._column([1, None, 2.5]), [1, np.nan, 2.5])
    column = api._column([None, [1.0, None]])
    np.testing.assert_array_equal(column, [[np.nan, np.nan], [1.0, np.nan]])


def test_what_was_chosen_is_written_down(run):
    config = run.config
    assert config["env"] == {**config["env"], "name": "own.Drift", "previous_action": True}
    assert config["memory"]["name"] == "own.Average"
    assert (config["memory"]["features"], config["memory"]["decay"]) == (4, 0.8)
    assert config["agent"]["encoder"] == [4]
    overrides = RunFolder(run.path).record()["overrides"]
    assert "memory.decay=0.8" in overrides and not [o for o in overrides if "run_dir" in o]


def test_a_run_with_objects_is_loaded_with_them(run):
    with pytest.raises(ssmrl.RunError, match="with an object .*env=own.Drift: hand it over"):
        ssmrl.load(run.path)
    with pytest.raises(ssmrl.RunError, match="memory=own.Average: hand it over"):
        ssmrl.load(run.path, env=Drift())
    # What the command line says.
    with pytest.raises(ssmrl.RunError, match="own.Average' was a memory object"):
        ssmrl.experiment.load_run(run.path)
    with pytest.raises(ValueError, match="own.Drift' was an environment object"):
        make_vector("own.Drift", 3)
    with pytest.raises(ssmrl.RunError, match="is not a run"):
        ssmrl.load(run.path / "absent")


def test_a_policy_of_each_seed(run):
    # Under another name: what it is called in the run counts.
    again = ssmrl.load(run.path, env=lambda: Drift(), memory=Average)
    observation = {"position": np.array([0.3, -2.0]), "side": 1}
    actions = [again.policy(seed_index=i)(observation, reset=True) for i in range(2)]
    assert np.abs(actions[0] - actions[1]).max() > 1e-6
    np.testing.assert_array_equal(run.policy(seed_index=1)(observation), actions[1])
    with pytest.raises(ssmrl.UsageError, match="seed_index=2: the run has seeds 0 to 1"):
        run.policy(seed_index=2)


def test_an_evaluation_plays_another_environment_object(run):
    class Longer(Drift):
        length = 7

    record = run.evaluate(episodes=3, num_envs=3, env=Longer())
    assert (record["episodes"], record["length"], record["env"]) == (6, 7.0, "own.Longer")
    with pytest.raises(ssmrl.UsageError, match="unknown option gredy; did you mean greedy"):
        run.evaluate(gredy=True)
    with pytest.raises(ValueError, match="unknown environment 'popgym/nonsense'"):
        run.evaluate(env="popgym/nonsense")


def test_a_picture_shows_itself_in_a_notebook(run, tmp_path):
    picture = run.plot("loss/total", path=tmp_path / "loss.png")
    assert picture.path == tmp_path / "loss.png"
    assert picture._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ssmrl.RunError, match="no losses in its metrics"):
        run.plot("losses")


def test_plotting_leaves_the_users_backend_alone():
    import matplotlib

    from ssmrl.diagnostics import report
    from ssmrl.training import plotting

    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        for module in (plotting, report):
            runpy.run_path(module.__file__)
            assert matplotlib.get_backend().lower() == "svg"
    finally:
        matplotlib.use(before)


def test_a_run_goes_on(run, folder):
    """After the tests of the run as it was: the last one in the file that reads it."""
    lines = []
    longer = run.resume(total_steps=72, callback=lines.append, progress=False)
    assert longer.path == run.path
    np.testing.assert_array_equal(run.metrics["step"], [24, 48, 72])
    assert [line["step"] for line in lines] == [72]


MISTAKES = [
    ({"agent": "pppo"}, "agent=pppo: no such agent; did you mean ppo?"),
    ({"memory_options": {"layerz": 2}}, "unknown key memory.layerz; did you mean memory.layers?"),
    ({"totl_steps": 5}, "unknown key totl_steps; did you mean total_steps?"),
    ({"total_steps": 0}, "total_steps=0: must be at least 1"),
    ({"agent": 3}, "agent=3: expected a name"),
    ({"memory": 3}, "memory: a memory is the name of one, a subclass of ssmrl.memory.Memory"),
    ({"env": 3}, "env=own.int: an environment is a name,"),
    ({"env": Drift(), "env_options": {"length": 3}}, "takes no options, got length"),
    ({"agent_options": {"lr": object()}}, "is not a setting"),
    ({"imports": ["no_such_module"]}, "imports: no_such_module: ModuleNotFoundError"),
    ({"memory": GRU(features=4), "memory_options": {"features": 5}}, "made with 4"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_a_mistake_is_a_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with unchecked(), pytest.raises(ssmrl.RunError, match=re.escape(message)) as error:
        ssmrl.train(**settings)
    assert isinstance(error.value, ValueError)
    assert not (tmp_path / "runs").exists()


TEXTS = ["", "it's", "a b", "é", "back\\slash", "end\\", "\\'", "a,b", "x=y", "null", "1", "[1]"]


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -0.5, 1e-30, 1e30, [1, [2.5]], {"a": [1, "b"]}, *TEXTS],
)
def test_values_reach_the_configuration_as_they_are(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"key={api._text(value)}")
    assert parsed.value() == value and type(parsed.value()) is type(
        getattr(value, "item", lambda: value)()
    )


def test_a_hydra_application_keeps_its_state(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        with pytest.raises(ssmrl.UsageError):
            ssmrl.train(agent="pppo")
        assert compose("mine").a == 1


def test_a_signal_is_passed_on_when_all_is_kept(monkeypatch):
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)

    class Outcome:
        class run:
            path = Path("here")

        class result:
            stopped_by = signal.SIGTERM

    api._finished(Outcome, api.COMPONENTS)
    assert raised == [signal.SIGTERM]


def test_the_names_of_the_package():
    assert set(ssmrl.__all__) <= set(dir(ssmrl))
    for name in ssmrl.__all__:
        assert getattr(ssmrl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'; it has"):
        ssmrl.trian  # noqa: B018
    assert ssmrl.memory.make_memory


def test_an_instance_is_used_as_it_is():
    from ssmrl.memory import build_memory, own_memory_config

    memory = GRU(features=4)
    config = own_memory_config("own.GRU", memory)
    assert build_memory(config()) is memory
    assert config().features == 4
    with pytest.raises(ValueError, match="agent.deter=4"):
        build_memory(config(features=8))


def test_environment_objects_and_names_make_the_same_environments():
    drift = Drift()
    made = [make_vector(env, 3) for env in ((drift, drift.default_params), Drift)]
    made.append(make_vector(made[0].unwrapped, 3))
    for venv in made:
        assert type(venv.unwrapped.env) is Drift and venv.num_envs == 3
        assert venv.observation_space == drift.observation_space(None)
    assert make_vector(made[0].unwrapped, 5).num_envs == 5
    with pytest.raises(ValueError, match="EpisodeStatistics handed over has 3 .*, and 5"):
        make_vector(made[0], 5)
    with pytest.raises(TypeError, match="takes n, so that it should make an ssmrl.envs.VectorEnv"):
        make_vector(lambda n: drift, 3)
    with pytest.raises(TypeError, match="needs a, b"):
        make_vector(lambda a, b: drift, 3)
    assert make_vector(lambda n: make_vector(drift, n), 4).num_envs == 4


def test_gymnasium_environments_are_objects_too():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1", max_episode_steps=3)
    for obj in (env, lambda: gymnasium.make("CartPole-v1", max_episode_steps=3)):
        venv = make_vector(obj, 2)
        assert venv.is_host and venv.num_envs == 2 and venv.name == "CartPole-v1"
        obs, state = venv.reset(jax.random.key(0))
        assert obs.shape == (2, 4) and (obs[0] != obs[1]).any()  # two of them, not one twice
        for _ in range(3):
            *_, truncated, _ = (out := venv.step(state, jnp.zeros(2, jnp.int32)))
            state = out[1]
        assert truncated.all()
        venv.close()
    with pytest.raises(ValueError, match="hand over a function, env=lambda"):
        make_vector(type("Bare", (gymnasium.Env,), {})(), 2)


@pytest.mark.filterwarnings("ignore:JAXopt is no longer:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")
def test_gymnax_and_brax_environments_are_objects_too():
    gymnax = pytest.importorskip("gymnax")
    pair = gymnax.make("CartPole-v1")
    venv = make_vector(pair, 2)
    expected = make_vector("gymnax/cartpole", 2)
    key = jax.random.key(0)
    np.testing.assert_array_equal(venv.reset(key)[0], expected.reset(key)[0])
    assert make_vector(pair[0], 2).observation_space == expected.observation_space
    pytest.importorskip("brax")
    import brax.envs

    wrapped = brax.envs.create("fast", episode_length=20, batch_size=4)
    venv = make_vector(wrapped, 2).unwrapped
    assert venv.params.episode_length == 20 and venv.num_envs == 2
    assert jax.eval_shape(venv.reset, key)[0].shape == (2, *venv.observation_space.shape)


def test_evaluations_do_not_step_the_environments_of_training(tmp_path):
    """A Python environment has one state: an evaluation would move it under the training's feet."""
    gymnasium = pytest.importorskip("gymnasium")
    from ssmrl.envs.adapters.gymnasium import HostVectorEnv

    venv = HostVectorEnv(lambda: gymnasium.make("CartPole-v1"), 3, name="mine")
    path = tmp_path / "run"
    with pytest.raises(ssmrl.UsageError, match="eval_every=24: evaluations would step the very"):
        ssmrl.train(
            env=venv, agent_options=PPO, eval_every=24, eval_episodes=3, run_dir=path, **QUIET
        )
    assert not path.exists()


@pytest.mark.parametrize(
    ("agent", "memory", "options", "changed"),
    [
        ("ppo", "gru", PPO, {"num_envs": 5}),
        ("pqn", "s5", PQN, {"num_envs": 5}),
        # Its replay would be read, and may be larger than memory.
        ("dreamer", "s5", DREAMER, {"num_envs": 4, "replay_capacity": 160}),
    ],
)
def test_a_trained_agent_acts_whatever_became_of_what_trained_it(
    agent, memory, options, changed, tmp_path
):
    """As when it was trained with other environments, or its state has changed since."""
    run = ssmrl.train(
        agent=agent,
        memory=memory,
        env="popgym/repeat_first_easy",
        agent_options=options,
        memory_options=small(agent),
        run_dir=tmp_path / "run",
        **QUIET,
    )

    def scores():
        record = run.evaluate(episodes=4, num_envs=2, greedy=False)
        return [record[name] for name in ("mean", "min", "max", "length")]

    before = scores()
    config = tmp_path / "run/config.yaml"
    record = yaml.safe_load(config.read_text())
    record["config"]["agent"] |= changed
    config.write_text(yaml.safe_dump(record))
    run = ssmrl.load(run.path)
    assert scores() == before
    with pytest.raises(ssmrl.RunError, match=r"of another architecture: \.(acting|replay)"):
        run.resume(total_steps=96, progress=False)
