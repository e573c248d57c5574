"""Numbers stand for actions, one each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ssmrl.networks.enumeration import LARGEST_COUNT, count_actions, numbered_action

FINITE = [
    (Discrete(5), 5),
    (MultiDiscrete([2, 3]), 6),
    (MultiDiscrete([[2, 3], [1, 4]]), 24),
    (Tuple([Discrete(3), Dict({"b": MultiDiscrete([2, 2]), "a": Discrete(2)})]), 24),
]


@pytest.mark.parametrize(("space", "count"), FINITE, ids=repr)
def test_every_action_has_one_number(space, count):
    assert count_actions(space) == count
    actions = numbered_action(space, jnp.arange(count))
    assert jax.vmap(space.contains)(actions).all()
    flat = [np.reshape(x, (count, -1)) for x in jax.tree.leaves(actions)]
    assert len(np.unique(np.concatenate(flat, 1), axis=0)) == count
    # Any leading axes, and the types of a drawn action.
    one = jax.eval_shape(space.sample, jax.random.key(0))
    grid = numbered_action(space, jnp.zeros((7, 2), jnp.int32))
    assert jax.tree.structure(grid) == jax.tree.structure(one)
    for x, like in zip(jax.tree.leaves(grid), jax.tree.leaves(one), strict=True):
        assert (x.shape, x.dtype) == ((7, 2, *like.shape), like.dtype)


def test_numbers_count_as_digits_do():
    """23 of (3 values, then [4, 5]): 23 = 1·20 + 0·5 + 3."""
    space = Tuple([Discrete(3), MultiDiscrete([4, 5])])
    first, rest = numbered_action(space, jnp.int32(23))
    assert first == 1
    np.testing.assert_array_equal(rest, [0, 3])


def test_what_cannot_be_numbered():
    with pytest.raises(ValueError, match=r"cannot number the actions of Tuple.*Box.*must be Discr"):
        count_actions(Tuple([Discrete(2), Box(-1.0, 1.0, (1,))]))
    assert count_actions(MultiDiscrete([64, 64])) == LARGEST_COUNT
    with pytest.raises(ValueError, match=r"parts have 4160 combinations, more than 4096"):
        count_actions(MultiDiscrete([64, 65]))
