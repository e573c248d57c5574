"""What environments promise: every fault is one line that says where, what, and what came."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import ssmrl.envs
from ssmrl.envs import EnvironmentFault, JaxVectorEnv, registry, spaces
from ssmrl.envs.adapters.gymnasium import HostEnvironmentError, HostVectorEnv
from ssmrl.envs.contract import first_steps_fault, leaves_of, step_checked
from ssmrl.envs.wrappers import VectorWrapper

g = gymnasium.spaces


# ------------------------------------------------------------------------ Python environments


class Answering(gymnasium.Env):
    """Gives what it is told to; what is left out is as it should be."""

    action_space = g.Discrete(2)

    def __init__(self, space, good, **answers):
        self.observation_space, self.good, self.answers = space, good, answers
        self.time = 0

    def reset(self, *, seed=None, options=None):
        later = self.answers.get("later", (self.good, {})) if self.time else (self.good, {})
        return self.answers.get("reset", later)

    def step(self, action):
        self.time += 1
        if self.time < self.answers.get("since", 1):
            return self.good, 0.0, False, False, {}
        if "step" in self.answers:
            return self.answers["step"]
        names = ("observation", "reward", "terminated", "truncated")
        default = (self.good, 0.0, False, False)
        return (*(self.answers.get(n, d) for n, d in zip(names, default, strict=True)), {})


def failure_of(space, good, **answers):
    """The line for the second of two environments, whose answers are `answers`, in three steps."""
    envs = iter([Answering(space, good), Answering(space, good, **answers)])
    venv = HostVectorEnv(lambda: next(envs), 2, name="my/env")
    try:
        venv._host_reset(np.arange(2, dtype=np.uint32))
        for _ in range(3):
            venv._host_step(np.zeros(2, np.int32))
    except HostEnvironmentError as error:
        assert venv.failure is error
        return str(error)
    assert venv.failure is None
    return None


FLOATS, BYTES = g.Box(0, 1, (4,)), g.Box(0, 255, (2,), np.uint8)
PARTS = g.Dict({"camera": BYTES, "inner": g.Tuple([g.Discrete(4, start=2), FLOATS])})
FOUR, TWO = np.full(4, 0.5, np.float32), np.zeros(2, np.uint8)
WHOLE = {"camera": TWO, "inner": (np.int64(2), FOUR)}

HOST_FAULTS = [
    # what reset and step return
    (FLOATS, FOUR, {"reset": FOUR}, "reset: reset must return (observation, info), got float32[4]"),
    (
        g.Tuple([g.Discrete(2), g.Discrete(2)]),
        (0, 1),
        {"reset": (0, 1)},
        "reset: reset must return (observation, info), got a tuple of 2",
    ),
    (
        FLOATS,
        FOUR,
        {"step": (FOUR, 0.0, False, {})},
        "step 1: step must return observation, reward, terminated, truncated, info "
        "(four are gym's old form), got a tuple of 4",
    ),
    (
        FLOATS,
        FOUR,
        {"step": None},
        "step 1: step must return observation, reward, terminated, truncated, info, got None",
    ),
    # structure, shape, dtype
    (
        FLOATS,
        FOUR,
        {"reset": (np.ones(1, np.float32), {})},
        "reset: observation must be float32[4], got float32[1]",
    ),
    (
        FLOATS,
        FOUR,
        {"observation": np.float32(0.5), "since": 2},
        "step 2: observation must be float32[4], got float32[]",
    ),
    (
        FLOATS,
        FOUR,
        {"observation": [[1, 2], [3]]},
        "step 1: observation must be float32[4], got a list of 2",
    ),
    (FLOATS, FOUR, {"observation": None}, "step 1: observation must be float32[4], got None"),
    (
        FLOATS,
        FOUR,
        {"observation": {"a": FOUR}},
        "step 1: observation must be float32[4], got a dict",
    ),
    (
        PARTS,
        WHOLE,
        {"observation": {"camera": TWO}},
        "step 1: observation must be a dict of ['camera', 'inner'], got keys ['camera']",
    ),
    (
        PARTS,
        WHOLE,
        {"observation": {**WHOLE, "depth": 1}},
        "step 1: observation must be a dict of ['camera', 'inner'], "
        "got keys ['camera', 'depth', 'inner']",
    ),
    (
        PARTS,
        WHOLE,
        {"observation": {**WHOLE, "inner": (2,)}},
        "step 1: observation['inner'] must be a tuple of 2, got a tuple of 1",
    ),
    (
        BYTES,
        TWO,
        {"observation": np.array([0, 0.7])},
        "step 1: observation must be uint8[2], got float64[2] with 0.7, which is no uint8",
    ),
    (
        BYTES,
        TWO,
        {"observation": np.array([-1, 300])},
        "step 1: observation must be uint8[2], got int64[2] with -1, which is no uint8",
    ),
    (
        g.Box(-10, 10, (1,), np.int64),
        np.zeros(1, np.int64),
        {"observation": np.array([2**35 + 7])},
        "step 1: observation must be int32[1], got int64[1] with 34359738375, which is no int32",
    ),
    # values
    (
        g.Discrete(4),
        0,
        {"observation": 7, "since": 3},
        "step 3: observation must be in 0 … 3, got 7",
    ),
    (
        PARTS,
        WHOLE,
        {"observation": {**WHOLE, "inner": (1, FOUR)}},
        "step 1: observation['inner'][0] must be in 0 … 3, got -1",
    ),
    (
        g.MultiDiscrete([2, 3]),
        np.zeros(2, int),
        {"observation": np.array([1, 3])},
        "step 1: observation[1] must be in 0 … 2, got 3",
    ),
    (
        g.MultiBinary(2),
        np.zeros(2, np.int8),
        {"observation": np.array([0, 2])},
        "step 1: observation[1] must be in 0 … 1, got 2",
    ),
    (
        FLOATS,
        FOUR,
        {"observation": FOUR + np.array([0, 0, 0.75, 0])},
        "step 1: observation[2] must be in [0.0, 1.0], got 1.25",
    ),
    (
        g.Box(-np.inf, np.inf, (4,)),
        FOUR,
        {"observation": np.array([0, 0, np.inf, 0])},
        "step 1: observation[2] must be finite, got inf",
    ),
    (
        FLOATS,
        FOUR,
        {"reset": (FOUR * np.nan, {})},
        "reset: observation[0] must be finite, got nan",
    ),
    # the first observation of a later episode
    (
        FLOATS,
        FOUR,
        {"terminated": True, "later": (FOUR * 4, {})},
        "step 1: observation[0] must be in [0.0, 1.0], got 2.0",
    ),
    (
        FLOATS,
        FOUR,
        {"truncated": True, "since": 2, "later": FOUR},
        "step 2: reset must return (observation, info), got float32[4]",
    ),
    # scalars
    (
        FLOATS,
        FOUR,
        {"reward": np.array([1.0])},
        "step 1: reward must be a real scalar, got float64[1]",
    ),
    (FLOATS, FOUR, {"reward": None}, "step 1: reward must be a real scalar, got None"),
    (FLOATS, FOUR, {"reward": 1j}, "step 1: reward must be a real scalar, got a complex"),
    (FLOATS, FOUR, {"reward": np.nan}, "step 1: reward must be finite, got nan"),
    (FLOATS, FOUR, {"terminated": {}}, "step 1: terminated must be a real scalar, got a dict"),
    (FLOATS, FOUR, {"truncated": 2}, "step 1: truncated must be True or False, got 2"),
]


@pytest.mark.parametrize(("space", "good", "answers", "line"), HOST_FAULTS)
def test_faults_of_python_environments(space, good, answers, line):
    found = failure_of(space, good, **answers)
    assert found == f"my/env, environment 1, {line}"


@pytest.mark.parametrize(
    ("space", "good", "answers"),
    [
        (FLOATS, FOUR, {"observation": FOUR.astype(np.float64)}),
        (FLOATS, FOUR, {"observation": [0, 1, 1, 0]}),  # integers that a float holds
        (FLOATS, FOUR, {"observation": FOUR * 2 + np.float32(1e-6)}),  # a rounding above 1
        (BYTES, TWO, {"observation": np.array([3.0, 255.0])}),
        (g.Box(0, 1, (2,), np.bool_), np.array([True, False]), {}),
        (g.Box(-np.inf, np.inf, (1,), np.int64), np.array([2**35 + 7]), {}),
        (g.Discrete(4, start=2), 5, {"observation": np.array(3)}),
        (FLOATS, FOUR, {"reward": np.float64(1), "terminated": np.bool_(True), "truncated": 0}),
        (FLOATS, FOUR, {"reward": True, "terminated": np.array(True)}),
        (PARTS, WHOLE, {"observation": {"inner": [2, FOUR], "camera": TWO}}),
    ],
)
def test_what_loses_nothing_is_taken(space, good, answers):
    assert failure_of(space, good, **answers) is None


def test_wide_integers_become_floats_and_say_so():
    """int32 would have kept 7 of 2**35 + 7, and 0 of the bound 2**40."""
    space = g.Dict({"ticks": g.Box(0, 2**40, (1,), np.int64)})
    obs = {"ticks": np.array([2**35 + 7])}
    with pytest.warns(UserWarning, match=r"my/env: observation\['ticks'\] holds .* 1099511627776"):
        venv = HostVectorEnv(lambda: Answering(space, obs), 1, name="my/env")
    assert venv.observation_space["ticks"] == spaces.Box(0, 2**40, (1,), np.float32)
    seen = venv._host_reset(np.zeros(1, np.uint32))["ticks"]
    assert seen.dtype == np.float32 and seen[0, 0] == np.float32(2**35 + 7)


class Recording(gymnasium.Env):
    observation_space = g.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space, self.actions = action_space, []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.actions.append(action)
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("bound", [0.1, 0.7, 1 / 3, 1e-3])
def test_no_action_leaves_the_environments_own_box(bound):
    """.1 in float32 is .1 + 1.5e-9 in float64, where the environment compares."""
    box = g.Box(np.array([-bound, -np.inf]), np.array([bound, bound]), dtype=np.float64)
    space = g.Dict({"force": box})
    venv = HostVectorEnv(lambda: Recording(space), 1, name="my/env")
    ours = venv.action_space["force"]
    venv._host_reset(np.zeros(1, np.uint32))
    for force in (ours.high, [ours.low[0], -5.0]):
        venv._host_step({"force": np.asarray([force], np.float32)})
    low_and_high = [action["force"] for action in venv._envs[0].actions]
    assert all(space.contains(action) for action in venv._envs[0].actions)
    np.testing.assert_allclose(low_and_high, [[bound, bound], [-bound, -5.0]], rtol=1e-7)


def test_wide_integer_actions_are_refused():
    with pytest.raises(ValueError, match="action of int64 does not fit int32"):
        HostVectorEnv(lambda: Recording(g.Box(0, 2**40, (1,), np.int64)), 1, name="my/env")


def test_an_environment_that_cannot_be_made():
    def make():
        raise OSError("no display\nfound")

    with pytest.raises(ValueError) as caught:
        HostVectorEnv(make, 1, name="my/env")
    expected = "no display found (OSError); raised by my/env, environment 0, when it was made"
    assert str(caught.value) == expected


# ------------------------------------------------------------------------ environments in JAX


@struct.dataclass
class State:
    x: jax.Array
    time: jax.Array


class Good(ssmrl.envs.Environment):
    """Three numbers in 0..1; the episode is over after four steps."""

    def reset_env(self, key, params):
        return jnp.full(3, 0.5), State(x=jnp.zeros(3), time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        state = State(x=state.x + 0.1, time=state.time + 1)
        return jnp.full(3, 0.5), state, 1.0, state.time >= 4, False, {"half": 0.5}

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (3,))

    def action_space(self, params):
        return spaces.Discrete(2)


def changed(**changes):
    """Good, with another result of step: by position, or a function of the whole tuple."""
    places = ("obs", "state", "reward", "terminated", "truncated", "info")

    class Changed(Good):
        def step_env(self, key, state, action, params):
            result = list(super().step_env(key, state, action, params))
            for name, value in changes.items():
                if name == "all":
                    return value(result)
                where = places.index(name)
                result[where] = value(result[where]) if callable(value) else value
            return tuple(result)

    return Changed()


class BadReset(Good):
    def __init__(self, answer):
        self.answer = answer

    def reset_env(self, key, params):
        return self.answer


class Pairs(Good):
    def observation_space(self, params):
        return spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Discrete(2)])})


class Branching(Good):
    def step_env(self, key, state, action, params):
        if state.time > 2:
            action = 0
        return super().step_env(key, state, action, params)


class Numpy(Good):
    def step_env(self, key, state, action, params):
        np.sin(state.x)


class Raising(Good):
    def step_env(self, key, state, action, params):
        raise KeyError("goal\nnot found")


STEP, RESET = "my/thing, step_env", "my/thing, reset_env"
JAX_FAULTS = [
    (BadReset(jnp.zeros(3)), f"{RESET} must return (obs, state), got float32[3]"),
    (
        BadReset((jnp.zeros(2), None)),
        f"{RESET}: observation must be float32[3] as its space, got float32[2]",
    ),
    (
        BadReset((jnp.zeros(3, jnp.int32), None)),
        f"{RESET}: observation must be float32[3] as its space, got int32[3]",
    ),
    (BadReset(("three", None)), f"{RESET}: observation must be an array, got 'three'"),
    (BadReset((jnp.zeros(3), "x")), f"{RESET}: state must be an array, got 'x'"),
    (
        changed(obs=jnp.zeros((1, 3))),
        f"{STEP}: observation must be float32[3] as its space, got float32[1, 3]",
    ),
    (
        changed(obs=lambda obs: {"x": obs}),
        f"{STEP}: observation must be an array, got a dict",
    ),
    (
        changed(all=lambda result: (*result[:4], {})),
        f"{STEP} must return obs, state, reward, terminated, truncated, info "
        "(terminated and truncated are two), got a tuple of 5",
    ),
    (
        changed(reward=jnp.ones(1)),
        f"{STEP}: reward must be a real scalar, got float32[1]",
    ),
    (
        changed(terminated=jnp.float32(1)),
        f"{STEP}: terminated must be a bool scalar, got float32[]",
    ),
    (changed(truncated=None), f"{STEP}: truncated must be an array, got None"),
    (changed(info=None), f"{STEP}: info must be a dict, got None"),
    (changed(info={"name": "x"}), f"{STEP}: info['name'] must be an array, got 'x'"),
    (
        changed(state=lambda s: s.replace(time=s.time * 1.0)),
        f"{STEP} must keep state.time: it was int32[], now float32[]",
    ),
    (
        changed(state=lambda s: s.replace(x=s.x[:2])),
        f"{STEP} must keep state.x: it was float32[3], now float32[2]",
    ),
    (
        changed(state=lambda s: s.replace(x={"new": s.x})),
        f"{STEP} must keep state.x: it was float32[3], now nothing",
    ),
    (
        Branching(),
        f"{STEP}: a Python `if`, `while`, `and`, `or` or `not` on a traced value; use jnp.where, "
        "jax.lax.cond or jnp.logical_and (TracerBoolConversionError), at test_contract.py:",
    ),
    (
        Numpy(),
        f"{STEP}: numpy on a traced value; use jax.numpy (TracerArrayConversionError), "
        "at test_contract.py:",
    ),
    (Raising(), f"{STEP}: 'goal\\nnot found' (KeyError), at test_contract.py:"),
]


@pytest.mark.parametrize(("env", "line"), JAX_FAULTS)
def test_faults_of_jax_environments_are_found_in_tracing(env, line):
    venv = JaxVectorEnv(env, None, 2, name="my/thing")
    with pytest.raises(EnvironmentFault) as caught:
        _, state = jax.eval_shape(venv.reset, jax.random.key(0))
        jax.eval_shape(venv.step, state, jnp.zeros(2, jnp.int32))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(line) and (line.endswith(":") or message == line)


def test_parts_of_observations_are_named():
    for answer, line in [
        ({"a": 0}, "observation must be a dict of ['a', 'b'], got keys ['a']"),
        ({"a": 0, "b": 0}, "observation['b'] must be a tuple of 1, got 0"),
        (
            {"a": 0, "b": (jnp.zeros(1, jnp.int32),)},
            "observation['b'][0] must be int32[] as its space, got int32[1]",
        ),
    ]:

        class Answer(Pairs):
            def reset_env(self, key, params, answer=answer):
                return answer, None

        venv = JaxVectorEnv(Answer(), None, 2, name="my/thing")
        with pytest.raises(EnvironmentFault) as caught:
            jax.eval_shape(venv.reset, jax.random.key(0))
        assert str(caught.value).startswith(f"{RESET}: {line}")


def test_spaces_of_other_packages_are_refused_by_name():
    class Foreign(Good):
        def observation_space(self, params):
            return FLOATS

    with pytest.raises(EnvironmentFault, match=r"Foreign: observation_space must .* gymnasium\."):
        JaxVectorEnv(Foreign(), None, 2)


def test_an_environment_may_write_into_the_state_that_it_is_given():
    """It is a copy: what came before is what it was, and a change of dtype does not hide itself."""

    class Writing(Good):
        def reset_env(self, key, params):
            return jnp.full(3, 0.5), {"time": jnp.int32(0)}

        def step_env(self, key, state, action, params):
            state["time"] = state["time"] + params
            return jnp.full(3, 0.5), state, 0.0, False, False, {}

    def step(count):
        env = Writing()
        space, key = env.observation_space(count), jax.random.key(0)
        state = {"time": jnp.int32(0)}
        after = step_checked("my/thing", env, space, key, state, jnp.int32(0), count)[1]
        return int(state["time"]), int(after["time"])

    assert step(jnp.int32(1)) == (0, 1)
    with pytest.raises(EnvironmentFault, match=r"state\['time'\]: it was int32\[\], now float32"):
        step(jnp.float32(1))


def at(time, good, bad):
    return lambda state: jnp.where(state.time == time, bad, good)


class Values(Good):
    """The observation and reward of a step are functions of the state."""

    def __init__(self, first=0.5, obs=0.5, reward=0.0):
        self.first, self.obs, self.reward = first, obs, reward

    def reset_env(self, key, params):
        return jnp.full(3, self.first), super().reset_env(key, params)[1]

    def step_env(self, key, state, action, params):
        _, state, *rest = super().step_env(key, state, action, params)
        obs, reward = (x(state) if callable(x) else x for x in (self.obs, self.reward))
        return jnp.full(3, obs), state, reward, *rest[1:]


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (Values(first=-0.25), "reset: observation[0] must be in [0.0, 1.0], got -0.25"),
        (Values(obs=at(2, 0.5, 7.0)), "step 2: observation[0] must be in [0.0, 1.0], got 7.0"),
        # The observation that ends the episode, which agents see too.
        (Values(obs=at(4, 0.5, 7.0)), "step 4: observation[0] must be in [0.0, 1.0], got 7.0"),
        (Values(obs=at(3, 0.5, jnp.nan)), "step 3: observation[0] must be finite, got nan"),
        (Values(reward=at(2, 0.0, jnp.nan)), "step 2: reward must be finite, got nan"),
        (Values(), None),
    ],
)
def test_first_values(env, line):
    assert first_steps_fault(JaxVectorEnv(env, None, 1), steps=5) == line


def test_environments_of_ones_own_are_played_when_they_are_made(monkeypatch):
    for table in ("_ENTRIES", "_ALIASES"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    ssmrl.envs.register("my/thing", lambda: (Values(obs=-3.0), None))
    with pytest.raises(EnvironmentFault, match=r"my/thing, step 1: observation\[0\] must be in"):
        ssmrl.envs.make_vector("my/thing", 2)
    with pytest.raises(EnvironmentFault, match="my/thing, step 1"):  # and again
        ssmrl.envs.make_vector("my/thing", 2)
    ssmrl.envs.register("my/trusted", lambda: (Values(obs=-3.0), None), check=False)
    assert ssmrl.envs.make_vector("my/trusted", 2).name == "my/trusted"


class Shy(Good):
    """Its observation is the middle of a long table, which a repr does not show."""

    def __init__(self, table, note=None):
        self.table, self.note = table, note

    def __repr__(self):
        return "Shy"

    def reset_env(self, key, params):
        return jnp.full(3, self.table[1000]), super().reset_env(key, params)[1]

    def step_env(self, key, state, action, params):
        _, *rest = super().step_env(key, state, action, params)
        return jnp.full(3, self.table[1000]), *rest


def test_environments_are_the_same_by_their_values_only(monkeypatch):
    monkeypatch.setattr(registry, "_PLAYED", set())
    played = []
    monkeypatch.setattr(
        registry, "first_steps_fault", lambda venv: played.append(venv) or first_steps_fault(venv)
    )
    table = jnp.full(2001, 0.5)
    ssmrl.envs.make_vector(Shy(table), 2)
    ssmrl.envs.make_vector(Shy(table + 0), 3)
    assert len(played) == 1
    with pytest.raises(EnvironmentFault, match=r"Shy, reset: observation\[0\] must be finite"):
        ssmrl.envs.make_vector(Shy(table.at[1000].set(jnp.nan)), 2)
    ssmrl.envs.make_vector((Shy(table), jnp.float32(1)), 2)  # other parameters
    assert len(played) == 3
    for _ in range(2):  # a function may be any
        ssmrl.envs.make_vector(Shy(table, note=lambda: None), 2)
    assert len(played) == 5


def test_what_a_function_makes_is_all_used():
    """Each has a window or a process, say, that somebody must close."""
    made = []

    def make_env():
        made.append(Answering(FLOATS, np.zeros(4, np.float32)))
        return made[-1]

    venv = ssmrl.envs.make_vector(make_env, 3)
    assert len(made) == 3
    assert [id(env) for env in venv.unwrapped._envs] == list(map(id, made))
    with pytest.raises(ValueError, match="gave the same one twice"):
        ssmrl.envs.make_vector(lambda: made[0], 2)


class OwnVector(ssmrl.envs.VectorEnv):
    """A user's own: what it answers can be replaced, part by part."""

    name = "mine"
    num_envs = 2
    observation_space = spaces.Box(0.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, **answers):
        self.answers = answers

    def reset(self, key):
        obs = self.answers.get("first", jnp.full((2, 3), 0.5))
        return self.answers.get("begun", (obs, jnp.zeros(2)))

    def step(self, state, action):
        parts = {"obs": jnp.full((2, 3), 0.5), "state": state, "reward": jnp.zeros(2)}
        parts |= {"terminated": jnp.zeros(2, bool), "truncated": jnp.zeros(2, bool)}
        parts |= {"info": {"final_observation": parts["obs"]}} | self.answers
        names = ("obs", "state", "reward", "terminated", "truncated", "info")
        return self.answers.get("step", tuple(parts[name] for name in names))


