"""Memory Maze (Pašukonis, Lillicrap, Hafner 2023): find the target of the colour asked for.

A maze holds a coloured ball in each of some of its rooms. The frame of the picture has the colour
of the one to be touched next, which pays 1; then another is asked for, drawn uniformly among those
not being touched. Nothing else pays, and only time ends an episode. An agent that remembers where
the balls are finds them sooner.

The original runs in MuJoCo. This is a model of it in JAX, held to recordings of it: motion,
layouts and pictures each have their own module and tests.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.memory_maze.above import draw_above, overlay_map, shortest_path
from ssmrl.envs.memory_maze.layout import SIZES, Maze, draw_maze
from ssmrl.envs.memory_maze.motion import NUM_ACTIONS, Body, at_rest, distance_to, move
from ssmrl.envs.memory_maze.picture import (
    COLOURS,
    HIGH_WALLS,
    LOW_WALLS,
    QUALITIES,
    draw,
    frame,
    frame_colour,
)
from ssmrl.envs.spaces import Box, Dict, Discrete, Space

TOUCH_DISTANCE = 0.3873
"""Between the centres of agent and target, in cells: a ball of 0.2 m on the floor touches one of
0.6 m that is half below it, √(0.8² - 0.2²) m apart."""
HEAD_TOUCH_DISTANCE = 0.208
"""With low walls, where targets float, their centres 1.1 m above the floor: the upper rim of the
agent's head, a cylinder of 0.1 m that ends at 0.59 m, touches them √(0.6² - 0.51²) + 0.1 m apart.
(Straight ahead the nose reaches 0.01 cells farther, which is left out.)"""

VIEWS = ("agent", "above")
_PICTURE_SIZES = (16, 512)
# Longer episodes would not fit into the clock, and actions that last much longer never end.
_EPISODE_LENGTHS, _ACTION_REPEATS = (1, 1_000_000_000), (1, 1000)
_RENDERED = 192


@struct.dataclass
class EnvParams:
    """A Memory Maze.

    Attributes:
        episode_length: in steps, of a quarter of a second each.
        action_repeat: how many steps an action lasts, 1 to 1000; the reward is their sum. The
            original's is 1. With more, who acts at random gets about and finds targets at all, and
            fewer pictures are drawn; with 3, a turn is about 55°.
        targets: how many, 1 to the size's ``max_targets``.
        picture_size: pixels a side, 16 to 512; no less than twice the maze's with ``show_path``.
        quality: of the picture, ``fast`` or ``good``.
        view: what the agent sees: its own view, or the maze from ``above``.
        extra_observations: whether the observation is a dict with the maze and the places of agent
            and targets beside the picture.
        show_path: whether a map in the picture shows the way to the target.
        low_walls: whether walls are too low to hide anything, and targets float above them.
        shuffle_colours: whether the targets' colours are drawn for each episode out of all six; if
            not, they are always the first.
    """

    episode_length: Leaf
    targets: int = struct.field(pytree_node=False)
    action_repeat: int = struct.field(pytree_node=False, default=1)
    picture_size: int = struct.field(pytree_node=False, default=64)
    quality: str = struct.field(pytree_node=False, default="fast")
    view: str = struct.field(pytree_node=False, default="agent")
    extra_observations: Leaf = struct.field(pytree_node=False, default=False)
    show_path: Leaf = struct.field(pytree_node=False, default=False)
    shuffle_colours: Leaf = struct.field(pytree_node=False, default=False)
    low_walls: Leaf = struct.field(pytree_node=False, default=False)


VARIANTS: dict[str, dict[str, Any]] = {
    "vis": {"low_walls": True},
    "hd": {"picture_size": 256},
    "top": {"view": "above", "picture_size": 256},
    "extra_obs": {"extra_observations": True},
    "oracle": {"show_path": True},
    "6cl": {"shuffle_colours": True},
}
"""The original's variants, by what their ids end in, as options."""


@struct.dataclass
class EnvState:
    """``colours`` i32[n] of the targets, ``current`` the one asked for, ``time`` in steps."""

    body: Body
    maze: Maze
    colours: Leaf
    current: Leaf
    time: Leaf


