"""Writes pages from docstrings and results: python docs/generate.py

A page for every memory, the references of the API and of the configuration, and the tables of how
to choose a memory, of trained agents and of what is learned on POPGym.
"""

import dataclasses
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from omegaconf import MISSING

from ssmrl import zoo
from ssmrl.agents import agent_config, list_agents
from ssmrl.diagnostics.theory import state_tracking
from ssmrl.memory import list_memories, make_memory, memory_config
from ssmrl.memory.base import Memory
from ssmrl.training.cli.help import field_helps
from ssmrl.training.config import (
    LOGGER_CONFIGS,
    BenchmarkConfig,
    DiagnoseConfig,
    EnvConfig,
    EvaluateConfig,
    TrainConfig,
)

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # benchmarks/ is not installed
import front  # noqa: E402

from benchmarks.learning import microscope, popgym_original  # noqa: E402

PAGES, CONFIGURATION = HERE / "memories", HERE / "reference" / "configuration.md"
CHOOSING, ZOO, POPGYM = HERE / "choosing.md", HERE / "zoo.md", HERE / "results" / "popgym.md"
PACKAGE = HERE.parent / "ssmrl"
REFERENCE = {
    "python": (
        "Python",
        "What `import ssmrl` offers, and the command. Importing the package imports nothing else.",
        ["api", "policy", "zoo", "experiment", "cli"],
    ),
    "memory": (
        "Memories",
        "The contract, the registry, and every memory. Each has a page with its equations, see "
        "[How to choose a memory](../choosing.md).",
        ["memory"],
    ),
    "scan": ("Scans", "Linear recurrences with resets, on plain arrays.", ["scan"]),
    "envs": ("Environments", "The contract, the spaces, the suites and the adapters.", ["envs"]),
    "agents": (
        "Agents",
        "PPO, and the Dreamer that R2I and DreamerV3 are configurations of.",
        ["agents"],
    ),
    "networks": ("Networks", "Encoders, heads and action distributions.", ["networks"]),
    "figures": ("Figures", "One style for all plots.", ["figures"]),
    "training": (
        "Runs",
        "Training, checkpoints, evaluation, figures, the command line.",
        ["training"],
    ),
    "diagnostics": ("Diagnostics", "What a memory remembers.", ["diagnostics"]),
}
"""Pages of the API reference: title, first paragraph, rooms of the package."""
BLOCK = ("residual", "norm", "activation", "glu", "feedforward", "gate", "dropout")


def page(name: str) -> str:
    """The page of one memory, as Markdown."""
    stack = make_memory(name)
    module = type(stack.layers[0].memory)
    equations, _, rest = inspect.getmodule(module).__doc__.strip().partition("\n")
    return "\n".join(
        [
            f"# {name}: `ssmrl.memory.{module.__name__}`",
            "",
            equations,
            "",
            *(["```text", rest.strip("\n"), "```", ""] if rest.strip() else []),
            *_options(name),
            "",
            "## Carry",
            "",
            *_carry(stack),
            "",
            "## Use",
            "",
            "```python",
            "from ssmrl.memory import make_memory",
            "",
            f'memory = make_memory("{name}", features=128)',
            "carry = memory.initialize_carry((batch,))",
            "params = memory.init(key, carry, x, reset)  # x [T, batch, F], reset [T, batch] bool",
            "carry, y = memory.apply(params, carry, x, reset)  # y [T, batch, 128]",
            "```",
            "",
            f"In an agent: `ssmrl train memory={name}`; "
            f"what it remembers: `ssmrl diagnose memory={name}`.",
            "",
        ]
    )


def _options(name: str) -> list[str]:
    fields = [field for field in dataclasses.fields(memory_config(name)) if field.name != "name"]
    helps = field_helps(memory_config(name))
    rows = [f"| `{f.name}` | `{f.default!r}` | {_cell(helps[f.name])} |" for f in fields]
    own = [row for row, f in zip(rows, fields, strict=True) if f.name not in BLOCK]
    block = [row for row, f in zip(rows, fields, strict=True) if f.name in BLOCK]
    head = ["| option | default | |", "|---|---|---|"]
    return ["## Options", "", *head, *own, "", "Of the block around it:", "", *head, *block]


def _carry(stack: Memory) -> list[str]:
    carry = jax.eval_shape(lambda: stack.layers[0].initialize_carry((1,)))
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    if not leaves:
        return ["Empty: nothing is remembered."]
    lines = [
        f"- {jax.tree_util.keystr(path).strip('[]') or 'the state'}: `{leaf.dtype}` "
        f"`[batch, {', '.join(map(str, leaf.shape[1:]))}]`".replace(", ]", "]")
        for path, leaf in leaves
    ]
    return ["In each layer, with the default options:", "", *lines]


