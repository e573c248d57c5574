"""A policy answers as the agent does in its training environment, in numpy and from its file."""

import subprocess
import sys
from functools import cache

import jax
import numpy as np
import pytest

from ssmrl.envs.adapters.gymnasium import HostVectorEnv
from ssmrl.envs.spaces import Box, Dict
from ssmrl.envs.wrappers import EpisodeStatistics
from ssmrl.memory import list_memories
from ssmrl.policy import Policy, _as_batch
from ssmrl.training import streams
from tests.api.small import make, observations
from tests.unchecked import unchecked

EXTRAS = {"previous_action": True, "previous_reward": True, "first_flag": True}
QUICK = ("gru", "s5", "transformer")

make = cache(make)


def at(tree, t):
    return jax.tree.map(lambda x: np.asarray(x)[t], tree)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("agent", ["ppo", "pqn", "dreamer"])
def test_a_policy_acts_as_the_agent_does_among_its_wrappers(agent, greedy):
    """The policy sees the bare observations and rewards; the agent all that training gives it."""
    agent, state, venv = make(agent, "gru", **({} if agent == "dreamer" else EXTRAS))
    policy = Policy(agent, state, venv, num_envs=3, greedy=greedy, seed=4)
    step, act = jax.jit(venv.step), jax.jit(agent.act, static_argnames="greedy")
    obs, env_state = venv.reset(jax.random.key(2))
    carry, reset, reward = agent.initialize_carry(3), np.ones(3, bool), np.zeros(3, np.float32)
    ends = 0
    for t in range(12):
        bare = obs["observation"] if policy.needs_reward else obs
        acted = policy(jax.tree.map(np.asarray, bare), reset=reset, reward=np.asarray(reward))
        key = jax.random.fold_in(streams.acting_key(4), t)
        carry, expected = act(state, carry, obs, reset, key, greedy=greedy)
        np.testing.assert_allclose(acted, expected, atol=1e-6)
        obs, env_state, reward, terminated, truncated, _ = step(env_state, expected)
        reset = np.asarray(terminated | truncated)
        ends += reset.sum()
    assert ends == 6  # two episodes of five steps in each


def test_rewards_and_previous_actions_reach_the_agent():
    """What the test above compares would be equal, too, if nobody read the extras."""
    # Without a memory, the extras are all that is left of the past.
    policy = Policy(*make("ppo", "none", **EXTRAS), num_envs=3)
    seen, _ = observations(2, 3)
    other, _ = observations(1, 3, seed=1)

    def second_action(first, reward):
        policy(at(first, 0), reset=True)
        return policy(at(seen, 1), reward=np.full(3, reward))

    expected = second_action(seen, 0.0)
    np.testing.assert_array_equal(second_action(seen, 0.0), expected)
    assert np.abs(second_action(seen, 5.0) - expected).max() > 1e-3
    assert np.abs(second_action(other, 0.0) - expected).max() > 1e-4


def test_one_environment_has_no_batch_axis():
    batched = Policy(*make("ppo", "gru"), num_envs=3)
    single = Policy(*make("ppo", "gru"))
    seen, _ = observations(4, 3)
    for t in range(4):
        expected = batched(at(seen, t))[1]
        action = single(at(at(seen, t), 1))
        assert action.shape == (2,) and action.dtype == np.float32
        np.testing.assert_allclose(action, expected, atol=1e-6)
        action[:] = 0  # the caller's to write to


def test_resets_begin_episodes_where_they_are_asked_for():
    seen, _ = observations(3, 3)

    def play(reset=None, call=None):
        policy = Policy(*make("ppo", "gru"), num_envs=3)
        for t in range(2):
            policy(at(seen, t))
        if call is not None:
            policy.reset(*call)
        return policy(at(seen, 2), reset=reset)

    fresh = Policy(*make("ppo", "gru"), num_envs=3)(at(seen, 2))
    on = play()
    assert (np.abs(fresh - on).max(1) > 1e-4).all()
    for action in (play(reset=True), play(call=())):
        np.testing.assert_array_equal(action, fresh)
    for action in (play(reset=np.array([False, True, False])), play(call=(1,))):
        np.testing.assert_array_equal(action, np.stack([on[0], fresh[1], on[2]]))


def test_a_refused_call_can_be_made_again():
    policy, other = (Policy(*make("ppo", "gru"), num_envs=3) for _ in range(2))
    seen, _ = observations(2, 3)
    with pytest.raises(ValueError, match="position"):
        policy({**at(seen, 0), "position": np.zeros(2)})
    for t in range(2):
        np.testing.assert_array_equal(policy(at(seen, t)), other(at(seen, t)))


