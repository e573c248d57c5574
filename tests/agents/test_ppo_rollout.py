"""What PPO collects, and that its update sees the same: ratio, resets, bootstraps, windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents import rollout_agent
from ssmrl.agents.ppo import ppo
from ssmrl.agents.rollout import environment_metrics
from ssmrl.envs import spaces
from ssmrl.networks.statistics import RunningStatistics
from tests.agents.scripted import Scripted, collect, flags, scalars, small_agent, start
from tests.compiling import quick_jit

# Episode ends at both sides of every edge of windows of 4 in rollouts of 8 (steps 0, 2, 3, 4, 6, 7
# of each), in both ways, two in a row, and an environment that never ends one.
TERMINATED, TRUNCATED = flags(
    [
        "..E...U.E..U...X",
        "...U...E...E...U",
        "E...U...U...E...",
        "................",
        "..UEE..U..XUU..E",
        "......E........U",
    ]
)
MEMORIES = {
    "s5": {"layers": 2, "learned_initial_carry": True},
    "gru": {"learned_initial_carry": True},
    "none": {},
}


def scripted_agent(memory, **options):
    env = Scripted(TERMINATED, TRUNCATED)
    return env, small_agent(env, memory, memory_options=MEMORIES[memory], **options)


# ------------------------------------------------------------------------------ the ratio


def watch(agent):
    """`agent`, whose metrics now also tell how the update's first look differs from acting's."""
    loss = agent._loss

    def watched(normalizers, coefficient, batch, key, params):
        value, metrics = loss(normalizers, coefficient, batch, key, params)
        _, distribution, values = agent._apply(
            params, normalizers, batch.carry, batch.observation, batch.reset
        )
        metrics["log_ratio"] = jnp.abs(
            distribution.log_prob(batch.raw_action) - batch.log_prob
        ).max()
        metrics["value_change"] = jnp.abs(values - batch.value).max()
        metrics["value_scale"] = jnp.abs(batch.value).max()
        metrics["log_prob_spread"] = batch.log_prob.std()
        return value, metrics

    agent._loss = watched
    return agent


def assert_same_view(metrics):
    assert metrics["clip_fraction"] == 0  # with clip = 3e-5, through the front door
    assert metrics["log_ratio"] < 1e-5
    assert metrics["value_change"] < 1e-5 * max(metrics["value_scale"], 1)
    # Not trivially so: policies differ from state to state, and there is something to learn.
    assert metrics["log_prob_spread"] > 0.1
    assert metrics["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("memory", "window", "normalize"),
    [
        ("s5", None, False),
        ("s5", 4, True),
        ("gru", 4, False),
        ("gru", 1, True),
        ("none", 2, True),
    ],
)
def test_update_recomputes_what_acting_computed(memory, window, normalize):
    _, agent = scripted_agent(
        memory,
        window_length=window,
        lr=0.05,
        clip=3e-5,
        normalize_observations=normalize,
        normalize_values=normalize,
        normalize_rewards=normalize,
        normalize_advantages=normalize,
    )
    iteration = quick_jit(watch(agent).iteration)
    state = start(agent, random=True)
    # Three iterations: from the second on, windows start from a carry that was handed on, under
    # parameters (and normalisers) other than those that it was computed with.
    for _ in range(3):
        before, (state, metrics) = state, iteration(state)
        assert_same_view(metrics)
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), before.normalizers, state.normalizers)
    assert all(jax.tree.leaves(changed)) if normalize else not any(jax.tree.leaves(changed))


@pytest.mark.slow
def test_ratio_is_one_with_vmapped_seeds():
    _, agent = scripted_agent("s5", window_length=4, lr=0.05, clip=3e-5)
    states = [start(agent, seed, random=True) for seed in (0, 1)]
    states = jax.tree.map(lambda *x: jnp.stack(x), *states)
    iteration = quick_jit(jax.vmap(watch(agent).iteration))
    for _ in range(2):
        states, metrics = iteration(states)
        for seed in (0, 1):
            assert_same_view({name: value[seed] for name, value in metrics.items()})
        assert metrics["gradient_norm"][0] != metrics["gradient_norm"][1]


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Box(-1, 3, (2,)),
        spaces.MultiDiscrete([[2, 3], [4, 2]]),
        spaces.Tuple([spaces.Discrete(2), spaces.Dict({"a": spaces.Box(0, np.inf, (2,))})]),
    ],
    ids=repr,
)
def test_ratio_is_one_for_other_actions(action_space):
    env = Scripted(TERMINATED, TRUNCATED, action_space=action_space)
    agent = watch(small_agent(env, "none", window_length=4, clip=3e-5, lr=0.05))
    _, metrics = quick_jit(agent.iteration)(start(agent, random=True))
    assert_same_view(metrics)


class PartlyEmpty(Scripted):
    """Its observation has a part of no numbers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        nothing = spaces.Box(0, 1, (0,))
        self.observation_space = spaces.Dict({"a": nothing, "b": self.observation_space})

    def _with_nothing(self, observation):
        return {"a": jnp.zeros((self.num_envs, 0)), "b": observation}

    def reset(self, key):
        observation, state = super().reset(key)
        return self._with_nothing(observation), state

    def step(self, state, action):
        observation, *rest, info = super().step(state, action)
        final = self._with_nothing(info["final_observation"])
        return self._with_nothing(observation), *rest, {"final_observation": final}


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("normalize", [False, True])
def test_parts_of_no_numbers_change_nothing(window, normalize):
    options = {"window_length": window, "lr": 0.05, "normalize_observations": normalize}
    states = []
    for kind in (Scripted, PartlyEmpty):
        agent = small_agent(kind(TERMINATED, TRUNCATED), "none", **options)
        state, _ = quick_jit(agent.iteration)(start(agent, random=True))
        states.append(state.params)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_memory_with_nothing_to_carry():
    env = Scripted(TERMINATED, TRUNCATED)
    agent = watch(small_agent(env, "frame_stack", memory_options={"frames": 1}, clip=3e-5, lr=0.05))
    _, metrics = quick_jit(agent.iteration)(start(agent, random=True))
    assert_same_view(metrics)


