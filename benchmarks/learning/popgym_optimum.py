"""What each of POPGym's 48 ids is worth at best: bounds from the rules, and scripts that play.

    python -m benchmarks.learning.popgym_optimum [--families NAME …] [--again]

For each id: a bound on the expected return of any policy (`exact` where some policy earns it, with
the bound's own error where it is sampled or computed on a grid), and what a named script with
perfect memory earns in our environment from observations alone. The arguments are in the modules of
`optimum/`. Ids that are in the file already are left as they are. Writes JSON, and the table of
docs/popgym_optimum.md beside the best published figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ssmrl.envs
from benchmarks.harness import machine_info, write_json
from benchmarks.learning.optimum import (
    bandit,
    battleship,
    cards,
    concentration,
    control,
    labyrinth,
    minesweeper,
    pendulum,
)
from benchmarks.learning.optimum.play import Sample, play, sample
from ssmrl.envs.popgym import DIFFICULTIES, FAMILIES
from ssmrl.envs.popgym._labyrinth import GOAL
from ssmrl.envs.popgym._maze import WALL
from ssmrl.figures import task_name

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks/published/popgym_best.json"


def entry(
    bound: float, how: str, script: str, reached: Sample, exact: bool = False, error: float = 0.0
) -> dict[str, Any]:
    """One id's record. ``error`` is the bound's: a standard error, or the grid's."""
    return {
        "bound": bound,
        "bound_error": error,
        "exact": exact,
        "how": how,
        "script": script,
        "reached": reached.mean,
        "reached_error": reached.error,
        "episodes": reached.episodes,
    }


def played(id_: str, make_player: Callable[[], Any], episodes: int) -> Sample:
    return sample(play(id_, make_player, episodes))


def all_answers_known(make_player: Callable[[Any], Any], id_: str, params: Any) -> dict[str, Any]:
    how = "every answer follows from what has been shown, and all right answers pay 1"
    script = "writes everything down"
    return entry(1.0, how, script, played(id_, lambda: make_player(params), 16), exact=True)


def higher_lower(id_: str, params: Any) -> dict[str, Any]:
    decks = params.num_decks
    how = "the better guess at each card, summed over all hypergeometric draws of the cards left"
    bound = cards.best_guesses(4 * decks)
    reached = played(id_, lambda: cards.CountCards(decks), 1000)
    return entry(bound, how, "counts cards", reached, exact=True)


def multiarmed_bandit(id_: str, params: Any) -> dict[str, Any]:
    arms, pulls = params.num_bandits, int(params.max_episode_length)
    thompson = sample(bandit.thompson(arms, pulls, 1000))
    how = "Lagrange's bound: one pull a step, but only on average"
    reached = sample(bandit.optimistic(arms, pulls, 4000))
    script = f"largest mean and {bandit.OPTIMISM} standard deviations, fewer near the end"
    found = entry(bandit.lagrangian_bound(arms, pulls), how, script, reached)
    found |= {"thompson": thompson.mean, "thompson_error": thompson.error}
    return {**found, "best_arm_known": bandit.best_arm_return(arms)}


def cartpole(make_policy: Callable[[Any], control.Policy], id_: str, params: Any) -> dict[str, Any]:
    env, _ = ssmrl.envs.make(id_)
    returns = control.play(env, params, make_policy(params), 1000)
    is_exact = bool((returns > 1 - 1e-4).all())
    how = "every step pays 1 / T: an episode without a fall earns 1"
    script = "filter, then pushes to the side to which it falls"
    return entry(1.0, how, script, sample(returns), exact=is_exact)


@cache
def costs_to_go(angles: int, speeds: int):
    return pendulum.cost_to_go(angles, speeds, 200)


def refined(of_values: Callable[[Any], float]) -> tuple[float, float]:
    """A return on a grid of half the spacing and half as far again, and the last difference."""
    coarse, fine = of_values(costs_to_go(200, 161)), of_values(costs_to_go(400, 321))
    return 2 * fine - coarse, abs(fine - coarse)


def position_only_pendulum(id_: str, params: Any) -> dict[str, Any]:
    env, _ = ssmrl.envs.make(id_)
    steps = int(params.max_episode_length)
    bound, error = refined(lambda values: pendulum.unknown_speed_return(values, steps))
    reached = pendulum.play(env, params, costs_to_go(400, 321), 1024)
    how = (
        "backward dynamic programming over angle and speed, the first speed unknown; two grids, "
        "extrapolated"
    )
    script = "speed from the last two angles, then the best torque on the grid"
    return entry(bound, how, script, reached, exact=True, error=error)


