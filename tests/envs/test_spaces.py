"""Spaces: elements, equality, conversion."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple, flat_size, from_gymnasium

ALL = [
    Discrete(3),
    MultiDiscrete([2, 5]),
    MultiDiscrete([[2, 3], [4, 5]]),
    Box(-1.0, 2.0, (3,)),
    Box(0, 255, (2, 2), np.uint8),
    Box(-np.inf, np.inf, (4,)),
    Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0])),
    Dict({"b": Discrete(2), "a": Box(0.0, 1.0, (2,))}),
    Tuple([Discrete(2), Dict({"x": MultiDiscrete([3])})]),
]


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_samples_are_elements_under_jit_and_vmap(space):
    keys = jax.random.split(jax.random.key(0), 200)
    batch = jax.jit(jax.vmap(space.sample))(keys)
    assert jax.jit(jax.vmap(space.contains))(batch).all()
    dtypes = {x.dtype for x in jax.tree.leaves(batch)}
    assert dtypes <= {np.dtype(t) for t in (np.int32, np.float32, np.uint8)}


def test_samples_reach_every_value():
    keys = jax.random.split(jax.random.key(0), 300)
    assert set(np.asarray(jax.vmap(Discrete(3).sample)(keys)).tolist()) == {0, 1, 2}
    multi = np.asarray(jax.vmap(MultiDiscrete([2, 5]).sample)(keys))
    assert [len(np.unique(multi[:, i])) for i in range(2)] == [2, 5]
    small = np.asarray(jax.vmap(Box(3, 5, (2,), np.uint8).sample)(keys))
    assert set(small.ravel().tolist()) == {3, 4, 5}
    truth = np.asarray(jax.vmap(Box(0, 1, (2,), bool).sample)(keys))
    assert truth.dtype == bool and abs(truth.mean() - 0.5) < 4 * 0.5 / np.sqrt(600)
    # The mean of U(-1, 3) from 300 draws: 1 within four standard errors.
    box = np.asarray(jax.vmap(Box(-1.0, 3.0, ()).sample)(keys))
    assert abs(box.mean() - 1) < 4 * (4 / np.sqrt(12)) / np.sqrt(300)


@pytest.mark.parametrize(
    ("space", "x"),
    [
        (Discrete(3), 3),
        (Discrete(3), -1),
        (Discrete(3), 1.0),
        (Discrete(3), np.array([1])),
        (Discrete(3), {"a": 1}),
        (MultiDiscrete([2, 5]), np.array([1, 5])),
        (MultiDiscrete([2, 5]), np.array([1])),
        (Box(0.0, 1.0, (2,)), np.array([0.5, 1.5])),
        (Box(0.0, 1.0, (2,)), np.array([0.5, np.nan])),
        (Box(0.0, 1.0, (2,)), np.array([0.5])),
        (Box(0, 9, (1,), np.uint8), np.array([0.5])),
        (Dict({"a": Discrete(2)}), {"b": 1}),
        (Dict({"a": Discrete(2)}), {"a": 2}),
        (Tuple([Discrete(2)]), (0, 0)),
        (Tuple([Discrete(2), Discrete(2)]), (0, 2)),
    ],
)
def test_what_is_not_an_element(space, x):
    assert not space.contains(x)


def test_equality_hash_and_immutability():
    twins = [Box(0.0, 1.0, (2,)), Box(np.zeros(2), np.ones(2)), Box(0, 1, (2,))]
    assert len(set(twins)) == 1
    assert len({*ALL}) == len(ALL)
    assert Dict({"a": Discrete(2), "b": Discrete(3)}) == Dict({"b": Discrete(3), "a": Discrete(2)})
    assert Discrete(2) != MultiDiscrete([2]) and Box(0, 1, (2,)) != Box(0, 2, (2,))
    with pytest.raises(AttributeError, match="immutable"):
        Discrete(2).n = 3
    with pytest.raises(ValueError, match="read-only"):
        twins[0].low[0] = 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Discrete(0), "positive number"),
        (lambda: Discrete(-2), "positive number"),
        (lambda: MultiDiscrete([]), "positive numbers"),
        (lambda: MultiDiscrete([2, 0]), "positive numbers"),
        (lambda: MultiDiscrete([1.5]), "positive numbers"),
        (lambda: Box(1.0, 0.0, (2,)), "low <= high"),
        (lambda: Box(np.nan, 0.0, (2,)), "low <= high"),
        (lambda: Box(np.zeros(3), 1.0, (2,)), "do not broadcast"),
        (lambda: Box(0, 2, (2,), bool), "bound 2 is no bool"),
        (lambda: Dict({"a": 3}), "not a space"),
        (lambda: Tuple([None]), "not a space"),
    ],
)
def test_impossible_spaces(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_repr_reads_as_the_space():
    names = {**vars(spaces), "float32": np.float32, "uint8": np.uint8, "inf": np.inf}
    for space in ALL[:6] + ALL[7:]:  # all but the one whose bounds are arrays
        assert eval(repr(space), names) == space
    assert repr(Box(-1.0, 2.0, (3,))) == "Box(-1.0, 2.0, (3,), float32)"


def test_truth_values_without_bounds_are_both():
    assert Box(-np.inf, np.inf, (2,), bool) == Box(0, 1, (2,), bool)


def test_flat_size():
    assert [flat_size(space) for space in ALL] == [1, 2, 4, 3, 4, 4, 2, 3, 2]


def test_from_gymnasium():
    g = gymnasium.spaces
    space = g.Dict(
        {
            "position": g.Box(-1, 1, (2,), np.float64),
            "move": g.Discrete(3, start=-1),
            "pair": g.Tuple([g.MultiBinary(2), g.MultiDiscrete([2, 3])]),
        }
    )
    assert from_gymnasium(space) == Dict(
        {
            "position": Box(-1, 1, (2,), np.float32),
            "move": Discrete(3),
            "pair": Tuple([MultiDiscrete([2, 2]), MultiDiscrete([2, 3])]),
        }
    )
    limit = np.finfo(np.float32).max
    assert from_gymnasium(g.Box(-limit, limit, (1,))) == Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match="kind Text has no fixed array form"):
        from_gymnasium(g.Text(3))


def test_bounds_clip_actions_in_jit():
    box = Box(-0.5, 0.5, (2,))
    clipped = jax.jit(lambda x: jnp.clip(x, box.low, box.high))(jnp.array([-2.0, 0.25]))
    np.testing.assert_array_equal(clipped, [-0.5, 0.25])