# ------------------------------------------------------------------------------ resets


def test_reset_marks_first_observations_and_returns_restart():
    env, agent = scripted_agent("none", discount=0.5)
    state = start(agent)
    look = quick_jit(lambda state: collect(agent, state))
    first = look(state)
    second = look(state.replace(acting=first.acting))
    reset = np.concatenate([first.rollout.reset, second.rollout.reset])
    done = TERMINATED | TRUNCATED
    assert reset[0].all()
    np.testing.assert_array_equal(reset[1:], done[:-1])
    np.testing.assert_array_equal(second.acting.reset, done[-1])
    observation = np.concatenate([first.rollout.observation, second.rollout.observation])
    np.testing.assert_array_equal(observation, env.observation)
    # The discounted return of reward normalisation: G[t] = r[t] + γ G[t-1], from 0 at a reset.
    returns = np.concatenate([first.rollout.discounted_return, second.rollout.discounted_return])
    running = np.zeros(env.num_envs)
    for t in range(16):
        running = env.reward[t] + 0.5 * np.where(reset[t], 0.0, running)
        np.testing.assert_allclose(returns[t], running, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------ advantages


def gae(reward, value, next_value, final_value, terminated, truncated, discount=0.5, lam=0.5):
    arrays = [jnp.asarray(x, jnp.float32) for x in (reward, value, next_value, final_value)]
    ends = [jnp.asarray(x, bool) for x in (terminated, truncated)]
    return rollout_agent.generalized_advantages(*arrays, *ends, discount, lam)


def test_advantages_of_a_hand_worked_table():
    """γ = λ = 1/2, r = 1 at every step, V(o₀), V(o₁), V(o₂), V(o₃) = 1, 2, 4, 8, V(final) = 6.

    A[t] = δ[t] + 1/4 A[t+1] unless an episode ends at t; δ[t] = 1 + 1/2 next - V(o[t]).

    nothing ends:    δ = 1+1-1, 1+2-2, 1+4-4 = 1, 1, 1     A₂ = 1, A₁ = 5/4, A₀ = 1 + 5/16 = 21/16
    terminated at 1: δ₁ = 1+0-2 = -1                       A₂ = 1, A₁ = -1,  A₀ = 1 - 1/4 = 3/4
    truncated at 1:  δ₁ = 1+3-2 = 2                        A₂ = 1, A₁ = 2,   A₀ = 1 + 1/2 = 3/2
    both at 1:       as terminated
    terminated at 2: δ₂ = 1+0-4 = -3          A₂ = -3, A₁ = 1 - 3/4 = 1/4,  A₀ = 1 + 1/16 = 17/16
    truncated at 2:  δ₂ = 1+3-4 = 0           A₂ = 0,  A₁ = 1,              A₀ = 1 + 1/4 = 5/4
    truncated at 0:  δ₀ = 1+3-1 = 3           A₂ = 1,  A₁ = 5/4,            A₀ = 3
    """
    terminated, truncated = flags(["...", ".E.", ".U.", ".X.", "..E", "..U", "U.."])
    ended = terminated | truncated
    advantages = gae(
        reward=np.ones((3, 7)),
        value=np.tile([[1.0], [2.0], [4.0]], 7),
        next_value=np.full(7, 8.0),
        final_value=np.where(ended, 6.0, 0.0),
        terminated=terminated,
        truncated=truncated,
    )
    expected = [
        [21 / 16, 3 / 4, 3 / 2, 3 / 4, 17 / 16, 5 / 4, 3],
        [5 / 4, -1, 2, -1, 1 / 4, 1, 5 / 4],
        [1, 1, 1, 1, -3, 0, 1],
    ]
    np.testing.assert_array_equal(advantages, expected)  # all are exact in binary


def test_advantages_where_a_trial_ended_of_a_hand_worked_table():
    """The table above, nothing ends, and a trial does at 1, after which γ = 1/2 · trial_discount.

    trial_discount 1:    as if nothing were there          A₂ = 1, A₁ = 5/4, A₀ = 21/16
    trial_discount 1/2:  δ₁ = 1 + 1/4 · 4 - 2 = 0;  A₁ = 0 + 1/4 · 1/2 · 1 = 1/8,  A₀ = 1 + 1/32
    trial_discount 0:    δ₁ = 1 - 2 = -1;           A₁ = -1,  A₀ = 1 - 1/4: as terminated
    """
    ends = np.zeros((3, 3), bool)
    discount = jnp.float32([[1 / 2] * 3, [1 / 2, 1 / 4, 0], [1 / 2] * 3])
    advantages = gae(
        reward=np.ones((3, 3)),
        value=np.tile([[1.0], [2.0], [4.0]], 3),
        next_value=np.full(3, 8.0),
        final_value=np.zeros((3, 3)),
        terminated=ends,
        truncated=ends,
        discount=discount,
    )
    expected = [[21 / 16, 33 / 32, 3 / 4], [5 / 4, 1 / 8, -1], [1, 1, 1]]
    np.testing.assert_array_equal(advantages, expected)  # all are exact in binary


def advantages_by_loop(reward, value, next_value, final_value, terminated, truncated, gamma, lam):
    """One environment and one step at a time, from the definition, in float64."""
    T, B = reward.shape
    result = np.zeros((T, B))
    for b in range(B):
        for t in range(T):
            # A[t] = Σₖ (γλ)ᵏ δ[t+k], up to and including the step that ends the episode.
            weight = 1.0
            for s in range(t, T):
                follows = value[s + 1, b] if s + 1 < T else next_value[b]
                if terminated[s, b]:
                    follows = 0.0
                elif truncated[s, b]:
                    follows = final_value[s, b]
                result[t, b] += weight * (reward[s, b] + gamma * follows - value[s, b])
                weight *= gamma * lam
                if terminated[s, b] or truncated[s, b]:
                    break
    return result


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.9)])
def test_advantages_equal_the_definition(gamma, lam):
    rng = np.random.default_rng(0)
    reward, value, final_value = rng.normal(size=(3, 20, 6))
    next_value = rng.normal(size=6)
    terminated, truncated = rng.random((2, 20, 6)) < 0.15
    assert (terminated & truncated).any()
    args = reward, value, next_value, final_value, terminated, truncated
    expected = advantages_by_loop(*args, gamma, lam)
    np.testing.assert_allclose(gae(*args, gamma, lam), expected, atol=1e-5)


