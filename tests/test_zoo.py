"""Agents without their training: packed, unpacked, played, begun from; and those shipped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ssmrl
from ssmrl import cli, zoo
from ssmrl.training.exported import PARAMETERS, export_agent, is_exported
from ssmrl.training.run import RunFolder
from tests.api.small import PPO, PQN
from tests.unchecked import unchecked

QUIET = {"progress": False, "total_steps": 24, "checkpoint_every": 0}
NAME = "popgym/repeat_first_easy-gru"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An iteration of PPO with two seeds."""
    return ssmrl.train(
        agent="ppo",
        memory="gru",
        env="popgym/repeat_first_easy",
        agent_options=PPO | {"normalize_values": True},
        memory_options={"features": 4, "layers": 1},
        env_options={"previous_action": True},
        run_dir=tmp_path_factory.mktemp("runs") / "run",
        seeds=2,
        **QUIET,
    )


@pytest.fixture(scope="module")
def agents(run, tmp_path_factory):
    """A zoo of its own with the second seed of that run."""
    agents = tmp_path_factory.mktemp("agents")
    zoo.pack(run.path, NAME, seed_index=1, episodes=4, agents=agents)
    return agents


@pytest.fixture
def own_zoo(agents, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "AGENTS", agents)
    monkeypatch.chdir(tmp_path)
    return agents


def actions(run, greedy=False, **options):
    with unchecked():
        policy = run.policy(num_envs=5, greedy=greedy, seed=3, **options)
        draw = np.random.default_rng(0)
        return [policy(draw.integers(0, 4, 5), reset=np.arange(5) == t) for t in range(8)]


def test_an_unpacked_agent_acts_as_the_seed_that_it_was(run, own_zoo):
    loaded = ssmrl.load(f"zoo:{NAME}")
    assert loaded.path == Path("runs/zoo/popgym.repeat_first_easy-gru")
    np.testing.assert_array_equal(actions(loaded), actions(run, seed_index=1))
    assert (np.array(actions(loaded)) != actions(run, seed_index=0)).any()


def test_it_has_what_was_learned_and_nothing_else(run, own_zoo):
    from ssmrl.experiment import load_run

    whole, packed = load_run(run.path), load_run(own_zoo / NAME)
    parts = packed.agent.parts(packed.state)
    want = whole.agent.parts(whole.seed_state(1))
    assert ssmrl_leaves(parts).keys() == ssmrl_leaves(want).keys()
    for name, leaf in ssmrl_leaves(want).items():
        np.testing.assert_array_equal(ssmrl_leaves(parts)[name], leaf)
    assert packed.step == whole.step == 24
    files = {path.name for path in (own_zoo / NAME).iterdir()}
    assert files == {"config.yaml", PARAMETERS, "eval.json"}


def ssmrl_leaves(parts):
    from ssmrl.training.exported import _named

    return dict(_named(parts))


def test_its_record_says_how_it_was_made_and_no_place(run, own_zoo):
    record = RunFolder(own_zoo / NAME).record()
    config = record["config"]
    assert (config["seed"], config["seeds"], config["run_dir"]) == (1, 1, None)
    # What was asked for stands first, and nothing is gone on with.
    assert next(iter(record)) == "config" and config["resume"] is False
    assert record["command"] == ["ssmrl", "train", *record["overrides"]]
    assert "memory='gru'" in record["overrides"] or "memory=gru" in record["overrides"]
    for file in ("config.yaml", "eval.json"):
        assert str(run.path.parent) not in (own_zoo / NAME / file).read_text()
    (evaluation,) = json.loads((own_zoo / NAME / "eval.json").read_text())
    assert evaluation["run"] == f"zoo:{NAME}" and evaluation["greedy"]
    assert evaluation["episodes"] == 4 and evaluation["step"] == 24
    (row,) = zoo.table()
    assert row["memory"] == "gru" and row["mean"] == evaluation["mean"]