class MemoryMaze(Environment[EnvState, EnvParams]):
    """Observation: a picture, uint8 ``[picture_size, picture_size, 3]``, or a dict that has it as
    ``image`` (``extra_observations``). Actions: nothing, forward, left, right, forward and left,
    forward and right.

    Args:
        size: of the maze, in cells a side, the outer wall not counted.
        options: fields of :class:`EnvParams` with other defaults than the original's.

    Raises:
        ValueError: if there are no mazes of that size.
    """

    def __init__(self, size: int = 9, **options: Any):
        if size not in SIZES:
            sizes = ", ".join(map(str, SIZES))
            raise ValueError(f"memory_maze needs a size of {sizes} cells a side, got {size!r}")
        self.size = int(size)
        self._options = options

    @property
    def name(self) -> str:
        return f"memory_maze_{self.size}x{self.size}"

    @property
    def default_params(self) -> EnvParams:
        defaults = SIZES[self.size]
        params = EnvParams(episode_length=defaults.episode_length, targets=defaults.targets)
        return params.replace(**self._options)

    def check_params(self, params: EnvParams) -> None:
        most = SIZES[self.size].max_targets
        if not 1 <= params.targets <= most:
            raise ValueError(
                f"{self.name} needs 1 to {most} targets, which its rooms can hold, "
                f"got {params.targets}"
            )
        for field, article, (least, most) in (
            ("episode_length", "an", _EPISODE_LENGTHS),
            ("action_repeat", "an", _ACTION_REPEATS),
            ("picture_size", "a", _PICTURE_SIZES),
        ):
            value = getattr(params, field)
            if not least <= value <= most:
                raise ValueError(
                    f"{self.name} needs {article} {field} of {least} to {most}, got {value}"
                )
        if params.show_path and params.picture_size < 2 * self.size:
            raise ValueError(
                f"{self.name} needs a picture_size of at least {2 * self.size} to show a path, "
                f"got {params.picture_size}"
            )
        for field, choices in {"quality": tuple(QUALITIES), "view": VIEWS}.items():
            if getattr(params, field) not in choices:
                raise ValueError(
                    f"{self.name} needs a {field} out of {', '.join(choices)}, "
                    f"got {getattr(params, field)!r}"
                )
        for field in ("extra_observations", "show_path", "shuffle_colours", "low_walls"):
            if not isinstance(getattr(params, field), bool):
                raise ValueError(
                    f"{self.name} needs true or false for {field}, got {getattr(params, field)!r}"
                )

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(NUM_ACTIONS)

    def observation_space(self, params: EnvParams) -> Space:
        image = Box(0, 255, (params.picture_size, params.picture_size, 3), np.uint8)
        if not params.extra_observations:
            return image
        far, n = self.size * np.sqrt(2), params.targets
        return Dict(
            {
                "image": image,
                "agent_pos": Box(0.0, self.size, (2,)),
                "agent_dir": Box(-1.0, 1.0, (2,)),
                "maze_layout": Box(0, 2, (self.size, self.size), np.uint8),
                "target_color": Box(0.0, 1.0, (3,)),
                "target_pos": Box(0.0, self.size, (2,)),
                "target_vec": Box(-far, far, (2,)),
                "targets_pos": Box(0.0, self.size, (n, 2)),
                "targets_vec": Box(-far, far, (n, 2)),
            }
        )

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Any, EnvState]:
        key_maze, key_lots, key_colours = jax.random.split(key, 3)
        maze, start = draw_maze(key_maze, self.size, params.targets)
        lots = jax.random.uniform(key_lots, (2,), jnp.float32)
        heading = (2 * lots[0] - 1) * jnp.pi
        colours = jnp.arange(len(COLOURS), dtype=jnp.int32)
        if params.shuffle_colours:
            colours = jax.random.permutation(key_colours, colours)
        state = EnvState(
            body=at_rest(start[0], start[1], heading),
            maze=maze,
            colours=colours[: params.targets],
            current=(lots[1] * params.targets).astype(jnp.int32),
            time=jnp.int32(0),
        )
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        reach = HEAD_TOUCH_DISTANCE if params.low_walls else TOUCH_DISTANCE

        def advance(state: EnvState, key: PRNGKeyArray) -> tuple[EnvState, Leaf]:
            state, is_found = self._advance(key, state, action, reach)
            # Time may run out while the action lasts.
            return state, is_found & (state.time <= params.episode_length)

        repeats = params.action_repeat
        if repeats == 1:
            state, found = advance(state, key)
        else:
            state, found = jax.lax.scan(advance, state, jax.random.split(key, repeats))
        reward = jnp.sum(found, dtype=jnp.float32)
        truncated = state.time >= params.episode_length
        obs = self.observe(state, params)
        return obs, state, reward, jnp.zeros_like(truncated), truncated, {}

    def _advance(
        self, key: PRNGKeyArray, state: EnvState, action: Any, reach: float
    ) -> tuple[EnvState, Leaf]:
        """A quarter of a second: the state behind it, and whether the target was found."""
        body = move(state.body, jnp.asarray(action, jnp.int32), state.maze.is_wall)
        touched = distance_to(state.maze.targets, state.body, body) < reach
        is_found = touched[state.current]
        following = next_target(key, touched, state.current)
        current = jnp.where(is_found, following, state.current)
        return state.replace(body=body, current=current, time=state.time + 1), is_found

    def observe(self, state: EnvState, params: EnvParams) -> Any:
        """The picture, or the dict with it."""
        body, maze = state.body, state.maze
        path = shortest_path(maze, body, state.current) if params.show_path else None
        if params.view == "above":
            picture = draw_above(maze, body, state.colours, params.picture_size, path)
            colour = frame_colour(state.colours[state.current]).astype(jnp.uint8)
            picture = jnp.where(frame(params.picture_size)[..., None], colour, picture)
        else:
            picture = _first_person(state, params, params.picture_size, params.quality)
        if path is not None:
            picture = overlay_map(picture, maze, body, path)
        if not params.extra_observations:
            return picture
        return {"image": picture, **self._extra_observations(state, path)}

    def _extra_observations(self, state: EnvState, path: Leaf | None) -> dict[str, Array]:
        """In the original's units: cells from the inner side of the wall; vectors right, ahead."""
        body, targets = state.body, state.maze.targets
        cos, sin = jnp.cos(body.heading), jnp.sin(body.heading)
        place = jnp.stack([body.x, body.y])
        away = targets - place
        right, ahead = away @ jnp.stack([sin, -cos]), away @ jnp.stack([cos, sin])
        vectors = jnp.stack([right, ahead], axis=-1)
        layout = 1 - state.maze.is_wall.astype(jnp.uint8)
        if path is not None:
            layout = jnp.where(path, jnp.uint8(2), layout)
        return {
            "agent_pos": place - 1,
            "agent_dir": jnp.stack([cos, sin]),
            "maze_layout": layout[1:-1, 1:-1],
            "target_color": jnp.asarray(COLOURS / 220, jnp.float32)[state.colours[state.current]],
            "target_pos": targets[state.current] - 1,
            "target_vec": vectors[state.current],
            "targets_pos": targets - 1,
            "targets_vec": vectors,
        }

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "H W 3"]:
        """The agent's view beside the maze from above, with the way to the target in dots."""
        body, maze = state.body, state.maze
        view = _first_person(state, params, _RENDERED, "good")
        path = shortest_path(maze, body, state.current)
        return side_by_side(view, draw_above(maze, body, state.colours, _RENDERED, path))


def next_target(key: PRNGKeyArray, touched: Leaf, current: Leaf) -> Leaf:
    """Uniformly one of those not touched; the current one where there is no other."""
    lots = jnp.where(touched, -1.0, jax.random.uniform(key, touched.shape, jnp.float32))
    return jnp.where(jnp.all(touched), current, jnp.argmax(lots).astype(jnp.int32))


def _first_person(
    state: EnvState, params: EnvParams, size: int, quality: str
) -> UInt8[Array, "H W 3"]:
    """What the agent sees, with the frame."""
    body, colours = state.body, state.colours
    where = body.x, body.y, body.heading
    heights = LOW_WALLS if params.low_walls else HIGH_WALLS
    return draw(state.maze, *where, colours, state.current, size, QUALITIES[quality], heights)