GOOD = {"position": np.zeros(2), "side": 1}
WRONG = [
    ({"side": 1}, r"observation must be a dict of \['position', 'side'\], got keys \['side'\]"),
    ([1, 2], "observation must be a dict of .*, got a list of 2"),
    ({**GOOD, "position": np.zeros(3)}, r"\['position'\] must be float32\[2\], got float64\[3\]"),
    ({**GOOD, "position": np.zeros((1, 2))}, r"got float64\[1, 2\]; .*without a batch axis"),
    ({**GOOD, "position": ["a", "b"]}, r"\['position'\] must be float32\[2\]"),
    ({**GOOD, "position": [[0], [1, 2]]}, r"\['position'\] must be float32\[2\], got object"),
    ({**GOOD, "position": [0, np.nan]}, r"\['position'\]\[1\] must be finite, got nan"),
    ({**GOOD, "position": [0, 1e300]}, r"\['position'\]\[1\] must be finite, got inf"),
    ({**GOOD, "side": 2}, r"\['side'\] must be in 0 … 1, got 2"),
    ({**GOOD, "side": -1}, r"\['side'\] must be in 0 … 1, got -1"),
    ({**GOOD, "side": 2**32}, r"\['side'\] must be an element of Discrete\(2\), got 4294967296"),
    ({**GOOD, "side": 0.5}, r"\['side'\] must be int32\[\], got float64\[\]"),
]


@pytest.mark.parametrize(("observation", "message"), WRONG)
def test_a_wrong_observation_is_named(observation, message):
    with pytest.raises(ValueError, match=message) as error:
        Policy(*make("ppo", "gru"))(observation)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_part_of_no_numbers_and_one_of_truth_values(batch):
    space = Dict({"nothing": Box(0, 1, (0,)), "truth": Box(0, 1, (2,), bool)})
    value = {"nothing": np.zeros((*batch, 0)), "truth": np.ones((*batch, 2), int)}
    taken = _as_batch(space, value, batch, "observation")
    assert taken["nothing"].shape == (*batch, 0)
    assert taken["truth"].dtype == bool and taken["truth"].all()
    for wrong, message in ((0.5, r"must be bool\[.*got float64"), (2, "element of Box.*got 2")):
        with pytest.raises(ValueError, match=message):
            _as_batch(space, value | {"truth": np.full((*batch, 2), wrong)}, batch, "observation")


def test_batches_flags_and_rewards_are_checked():
    policy = Policy(*make("ppo", "gru", **EXTRAS), num_envs=3)
    seen, _ = observations(1, 3)
    with pytest.raises(ValueError, match="num_envs=3 takes one for each environment"):
        policy(at(at(seen, 0), 0))
    with pytest.raises(ValueError, match="this policy was made with num_envs=3"):
        policy(at(jax.tree.map(lambda x: x[:, :2], seen), 0))
    with pytest.raises(ValueError, match=r"reset must be True, False or bool\[3\], got int64"):
        policy(at(seen, 0), reset=[0, 1, 0])
    policy(at(seen, 0))
    with pytest.raises(ValueError, match="reads the previous reward"):
        policy(at(seen, 0))
    with pytest.raises(ValueError, match=r"reward must be float32\[3\], got float64\[\]"):
        policy(at(seen, 0), reward=1.0)
    policy(at(seen, 0), reset=True)  # no reward led here
    with pytest.raises(ValueError, match="num_envs=0"):
        Policy(*make("ppo", "gru"), num_envs=0)


def test_a_policy_keeps_nothing_but_what_acting_reads():
    agent, state, venv = make("dreamer", "gru")
    kept = {id(leaf) for leaf in Policy(agent, state, venv)._leaves}
    assert kept < {id(leaf) for leaf in jax.tree.leaves(state.params)}
    assert kept & {id(leaf) for leaf in jax.tree.leaves(state.params["actor"])}
    assert not kept & {id(leaf) for leaf in jax.tree.leaves(state.params["critic"])}


