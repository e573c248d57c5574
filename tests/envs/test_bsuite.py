"""bsuite's environments and scores against tables, and against the package if it is installed."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.bsuite import EXPERIMENTS
from ssmrl.envs.bsuite.discounting_chain import EnvState as DiscountingState
from ssmrl.envs.bsuite.memory_chain import EnvState as MemoryState
from ssmrl.envs.bsuite.umbrella_chain import EnvState as UmbrellaState
from tests.compiling import quick_jit, shipped_jit


@pytest.fixture(scope="module")
def package():
    """The ``bsuite`` package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "the comparison needs the bsuite package: pip install bsuite"
        pytest.importorskip("bsuite", reason=reason)
        pytest.importorskip("bsuite.experiments.memory_len.analysis", reason=reason)
        import bsuite
        import bsuite.environments.umbrella_chain
        import bsuite.sweep
    return bsuite


def play(env, params, state, actions):
    """Ours from ``state``: obs, reward, terminated, truncated, info of each step."""

    def body(state, inputs):
        obs, state, *rest = env.step_env(*inputs[:1], state, inputs[1], params)
        return state, (obs, *rest)

    keys = jax.random.split(jax.random.key(0), len(actions))
    return jax.lax.scan(body, state, (keys, jnp.asarray(actions, jnp.int32)))[1]


def test_memory_table():
    """Three steps' wait, bit 1 of (1, 0) asked for: the answer is 0."""
    env, params = ssmrl.envs.make("bsuite/memory_len", memory_length=3, num_bits=2)
    state = MemoryState(jnp.array([1, 0]), jnp.int32(1), jnp.int32(0))
    np.testing.assert_allclose(env.observe(state, params), [1, 0, 1, -1])
    for answer, value in ((0, 1.0), (1, -1.0)):
        obs, reward, terminated, truncated, info = play(env, params, state, [1, 1, 0, answer])
        shown = [[1, 0, 1, -1], [2 / 3, 0, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 0, 0]]
        np.testing.assert_allclose(obs, shown, atol=1e-6)
        np.testing.assert_array_equal(reward, [0, 0, 0, value])
        np.testing.assert_array_equal(terminated, [0, 0, 0, 1])
        np.testing.assert_array_equal(info["regret"], [0, 0, 0, 1 - value])
        assert not truncated.any()


@pytest.mark.parametrize(
    ("id_", "length", "place"),
    [("bsuite/memory_len", "memory_length", 0), ("bsuite/umbrella_length", "chain_length", 2)],
)
def test_no_rounding_carries_the_time_left_out_of_the_space(id_, length, place):
    """1 - t / T is -1.5e-8 at t = T for some T, as XLA compiles it: 1 - t · (1 / T)."""
    for steps in (2, 4, 5, 6, 8, 10):
        env, params = ssmrl.envs.make(id_, **{length: steps})
        _, state = env.reset(jax.random.key(0), params)
        observe = shipped_jit(lambda state, env=env, params=params: env.observe(state, params))
        assert observe(state.replace(time=jnp.int32(steps)))[place] == 0


def test_discounting_table():
    env, params = ssmrl.envs.make("bsuite/discounting_chain", mapping_seed=7)
    times, amounts = [1, 3, 10, 30, 100], [1, 1, 1.1, 1, 1]
    for chain in range(5):
        state = DiscountingState(jnp.int32(-1), jnp.int32(0))
        actions = [chain, *np.random.default_rng(0).integers(0, 5, 99)]
        obs, reward, terminated, *_ = play(env, params, state, actions)
        assert terminated[-1] and not terminated[:-1].any()
        expected = np.where(np.arange(1, 101) == times[chain], amounts[chain], 0)
        np.testing.assert_allclose(reward, expected, atol=1e-6)
        np.testing.assert_allclose(obs[:, 0], chain)


def test_umbrella_table():
    env, params = ssmrl.envs.make("bsuite/umbrella_length", chain_length=4, n_distractor=2)
    state = UmbrellaState(jnp.int32(1), jnp.int32(0), jnp.zeros(2), jnp.int32(0))
    for taken in (0, 1):
        obs, reward, terminated, _, info = play(env, params, state, [taken, 0, 1, 0])
        np.testing.assert_allclose(obs[:, 0], 1)
        np.testing.assert_allclose(obs[:, 1], taken)
        np.testing.assert_allclose(obs[:, 2], [0.75, 0.5, 0.25, 0])
        np.testing.assert_array_equal(np.abs(reward), 1)
        assert reward[-1] == 2 * taken - 1 and info["regret"][-1] == 2 - 2 * taken
        np.testing.assert_array_equal(terminated, [0, 0, 0, 1])


