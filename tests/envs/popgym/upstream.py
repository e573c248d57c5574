"""Episodes of the ``popgym`` package, written down, and ours from the same hidden state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs.adapters.popgym_original import FAMILIES, popgym_class
from tests.compiling import quick_jit

EPISODES = 20
MANY_EPISODES = 200
few_and_many = pytest.mark.parametrize(
    "episodes", [EPISODES, pytest.param(MANY_EPISODES, marks=pytest.mark.slow)]
)


def upstream(id_):
    """The package's environment, from our id."""
    family, _, difficulty = id_.rpartition("_")
    return popgym_class(f"{FAMILIES[family]}{difficulty.capitalize()}")()


def record(env, seed, hidden, choose):
    """One upstream episode: hidden states before each step, actions, and what came of them.

    Args:
        env: the package's environment.
        seed: of the episode and of ``choose``.
        hidden: what to note of ``env`` before each step.
        choose: takes a numpy generator and the time, gives an action.
    """
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    steps = {"obs": [obs], "hidden": [], "action": [], "reward": [], "terminated": []}
    steps["truncated"], done = [], False
    while not done:
        steps["hidden"].append(hidden(env))
        action = choose(rng, len(steps["action"]))
        obs, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        values = {"obs": obs, "action": action, "reward": reward, "terminated": terminated}
        for name, value in {**values, "truncated": truncated}.items():
            steps[name].append(value)
    return {name: np.array(values) for name, values in steps.items()}


def replay(env, params, state, actions):
    """Our episode from ``state``: obs, reward, terminated, truncated."""

    def body(state, action):
        out = env.step_env(jax.random.key(0), state, action, params)
        return out[1], (out[0], *out[2:5])

    return jax.lax.scan(body, state, actions)[1]


class Comparison:
    """Our environment ``id_`` beside the package's.

    Args:
        id_: without the suite.
        env, params: ours.
        longest: steps of the longest episode; all are padded to it, for one compilation.
    """

    def __init__(self, id_, env, params, longest):
        self.theirs, self.longest = upstream(id_), longest
        self.run = quick_jit(lambda state, actions: replay(env, params, state, actions))

    def play(self, seed, begin, choose):
        """Both play an episode, and agree step by step; what was written down of it.

        Args:
            seed: of the episode.
            begin: our first state, from the package's environment after its reset.
            choose: as in :func:`record`.
        """
        first = []

        def note(env):
            if not first:
                first.append(begin(env))

        episode = record(self.theirs, seed, note, choose)
        length = len(episode["action"])
        pad = [(0, self.longest - length)] + [(0, 0)] * (episode["action"].ndim - 1)
        actions = jnp.asarray(np.pad(episode["action"], pad), jnp.int32)
        obs, *others = self.run(first[0], actions)
        if isinstance(obs, tuple):
            obs = np.stack(obs, axis=-1)
        np.testing.assert_array_equal(obs[:length], episode["obs"][1:])
        for value, name in zip(others, ("reward", "terminated", "truncated"), strict=True):
            np.testing.assert_allclose(value[:length], episode[name], atol=1e-6, rtol=0)
        return episode
