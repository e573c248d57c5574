"""What world models learn on two cores: recall, recall over length, control, pictures.

    python -m benchmarks.learning.world_model [--only memory_len pendulum] [--seeds 0 1 2]

The settings are experiment=r2i_nano and experiment=dreamerv3_nano. Every training is one run folder
below --runs; one that is finished is not repeated and one that was interrupted goes on. After each,
the figures and the JSON are written of all that there is, with what is not finished named.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.harness import machine_info, print_table, write_json
from ssmrl.experiment import COMPONENTS, train
from ssmrl.figures import PALETTE, panels, save, styled
from ssmrl.training import streams
from ssmrl.training.cli import compose_training
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.loading import as_dict, make_venv
from ssmrl.training.plotting import group_runs, plot_curves, read_curves
from ssmrl.training.run import RunFolder
from ssmrl.training.run_evaluation import evaluate_run

ROOT = Path(__file__).parents[2]

# As many steps in each update as with the published 16 windows of 64.
LONG_WINDOWS = ("agent.batch_size=2", "agent.batch_length=512")
AGENTS = {
    "r2i, s5": ("experiment=r2i_nano",),
    "r2i, fast s5": ("experiment=r2i_nano", "memory.dt_max=1"),
    "r2i, gru": ("experiment=dreamer_nano", "agent=r2i", "memory=gru"),
    "r2i, s5, long windows": ("experiment=r2i_nano", *LONG_WINDOWS),
    "dreamerv3, gru": ("experiment=dreamerv3_nano",),
    "dreamerv3, gru, long windows": ("experiment=dreamerv3_nano", *LONG_WINDOWS),
}
"""Widths and settings are the same; R2I and DreamerV3 differ in the posterior, the first two in the
S5's longest step at first: with 1 there are states that forget within a step, and what came a few
steps ago is told apart sooner; with the published .1 more of them are slow."""


@dataclass(frozen=True)
class Part:
    """One question: an environment, the agents that are compared on it, and further overrides."""

    env: str
    agents: tuple[str, ...]
    overrides: tuple[str, ...]
    lengths: tuple[int | None, ...] = (None,)


# Rewards of ±1 and more need no scaling.
UNSCALED = "agent.reward_scale=1"
# Ten times the published coefficient, against policies that are certain before they have learned.
EXPLORING = "agent.entropy_coefficient=3e-3"
# memory_len shows its bit once and pays once. With equal weights the latent leaves the bit out.
# And a uniform policy makes a reward that compares action and bit the slowest to learn, a certain
# one never shows what the other action would have earned: no price on certainty, but a fifth of
# all actions at random. What counts is episodes: many of them, each replayed less often.
RARE = (
    UNSCALED,
    "agent.entropy_coefficient=0",
    "agent.policy_unimix=.2",
    "agent.free_bits=0",
    "agent.lr=3e-3",
    "agent.beta2=.99",
    "agent.train_ratio=16",
)
# Of memory_len; the shortest needs as many updates as those that are a little longer.
EPISODES, FEWEST_STEPS = 3000, 120_000
# Windows of the medium deck hold a question together with what it asks for.
PARTS = {
    "previous_easy": Part(
        "popgym/repeat_previous_easy", ("r2i, fast s5", "r2i, gru"), ("total_steps=40000",)
    ),
    "memory_len": Part(
        "bsuite/memory_len",
        ("r2i, s5, long windows", "dreamerv3, gru"),
        RARE,
        lengths=(80, 160, 40, 20),
    ),
    # Is it the windows or the memory?
    "memory_len_windows": Part(
        "bsuite/memory_len", ("dreamerv3, gru, long windows",), RARE, lengths=(80,)
    ),
    # With the default horizon of 333 the critic needs longer than the whole training to reach the
    # values, and its changing range of returns leaves the policy next to no gradient. With a weight
    # of 1 reconstruction ends at angles that are known to a sixth: too blurred to balance by.
    "pendulum": Part(
        "gymnax/pendulum",
        ("r2i, s5",),
        (
            UNSCALED,
            "agent.horizon=33",
            "agent.reconstruction_weight=20",
            "agent.policy_inputs=full",
            "agent.imagination_starts=128",
            "total_steps=40000",
        ),
    ),
    "breakout": Part(
        "gymnax/breakout", ("r2i, s5",), (UNSCALED, "agent.train_ratio=32", "total_steps=30000")
    ),
    "previous_medium": Part(
        "popgym/repeat_previous_medium",
        ("r2i, fast s5", "r2i, gru"),
        ("agent.batch_size=8", "agent.batch_length=128", EXPLORING, "total_steps=60000"),
    ),
}


@dataclass(frozen=True)
class Case:
    """One training."""

    part: str
    agent: str
    length: int | None
    seed: int

    @property
    def name(self) -> str:
        """Of its run folder."""
        length = "" if self.length is None else f"_{self.length}"
        return f"{self.part}{length}-{self.agent.replace(', ', '-').replace(' ', '_')}-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        """For scripts/train.py, all but the folder."""
        part = PARTS[self.part]
        env, n = [f"env={part.env}"], self.length
        if n is not None:
            # What comes once in an episode must weigh as much as what comes on every step.
            env += [
                f"env.kwargs.memory_length={n}",
                f"total_steps={max(EPISODES * n, FEWEST_STEPS)}",
            ]
            env += [f"agent.{loss}_weight={n}" for loss in ("reconstruction", "reward")]
        return [*AGENTS[self.agent], *env, *part.overrides, f"seed={self.seed}"]

    def config(self, *place: str) -> Any:
        """What scripts/train.py makes of the overrides, and of `place`, where the run goes."""
        return compose_training([*self.overrides, *place], COMPONENTS, ROOT / "configs")


def main() -> int:
    arguments = parse()
    cases = list(planned(arguments.only, arguments.seeds))
    for case in cases if not arguments.report_only else ():
        outcome = train(case.config(f"run_dir={arguments.runs / case.name}", "resume=true"))
        if outcome.exit_code:  # interrupted: the same command goes on from here
            return outcome.exit_code
        report(cases, arguments)
    if arguments.report_only:
        report(cases, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "world_model_learning")
    parser.add_argument(
        "--episodes", type=int, default=256, help="of evaluations; 0: curves alone, nothing played"
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="of the figures")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results/world_model_learning.json"
    )
    return parser.parse_args()


def planned(parts: Iterable[str], seeds: Iterable[int]) -> Iterable[Case]:
    """All trainings, seed by seed, so that an early end leaves every comparison with its pair."""
    for seed in seeds:
        for part in parts:
            for length in PARTS[part].lengths:
                for agent in PARTS[part].agents:
                    yield Case(part, agent, length, seed)


# -------------------------------------------------------------------------------------- results


def report(cases: list[Case], arguments: argparse.Namespace) -> None:
    """JSON, figures and table of the runs that have come to a checkpoint so far."""
    found = {case: arguments.runs / case.name for case in cases}
    found = {case: path for case, path in found.items() if newest_checkpoint(path)}
    rows = [row(case, path, arguments.episodes) for case, path in found.items()]
    missing = [case.name for case in cases if case not in found]
    missing += [row["name"] for row in rows if row["steps"] < row["planned_steps"]]
    record = {"machine": machine_info(), "partial": bool(missing), "missing": missing, "rows": rows}
    write_json(arguments.output, record)
    draw_lengths(rows, arguments.docs / "memory_len.png")
    curves = [path for case, path in found.items() if case.length is None]
    if curves:
        plot_curves(group_runs(curves), arguments.docs / "world_model_learning.png", pdf=True)
    table = [[r["name"], r["steps"], r["random"], r["training"], r["greedy"]] for r in rows]
    print_table(["run", "steps", "random", "last tenth of training", "greedy"], table)


def newest_checkpoint(path: Path) -> int:
    """The environment steps of a run's newest checkpoint; 0 where there is none."""
    files = RunFolder(path).checkpoints.glob("*")
    return max((int(file.name) for file in files if file.name.isdigit()), default=0)