def test_an_episode_does_not_hear_of_the_next():
    """Not even of its NaN: 0 · NaN is NaN, so an end must select, not multiply."""
    terminated, truncated = flags(["..E.", "..U.", "..X."])
    reward = np.ones((4, 3))
    reward[3] = np.nan
    advantages = gae(reward, np.ones((4, 3)), np.ones(3), np.ones((4, 3)), terminated, truncated)
    assert np.isfinite(advantages[:3]).all()
    assert np.isnan(advantages[3]).all()


def test_advantages_of_an_iteration_from_values_by_hand():
    """The last step's future is V of the observation behind the rollout, with the carry there."""
    _, agent = scripted_agent("gru", discount=0.9, gae_lambda=0.8)
    state = start(agent, random=True)

    @quick_jit
    def look(state):
        seen = collect(agent, state)
        after = collect(agent, state.replace(acting=seen.acting)).rollout.value[0]
        return (
            seen,
            after,
            agent._advantages(state, seen.acting, state.normalizers, seen.rollout, 0.8),
        )

    seen, after, (advantage, target) = look(state)
    r, after = jax.tree.map(np.asarray, (seen.rollout, after))
    ends = r.final_value, r.terminated, r.truncated
    expected = advantages_by_loop(r.reward, r.value, after, *ends, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)
    np.testing.assert_allclose(target, expected + r.value, atol=1e-5)


