"""Writes a page for every memory from its docstrings: python docs/generate.py"""

import dataclasses
import inspect
import sys
from pathlib import Path

import jax

from ssmrl.memory import list_memories, make_memory, memory_config
from ssmrl.memory.base import Memory

PAGES = Path(__file__).parent / "memories"
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
            "```text",
            rest.strip("\n"),
            "```",
            "",
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
            f"In an agent: `python scripts/train.py memory={name}`; "
            f"what it remembers: `python scripts/diagnose.py memory={name}`.",
            "",
        ]
    )


def _options(name: str) -> list[str]:
    fields = [field for field in dataclasses.fields(memory_config(name)) if field.name != "name"]
    helps = _helps(memory_config(name))
    rows = [f"| `{f.name}` | `{f.default!r}` | {helps[f.name]} |" for f in fields]
    own = [row for row, f in zip(rows, fields, strict=True) if f.name not in BLOCK]
    block = [row for row, f in zip(rows, fields, strict=True) if f.name in BLOCK]
    head = ["| option | default | |", "|---|---|---|"]
    return ["## Options", "", *head, *own, "", "Of the block around it:", "", *head, *block]


def _helps(config: type) -> dict[str, str]:
    """Help of every option, from the section "Attributes" of the configuration's docstring."""
    helps: dict[str, str] = {}
    names: list[str] = []
    _, _, section = inspect.cleandoc(config.__doc__).partition("Attributes:\n")
    for line in section.splitlines():
        if line.startswith("     "):  # a continued line
            for name in names:
                helps[name] += f" {line.strip()}"
        else:
            head, _, text = line.strip().partition(": ")
            names = head.split(", ")
            helps |= dict.fromkeys(names, text)
    return {name: text.replace("|", "\\|") for name, text in helps.items()}


def _carry(stack: Memory) -> list[str]:
    carry = jax.eval_shape(lambda: stack.layers[0].initialize_carry((1,)))
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    if not leaves:
        return ["None: nothing is remembered."]
    lines = [
        f"- {jax.tree_util.keystr(path).strip('[]') or 'the state'}: `{leaf.dtype}` "
        f"`[batch, {', '.join(map(str, leaf.shape[1:]))}]`".replace(", ]", "]")
        for path, leaf in leaves
    ]
    return ["Of every layer, with the defaults:", "", *lines]


def main() -> int:
    """Write all pages, remove those of memories that are gone; returns the exit code."""
    PAGES.mkdir(exist_ok=True)
    pages = {f"{name}.md": page(name) for name in list_memories()}
    for stale in {path.name for path in PAGES.glob("*.md")} - pages.keys():
        (PAGES / stale).unlink()
    for file, text in pages.items():
        (PAGES / file).write_text(text)
    print(f"{len(pages)} pages in {PAGES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