def test_draws_are_fair():
    """Bits, queries, distractors and random rewards: each mean within 5 standard errors."""
    env, params = ssmrl.envs.make("bsuite/memory_size", num_bits=4)
    keys = jax.random.split(jax.random.key(0), 10_000)
    _, state = quick_jit(jax.vmap(env.reset_env, (0, None)))(keys, params)
    np.testing.assert_allclose(state.context.mean(0), 0.5, atol=0.025)
    np.testing.assert_allclose(np.bincount(state.query) / 10_000, 0.25, atol=0.022)
    env, params = ssmrl.envs.make("bsuite/umbrella_length", n_distractor=3)
    obs, state = quick_jit(jax.vmap(env.reset_env, (0, None)))(keys, params)
    np.testing.assert_allclose(obs[:, [0, 1, 3, 4, 5]].mean(0), 0.5, atol=0.025)
    step = quick_jit(jax.vmap(lambda key, state: env.step_env(key, state, 1, params)))
    obs, _, reward, *_ = step(keys, state)
    np.testing.assert_allclose(obs[:, 3:].mean(0), 0.5, atol=0.025)
    np.testing.assert_allclose(reward.mean(), 0, atol=0.05)


@pytest.mark.parametrize("id_", EXPERIMENTS)
def test_settings_are_named(id_):
    experiment = EXPERIMENTS[id_]
    for number, setting in enumerate(experiment.settings):
        _, params = ssmrl.envs.make(f"bsuite/{id_}/{number}")
        assert {name: getattr(params, name) for name in setting} == setting
    assert f"bsuite/{id_}/{len(experiment.settings)}" not in ssmrl.envs.list_envs()
    env, params = ssmrl.envs.make(f"bsuite/{id_}")
    assert env.name == id_
    with pytest.raises(ValueError, match="no option"):
        ssmrl.envs.make(f"bsuite/{id_}", speed=1)


@pytest.mark.parametrize(
    ("id_", "options"),
    [
        ("memory_len", {"memory_length": 0}),
        ("memory_size", {"num_bits": 0}),
        ("memory_len", {"memory_length": 2.5}),
        ("umbrella_length", {"chain_length": 0}),
        ("umbrella_length", {"n_distractor": -1}),
        ("discounting_chain", {"mapping_seed": -1}),
    ],
)
def test_impossible_parameters(id_, options):
    with pytest.raises(ValueError, match=f"{id_} needs"):
        ssmrl.envs.make(f"bsuite/{id_}", **options)


@pytest.mark.parametrize("id_", EXPERIMENTS)
def test_batched_with_auto_reset_inside_the_spaces_and_with_pictures(id_):
    venv = ssmrl.envs.make_vector(f"bsuite/{id_}", 12)
    contains = jax.vmap(venv.observation_space.contains)

    @quick_jit
    def run(key):
        obs, state = venv.reset(key)

        def body(state, key):
            action = jax.vmap(venv.action_space.sample)(jax.random.split(key, 12))
            obs, state, *_, info = venv.step(state, action)
            picture = venv.unwrapped.env.render(
                jax.tree.map(lambda x: x[0], state.inner.env), venv.unwrapped.params
            )
            return state, (contains(obs), info["episode"]["done"], picture)

        return contains(obs), jax.lax.scan(body, state, jax.random.split(key, 25))[1]

    first, (inside, done, pictures) = run(jax.random.key(0))
    assert first.all() and inside.all()
    assert done.any() != (id_ == "discounting_chain")
    assert pictures.dtype == jnp.uint8 and (pictures != pictures[0]).any()


def test_scores_by_hand():
    memory, umbrella = EXPERIMENTS["memory_len"], EXPERIMENTS["umbrella_length"]
    # Mean regrets .7 and .8: one of two is below .75, none below .5.
    outcomes = {0: [2.0] * 7 + [0.0] * 13, 5: [2.0] * 8 + [0.0] * 12}
    assert memory.score(outcomes) == 0.5 and umbrella.score(outcomes) == 0
    discounting = EXPERIMENTS["discounting_chain"]
    assert discounting.score({0: [1.1] * 4, 1: [1.1, 1.0, 1.1, 1.0]}) == pytest.approx(0.75)
    # What comes after the experiment is over does not count, and neither do runs cut short.
    assert discounting.score({0: [1.1] * 1000 + [0.0], 1: [0.0] * 10}) == pytest.approx(1)
    with pytest.raises(ValueError, match="numbered 0 to 22"):
        memory.score({23: [0.0]})
    for nothing in ({}, {0: []}):
        with pytest.raises(ValueError, match="at least one setting"):
            memory.score(nothing)