def configuration() -> str:
    """The page of every key of the command line, as Markdown."""
    parts = [
        "# Configuration",
        "",
        "Every key that the commands take, from the dataclasses that define them. On the command",
        "line, choose an option of a group by its name (`memory=s5`) and set its keys with the",
        "group's prefix (`memory.layers=4`); in Python, pass them as",
        '`memory_options={"layers": 4}`. Memories have [pages of their own](../choosing.md).',
        "`ssmrl train --help` prints the keys of the agent, memory and environment that you have",
        "chosen.",
    ]
    for title, prefix, kind in _kinds():
        parts += ["", f"## {title}", "", *_summary(kind)]
        keys = _keys(prefix, kind)
        parts += ["| key | default | |", "|---|---|---|", *keys] if keys else ["It has no keys."]
    return "\n".join([*parts, ""])


def _kinds() -> list[tuple[str, str, type]]:
    """Title, prefix and dataclass of each part of a configuration, in the order of the page."""
    commands = [
        ("train", TrainConfig),
        ("evaluate", EvaluateConfig),
        ("benchmark", BenchmarkConfig),
        ("diagnose", DiagnoseConfig),
    ]
    return [
        *((f"`ssmrl {name}`", "", kind) for name, kind in commands),
        ("Environments: `env=<name>`", "env.", EnvConfig),
        *((f"`agent={name}`", "agent.", agent_config(name)) for name in list_agents()),
        *((f"`logger={name}`", "logger.", kind) for name, kind in sorted(LOGGER_CONFIGS.items())),
    ]


def _summary(kind: type) -> list[str]:
    """The first paragraph of a dataclass' docstring."""
    return [inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0], ""]


def _keys(prefix: str, kind: type) -> list[str]:
    helps = field_helps(kind)
    groups = ("agent", "memory", "env", "logger")
    names = [f for f in dataclasses.fields(kind) if f.name not in ("name", *groups)]
    return [
        f"| `{prefix}{f.name}` | {_default(f)} | {_cell(helps.get(f.name, ''))}{_bounds(f)} |"
        for f in names
    ]


def _default(f: dataclasses.Field) -> str:
    """A default as the command line has it."""
    if f.default is MISSING:
        return "must be given"
    value = f.default_factory() if f.default is dataclasses.MISSING else f.default
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _bounds(f: dataclasses.Field) -> str:
    said = {"min": "at least {}", "above": "more than {}", "max": "at most {}"}
    bounds = [text.format(f.metadata[key]) for key, text in said.items() if key in f.metadata]
    if "choices" in f.metadata:
        bounds.append("one of " + ", ".join(f"`{choice}`" for choice in f.metadata["choices"]))
    return f" ({'; '.join(bounds)})" if bounds else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def reference(rooms: Sequence[str]) -> list[str]:
    """For mkdocstrings: every public module of some rooms of the package, as it is imported."""
    lines = []
    for room in rooms:
        place = PACKAGE / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in sorted(files, key=lambda f: (f.parent, f.stem != "__init__", f.stem)):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            package, parts = parts[-1] == "__init__", tuple(p for p in parts if p != "__init__")
            if any(part.startswith("_") for part in parts) or not file.read_text():
                continue
            lines += ["", f"::: {'.'.join(parts)}"]
            # What a package hands on is shown where it is written.
            lines += ["    options: {members: false}"] if package else []
    return lines


def reference_page(name: str) -> str:
    """A page of the API reference, as Markdown."""
    title, text, rooms = REFERENCE[name]
    return "\n".join([f"# {title}", "", text, *reference(rooms), ""])


TABLE_BEGINS, TABLE_ENDS = "<!-- generated: docs/generate.py -->", "<!-- end -->"