def noisy_position_only_pendulum(id_: str, params: Any) -> dict[str, Any]:
    env, _ = ssmrl.envs.make(id_)
    steps = int(params.max_episode_length)
    bound, error = refined(lambda values: pendulum.known_state_return(values, steps))
    policy = control.noisy_pendulum(params, pendulum.control(costs_to_go(200, 161)[150]))
    how = "backward dynamic programming with the state known, which noise hides; extrapolated"
    script = "extended Kalman filter, then the best torque for its mean"
    return entry(bound, how, script, sample(control.play(env, params, policy, 1000)), error=error)


def battleship_(id_: str, params: Any) -> dict[str, Any]:
    size = params.board_size
    bound, error = battleship.counting_bound(size, 2000)
    how = (
        "with m misses at most C(12 + m, m) fleets can be told apart; remembering one's shots "
        "alone earns 1/13"
    )
    script = "shoots where a ship is most probable, by belief propagation"
    return entry(bound, how, script, played(id_, lambda: battleship.Player(size), 200), error=error)


def concentration_(id_: str, params: Any) -> dict[str, Any]:
    kinds = {"colors": 2, "ranks": 13}[params.deck_type]
    number = 52 * params.num_decks
    bound = 1 - concentration.fewest_mismatches(kinds, number // kinds) / number
    how = "dynamic programming over how many cards of each kind are unseen and known"
    script = "a new card, then its mate if known, else another; known pairs last"
    reached = played(id_, lambda: concentration.Player(kinds), 2000)
    return entry(bound, how, script, reached, exact=True)


def minesweeper_(id_: str, params: Any) -> dict[str, Any]:
    board = params.board_size, params.num_mines
    is_small = params.board_size <= 4
    if is_small:
        bound, how = minesweeper.best_return(*board), "dynamic programming over the boards possible"
    else:
        bound, how = minesweeper.first_looks_bound(*board), "best three looks, then all is known"
    reached = played(id_, lambda: minesweeper.Player(*board), 2000)
    return entry(bound, how, "safest cell by exact counting of boards", reached, exact=is_small)


@cache
def mazes(difficulty: str, count: int = 2000) -> np.ndarray:
    """Mazes of LabyrinthEscape, which are LabyrinthExplore's but for the way out."""
    env, params = ssmrl.envs.make(f"popgym/labyrinth_escape_{difficulty}")
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)[1].maze))
    return np.asarray(draw(keys))


def labyrinth_escape(id_: str, params: Any) -> dict[str, Any]:
    limit = int(params.max_episode_length)
    bound = sample([labyrinth.escape_return(m, limit) for m in mazes(id_.rpartition("_")[2])])
    how = "the shortest way out, mean over 2,000 mazes: what a map would earn"
    script = "draws a map, nearest and furthest forward unknown first"
    reached = played(id_, lambda: labyrinth.Player(forwards=1.0), 200)
    return entry(bound.mean, how, script, reached, error=bound.error)


def labyrinth_explore(id_: str, params: Any) -> dict[str, Any]:
    limit, drawn = int(params.max_episode_length), mazes(id_.rpartition("_")[2])
    closed = np.where(drawn == GOAL, WALL, drawn)
    bound = sample([labyrinth.explore_return(maze, limit) for maze in closed])
    how = "the shortest walk through everything, mean over 2,000 mazes: what a map would earn"
    reached = played(id_, labyrinth.Explorer, 200)
    return entry(
        bound.mean, how, "draws a map, nearest new square first", reached, error=bound.error
    )


STUDIES: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "autoencode": partial(all_answers_known, lambda params: cards.Recite()),
    "repeat_first": partial(all_answers_known, lambda params: cards.Repeat(None)),
    "repeat_previous": partial(all_answers_known, lambda params: cards.Repeat(params.k - 1)),
    "count_recall": partial(all_answers_known, lambda params: cards.Tally()),
    "higher_lower": higher_lower,
    "multiarmed_bandit": multiarmed_bandit,
    "position_only_cartpole": partial(cartpole, control.from_positions),
    "velocity_only_cartpole": partial(cartpole, control.from_velocities),
    "noisy_position_only_cartpole": partial(cartpole, control.noisy_cartpole),
    "position_only_pendulum": position_only_pendulum,
    "noisy_position_only_pendulum": noisy_position_only_pendulum,
    "battleship": battleship_,
    "concentration": concentration_,
    "minesweeper": minesweeper_,
    "labyrinth_escape": labyrinth_escape,
    "labyrinth_explore": labyrinth_explore,
}
"""By family: from an id and its parameters to its record."""


