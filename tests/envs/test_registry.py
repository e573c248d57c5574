"""Environments by name."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys

import pytest

import ssmrl.envs
from ssmrl.envs import UnknownEnvironmentError, canonical_name, list_envs, make, make_vector
from ssmrl.envs.registry import near_matches, unknown_environment
from tests.unchecked import unchecked


def test_import_is_cheap():
    code = (
        "import sys, ssmrl.envs; ssmrl.envs.list_envs();"
        "heavy = {'gymnax', 'brax', 'gymnasium', 'popgym', 'matplotlib', 'mujoco', 'distrax'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_listed():
    names = list_envs()
    assert names == sorted(set(names))
    suites = [name.split("/")[0] for name in names]
    counts = {suite: suites.count(suite) for suite in set(suites)}
    assert counts["popgym"] >= 9 and counts["popgym_original"] == 48
    # The standard maze and six variants: of five sizes, one of which is ours.
    assert counts["memory_maze"] == 7 * 5 and counts["memory_maze_original"] == 7 * 4
    assert counts["gymnax"] == 26 and counts["brax"] == 11
    for name in names:
        assert name == name.lower() and canonical_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "popgym/RepeatPreviousEasy",
        "popgym/repeat-previous-easy",
        "POPGym/repeatpreviouseasy",
        "popgym/Repeat Previous Easy",
    ],
)
def test_spelling_does_not_matter(name):
    assert canonical_name(name) == "popgym/repeat_previous_easy"
    env, params = make(name)
    assert (env.name, params.k, params.num_decks) == ("RepeatPreviousEasy", 4, 1)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("popgym/repeat_previos_easy", "popgym/repeat_previous_easy"),
        ("gymnax/cartpoel", "gymnax/cartpole"),
        ("brax/antt", "brax/ant"),
        ("popgim/repeat_first_hard", "popgym/repeat_first_hard"),
        ("gymnasium/CartPoel-v1", "gymnasium/CartPole-v1"),
        ("Memory-Maze", "memory_maze/7x7"),
    ],
)
def test_unknown_names_get_the_near_match(name, near):
    with pytest.raises(UnknownEnvironmentError) as caught:
        make_vector(name, 1)
    message = str(caught.value)
    assert repr(name) in message and f"did you mean {near!r}?" in message
    assert "list_envs()" in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        # A version speaks for gymnasium, whose ids have them.
        ("CartPole-v1", ["gymnasium/CartPole-v1", "gymnasium/CartPole-v0"]),
        ("Pendulum-v1", ["gymnasium/Pendulum-v1"]),
        ("cartpole", ["gymnax/cartpole"]),
        ("gymnax/CartPole", ["gymnax/cartpole"]),
        ("gymnax/cartpole_v0", ["gymnax/cartpole"]),
        # What only begins alike: ours before popgym's own, the easiest first.
        (
            "repeat_prev",
            [f"popgym/repeat_previous_{level}" for level in ("easy", "medium", "hard")],
        ),
        ("popgym/repeat_prev", ["popgym/repeat_previous_easy"]),
        ("popgym_original/repeat_prev", ["popgym_original/repeat_previous_easy"]),
        ("popgym/minesweeper", ["popgym/minesweeper_easy", "popgym/minesweeper_medium"]),
        ("RepeatPreviousHard", ["popgym/repeat_previous_hard"]),
        ("memory_len", ["bsuite/memory_len"]),
        ("bsuite/memory_lenght", ["bsuite/memory_len"]),
        ("half_cheeta", ["brax/half_cheetah"]),
        ("repeat_previos_easy", ["popgym/repeat_previous_easy"]),
        ("ant", ["brax/ant", "gymnasium/Ant-v"]),
    ],
)
def test_what_was_meant_most_likely_comes_first(name, near):
    pytest.importorskip("gymnasium")
    found = near_matches(name)
    assert len(found) <= 3
    for expected, candidate in zip(near, found, strict=False):
        assert candidate.startswith(expected) if expected.endswith("-v") else candidate == expected
    assert len(found) >= len(near)
    with pytest.raises(UnknownEnvironmentError, match=f"did you mean '{found[0]}'"):
        raise unknown_environment(name)


def test_near_matches_without_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert near_matches("CartPole-v1")[0] == "gymnax/cartpole"


@pytest.mark.parametrize(
    ("id_", "module", "package"),
    [
        ("ALE/Pong-v5", "ale_py", "ale-py"),
        ("PongNoFrameskip-v4", "ale_py", "ale-py"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
        ("FetchReach-v3", "gymnasium_robotics", "gymnasium-robotics"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_ids_that_another_package_registers(monkeypatch, id_, module, package, installed):
    found = importlib.machinery.ModuleSpec(module, None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UnknownEnvironmentError) as caught:
        make_vector(f"gymnasium/{id_}", 1)
    full = f"gymnasium/{module}:{id_}"
    if installed:
        expected = f"unknown environment 'gymnasium/{id_}'; did you mean {full!r}?"
    else:
        expected = f"gymnasium/{id_} is of the package {package}: pip install {package}, then"
        expected = f"{expected} {full!r}"
    assert str(caught.value) == expected


def test_a_module_that_is_not_installed_is_named():
    with pytest.raises(ImportError, match="No module named 'no_such_module'"):
        make_vector("gymnasium/no_such_module:Pong-v5", 1)


def test_a_name_that_is_near_nothing():
    with pytest.raises(UnknownEnvironmentError) as caught:
        make("zzzzqqqq")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["gymnasium/CartPole-v1", "popgym_original/RepeatFirstEasy"])
def test_python_environments_are_not_single_functions(name):
    with pytest.raises(ValueError, match="not a function of arrays"):
        make(name)


def test_parameters_are_options():
    _, params = make("popgym/repeat_previous_easy", k=8, num_decks=2)
    assert (params.k, params.num_decks) == (8, 2)
    with pytest.raises(ValueError, match="did you mean 'num_decks'"):
        make("popgym/repeat_previous_easy", num_deck=2)
    for options in ({"k": 52}, {"k": 0}):
        with pytest.raises(ValueError, match="1 <= k < 52"):
            make("popgym/repeat_previous_easy", **options)
    with pytest.raises(ValueError, match="at least one deck"):
        make("popgym/repeat_first_easy", num_decks=0)
    for value in (1.5, True, "2"):
        with pytest.raises(ValueError, match=f"needs an integer num_decks, got {value!r}"):
            make("popgym/repeat_first_easy", num_decks=value)
    with pytest.raises(ValueError, match="at least one step"):
        make("popgym/position_only_cartpole_easy", max_episode_length=0)
    with pytest.raises(ValueError, match="easy, medium, hard"):
        ssmrl.envs.popgym.RepeatFirst("simple")


def test_registering_takes_a_line(monkeypatch):
    from ssmrl.envs import registry

    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_ALIASES", dict(registry._ALIASES))
    ssmrl.envs.register("mine/thing_one", lambda: make("popgym/repeat_first_easy"))
    assert "mine/thing_one" in list_envs()
    assert make_vector("mine/ThingOne", 3).name == "mine/thing_one"
    with pytest.raises(ValueError, match="already registered"):
        ssmrl.envs.register("mine/ThingOne", lambda: None)
    with pytest.raises(ValueError, match="suite/id"):
        ssmrl.envs.register("thing", lambda: None)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("gymnax/cartpole", "gymnax", "gymnax"),
        ("brax/fast", "brax.envs", "brax"),
        ("gymnasium/CartPole-v1", "gymnasium", "gymnasium"),
        ("popgym_original/RepeatFirstEasy", "popgym.envs", "popgym"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "ssmrl\[{extra}\]"'):
        make_vector(name, 1)


@pytest.mark.parametrize("name", [5, ["popgym/repeat_first_easy"], None])
def test_what_is_no_name_is_refused(name):
    with unchecked(), pytest.raises(TypeError, match=re.escape(f"not {name!r}")):
        make(name)
    with unchecked(), pytest.raises(TypeError, match=re.escape(f"not {name!r}")):
        make("meta/repeated", env=name)