def zoo_page() -> str:
    """The page on trained agents, with its table renewed."""
    head = [
        "| agent | steps | return | in the original package | episodes | KiB | made by |",
        "|---|--:|---|---|--:|--:|---|",
    ]
    rows = []
    for row in zoo.table():
        original = row["original"]
        cells = [
            f"`zoo:{row['name']}`",
            f"{row['step']:,}",
            _with_interval(row["mean"], row["interval"]),
            _mean_of(original),
            str(row["episodes"]),
            f"{row['bytes'] / 1024:,.0f}",
            f"`{row['command']}`",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return _renewed(ZOO, [*head, *rows])


def _renewed(path: Path, table: list[str]) -> str:
    """The page with another table between the marks."""
    before, _, rest = path.read_text().partition(TABLE_BEGINS)
    return "\n".join([before + TABLE_BEGINS, *table, TABLE_ENDS + rest.partition(TABLE_ENDS)[2]])


def _with_interval(mean: float, interval: list[float]) -> str:
    return f"{mean:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _mean_of(played: dict[str, Any] | None) -> str:
    """The mean return of a policy, where it has been played."""
    return _with_interval(played["mean"], played["mean_interval"]) if played else ""


def choosing() -> str:
    """The page on choosing a memory, with its table renewed."""
    return _renewed(CHOOSING, _costs())


def popgym_page() -> str:
    """The page of results on POPGym, with the table of the published protocol renewed."""
    played = {"popgym_15m_recipe": _played(popgym_original.OUTPUT)}
    for folder in ("popgym_15m_default", front.LARGE):
        played[folder] = _played(popgym_original.OUTPUT.with_name(f"{folder}_original.json"))
    head = "| id | steps | MMER | greedy, in the original package | actions sampled, there | "
    head += "MMER before | MMER with `popgym_large_batch` | greedy, there | "
    head += "best published on record | at best |"
    rows = []
    for env, found in front.scores().items():
        ours = played.get(found["folder"], {}).get(env, {})
        has_record = found["published"] is not None
        cells = [
            front.task_name(env),
            f"{found['steps'] / 1e6:.0f}M",
            f"{found['ours']:.2f}",
            *(_mean_of(ours.get(name)) for name in popgym_original.PLAYED),
            *(_score(found.get(key)) for key in ("before", "large")),
            _mean_of(played[front.LARGE].get(env, {}).get("greedy")),
            f"{found['published']:.2f} ({found['by']})" if has_record else "",
            f"{'≤ ' if found['is_bound'] else ''}{found['possible']:.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return _renewed(POPGYM, [head, "|---" + "|--:" * (head.count("|") - 2) + "|", *rows])


def _score(value: float | None) -> str:
    """Two digits, of what there is."""
    return "" if value is None else f"{value:.2f}"


def _played(path: Path) -> dict[str, Any]:
    """By name of the id, what a policy earned in the original package."""
    return {row["env"]: row for row in json.loads(path.read_text())["rows"]}


def _tracked(name: str) -> str:
    """`state_tracking` in a few words."""
    text = state_tracking(name)
    if "parity over unbounded" in text:
        return "not even parity"
    return (
        text.partition(" (")[0]
        .partition(":")[0]
        .removeprefix("cannot track ")
        .replace("permutations of five", "not permutations of five")
        .replace("anything beyond", "nothing beyond")
        .removeprefix("tracks ")
    )


def _costs() -> list[str]:
    """What every memory costs, recalls and can track, in the order of its time in training."""
    reached = json.loads(microscope.OUTPUT.read_text())["rows"]
    measured = json.loads((HERE.parent / "benchmarks/results/memory.json").read_text())
    training = {
        row["memory"]: row["results"]["ssmrl"]["seconds"]["median"]
        for row in measured["training"]
        if (row["time"], row["batch"]) == (1024, 8) and row["resets"]
    }
    acting = {row["memory"]: row["results"] for row in measured["acting"]}
    rows = [
        f"| [{name}](memories/{name}.md) | {1000 * training[name]:,.0f} | "
        f"{1e6 * acting[name]['seconds']['median']:,.0f} | {acting[name]['state']:,} | "
        f"{' | '.join(str(reached[name][task]) for task in microscope.ASKED)} | {_tracked(name)} |"
        for name in sorted(training, key=training.get)
    ]
    head = "| memory | training, ms | acting, µs | carry, numbers | first symbol, steps ago | "
    head += "symbol k steps ago, k | parity, bits | tracking states, in theory |"
    return [head, "|---|--:|--:|--:|--:|--:|--:|---|", *rows]


def main() -> int:
    """Write all that is generated, remove pages of memories that are gone; returns 0."""
    PAGES.mkdir(exist_ok=True)
    pages = {f"{name}.md": page(name) for name in list_memories()}
    for stale in {path.name for path in PAGES.glob("*.md")} - pages.keys():
        (PAGES / stale).unlink()
    for file, text in pages.items():
        (PAGES / file).write_text(text)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    for name in REFERENCE:
        (CONFIGURATION.parent / f"{name}.md").write_text(reference_page(name))
    CONFIGURATION.write_text(configuration())
    CHOOSING.write_text(choosing())
    ZOO.write_text(zoo_page())
    POPGYM.write_text(popgym_page())
    print(f"{len(pages)} pages in {PAGES}, {CONFIGURATION.parent}, {CHOOSING}, {ZOO}, {POPGYM}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