VECTOR_FAULTS = [
    ({"first": jnp.zeros((2, 2))}, "reset: observation must be float32[2, 3] as its space, got f"),
    (
        {"first": jnp.zeros(3)},
        "reset: observation must be float32[2, 3] as its space, got float32[",
    ),
    (
        {"first": jnp.zeros((2, 3), int)},
        "reset: observation must be float32[2, 3] as its space, got i",
    ),
    ({"begun": jnp.zeros((2, 3))}, "reset must return (obs, state), got float32[2, 3]"),
    ({"obs": {"a": 0}}, "step: observation must be an array, got a dict"),
    ({"state": jnp.zeros(2, int)}, "step must keep state: it was float32[2], now int32[2]"),
    ({"reward": jnp.zeros((2, 2))}, "step: reward must be real[2], got float32[2, 2]"),
    ({"reward": 0.0}, "step: reward must be real[2], got float32[]"),
    ({"terminated": jnp.zeros(2)}, "step: terminated must be bool[2], got float32[2]"),
    ({"truncated": False}, "step: truncated must be bool[2], got bool[]"),
    ({"info": {}}, "step: info must be a dict with 'final_observation', got keys []"),
    ({"info": None}, "step: info must be a dict with 'final_observation', got None"),
    (
        {"info": {"final_observation": jnp.zeros(3)}},
        "step: info['final_observation'] must be float32[2, 3] as its space, got float32[3]",
    ),
    ({"step": (0, 0)}, "step must return obs, state, reward, terminated, truncated, info, got a"),
    ({"first": jnp.full((2, 3), 7.0)}, "reset: observation[0] must be in [0.0, 1.0], got 7.0"),
    ({"obs": jnp.full((2, 3), jnp.nan)}, "step 1: observation[0] must be finite, got nan"),
    ({"reward": jnp.full(2, jnp.nan)}, "step 1: reward must be finite, got nan"),
]


