"""How the agent moves: a rolling ball with a head, among walls that it sticks to.

The original is a MuJoCo model, steered four times a second; this is a model of its motion, fitted
to recordings of it. Free motion is two first-order lags, of the speed and of the rate of turning.
A ball that is pushed against a wall creeps along it, far more slowly than it would slide, and turns
to face it; both depend on the angle between heading and wall and on the steering alone, and are
looked up in tables.

Lengths are in cells (of two metres), angles in radians from the x axis, counter-clockwise, and x
and y point right and up from the lower left corner of the outer wall.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ssmrl.envs.environment import Leaf

NOOP, FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(6)
NUM_ACTIONS = 6
_PUSHES = np.array([0, 1, 0, 0, 1, 1], np.float32)
_STEERS = np.array([0, 0, 1, -1, 1, -1], np.float32)

RADIUS = 0.10
"""Of the ball: its centre comes no closer to a wall."""
SUBSTEPS, STEP_SECONDS = 10, 0.25
_DT = STEP_SECONDS / SUBSTEPS


@struct.dataclass
class Rolling:
    """Free motion. Arrays are indexed by whether the agent pushes, then whether it steers.

    Attributes:
        speed: that a push leads to, cells/s, by steering, f32[2].
        speed_lag: time constant of the speed, s, f32[2, 2].
        slip: while its speed changes, the ball is ahead of that speed by this time, s, f32[2, 2].
        turn_rate: that steering leads to, rad/s, by pushing, f32[2].
        turn_lag: time constant of turning, s, f32[2, 2].
        drift: the direction of the motion is behind the heading by this time, s.
        turn_rest: what a step turns on top of that, rad, f32[2, 2, 4]: linear in the steering (1 to
            the left), the rate of turning at its beginning, and both times the speed then.
        distance_rest: likewise what it covers, cells, f32[2, 2, 4]: linear in the push, the speed,
            and both times steering times rate of turning.
    """

    speed: Leaf
    speed_lag: Leaf
    slip: Leaf
    turn_rate: Leaf
    turn_lag: Leaf
    drift: Leaf
    turn_rest: Leaf
    distance_rest: Leaf


ROLLING = Rolling(
    speed=np.array([1.0, 0.9972], np.float32),
    speed_lag=np.array([[0.17, 0.242], [0.1682, 0.2324]], np.float32),
    slip=np.array([[0.00796, -0.00693], [0.0112, 0.00126]], np.float32),
    turn_rate=np.array([1.2851, 1.2729], np.float32),
    turn_lag=np.array([[0.0381, 0.0519], [0.0383, 0.0533]], np.float32),
    drift=np.float32(0.0107),
    turn_rest=np.array(
        [
            [[0.0, -0.00036, 0.0, 0.00438], [-0.0026, 0.00168, 0.00392, -0.00148]],
            [[0.0, 0.00432, 0.0, -0.00543], [0.00625, -0.00031, -0.00804, 0.00121]],
        ],
        np.float32,
    ),
    distance_rest=np.array(
        [
            [[0.0, 0.00033, 0.0, 0.0], [0.0, -0.00076, 0.0, 0.00302]],
            [[0.0014, -0.00103, 0.0, 0.0], [0.00087, -0.00033, -0.00438, 0.00426]],
        ],
        np.float32,
    ),
)
"""Fitted to steps of a random policy away from walls, recorded in the original."""


@struct.dataclass
class Contact:
    """What a push against a wall does, by the angle between heading and wall (``angles``, K).

    ``creep`` and ``rotation`` have a row for each way of steering: away from the wall, straight on,
    towards it.

    Attributes:
        creep: along the wall, cells a step, f32[3, K].
        rotation: towards the wall, radians a step, f32[3, K].
        speed: what is left of the ball's rolling, cells/s, f32[K].
    """

    creep: Leaf
    rotation: Leaf
    speed: Leaf


# By angle (degrees): creep away, straight on and towards; rotation likewise, in degrees; speed.
_BY_ANGLE = np.array(
    [
        [0, 0.0138, 0.2464, 0.0155, -11.56, 6.79, 18.20, 0.9958],
        [3.5, 0.0768, 0.1418, 0.0805, -10.08, 8.96, 18.20, 0.2945],
        [10, 0.0648, 0.0642, 0.0737, -10.91, 7.77, 18.10, 0.1518],
        [14, 0.0431, 0.0694, 0.0827, -10.98, 6.38, 18.50, 0.1339],
        [18, 0.0286, 0.0454, 0.0674, -10.60, 5.67, 19.00, 0.1312],
        [22.5, 0.0141, 0.0367, 0.0418, -8.87, 5.33, 20.00, 0.1286],
        [27.5, 0.0128, 0.0416, 0.0424, -8.90, 4.81, 20.50, 0.1054],
        [35, 0.0056, 0.0263, 0.0422, -7.01, 4.26, 18.90, 0.0687],
        [45, 0.0020, 0.0193, 0.0252, -5.55, 3.53, 15.50, 0.0509],
        [55, 0.0018, 0.0118, 0.0203, -6.79, 2.01, 15.60, 0.0316],
        [67, -0.0006, 0.0055, 0.0134, -9.71, 0.59, 14.10, 0.0108],
        [82, -0.0042, 0.0013, 0.0086, -10.15, 0.49, 12.70, 0.0070],
        [90, -0.0046, 0.0003, 0.0068, -17.27, 0.32, 11.60, 0.0049],
    ],
    np.float32,
)
_ANGLES = np.radians(_BY_ANGLE[:, 0])
CONTACT = Contact(
    creep=_BY_ANGLE[:, 1:4].T, rotation=np.radians(_BY_ANGLE[:, 4:7].T), speed=_BY_ANGLE[:, 7]
)
"""Fitted to a random policy's steps, eight at a time, recorded in the original."""