def test_its_scores_can_be_had_again_from_the_command_line(own_zoo, capsys):
    assert cli.main(["evaluate", f"run=zoo:{NAME}", "episodes=4"]) == 0
    file = Path("runs/zoo/popgym.repeat_first_easy-gru/eval.json")
    packed, again = json.loads(file.read_text())
    assert {**packed, "date": 0, "run": 0} == {**again, "date": 0, "run": 0}
    # What was evaluated here stays where the agent is unpacked once more.
    zoo.unpack(NAME)
    assert len(json.loads(file.read_text())) == 2
    assert len(json.loads((own_zoo / NAME / "eval.json").read_text())) == 1


def test_scores_elsewhere_are_added_to_its_own(own_zoo):
    pytest.importorskip("popgym")
    assert zoo.table()[0]["original"] is None
    file = own_zoo / NAME / "eval.json"
    before = json.loads(file.read_text())
    try:
        zoo.evaluate(NAME, "popgym_original/repeat_first_easy", episodes=2, agents=own_zoo)
        records = json.loads(file.read_text())
        # A line for each, and the first is still that of the environment it was trained in.
        assert records[:-1] == before and len(file.read_text().splitlines()) == len(records) == 2
        assert records[-1]["env"] == "popgym_original/repeat_first_easy"
        (row,) = zoo.table()
        assert row["mean"] == before[0]["mean"] and row["original"] == records[-1]
    finally:
        file.write_text(json.dumps(before))


def test_a_training_can_begin_with_it_but_not_go_on(own_zoo, capsys):
    options = [f"agent.{key}={value}".replace(" ", "") for key, value in PPO.items()]
    arguments = [*options, "memory=gru", "memory.features=4", "memory.layers=1", "total_steps=24"]
    arguments += ["env=popgym/repeat_first_easy", "init_parts=[memory]", "run_dir=runs/new"]
    arguments += ["env.previous_action=true"]
    assert cli.main(["train", *arguments, f"init_from=zoo:{NAME}"]) == 0
    assert "loaded: memory (" in capsys.readouterr().out
    unpacked = zoo.unpack(NAME)
    assert cli.main(["train", f"run={unpacked}"]) == 1
    assert "an agent without its training, which cannot go on" in capsys.readouterr().err
    with pytest.raises(ssmrl.RunError, match="of step 24 alone"):
        ssmrl.load(unpacked).policy(step=7)


def test_an_unknown_agent_is_told_its_near_match(own_zoo, capsys):
    with pytest.raises(ssmrl.UsageError, match=f"did you mean zoo:{NAME}?"):
        ssmrl.load("zoo:popgym/repeat_first_easy-gruu")
    assert cli.main(["evaluate", "run=zoo:nothing"]) == 2
    assert f"available: {NAME}" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["another width", "no file", "absent", "code"])
def test_a_file_that_does_not_fit_is_one_line(own_zoo, tmp_path, how):
    folder = tmp_path / "damaged"
    shutil.copytree(own_zoo / NAME, folder)
    file = folder / PARAMETERS
    arrays = dict(np.load(file))
    name = next(name for name in arrays if name.startswith("actor/"))
    if how == "another width":
        np.savez(file, **{**arrays, name: np.zeros(3, np.float32)})
        expected = rf"{name} is float32\[3\] there and float32\["
    elif how == "absent":
        np.savez(file, **{key: value for key, value in arrays.items() if key != name})
        expected = f"{name} is absent there"
    elif how == "code":
        np.savez(file, **{**arrays, name: np.array([Path], object)})  # A pickle, which may be any.
        expected = "cannot be read: .*allow_pickle=False"
    else:
        file.write_text("no zip file")
        expected = "cannot be read"
    with pytest.raises(ssmrl.RunError, match=expected):
        ssmrl.load(folder).policy()


def test_what_cannot_be_packed_leaves_nothing(run, agents, tmp_path, monkeypatch):
    place = tmp_path / "agents"
    with pytest.raises(ssmrl.UsageError, match="the run has seeds 0 to 1"):
        zoo.pack(run.path, NAME, seed_index=2, agents=place)
    with pytest.raises(ssmrl.RunError, match="exists: remove it first"):
        zoo.pack(run.path, NAME, agents=agents)
    assert is_exported(agents / NAME)
    monkeypatch.setattr(zoo, "LIMIT", 100)
    with pytest.raises(ssmrl.RunError, match="the zoo would have"):
        zoo.pack(run.path, NAME, episodes=4, agents=place)
    assert not (place / NAME).exists()


