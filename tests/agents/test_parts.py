"""Which leaves of an agent's state go with which part of it (``init_from``)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents import agent_config, make_agent
from ssmrl.envs import make_vector
from ssmrl.memory import memory_config
from ssmrl.training.agent import LeanAgent, TransferableAgent

SMALL = {
    "ppo": {"encoder": [8], "actor": [8], "critic": [8], "minibatches": 1},
    "pqn": {"encoder": [8], "critic": [8], "minibatches": 1},
    "dreamer": {},
}
NET, WORLD = ".params['params']", ".params['world']['params']"
# The leaves of each part, by how their paths begin.
PARTS = {
    "ppo": {
        "encoder": (f"{NET}['ObservationEncoder_0']", ".normalizers.observation"),
        "memory": (f"{NET}['memory']",),
        "actor": (f"{NET}['actor']", f"{NET}['log_std']"),
        "critic": (
            f"{NET}['critic']",
            ".normalizers.value",
            ".normalizers.discounted_return",
        ),
    },
    "pqn": {
        "encoder": (f"{NET}['ObservationEncoder_0']", ".normalizers.observation"),
        "memory": (f"{NET}['memory']",),
        "critic": (f"{NET}['critic']", ".normalizers.discounted_return"),
    },
    "dreamer": {
        name: (f"{WORLD}['{name}']",)
        for name in (
            *("encoder", "decoder", "input", "memory"),
            *("posterior", "prior", "reward", "going_on"),
        )
    }
    | {
        "actor": (".params['actor']",),
        "critic": (".params['critic']", ".slow_critic", ".returns"),
    },
}
# What stays the new agent's own whatever is taken over.
OWN = {
    "ppo": (".optimizer", ".acting", ".iteration", ".normalizers.advantage"),
    "pqn": (".optimizer", ".acting", ".iteration"),
    "dreamer": (".optimizer", ".acting", ".replay", ".key"),
}
# What `act` and `parts` do without.
TRAINING = {
    "ppo": (".optimizer", ".acting", ".normalizers.advantage"),
    "pqn": (".optimizer", ".acting"),
    "dreamer": (".optimizer", ".acting", ".replay", ".key"),
}


@pytest.fixture(scope="module", params=list(SMALL))
def agent(request):
    name = request.param
    # Observations of real numbers, and actions that have a deviation where the agent can do them.
    name_of_env = "cartpole" if name == "pqn" else "pendulum"
    env = make_vector(f"popgym/position_only_{name_of_env}_easy", 2)
    config = agent_config(name)(num_envs=2, **SMALL[name])
    memory = memory_config("gru")()
    made = make_agent(config, memory, env, total_steps=1000, skip_nonfinite=False)
    return name, made, jax.eval_shape(made.init, jax.random.key(0))


def named(state, label):
    """The state with every leaf replaced by whose it is and where."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: f"{label} {jax.tree_util.keystr(path)}", state
    )


def owners(state):
    """Where a leaf is: whose it is. Leaves never change places."""
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    assert all(leaf.split(" ", 1)[1] == jax.tree_util.keystr(path) for path, leaf in flat)
    return {jax.tree_util.keystr(path): leaf.split(" ", 1)[0] for path, leaf in flat}


def test_all_that_was_learned_is_part_of_something(agent):
    name, made, state = agent
    assert isinstance(made, TransferableAgent)
    old, new = named(state, "old"), named(state, "new")
    assert set(made.parts(old)) == set(PARTS[name])
    for path, owner in owners(made.with_parts(new, made.parts(old))).items():
        assert owner == ("new" if path.startswith(OWN[name]) else "old"), path


def test_a_part_comes_with_what_belongs_to_it_and_no_more(agent):
    name, made, state = agent
    old, new = named(state, "old"), named(state, "new")
    for part, prefixes in PARTS[name].items():
        mixed = owners(made.with_parts(new, {part: made.parts(old)[part]}))
        taken = {path for path, owner in mixed.items() if owner == "old"}
        assert taken == {path for path in mixed if path.startswith(prefixes)}
        for prefix in prefixes:
            assert any(path.startswith(prefix) for path in taken), prefix


def test_for_acting_there_is_all_but_what_training_alone_needs(agent):
    name, made, state = agent
    assert isinstance(made, LeanAgent)
    whole = owners(named(state, "old"))
    kept = owners(made.for_acting(named(state, "old")))
    assert kept == {path: w for path, w in whole.items() if not path.startswith(TRAINING[name])}


def test_for_acting_and_for_handing_over_nothing_else_is_needed(agent):
    """At the beginning of training: PQN's share of random actions is not that of the end."""
    _, made, _ = agent
    state = jax.jit(made.init)(jax.random.key(0))
    lean = made.for_acting(state)
    carry = made.initialize_carry(50)
    space = made.env.observation_space
    observation = jax.vmap(space.sample)(jax.random.split(jax.random.key(1), 50))
    reset, key = jnp.ones(50, bool), jax.random.key(2)
    for greedy in (True, False):
        acts = [made.act(s, carry, observation, reset, key, greedy=greedy) for s in (state, lean)]
        assert_equal(*acts)
    assert_equal(made.parts(state), made.parts(lean))


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