@struct.dataclass
class Body:
    """The agent: ``x``, ``y`` (cells), ``heading`` (rad), ``speed`` (cells/s), ``turn_rate``
    (rad/s)."""

    x: Leaf
    y: Leaf
    heading: Leaf
    speed: Leaf
    turn_rate: Leaf


def at_rest(x: Leaf, y: Leaf, heading: Leaf) -> Body:
    """A body that stands still."""
    zero = jnp.zeros_like(heading)
    return Body(x, y, heading, zero, zero)


def move(
    body: Body,
    action: Int[Array, ""],
    is_wall: Bool[Array, "N N"],
    rolling: Rolling = ROLLING,
    contact: Contact = CONTACT,
) -> Body:
    """Where ``body`` is a quarter of a second later.

    Args:
        body: of scalars.
        action: one of :data:`NUM_ACTIONS`.
        is_wall: by row (y) and column (x), the outer wall included.
        rolling, contact: the constants of the motion.
    """
    push, steer = jnp.asarray(_PUSHES)[action], jnp.asarray(_STEERS)[action]

    rest = _rest(body, push, steer, rolling)

    def substep(body: Body, _: None) -> tuple[Body, None]:
        return _substep(body, push, steer, rest, is_wall, rolling, contact), None

    return jax.lax.scan(substep, body, None, length=SUBSTEPS)[0]


def _substep(
    body: Body,
    push: Leaf,
    steer: Leaf,
    rest: tuple[Leaf, Leaf],
    is_wall: Leaf,
    rolling: Rolling,
    contact: Contact,
) -> Body:
    """25 ms: roll freely, get out of the walls, and where pushed into one do what contact does."""
    speed, turn_rate, distance, turn = _roll(body, push, steer, rolling)
    turn, distance = turn + rest[0], distance + rest[1]
    middle = body.heading + 0.5 * turn - rolling.drift * turn_rate
    along_x, along_y = jnp.cos(middle), jnp.sin(middle)
    free_x, free_y = body.x + distance * along_x, body.y + distance * along_y
    x, y, normal_x, normal_y = _push_out(free_x, free_y, is_wall)

    size = jnp.sqrt(normal_x**2 + normal_y**2)
    normal_x, normal_y = normal_x / (size + 1e-9), normal_y / (size + 1e-9)
    into = along_x * normal_x + along_y * normal_y
    touches = (size > 0) & (into * distance > 0)
    sticks = touches & (push > 0)
    # Between two walls of a corner nothing creeps.
    creeps = jnp.where(size > 1.2, 0.0, 1.0)

    # The tangent along which the heading points, and whether turning left turns to the wall.
    sign = jnp.where(along_y * normal_x - along_x * normal_y >= 0, 1.0, -1.0)
    tangent_x, tangent_y = -normal_y * sign, normal_x * sign
    towards = -sign
    angle = jnp.arcsin(jnp.clip(into, 0.0, 1.0))
    creep, rotation, rolls = _look_up(contact, angle, steer * towards)

    depth = (x - body.x) * normal_x + (y - body.y) * normal_y
    stuck_x = body.x + depth * normal_x + creeps * creep / SUBSTEPS * tangent_x
    stuck_y = body.y + depth * normal_y + creeps * creep / SUBSTEPS * tangent_y
    x, y = jnp.where(sticks, stuck_x, x), jnp.where(sticks, stuck_y, y)
    x, y, _, _ = _push_out(x, y, is_wall)
    turn_at_wall = rotation * towards / SUBSTEPS
    return Body(
        x=x,
        y=y,
        heading=body.heading + jnp.where(sticks, turn_at_wall, turn),
        speed=jnp.where(sticks, jnp.minimum(speed, rolls), jnp.where(touches, 0.0, speed)),
        turn_rate=jnp.where(sticks, turn_at_wall / _DT, turn_rate),
    )


def _rest(body: Body, push: Leaf, steer: Leaf, rolling: Rolling) -> tuple[Leaf, Leaf]:
    """What each substep turns and covers beyond the lags, which are not the whole truth."""
    pushes, turns = (push > 0).astype(jnp.int32), (steer != 0).astype(jnp.int32)
    odd = jnp.stack([steer, body.turn_rate, steer * body.speed, body.turn_rate * body.speed])
    same_way = steer * body.turn_rate
    even = jnp.stack([push, body.speed, push * same_way, body.speed * same_way])
    turn = jnp.asarray(rolling.turn_rest)[pushes, turns] @ odd
    distance = jnp.asarray(rolling.distance_rest)[pushes, turns] @ even
    return turn / SUBSTEPS, distance / SUBSTEPS