def test_what_needs_more_than_the_library_is_refused(run, tmp_path):
    from ssmrl.experiment import load_run

    loaded, record = load_run(run.path), RunFolder(run.path).record()
    state = loaded.seed_state(0)
    own = {**record["config"], "env": {"name": "own.Mine"}}
    for changed in (record | {"imports": ["my_module"]}, record | {"config": own}):
        with pytest.raises(ssmrl.RunError, match="what is not in the library"):
            export_agent(loaded.agent, state, 24, changed, 0, tmp_path / "a")
    with pytest.raises(ssmrl.RunError, match="has no parts to hand over"):
        export_agent(object(), state, 24, record, 0, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_is_read_is_what_was_learned(run, own_zoo):
    """Bit for bit; and of the state nothing else, which only training needs."""
    from ssmrl.experiment import load_run

    trained, packed = load_run(run.path, whole=True), load_run(own_zoo / NAME)
    assert packed.step == trained.step == 24
    before, after = trained.seed_state(1), packed.seed_state(0)
    leaves = jax_leaves(before)
    for part in (".optimizer", ".acting"):  # it is whole
        assert any(name.startswith(part) for name in leaves)
    for name, leaf in jax_leaves(after).items():
        assert name.startswith((".params", ".normalizers"))
        assert leaves[name].tobytes() == leaf.tobytes()
    assert jax_leaves(before.params).keys() == jax_leaves(after.params).keys()


def test_who_explores_less_and_less_does_so_as_at_the_end(tmp_path, monkeypatch):
    """PQN's share of random actions falls over training, of which a packed agent knows nothing."""
    monkeypatch.setattr(zoo, "AGENTS", tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    run = ssmrl.train(
        agent="pqn",
        memory="gru",
        env="popgym/repeat_first_easy",
        agent_options=PQN | {"epsilon": 1.0, "epsilon_final": 0.5},
        memory_options={"features": 4, "layers": 1},
        run_dir=tmp_path / "run",
        **QUIET | {"total_steps": 48},
    )
    name = "popgym/repeat_first_easy-pqn"
    zoo.pack(run.path, name, episodes=4, agents=tmp_path / "zoo")
    packed = ssmrl.load(f"zoo:{name}")
    before, after = actions(run), actions(packed)
    np.testing.assert_array_equal(before, after)
    # Were it at its beginning, nothing of the network would be left in them.
    assert (np.asarray(after) == actions(packed, greedy=True)).mean() > 0.4


def jax_leaves(tree):
    import jax

    from ssmrl.training.checkpoint import to_host

    flat = jax.tree_util.tree_flatten_with_path(to_host(tree))[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


# ------------------------------------------------------------------------- what is shipped


def test_the_zoo_is_small_and_names_no_machine():
    assert zoo.names() and zoo.size() <= zoo.LIMIT
    for name in zoo.names():
        folder = zoo.AGENTS / name
        assert {path.name for path in folder.iterdir()} == {"config.yaml", PARAMETERS, "eval.json"}
        # Returns by trial are many numbers: on a line of their own each, they were 3,000 lines.
        assert len((folder / "eval.json").read_text().splitlines()) <= 2
        for file in ("config.yaml", "eval.json"):
            text = (folder / file).read_text()
            assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/work/"))


def shipped():
    """Of each suite, agent and memory the first is among the fast tests."""
    met = set()
    for row in zoo.table():
        kind = (row["env"].partition("/")[0], row["agent"], row["memory"])
        yield pytest.param(row, id=row["name"], marks=[pytest.mark.slow] if kind in met else [])
        met.add(kind)


@pytest.mark.parametrize("row", list(shipped()))
def test_a_shipped_agent_is_as_good_as_it_says(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    low, high = row["interval"]
    result = ssmrl.load(f"zoo:{row['name']}").evaluate(episodes=32, seed=1)
    margin = 3 * (high - low) * (row["episodes"] / 32) ** 0.5 + 1e-3
    if low == high:  # No episode went wrong for the table: fewer than 1 in 80 do, so that one may.
        margin += 2 / 32  # from 1 to -1
    assert low - margin <= result["mean"] <= high + margin