def test_values_are_those_of_the_environments_own_package():
    """gymnasium's discrete values may begin anywhere; ours begin at 0."""
    gymnasium = pytest.importorskip("gymnasium")

    class Shifted(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(3, start=-1)
        action_space = gymnasium.spaces.Discrete(2, start=7)

    class Copy:
        """Acts as it sees, but 0 for 2."""

        steps_per_iteration = 1

        def init(self, key):
            return {}

        def iteration(self, state):
            return state, {}

        def initialize_carry(self, batch_size):
            return ()

        def act(self, state, carry, observation, reset, key, *, greedy):
            return carry, observation % 2

    venv = EpisodeStatistics(HostVectorEnv(Shifted, 1, name="shifted"))
    policy = Policy(Copy(), {}, venv)
    assert [int(policy(np.int64(x))) for x in (-1, 0, 1)] == [7, 8, 7]
    with pytest.raises(ValueError, match="0 … 2, got 3"):
        policy(2)


# ---------------------------------------------------------------------------------- its file


def program_of(policy):
    # Sizes are symbols there, and no integers to the annotations.
    with unchecked():
        return policy.program()


def play_program(program, seen, reset):
    """Actions [T, B, ...] of an exported program."""
    (_, _, carry, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    batch = reset.shape[1]
    carry = jax.tree.map(lambda x: np.zeros((batch, *x.shape[1:]), x.dtype), carry)
    step, actions = jax.jit(program.call), []
    for t in range(len(reset)):
        action, carry = step(at(seen, t), reset[t], carry)
        actions.append(np.asarray(action))
    return np.stack(actions)


def check_agreement(agent, memory):
    agent, state, venv = make(agent, memory)
    seen, reset = observations(200, 3)
    policy = Policy(agent, state, venv, num_envs=3)
    expected = np.stack([policy(at(seen, t), reset=reset[t]) for t in range(len(reset))])
    assert expected.std() > 0.05  # or anything would agree
    actual = play_program(program_of(policy), seen, reset)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", QUICK)
def test_a_program_agrees_with_its_policy(memory):
    check_agreement("ppo", memory)


def test_a_program_of_pqn_agrees_with_its_policy():
    check_agreement("pqn", "gru")


@pytest.mark.slow
@pytest.mark.parametrize("memory", sorted(set(list_memories()) - set(QUICK)))
def test_every_memorys_program_agrees_with_its_policy(memory):
    check_agreement("ppo", memory)


@pytest.mark.slow
@pytest.mark.parametrize("memory", QUICK)
def test_a_world_models_program_agrees_with_its_policy(memory):
    check_agreement("dreamer", memory)


def test_a_program_takes_any_batch_and_is_for_cpu_and_cuda():
    policy = Policy(*make("ppo", "gru"), num_envs=3)
    program = program_of(policy)
    assert program.platforms == ("cpu", "cuda")
    seen, reset = observations(6, 3)
    three = play_program(program, seen, reset)
    one = play_program(program, jax.tree.map(lambda x: x[:, 1:2], seen), reset[:, 1:2])
    np.testing.assert_allclose(one[:, 0], three[:, 1], rtol=0, atol=1e-6)


def test_a_sampling_program_takes_a_key_and_the_reward():
    policy = Policy(*make("ppo", "gru", **EXTRAS), num_envs=3, greedy=False, seed=3)
    program = program_of(policy)
    (_, _, carry, key), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    assert key.shape == (2,)
    carry = jax.tree.map(lambda x: np.zeros((3, *x.shape[1:]), x.dtype), carry)
    seen, reset = observations(5, 3)
    reward = np.arange(15, dtype=np.float32).reshape(5, 3)
    for t in range(5):
        key = np.asarray(jax.random.key_data(jax.random.fold_in(streams.acting_key(3), t)))
        inputs = {"observation": at(seen, t), "reward": reward[t]}
        action, carry = program.call(inputs, reset[t], carry, key)
        expected = policy(at(seen, t), reset=reset[t], reward=reward[t])
        np.testing.assert_allclose(action, expected, rtol=0, atol=1e-6)


WITH_JAX_ALONE = """
import sys
from pathlib import Path
import jax, numpy as np

step = jax.export.deserialize(bytearray(Path("policy.stablehlo").read_bytes()))
(_, _, carry), _ = jax.tree.unflatten(step.in_tree, step.in_avals)
carry = jax.tree.map(lambda x: np.zeros((3, *x.shape[1:]), x.dtype), carry)
seen = np.load("seen.npz")
actions = []
for position, side, reset in zip(seen["position"], seen["side"], seen["reset"]):
    action, carry = step.call({"position": position, "side": side}, reset, carry)
    actions.append(np.asarray(action))
np.save("actions.npy", np.stack(actions))
assert not [name for name in sys.modules if name.startswith(("ssmrl", "flax"))]
"""


def test_a_file_runs_with_jax_alone_in_another_process(tmp_path):
    pytest.importorskip("flatbuffers")
    agent, state, venv = make("ppo", "s5")
    policy = Policy(agent, state, venv, num_envs=3)
    with unchecked():
        path = policy.export(tmp_path / "policy.stablehlo")
    assert path == tmp_path / "policy.stablehlo"
    seen, reset = observations(200, 3)
    np.savez(tmp_path / "seen.npz", reset=reset, **seen)
    subprocess.run([sys.executable, "-c", WITH_JAX_ALONE], cwd=tmp_path, check=True)
    expected = np.stack([policy(at(seen, t), reset=reset[t]) for t in range(len(reset))])
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), expected, rtol=0, atol=1e-6)


def test_a_file_that_cannot_be_written_is_a_line(tmp_path, monkeypatch):
    from ssmrl.training.errors import RunError

    policy = Policy(*make("ppo", "gru"))

    class Program:
        def serialize(self):
            return b""

    monkeypatch.setattr(policy, "program", lambda platforms: Program())
    with pytest.raises(RunError, match="cannot write .*absent.*No such file"):
        policy.export(tmp_path / "absent" / "policy.stablehlo")
