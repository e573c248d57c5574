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
    speed=np.array([0.9995, 1.0158], np.float32),
    speed_lag=np.array([[0.1796, 0.248], [0.1796, 0.248]], np.float32),
    slip=np.array([[0.0065, 0.0], [0.0065, 0.0]], np.float32),
    turn_rate=np.array([1.283, 1.283], np.float32),
    turn_lag=np.array([[0.041, 0.054], [0.041, 0.054]], np.float32),
    drift=np.float32(0.0),
    turn_rest=np.zeros((2, 2, 4), np.float32),
    distance_rest=np.zeros((2, 2, 4), np.float32),
)
"""Fitted to the original's recorded steps away from walls."""


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


_ANGLES = np.radians([0, 3.5, 10, 14, 18, 22.5, 27.5, 35, 45, 55, 67, 82, 90]).astype(np.float32)
CONTACT = Contact(
    creep=np.array(
        [
            [0.18, 0.11, 0.078, 0.05, 0.0385, 0.031, 0.0144]
            + [0.0072, 0.0032, 0.0021, 0.0002, -0.0024, -0.003],
            [0.2, 0.134, 0.064, 0.045, 0.036, 0.034, 0.033]
            + [0.0254, 0.0184, 0.0104, 0.0051, 0.0009, 0.0],
            [0.2, 0.13, 0.059, 0.05, 0.045, 0.04, 0.037]
            + [0.031, 0.0185, 0.016, 0.0105, 0.0058, 0.004],
        ],
        np.float32,
    ),
    rotation=np.radians(
        [
            [-15, -14.3, -10.8, -9.5, -10.5, -10.3, -8.4, -6.83, -5.79, -6.18, -9.17, -10.64, -11.6],
            [8, 11.9, 10.8, 7, 5, 4.9, 4.7, 3.97, 3.12, 1.9, 0.83, 0.15, 0],
            [18.2, 18.2, 18.1, 18.5, 19, 20, 20.5, 18.9, 15.5, 15.6, 14.1, 12.7, 11.6],
        ]
    ).astype(np.float32),
    speed=np.array(
        [0.9, 0.33, 0.17, 0.15, 0.147, 0.144, 0.118, 0.077, 0.057, 0.037, 0.016, 0.002, 0],
        np.float32,
    ),
)
"""Measured on the original: the mean over its recorded contacts, by angle and steering."""


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
    body: Body, action: Int[Array, ""], is_wall: Bool[Array, "N N"],
    rolling: Rolling = ROLLING, contact: Contact = CONTACT
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


def distance_to(
    points: Float[Array, "n 2"], begin: Body, end: Body
) -> Float[Array, "n"]:
    """How close the way from ``begin`` to ``end`` came to each of ``points``, in cells."""
    start = jnp.stack([begin.x, begin.y])
    way = jnp.stack([end.x, end.y]) - start
    share = (points - start) @ way / jnp.maximum(way @ way, 1e-9)
    nearest = start + jnp.clip(share, 0.0, 1.0)[:, None] * way
    return jnp.sqrt(jnp.sum((points - nearest) ** 2, axis=-1))