def main() -> None:
    arguments = parse()
    record = {"machine": machine_info(), "ids": {}}
    if arguments.output.exists():
        record["ids"] = json.loads(arguments.output.read_text())["ids"]
    for family in arguments.families:
        for difficulty in DIFFICULTIES:
            id_ = f"popgym/{family}_{difficulty}"
            if id_ in record["ids"] and not arguments.again:
                continue
            start = time.perf_counter()
            _, params = ssmrl.envs.make(id_)
            record["ids"][id_] = STUDIES[family](id_, params)
            record["ids"][id_]["seconds"] = round(time.perf_counter() - start, 1)
            print(id_, record["ids"][id_], flush=True)
            write_json(arguments.output, record)
    if len(record["ids"]) == len(FAMILIES) * len(DIFFICULTIES):
        published = json.loads(PUBLISHED.read_text())["ids"]
        arguments.table.write_text(page(record["ids"], published))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--again", action="store_true", help="what is there already, too")
    results = ROOT / "benchmarks/results/popgym_optimum.json"
    parser.add_argument("--output", type=Path, default=results)
    parser.add_argument("--table", type=Path, default=ROOT / "docs/popgym_optimum.md")
    return parser.parse_args()


def page(ids: dict[str, Any], published: dict[str, Any]) -> str:
    """docs/popgym_optimum.md."""
    names = [(family, difficulty) for family in sorted(FAMILIES) for difficulty in DIFFICULTIES]
    lines = [INTRODUCTION, "| id | at best | a script earns | published | by |"]
    lines.append("|---|--:|--:|--:|---|")
    for family, difficulty in names:
        id_ = f"popgym/{family}_{difficulty}"
        found, other = ids[id_], published[id_] or {"value": None, "method": "", "source": ""}
        bound = f"{'' if found['exact'] else '≤ '}{number(found['bound'], found['bound_error'])}"
        reached = number(found["reached"], found["reached_error"])
        is_missing = other["value"] is None
        best = "missing" if is_missing else f"{other['value']:.3f}"
        by = "" if is_missing else f"{other['method']} ({other['source']})"
        lines.append(f"| {task_name(id_)} | {bound} | {reached} | {best} | {by} |")
    lines += ["", thompson(ids), ""]
    lines += ["| family | how the best is known | the script |", "|---|---|---|"]
    for family in sorted(FAMILIES):
        found = [ids[f"popgym/{family}_{difficulty}"] for difficulty in DIFFICULTIES]
        hows = dict.fromkeys(one["how"] for one in found)
        how = "; harder: ".join(hows)
        lines.append(f"| {task_name(f'popgym/{family}')} | {how} | {found[0]['script']} |")
    return "\n".join(lines) + "\n"


def thompson(ids: dict[str, Any]) -> str:
    """A sentence on what bandits are often compared with."""
    found = [ids[f"popgym/multiarmed_bandit_{difficulty}"] for difficulty in DIFFICULTIES]
    easy, medium, hard = (number(one["thompson"], one["thompson_error"]) for one in found)
    return (
        f"Thompson sampling (1933) earns {easy} on MultiarmedBanditEasy, {medium} on Medium and\n"
        f"{hard} on Hard: less than the script, since it goes on exploring to the end."
    )


def number(value: float, error: float) -> str:
    """Three digits, and the error where it can be seen in them."""
    return f"{value:.3f}" + (f" ± {error:.3f}" if error >= 0.0005 else "")


INTRODUCTION = """\
# POPGym at best

How much can be earned on each of POPGym's 48 ids, and what has been earned? For each id the table
has the expected return of the best policy or, after ≤, an upper bound on the return of any policy;
what a script with perfect memory earns in our environment from observations alone; and the best
published figure that we know of, or "missing" (`benchmarks/published/popgym_best.json` says what
was not looked at). Numbers after ± are standard errors, or, where a grid was refined, the last
change. The second table says how the bounds are known and what the scripts do. `python -m
benchmarks.learning.popgym_optimum` writes this page.

PPO's published figures are MMER, the maximum over training of the mean return; those of world
models (R2I, DreamerV3) are returns read off plots. A maximum of noisy means lies a little above
what the policy is worth, and can even exceed the optimum.
"""


if __name__ == "__main__":
    main()
