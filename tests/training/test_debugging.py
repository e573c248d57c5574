"""How people debug programs in JAX: 64 bits, a stop at the first NaN, and no compiling at all.

Each through a whole small training: iterations with and without an episode's end, an evaluation,
and a checkpoint that is read back.
"""

import jax
import numpy as np
import pytest

from ssmrl.agents import agent_config, make_agent
from ssmrl.envs import EpisodeStatistics, spaces
from ssmrl.memory import memory_config
from ssmrl.training import evaluation
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.config import EnvConfig, LoggerConfig, TrainConfig
from ssmrl.training.evaluation import Evaluator
from ssmrl.training.loop import abstract_state, train
from ssmrl.training.run import RunFolder, read_metrics
from tests.agents.scripted import Scripted, flags

MODES = {
    "jax_enable_x64": lambda: jax.enable_x64(True),
    "jax_debug_nans": lambda: jax.debug_nans(True),
    "jax_disable_jit": jax.disable_jit,
}
AGENTS = {
    "ppo": {"minibatches": 1, "epochs": 1, "encoder": [3], "actor": [3], "critic": [3]},
    "pqn": {"minibatches": 1, "epochs": 1, "encoder": [3], "critic": [3]},
    "dreamer": {
        "size": "pico",
        "deter": 4,
        "batch_size": 2,
        "batch_length": 2,
        "train_ratio": 1.0,
        "replay_capacity": 20,
        "imagination_length": 2,
        "bins": 5,
    },
}


def types(tree):
    """Shapes and types by path, but for the replay buffer's own index, which has JAX's default."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}
    return {path: kind for path, kind in named.items() if not path.endswith("current_index")}


def small_agent(name, action_space=None):
    """Of two environments that end their episodes in steps 3 and 4, the second iteration."""
    env = EpisodeStatistics(Scripted(*flags(["..E.", "...U"]), action_space=action_space))
    config = agent_config(name)(num_envs=2, rollout_length=2, **AGENTS[name])
    memory = memory_config("gru")(**({} if name == "dreamer" else {"features": 3}))
    return make_agent(config, memory, env, total_steps=8), config, memory


@pytest.mark.parametrize("name", AGENTS)
def test_agents_keep_their_types_where_64_bits_are_allowed(name):
    """An iteration that changed a type could not be repeated, and a state of 64 bits would not be
    restored from a checkpoint of a run without."""
    several = spaces.MultiDiscrete([2, 3]) if name == "pqn" else spaces.Box(-1.0, 1.0, (2,))
    agent, *_ = small_agent(name, several)
    with jax.enable_x64(True):
        before = jax.eval_shape(agent.init, jax.random.key(0))
        after, _ = jax.eval_shape(agent.iteration, before)
    without = jax.eval_shape(agent.init, jax.random.key(0))
    assert types(after) == types(before) == types(without)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        pytest.param(
            *(mode, name),
            marks=[pytest.mark.slow] if name == "dreamer" or mode == "jax_disable_jit" else [],
        )
        for mode in MODES
        for name in AGENTS
    ],
)
def test_training_under(mode, name, record, monkeypatch):
    monkeypatch.setattr(evaluation, "_CHUNK", 4)
    agent, agent_options, memory = small_agent(name)
    config = TrainConfig(
        agent=agent_options,
        memory=memory,
        env=EnvConfig("scripted"),
        logger=LoggerConfig(),
        total_steps=8,
        checkpoint_every=4,
        eval_every=8,
    )
    run = RunFolder("runs/debugging")
    run.create({})
    with MODES[mode]():
        evaluator = Evaluator(agent, agent.env, episodes=2)

        def evaluate(state, step, **options):
            played = evaluator(state, jax.random.key(step), **options)
            return {"eval/length": played.lengths.tolist()}

        result = train(agent, config, run, reporter=record, evaluate=evaluate)
        saved = Checkpointer(run.checkpoints, read_only=True)
        restored, step, _ = saved.restore(abstract_state(agent, config.seed, 1))
        saved.close()
    assert step == result.step == 8
    for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(result.state), strict=True):
        assert x.dtype == y.dtype
    first, second, evaluated = read_metrics(run.metrics)
    assert first["episodes"] == 0 and "episode_return" not in first
    assert second["episodes"] == 2 and np.isfinite(second["episode_return"])
    assert second["episode_length"] == 3.5
    assert evaluated["eval/length"] == [3, 4]
    assert np.isfinite(second["loss/total"]) and second["loss/total"] != 0