# ------------------------------------------------------------------------------ truncation


def episode_start(t, b):
    """The step at which the episode of step t began."""
    done = (TERMINATED | TRUNCATED)[:t, b]
    return int(np.flatnonzero(done)[-1]) + 1 if done.any() else 0


def by_hand(agent, state, env):
    """V(final observation) of the episode that ends in step t of environment b, by the network
    alone: the whole episode and its final observation in one call, from a fresh carry."""
    apply = quick_jit(lambda *args: agent.network.apply(*args)[2])

    def value(t, b, standardize=lambda x: x):
        start = episode_start(t, b)
        steps = np.concatenate([env.observation[start : t + 1, b], env.final[t, b][None]])
        steps = jnp.asarray(standardize(steps))[:, None]
        # Padded behind, so that one program serves all lengths.
        padding = jnp.zeros((17 - len(steps), *steps.shape[1:]))
        reset = (jnp.arange(17) == 0)[:, None]
        carry = agent.initialize_carry(1)
        values = apply(state.params, carry, jnp.concatenate([steps, padding]), reset)
        return values[len(steps) - 1, 0]

    return value


@pytest.mark.parametrize("memory", list(MEMORIES))
def test_truncation_is_worth_the_value_of_the_final_observation(memory):
    env, agent = scripted_agent(
        memory,
        rollout_length=16,
        window_length=4,
        normalize_observations=True,
        normalize_values=True,
    )
    state = start(agent, random=True)
    mean, std = np.array([0.5, -1.0, 2.0], np.float32), np.array([2.0, 0.5, 3.0], np.float32)
    state = state.replace(
        normalizers=state.normalizers.replace(
            # count and squares so that the deviations are these.
            observation=RunningStatistics(jnp.float32(10), [mean], [10 * std**2]),
            value=RunningStatistics(jnp.float32(10), jnp.float32(3.0), jnp.float32(10 * 2.0**2)),
        )
    )
    rollout = quick_jit(lambda state: collect(agent, state))(state).rollout
    only_truncated = TRUNCATED & ~TERMINATED
    assert only_truncated.sum() >= 10
    value = by_hand(agent, state, env)
    differences = []
    for t, b in np.argwhere(only_truncated):
        expected = 3 + 2 * value(t, b, lambda x: np.clip((x - mean) / std, -10, 10))
        np.testing.assert_allclose(rollout.final_value[t, b], expected, rtol=1e-5, atol=1e-5)
        if t + 1 < 16:
            differences.append(abs(expected - rollout.value[t + 1, b]))
    # V of the next episode's first observation is something else.
    assert min(differences) > 0.01
    np.testing.assert_array_equal(rollout.final_value[~only_truncated], 0)