def row(case: Case, path: Path, episodes: int) -> dict[str, Any]:
    """What is known of a run: returns of random actions, while training, and greedy ones."""
    config = case.config()
    RunFolder(path).check_resumable(as_dict(config))  # it is the run that the command makes
    [curve] = read_curves(path)
    evaluation = evaluated(path, episodes) if episodes else {}
    part = PARTS[case.part]
    return {
        "name": case.name,
        "part": case.part,
        "env": part.env,
        "agent": case.agent,
        "length": case.length,
        "seed": case.seed,
        "steps": newest_checkpoint(path),
        "planned_steps": config.total_steps,
        "random": random_return(part.env, case.length) if episodes else None,
        "training": curve.final,
        "greedy": evaluation.get("mean"),
        "greedy_interval": evaluation.get("mean_interval"),
        "episodes": evaluation.get("episodes"),
        "command": f"python scripts/train.py {' '.join(case.overrides)}",
    }


def evaluated(path: Path, episodes: int) -> dict[str, Any]:
    """The greedy evaluation of a run's newest checkpoint: the one in its folder, or made now."""
    file = RunFolder(path).evaluations
    records = json.loads(file.read_text()) if file.exists() else []
    if records and records[-1]["step"] == newest_checkpoint(path):
        return records[-1]
    config = EvaluateConfig(run=str(path), episodes=episodes, env=EnvConfig(name="run"))
    return evaluate_run(config, COMPONENTS)