@pytest.mark.parametrize(("answers", "line"), VECTOR_FAULTS)
def test_vector_environments_of_ones_own_are_held_to_the_contract(answers, line):
    with pytest.raises(EnvironmentFault) as caught:
        ssmrl.envs.make_vector(OwnVector(**answers), 2)
    message = str(caught.value)
    assert message.startswith(f"mine, {line}") and "\n" not in message


def test_a_good_vector_environment_of_ones_own_is_played_once(monkeypatch):
    monkeypatch.setattr(registry, "_PLAYED", set())
    played = []
    monkeypatch.setattr(registry, "first_steps_fault", lambda venv: played.append(venv.name))
    own = OwnVector()
    for _ in range(2):
        assert ssmrl.envs.make_vector(own, 2).unwrapped is own
    assert played == ["mine"]

    class InPython(OwnVector):
        is_host = True

    ssmrl.envs.make_vector(InPython(), 2)  # has one state, which nobody else may move
    assert played == ["mine"]


def test_wrappers_of_ones_own_are_held_to_the_contract():
    class Cut(VectorWrapper):
        def step(self, state, action):
            obs, *rest = self.venv.step(state, action)
            return obs[:, :2], *rest

    own = Cut(JaxVectorEnv(Good(), None, 2, name="my/thing"))
    with pytest.raises(
        EnvironmentFault, match=r"my/thing, step: observation must be float32\[2, 3"
    ):
        ssmrl.envs.make_vector(own, 2)