def test_where_the_time_limit_is_part_of_the_task_a_truncation_is_a_termination():
    options = {"rollout_length": 16, "window_length": 4, "bootstrap_truncated": False}
    _, agent = scripted_agent("gru", **options)
    rollout = quick_jit(lambda state: collect(agent, state))(start(agent, random=True)).rollout
    np.testing.assert_array_equal(rollout.terminated, TERMINATED | TRUNCATED)
    np.testing.assert_array_equal(rollout.final_value, 0)
    assert (TRUNCATED & ~TERMINATED).sum() >= 10


def test_truncation_of_an_episode_that_began_a_rollout_ago():
    env, agent = scripted_agent("gru", window_length=4)
    state = start(agent, random=True)
    look = quick_jit(lambda state: collect(agent, state))
    state = state.replace(acting=look(state).acting)
    rollout = look(state).rollout
    t, b = 15, 5
    assert TRUNCATED[t, b] and episode_start(t, b) == 7
    expected = by_hand(agent, state, env)(t, b)
    np.testing.assert_allclose(rollout.final_value[7, b], expected, atol=1e-5)


# ------------------------------------------------------------------------------ windows


def test_windows_are_contiguous_time_of_one_environment():
    rollout_length, window, num_envs = 12, 4, 3
    env = Scripted(np.zeros((12, 3)), np.zeros((12, 3)))
    agent = small_agent(env, "none", rollout_length=rollout_length, window_length=window)
    time, env_index = np.meshgrid(np.arange(12), np.arange(num_envs), indexing="ij")
    code = jnp.asarray(100 * env_index + time, jnp.float32)  # [T, B]
    # A picture-like and a flat leaf, to see that trailing axes survive.
    observation = {"flat": code, "wide": jnp.broadcast_to(code[..., None, None], (12, 3, 2, 5))}
    rollout = ppo.Transition(
        observation=observation,
        reset=code.astype(bool),
        raw_action=code + 0.25,
        log_prob=code + 0.5,
        value=code + 0.75,
        reward=code,
        terminated=code.astype(bool),
        truncated=code.astype(bool),
        final_value=code,
        discount=code,
        discounted_return=code,
        episode={},
    )
    starts = {"h": code[::window][..., None] + 1000}  # [windows, B, 1], at each window's start
    windows = agent._cut_windows(
        ppo.Window, starts, rollout, advantage=code + 2000, target=code + 3000
    )

    chosen = jnp.array([7, 0, 4])
    for batch, count in ((windows, 9), (rollout_agent.take_windows(windows, chosen), 3)):
        first = np.asarray(batch.observation["flat"])[0]
        assert batch.observation["flat"].shape == (window, count)
        assert batch.observation["wide"].shape == (window, count, 2, 5)
        # Everything follows from the code at the window's start: +1 a step, same environment.
        series = first + np.arange(window)[:, None]
        assert (first % 100 % window == 0).all()
        np.testing.assert_array_equal(batch.observation["flat"], series)
        wide = np.broadcast_to(series[..., None, None], (window, count, 2, 5))
        np.testing.assert_array_equal(batch.observation["wide"], wide)
        np.testing.assert_array_equal(batch.reset, series != 0)
        np.testing.assert_array_equal(batch.raw_action, series + 0.25)
        np.testing.assert_array_equal(batch.log_prob, series + 0.5)
        np.testing.assert_array_equal(batch.value, series + 0.75)
        np.testing.assert_array_equal(batch.advantage, series + 2000)
        np.testing.assert_array_equal(batch.target, series + 3000)
        np.testing.assert_array_equal(batch.carry["h"], first[:, None] + 1000)
    every = {100 * b + t for b in range(num_envs) for t in (0, 4, 8)}
    assert set(np.asarray(windows.observation["flat"])[0]) == every
    picked = rollout_agent.take_windows(windows, chosen).observation["flat"][0]
    np.testing.assert_array_equal(picked, windows.observation["flat"][0][chosen])


