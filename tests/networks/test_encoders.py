"""Encoders: what each space becomes, in which order, for any leading axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.networks.encoders import (
    Convolutions,
    ObservationEncoder,
    Patches,
    leaves,
)
from ssmrl.networks.mlp import ACTIVATIONS, MLP
from ssmrl.networks.patches import cut_patches, join_patches, patch_sides


def encode(space, value, **options):
    """Features, from a freshly initialised encoder without hidden layers unless asked."""
    module = ObservationEncoder(space, **({"hidden": ()} | options))
    value = jax.tree.map(jnp.asarray, value)
    return module.init_with_output(jax.random.key(0), value)[0]


def test_discrete_is_one_hot():
    features = encode(spaces.Discrete(3), np.int32([[0, 1], [2, 3]]))
    expected = [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]  # 3 is outside: zeros
    np.testing.assert_array_equal(features, expected)
    assert features.dtype == jnp.float32


def test_multi_discrete_is_one_hot_entry_by_entry():
    features = encode(spaces.MultiDiscrete([2, 3]), np.int32([[1, 0], [0, 2]]))
    np.testing.assert_array_equal(features, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])
    # Two axes: [[2, 1], [3, 2]] in row-major order.
    features = encode(spaces.MultiDiscrete([[2, 1], [3, 2]]), np.int32([[[1, 0], [2, 0]]]))
    np.testing.assert_array_equal(features, [[0, 1, 1, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 3), (2, 1, 2, 3)])
def test_boxes_are_flattened(shape):
    value = np.random.default_rng(0).normal(size=(4, 5, *shape)).astype(np.float32)
    features = encode(spaces.Box(-9, 9, shape), value)
    np.testing.assert_array_equal(features, value.reshape(4, 5, -1))


def test_integer_boxes_are_scaled_by_their_bounds():
    features = encode(spaces.Box(1, [5, 9], (2,), np.int32), np.int32([[2, 9]]))
    np.testing.assert_array_equal(features, [[-0.25, 0.5]])
    assert features.dtype == jnp.float32


def test_nested_spaces_are_concatenated_by_name():
    space = spaces.Dict(
        {
            "z": spaces.Discrete(2),
            "a": spaces.Tuple([spaces.Box(-1, 1, (1,)), spaces.Dict({"b": spaces.Discrete(3)})]),
        }
    )
    value = {"z": np.int32([1]), "a": (np.float32([[0.5]]), {"b": np.int32([2])})}
    # a.0 = 0.5, a.1.b = 2 of 3, z = 1 of 2
    expected = [[0.5, 0, 0, 1, 0, 1]]
    np.testing.assert_array_equal(encode(space, value), expected)
    # The order in which the entries were written down does not matter.
    other = spaces.Dict({"a": space["a"], "z": space["z"]})
    np.testing.assert_array_equal(encode(other, dict(sorted(value.items()))), expected)
    names = [type(part).__name__ for part, _ in leaves(space, value)]
    assert names == ["Box", "Discrete", "Discrete"]


def test_hidden_layers_follow():
    space, value = spaces.Box(-1, 1, (3,)), jnp.array([[0.1, -0.2, 0.3]])
    module = ObservationEncoder(space, hidden=(5, 4), activation="tanh")
    features, variables = module.init_with_output(jax.random.key(0), value)
    x = np.float64(value)
    for name in ("Dense_0", "Dense_1"):
        layer = variables["params"]["MLP_0"][name]
        x = np.tanh(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
    np.testing.assert_allclose(features, x, atol=1e-6)


# ------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("shape", "dtype", "width"),
    [
        # 64 is halved four times to 4 x 4; channels 16, 32, 64, 128.
        ((64, 64, 3), np.uint8, 4 * 4 * 128),
        # 10 is halved once to 5 x 5; 16 channels.
        ((10, 10, 4), np.float32, 5 * 5 * 16),
        # The shorter side says how often: 16 halved twice is 4, 32 becomes 8; 32 channels.
        ((32, 16, 1), np.float32, 8 * 4 * 32),
    ],
)
def test_pictures_go_through_convolutions(shape, dtype, width):
    space = spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)
    rng = np.random.default_rng(0)
    value = rng.integers(0, 256, (2, 3, *shape)).astype(dtype)
    module = ObservationEncoder(space, hidden=(7,))
    value = jnp.asarray(value if dtype == np.uint8 else value / 255, dtype)
    variables = module.init(jax.random.key(0), value[0, :1])
    apply = jax.jit(module.apply)
    features = apply(variables, value)
    assert features.shape == (2, 3, width) and features.dtype == jnp.float32
    # Leading axes are only carried along: each picture by itself gives the same.
    for t, b in np.ndindex(2, 3):
        np.testing.assert_allclose(features[t, b], apply(variables, value[t, b]), atol=1e-5)
    assert np.abs(features[0, 0] - features[1, 2]).max() > 1e-3


def channels_first(x):
    return np.moveaxis(x, -1, -3)


def stacked(x):
    return channels_first(x)[..., None]


SAME = {
    "bytes": (spaces.Box(0, 255, (12, 10, 2), np.uint8), np.uint8),
    "channels first": (spaces.Box(0, 255, (2, 12, 10), np.uint8), channels_first),
    "stacked": (spaces.Box(0, 255, (2, 12, 10, 1), np.uint8), stacked),
    "shifted": (spaces.Box(-255, 0, (12, 10, 2), np.int32), lambda x: np.int32(x) - 255),
    "floats": (spaces.Box(0, 255, (12, 10, 2), np.float32), np.float32),
}


@pytest.mark.parametrize("name", list(SAME)[1:])
def test_a_picture_is_the_same_in_every_layout_type_and_range(name):
    """Beside a vector, and inside nested spaces: equal parameters, equal features."""
    picture = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 2)).astype(np.uint8)
    speed = spaces.Box(-1, 1, (2,))

    def both(name):
        space, view = SAME[name]
        nested = spaces.Dict({"eyes": spaces.Tuple([space]), "speed": speed})
        module = ObservationEncoder(nested, hidden=())
        return module, {"eyes": (jnp.asarray(view(picture)),), "speed": jnp.zeros((3, 2))}

    module, value = both("bytes")
    expected, variables = jax.jit(module.init_with_output)(jax.random.key(0), value)
    module, value = both(name)
    np.testing.assert_array_equal(jax.jit(module.apply)(variables, value), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int32])
def test_a_picture_of_two_values_is_the_same_in_every_type(dtype):
    planes = np.random.default_rng(0).integers(0, 2, (3, 10, 10, 2))
    features = [
        encode(spaces.Box(0, 1, (10, 10, 2), kind), planes.astype(kind))
        for kind in (np.float32, dtype)
    ]
    np.testing.assert_array_equal(*features)
    assert np.ptp(features[0], axis=0).max() > 0.1


def test_pictures_join_behind_the_vectors():
    space = spaces.Dict(
        {"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8), "speed": spaces.Box(-1, 1, (2,))}
    )
    value = {
        "eye": np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8),
        "speed": np.float32(np.linspace(-1, 1, 10)).reshape(5, 2),
    }
    features = encode(space, value)
    assert features.shape == (5, 2 + 4 * 4 * 16)
    np.testing.assert_array_equal(features[:, :2], value["speed"])
    assert (np.abs(features[:, 2:]).max(-1) > 0).all()


# ------------------------------------------------------------------------------ patches


@pytest.mark.parametrize(
    ("height", "width", "side"), [(16, 24, 8), (10, 12, 2), (9, 8, 4), (8, 11, 3)]
)
def test_a_product_over_patches_is_a_convolution_that_strides_by_its_size(height, width, side):
    """Against `lax.conv` in float64; where patches reach over the edge, the edge is repeated."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        picture = rng.normal(size=(2, 3, height, width, 3))
        kernel = rng.normal(size=(side, side, 3, 5))
        result = cut_patches(jnp.asarray(picture), side) @ kernel.reshape(-1, 5)
        missing = ((0, -height % side), (0, -width % side))
        padded = np.pad(picture, ((0, 0), (0, 0), *missing, (0, 0)), mode="edge")
        expected = jax.lax.conv_general_dilated(
            jnp.asarray(padded.reshape(6, *padded.shape[2:])),
            jnp.asarray(kernel),
            window_strides=(side, side),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        assert result.dtype == jnp.float64
    shape = (2, 3, -(-height // side), -(-width // side), 5)
    np.testing.assert_allclose(result, np.reshape(expected, shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_joining_patches_undoes_cutting_them(side):
    picture = np.random.default_rng(0).normal(size=(2, 3, 8, 12, 3)).astype(np.float32)
    patches = cut_patches(jnp.asarray(picture), side)
    assert patches.shape == (2, 3, 8 // side, 12 // side, side * side * 3)
    np.testing.assert_array_equal(join_patches(patches, side), picture)


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        # What is left is 4 x 4; one halving at least; the first patch is 8 x 8 at most.
        ((64, 64), [8, 2]),
        ((32, 32), [4, 2]),
        ((16, 40), [2, 2]),
        ((10, 10), [2]),
        ((8, 8), [2]),
        ((128, 128), [8, 2, 2]),
    ],
)
def test_patches_are_large_first(shape, sides):
    assert patch_sides(*shape) == sides


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_encoder_by_patches_is_its_layers_over_the_centred_picture(dtype):
    """In float64 from the parameters, with loops over patches; bytes are scaled after cutting."""
    space = spaces.Box(0, 255, (16, 18, 3), dtype)
    picture = np.random.default_rng(0).integers(0, 256, (2, 16, 18, 3)).astype(dtype)
    module = ObservationEncoder(space, hidden=(), picture_encoder="patches", picture_depth=6)
    features, variables = module.init_with_output(jax.random.key(0), jnp.asarray(picture))
    assert features.dtype == jnp.float32
    x = picture / 255 - 0.5
    parameters = variables["params"]["Patches_0"]
    assert [parameters[f"Dense_{i}"]["kernel"].shape[1] for i in range(2)] == [6, 12]
    for i in range(2):
        x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode="edge")
        y = np.zeros((2, x.shape[1] // 2, x.shape[2] // 2, 6 * (i + 1)))
        kernel = np.float64(parameters[f"Dense_{i}"]["kernel"])
        for row, column in np.ndindex(*y.shape[1:3]):
            patch = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            y[:, row, column] = patch.reshape(2, -1) @ kernel
        y += np.float64(parameters[f"Dense_{i}"]["bias"])
        x = y / (1 + np.exp(-y))
    np.testing.assert_allclose(features, x.reshape(2, -1), atol=1e-5)


@pytest.mark.parametrize("name", list(SAME)[1:])
def test_patches_see_the_same_picture_in_every_layout_type_and_range(name):
    picture = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 2)).astype(np.uint8)

    def features(name):
        space, view = SAME[name]
        return encode(space, view(picture), picture_encoder="patches")

    np.testing.assert_allclose(features(name), features("bytes"), atol=1e-6)


def test_patches_scale_every_pixel_by_its_own_bounds():
    """Entries with other bounds than their neighbours' are scaled before they are cut."""
    high = np.random.default_rng(0).integers(1, 256, (8, 8, 2))
    relative = np.random.default_rng(1).uniform(size=(3, 8, 8, 2))
    own = encode(
        spaces.Box(0, high.astype(np.float32), (8, 8, 2)),
        np.float32(relative * high),
        picture_encoder="patches",
    )
    common = encode(spaces.Box(0, 1, (8, 8, 2)), np.float32(relative), picture_encoder="patches")
    np.testing.assert_allclose(own, common, atol=1e-5)


@pytest.mark.slow
def test_leading_axes_are_only_carried_along():
    space = spaces.Dict(
        {
            "d": spaces.Discrete(4),
            "m": spaces.MultiDiscrete([[2, 3]]),
            "b": spaces.Box(-1, 1, (2, 2)),
            "s": spaces.Box(-1, 1, ()),
        }
    )
    sample = jax.vmap(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), (3, 4)))
    module = ObservationEncoder(space, hidden=(6,))
    variables = module.init(jax.random.key(1), sample)
    apply = jax.jit(module.apply)
    features = apply(variables, sample)
    assert features.shape == (3, 4, 6)
    for t, b in np.ndindex(3, 4):
        one = jax.tree.map(lambda x: x[t, b], sample)  # noqa: B023
        np.testing.assert_allclose(features[t, b], apply(variables, one), atol=1e-6)


def test_unknown_spaces_are_named():
    class Odd(spaces.Space):
        def sample(self, key):
            return key

        def contains(self, x):
            return jnp.asarray(True)

        def _key(self):
            return ()

    with pytest.raises(ValueError, match="no encoding for observations of space"):
        encode(Odd(), np.zeros(3, np.float32))


# ------------------------------------------------------------------------------ perceptrons


def test_perceptron_initialisation():
    """Orthogonal kernels, gain √2 behind hidden layers and `output_scale` at the end; no biases."""
    module = MLP((6, 6), "relu", outputs=3, output_scale=0.01)
    parameters = module.init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    assert set(parameters) == {"Dense_0", "Dense_1", "output"}
    for name, gain in (("Dense_0", 2**0.5), ("Dense_1", 2**0.5), ("output", 0.01)):
        kernel = np.float64(parameters[name]["kernel"])
        gram = kernel.T @ kernel
        np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5 * gain**2)
        np.testing.assert_array_equal(parameters[name]["bias"], 0)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_output_is_linear(activation):
    module = MLP((), activation, outputs=2)
    x = jnp.array([[1.0, -2.0]])
    y, variables = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(module.apply(variables, -3 * x), -3 * y, rtol=1e-5)