def _roll(body: Body, push: Leaf, steer: Leaf, rolling: Rolling) -> tuple[Leaf, Leaf, Leaf, Leaf]:
    """Free motion: speed and rate of turning after a substep, distance and angle covered in it."""
    pushes, turns = (push > 0).astype(jnp.int32), (steer != 0).astype(jnp.int32)
    speed_goal = push * jnp.asarray(rolling.speed)[turns]
    turn_goal = steer * jnp.asarray(rolling.turn_rate)[pushes]
    speed_decay = jnp.exp(-_DT / jnp.asarray(rolling.speed_lag))[pushes, turns]
    turn_decay = jnp.exp(-_DT / jnp.asarray(rolling.turn_lag))[pushes, turns]
    speed = speed_goal + (body.speed - speed_goal) * speed_decay
    turn_rate = turn_goal + (body.turn_rate - turn_goal) * turn_decay
    slip = jnp.asarray(rolling.slip)[pushes, turns] * (body.speed - speed)
    distance = 0.5 * (body.speed + speed) * _DT + slip
    return speed, turn_rate, distance, 0.5 * (body.turn_rate + turn_rate) * _DT


def _push_out(x: Leaf, y: Leaf, is_wall: Leaf) -> tuple[Leaf, Leaf, Leaf, Leaf]:
    """The nearest place where the ball is in no wall, and a normal into those that it was in.

    The normal's length is 0 away from walls, 1 at a wall or at a wall's edge, √2 in a corner.
    """
    column, row = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    last = is_wall.shape[0] - 1

    def wall(dx: Leaf, dy: Leaf) -> Leaf:
        return is_wall[jnp.clip(row + dy, 0, last), jnp.clip(column + dx, 0, last)]

    in_x, in_y = x - column, y - row
    near = RADIUS, 1 - RADIUS
    left, right = wall(-1, 0) & (in_x < near[0]), wall(1, 0) & (in_x > near[1])
    below, above = wall(0, -1) & (in_y < near[0]), wall(0, 1) & (in_y > near[1])
    out_x = jnp.where(left, column + near[0], jnp.where(right, column + near[1], x))
    out_y = jnp.where(below, row + near[0], jnp.where(above, row + near[1], y))
    normal_x = right.astype(x.dtype) - left.astype(x.dtype)
    normal_y = above.astype(y.dtype) - below.astype(y.dtype)

    # The edge where four cells meet, if only the cell across it is wall.
    is_right, is_above = in_x >= 0.5, in_y >= 0.5
    from_x, from_y = in_x - is_right, in_y - is_above
    distance = jnp.sqrt(from_x**2 + from_y**2) + 1e-9
    across = wall(jnp.where(is_right, 1, -1), jnp.where(is_above, 1, -1))
    at_edge = ~(left | right | below | above) & across & (distance < RADIUS)
    away_x, away_y = from_x / distance, from_y / distance
    return (
        jnp.where(at_edge, column + is_right + away_x * RADIUS, out_x),
        jnp.where(at_edge, row + is_above + away_y * RADIUS, out_y),
        jnp.where(at_edge, -away_x, normal_x),
        jnp.where(at_edge, -away_y, normal_y),
    )


def _look_up(contact: Contact, angle: Leaf, steer: Leaf) -> tuple[Leaf, Leaf, Leaf]:
    """Creep, rotation and speed at ``angle`` (rad), ``steer`` 1 towards the wall, -1 away."""
    which = (jnp.sign(steer) + 1).astype(jnp.int32)
    # Weights of linear interpolation: of all knots, so that a batch needs no gathers.
    rising = (angle - _ANGLES[:-1]) / np.diff(_ANGLES)
    one = jnp.ones(1, jnp.float32)
    up = jnp.clip(jnp.concatenate([one, rising]), 0.0, 1.0)
    down = jnp.clip(jnp.concatenate([1 - rising, one]), 0.0, 1.0)
    weights = jnp.minimum(up, down)
    creep = jnp.asarray(contact.creep)[which] @ weights
    rotation = jnp.asarray(contact.rotation)[which] @ weights
    return creep, rotation, jnp.asarray(contact.speed) @ weights


def distance_to(points: Float[Array, "K 2"], begin: Body, end: Body) -> Float[Array, "K"]:
    """How close the way from ``begin`` to ``end`` came to each of ``points``, in cells."""
    start = jnp.stack([begin.x, begin.y])
    way = jnp.stack([end.x, end.y]) - start
    share = (points - start) @ way / jnp.maximum(way @ way, 1e-9)
    nearest = start + jnp.clip(share, 0.0, 1.0)[:, None] * way
    return jnp.sqrt(jnp.sum((points - nearest) ** 2, axis=-1))
