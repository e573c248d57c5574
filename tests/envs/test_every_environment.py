"""Everything that is listed works: it is made, reset, stepped and traced; slow tests play it.

What cannot work is not listed, and says why to those who ask for it.
"""

import gzip
import importlib.util
import struct

import gymnasium
import jax
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import UnknownEnvironmentError, list_envs
from ssmrl.envs.adapters import brax, gymnax, require

HAS_GYMNAX = importlib.util.find_spec("gymnax") is not None
HAS_XLAND = importlib.util.find_spec("xminigrid") is not None
NUM_ENVS = 2
# Of the original Memory Maze's package, which few have installed, its own tests make each.
NAMES = [name for name in list_envs() if not name.startswith("memory_maze_original/")]
IN_JAX = [name for name in NAMES if not name.startswith("popgym_original/")]
# Tracing one of brax's takes seconds, all of them most of a minute: the simplest and one whose
# steps write into their state stand for the others.
SLOW = {f"brax/{id_}" for id_ in brax.ENVIRONMENTS} - {"brax/ant", "brax/fast"}
# These are run in test_gymnax.py, quickly too.
SLOW |= {f"gymnax/{id_}" for id_ in gymnax.ENVIRONMENTS} - {
    f"gymnax/{id_}" for id_ in ("asterix", "freeway", "mnist_bandit", "seaquest")
}
# One size stands for the others, which tests of their own play.
SLOW |= {name for name in NAMES if name.startswith("memory_maze/")} - {
    "memory_maze/9x9",
    "memory_maze/9x9_extra_obs",
}
# Worlds that differ in size and rooms only.
SLOW |= {name for name in NAMES if name.startswith("xland/")} - {"xland/r1_9x9", "xland/memory_s8"}
# Three of brax's in one; the single ones above stand for its parts.
SLOW |= {"meta/brax"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Brax System:UserWarning"),  # brax says that it is old
    pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning"),  # brax at mjx's insides
]


@pytest.fixture(scope="module", autouse=True)
def digits(tmp_path_factory):
    """A few black pictures in the place of MNIST, which gymnax would download."""
    folder = tmp_path_factory.mktemp("mnist")
    for part in ("train", "t10k"):
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 2051, 8, 28, 28) + bytes(8 * 28 * 28))
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, 8) + bytes(range(8)))
    if not HAS_GYMNAX:
        yield
        return
    module = require("gymnax.utils.load_mnist", "gymnax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.load_mnist, "__defaults__", (str(folder),))
        yield


def marks_of(name, *, slow):
    marks = [pytest.mark.slow] if slow else []
    if name.startswith("gymnax/") or name == "meta/classic_control":
        why = "gymnax caps jax; see constraints/README.md"
        marks.append(pytest.mark.skipif(not HAS_GYMNAX, reason=why))
    if name.startswith("xland/") or name == "meta/xland":
        marks.append(pytest.mark.skipif(not HAS_XLAND, reason="extra xland"))
    return marks


def sample(venv, key):
    return jax.vmap(venv.action_space.sample)(jax.random.split(key, NUM_ENVS))


def check_types(venv, obs):
    shapes = jax.eval_shape(jax.vmap(venv.observation_space.sample), keys(NUM_ENVS))
    assert jax.tree.structure(obs) == jax.tree.structure(shapes)
    types = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (obs, shapes)]
    assert types[0] == types[1]


def keys(count):
    return jax.random.split(jax.random.key(0), count)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=marks_of(n, slow=n in SLOW)) for n in IN_JAX]
)
def test_reset_and_step_are_traced(name):
    venv = ssmrl.envs.make_vector(name, NUM_ENVS)
    obs, state = jax.eval_shape(venv.reset, jax.random.key(0))
    check_types(venv, obs)
    action = jax.eval_shape(lambda key: sample(venv, key), jax.random.key(0))
    following, after, reward, *_, info = jax.eval_shape(venv.step, state, action)
    check_types(venv, following)
    check_types(venv, info["final_observation"])
    assert (reward.shape, reward.dtype) == ((NUM_ENVS,), np.float32)
    # What a loop needs: the state after a step is one that can be stepped.
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


@pytest.mark.filterwarnings("ignore:Maze environments:DeprecationWarning")
@pytest.mark.parametrize("name", [pytest.param(n, marks=marks_of(n, slow=True)) for n in NAMES])
def test_ten_steps_and_a_reset(name):
    venv = ssmrl.envs.make_vector(name, NUM_ENVS)

    @jax.jit
    def play(key):
        obs, state = venv.reset(key)

        def step(state, key):
            obs, state, reward, *_, info = venv.step(state, sample(venv, key))
            return state, (obs, info["final_observation"], reward)

        state, steps = jax.lax.scan(step, state, keys(10))
        return obs, steps, venv.reset(jax.random.fold_in(key, 1))[0]

    first, (obs, final_obs, reward), again = jax.device_get(play(jax.random.key(0)))
    contains = jax.vmap(venv.observation_space.contains)
    assert contains(first).all() and contains(again).all()
    assert jax.vmap(contains)(obs).all() and jax.vmap(contains)(final_obs).all()
    assert np.isfinite(reward).all()


# Ids that gymnasium lists for others, or for packages that are not installed here.
ELSEWHERE = (
    "Box2D is not installed",
    "moved to the gymnasium-robotics project",
    "only supported on `mujoco<3`",
    "To use the gym compatibility environments",
)
SLOW_TO_MAKE = ("phys2d/", "tabular/")


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize(
    "id_",
    [
        pytest.param(id_, marks=pytest.mark.slow if id_.startswith(SLOW_TO_MAKE) else ())
        for id_ in gymnasium.registry
    ],
)
def test_ids_of_gymnasium(id_):
    """Directly, without compiling: the first three steps are checked as all others are."""
    try:
        venv = ssmrl.envs.make_vector(f"gymnasium/{id_}", NUM_ENVS).unwrapped
    except ImportError as error:
        assert any(words in str(error) for words in ELSEWHERE) and "\n" not in str(error)
        return
    venv._host_reset(np.arange(NUM_ENVS, dtype=np.uint32))
    for key in keys(3):
        venv._host_step(jax.device_get(sample(venv, key)))
    venv.close()


@pytest.mark.parametrize("id_", brax.UNAVAILABLE)
def test_what_cannot_work_says_why(id_):
    assert f"brax/{id_}" not in NAMES
    for name in (f"brax/{id_}", f"BRAX/{id_.upper()}"):
        with pytest.raises(UnknownEnvironmentError, match=f"brax/{id_} cannot run: "):
            ssmrl.envs.make_vector(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("id_", brax.UNAVAILABLE)
def test_what_cannot_work_still_does_not(id_):
    """If this fails, brax has learned it: list the environment again."""
    env = require("brax.envs", "brax").get_environment(id_)
    state = jax.eval_shape(env.reset, jax.random.key(0))
    with pytest.raises(TypeError, match="a_min"):
        jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((env.action_size,), np.float32))