def test_leaves_are_in_the_order_of_the_tree():
    space = spaces.Dict(
        {"b": spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]), "a": spaces.Discrete(3)}
    )
    leaves = leaves_of(space)
    names = ["observation['a']", "observation['b'][0]", "observation['b'][1]"]
    assert [leaf.name for leaf in leaves] == names
    sample = jax.tree.leaves(space.sample(jax.random.key(0)))
    assert [leaf.shape for leaf in leaves] == [x.shape for x in sample]
    assert [leaf.dtype for leaf in leaves] == [x.dtype for x in sample]


def test_a_row_that_is_wrong_is_found_and_roundings_are_not():
    (leaf,) = leaves_of(spaces.Box(np.array([-np.inf, -2.0]), np.array([10.0, 2.0])))
    batch = np.array([[-1e30, 0.0], [10.00005, 2.00003], [0.0, -2.1]], np.float32)
    assert leaf.fault(batch) == (
        2,
        "observation[1] must be in [-2.0, 2.0], got -2.0999999046325684",
    )
    assert leaf.fault(batch[:2]) is None


def test_the_largest_number_as_a_bound_is_none():
    """What some environments write for "no bound"; a rounding more is infinite, without a word."""
    largest = np.finfo(np.float32).max
    (leaf,) = leaves_of(spaces.Box(np.array([-1.0, -largest]), np.array([1.0, largest])))
    assert leaf.fault(np.array([[1.0, largest]], np.float32)) is None
    assert leaf.fault(np.array([[1.1, 0.0]], np.float32)) is not None
