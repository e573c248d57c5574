"""Parameters may be traced: a gymnax user jits `reset` and `step` with them as arguments."""

import jax
import pytest

import ssmrl.envs

OURS = [
    name
    for name in ssmrl.envs.list_envs()
    if (
        name.startswith(("popgym/", "worlds/", "meta/"))
        and name != "meta/xland"  # which its own tests draw, if it is installed
    )
    or (name.startswith("bsuite/") and name.count("/") == 1)
]


@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")  # brax says that it is old
@pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")  # brax at mjx's insides
@pytest.mark.parametrize("name", OURS)
def test_reset_step_and_picture_with_traced_parameters(name):
    """Traced only: nothing is compiled."""
    env, params = ssmrl.envs.make(name)
    key = jax.random.key(0)
    obs, state = jax.eval_shape(env.reset, key, params)
    action = env.action_space(params).sample(key)
    stepped = jax.eval_shape(env.step, key, state, action, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), stepped[:2]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (obs, state)
    )
    picture = jax.eval_shape(env.render, state, params)
    assert picture.dtype == "uint8" and picture.shape[2] == 3