def test_the_sweeps_are_the_packages(package):
    for id_, experiment in EXPERIMENTS.items():
        for number, setting in enumerate(experiment.settings):
            assert package.sweep.SETTINGS[f"{id_}/{number}"] == setting
            assert package.sweep.EPISODES[f"{id_}/{number}"] == experiment.num_episodes
        assert f"{id_}/{len(experiment.settings)}" not in package.sweep.SETTINGS


class Given:
    """In the place of the package's generator: the bits that ours drew, one row a step."""

    def __init__(self, bits):
        self.rows = iter(bits)
        self.row = None

    def binomial(self, n, p, size=None):
        # The reward's draw comes before the distractors', except in the last step, without reward.
        if size is None:
            self.row = next(self.rows)
            return self.row[0]
        row = next(self.rows) if self.row is None else self.row
        self.row = None
        return row[1:]


def begin(id_, theirs, bits):
    """Our first state from the package's environment after its reset."""
    zero = jnp.int32(0)
    if id_.startswith("memory"):
        return MemoryState(jnp.asarray(theirs._context, jnp.int32), jnp.int32(theirs._query), zero)
    if id_.startswith("discounting"):
        return DiscountingState(jnp.int32(-1), zero)
    theirs._rng = Given(bits)
    need, has = jnp.int32(theirs._need_umbrella), jnp.int32(theirs._has_umbrella)
    return UmbrellaState(need, has, jnp.zeros(bits.shape[1] - 1), zero)


@pytest.mark.parametrize(
    "id_", [f"{id_}/{n}" for id_ in EXPERIMENTS for n in (0, 3, len(EXPERIMENTS[id_].settings) - 1)]
)
def test_episodes_agree_with_the_package(package, id_):
    theirs = package.load_from_id(id_)
    env, params = ssmrl.envs.make(f"bsuite/{id_}")
    assert theirs.observation_spec().shape == (1, *env.observation_space(params).shape)
    assert theirs.action_spec().num_values == env.action_space(params).n
    ours = quick_jit(lambda state, actions: play(env, params, state, actions))
    rng = np.random.default_rng(0)
    for _ in range(20):
        theirs._rng = np.random.RandomState(rng.integers(1000))
        first = theirs.reset()
        length = getattr(params, "memory_length", getattr(params, "chain_length", 100))
        length += hasattr(params, "memory_length")
        keys = jax.random.split(jax.random.key(0), length)
        width = 1 + getattr(params, "n_distractor", 0)
        bits = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (width,)))(keys)  # noqa: B023
        state = begin(id_, theirs, np.asarray(bits).astype(int))
        if "umbrella" not in id_:
            observe = env.observe(state, params) if "memory" in id_ else jnp.array([-1.0, 0.0])
            np.testing.assert_allclose(observe, first.observation[0], atol=1e-6)
        actions = rng.integers(0, env.action_space(params).n, length)
        obs, reward, terminated, *_ = ours(state, actions)
        steps = [theirs.step(int(action)) for action in actions]
        np.testing.assert_allclose(obs, [step.observation[0] for step in steps], atol=1e-6)
        np.testing.assert_allclose(reward, [step.reward for step in steps], atol=1e-6)
        np.testing.assert_array_equal(terminated, [step.last() for step in steps])


def test_scores_agree_with_the_package(package):
    import pandas
    from bsuite.experiments.discounting_chain import analysis as discounting
    from bsuite.experiments.memory_len import analysis as memory_len
    from bsuite.experiments.memory_size import analysis as memory_size
    from bsuite.experiments.umbrella_length import analysis as umbrella

    analyses = dict(zip(EXPERIMENTS, (memory_len, memory_size, discounting, umbrella), strict=True))
    rng = np.random.default_rng(0)
    for id_, analysis in analyses.items():
        experiment = EXPERIMENTS[id_]
        for episodes in (experiment.num_episodes, 300):
            rows, outcomes = [], {}
            for number, setting in enumerate(experiment.settings):
                if experiment.outcome == "regret":
                    run = 2.0 * (rng.random(episodes) < rng.uniform(0, 0.6))
                else:
                    run = 1.0 + 0.1 * (rng.random(episodes) < rng.random())
                outcomes[number] = run
                totals = {"total_perfect": (run == 0).sum(), "total_regret": run.sum()}
                rows.append({"episode": episodes, "total_return": run.sum(), **totals, **setting})
            expected = analysis.score(pandas.DataFrame(rows))
            assert 0 < expected < 1
            assert experiment.score(outcomes) == pytest.approx(expected)