@cache
def random_return(env: str, length: int | None) -> float:
    """Mean return of uniformly random actions, over the episodes that end within 2000 steps."""
    kwargs = {} if length is None else {"memory_length": length}
    venv = make_venv(COMPONENTS, EnvConfig(name=env, kwargs=kwargs), 64)
    draw = jax.vmap(venv.action_space.sample)

    def step(state, key):
        action = draw(jax.random.split(key, venv.num_envs))
        _, state, _, _, _, info = venv.step(state, action)
        return state, info["episode"]

    @jax.jit
    def play(key):
        _, state = venv.reset(key)
        return lax.scan(step, state, jax.random.split(key, 2000))[1]

    episode = play(streams.benchmark_key(0))
    return float(np.asarray(episode["return"])[np.asarray(episode["done"])].mean())


# -------------------------------------------------------------------------------------- figure


@styled
def draw_lengths(rows: list[dict[str, Any]], path: Path) -> None:
    """Greedy return over the length of memory_len: 1 is always right, 0 is a guess."""
    rows = [row for row in rows if row["length"] is not None and row["greedy"] is not None]
    if not rows:
        return
    figure, (axes,) = panels(1, height=2.8)
    for colour, agent in zip(PALETTE, dict.fromkeys(row["agent"] for row in rows), strict=False):
        own = [row for row in rows if row["agent"] == agent]
        lengths = sorted({row["length"] for row in own})
        means = [np.mean([r["greedy"] for r in own if r["length"] == n]) for n in lengths]
        axes.plot(lengths, means, color=colour, label=agent)
        axes.scatter([r["length"] for r in own], [r["greedy"] for r in own], color=colour, s=12)
    # bsuite counts a length as solved below a mean regret of .75; the return is 1 - regret.
    axes.axhline(0.25, color="grey", linestyle=":", label="bsuite's threshold")
    axes.set(xlabel="memory_len: steps between the bit and the question", ylabel="greedy return")
    title = "nano, same steps; windows of 64 steps, long ones of 512"
    axes.set(ylim=(-1.05, 1.05), title=title)
    axes.legend()
    save(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