def test_minibatches_are_split_over_devices_by_their_windows(monkeypatch):
    asked = []
    monkeypatch.setattr(
        rollout_agent, "split_batch", lambda tree, axis: asked.append((tree, axis)) or tree
    )
    whole = jnp.zeros((4, 9))
    windows = rollout_agent.Window(carry=jnp.zeros((9, 2)), observation=whole, reset=whole)
    taken = rollout_agent.take_windows(windows, jnp.array([7, 0, 4]))
    shapes = {axis: jax.tree.leaves(tree)[0].shape for tree, axis in asked}
    assert shapes == {1: (4, 3), 0: (3, 2)} and taken.carry.shape == (3, 2)


def test_every_window_is_used_once_per_epoch(monkeypatch):
    seen = []
    take = rollout_agent.take_windows

    def spy(windows, chosen):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), chosen, ordered=True)
        return take(windows, chosen)

    monkeypatch.setattr(rollout_agent, "take_windows", spy)
    _, agent = scripted_agent("none", window_length=4, epochs=3, minibatches=4)
    state = start(agent)
    jax.block_until_ready(quick_jit(agent.iteration)(state))
    jax.effects_barrier()
    epochs = np.concatenate(seen).reshape(3, 12)  # 6 environments x 2 windows
    assert [len(batch) for batch in seen] == [3] * 12
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(12), (3, 1)))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


# ------------------------------------------------------------------------------ episodes


def test_episode_metrics_are_means_over_those_that_ended():
    """Rewards are 1 in environment 0 and 10 in environment 1.

    Rollout 1 (steps 0-3): environment 0 ends at step 1 (return 2, length 2): one episode.
    Rollout 2 (steps 4-7): environment 0 ends at step 4 (steps 2-4: return 3, length 3) and step 6
    (return 2, length 2), environment 1 at step 7 (return 80, length 8): means 85/3, 13/3.
    Rollout 3 (steps 8-11): none, and so no number that anybody is shown.
    """
    terminated, truncated = flags([".E..E.U.....", ".......U...."])
    reward = np.tile([1.0, 10.0], (12, 1))
    env = Scripted(terminated, truncated, reward)
    agent = small_agent(env, "none", rollout_length=4)
    iteration, state = quick_jit(agent.iteration), start(agent)
    rows = []
    for _ in range(3):
        state, metrics = iteration(state)
        rows.append([metrics[f"episode{x}"] for x in ("s", "_return", "_length")])
        told = scalars(metrics)
        rest = {k: v for k, v in told.items() if not k.startswith("episode")}
        assert all(np.isfinite(v) for v in rest.values())
        assert all(v.shape == () and v.dtype == jnp.float32 for v in told.values())
    expected = [[1, 2, 2], [3, 85 / 3, 13 / 3], [0, 0, 0]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_what_is_not_finite_in_what_the_environment_gave():
    reward, numbers = np.ones((4, 2), np.float32), np.full((4, 2, 3), -2.5, np.float32)
    seen = {"numbers": numbers, "level": np.full((4, 2), 9, np.int32)}
    env = Scripted(np.zeros((4, 2)), np.zeros((4, 2)))
    assert environment_metrics(env, seen, jnp.asarray(reward)) == {
        "env/reward": 1.0,
        "env/observation": 2.5,
    }
    assert set(environment_metrics(env, seen["level"], jnp.asarray(reward))) == {"env/reward"}
    for bad in (np.nan, np.inf, -np.inf):
        reward[2, 1], numbers[0, 1, 2] = bad, bad
        found = environment_metrics(env, seen, jnp.asarray(reward))
        assert not any(np.isfinite(value) for value in found.values())