@pytest.mark.parametrize("name", ["MLP", "Convolutions", "Patches"])
def test_unknown_activations_are_named(name):
    space = spaces.Box(0, 1, (8, 8, 3))
    module = {
        "MLP": MLP((3,), "swish"),
        "Convolutions": Convolutions(4, "swish"),
        "Patches": Patches(space, 4, "swish"),
    }[name]
    with pytest.raises(ValueError, match="unknown activation 'swish'; choose one of .*silu"):
        module.init(jax.random.key(0), jnp.zeros((8, 8, 3)))


def test_layer_norm_is_in_front_of_every_activation():
    """Features without it and with it, the layers' weights being the same: (x - mean) / deviation
    over the channels, then the activation."""
    x = jnp.asarray(np.random.default_rng(0).normal(1, 3, (4, 5)), jnp.float32)
    params = MLP((6,), layer_norm=True).init(jax.random.key(0), x)
    normed = MLP((6,), layer_norm=True).apply(params, x)
    kernel = params["params"]["Dense_0"]["kernel"]
    z = np.asarray(x @ kernel)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normed, jax.nn.silu(z), rtol=1e-4, atol=1e-5)
    space = spaces.Dict(
        {"card": spaces.Discrete(3), "eye": spaces.Box(0, 255, (16, 16, 1), np.uint8)}
    )
    value = {"card": jnp.zeros(2, jnp.int32), "eye": jnp.zeros((2, 16, 16, 1), jnp.uint8)}
    for pictures, layers in (("convolutions", 2), ("patches", 2)):
        for layer_norm in (True, False):
            module = ObservationEncoder(
                space, (8, 8), picture_encoder=pictures, layer_norm=layer_norm
            )
            shapes = jax.eval_shape(module.init, jax.random.key(0), value)
            paths = [
                jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)
            ]
            scales = [path for path in paths if "LayerNorm" in path and "scale" in path]
            assert len(scales) == (2 + layers if layer_norm else 0), scales
