"""Lets an untouched clone of Recall2Imagine, written for jax 0.4 and Python 3.8, run on today's.

Nothing of it is copied or edited: `install(path)` makes its package importable and supplies, in
this process only, the few names that it expects and that are gone. Each function says what is
missing and why. What runs afterwards is its own world model, imagination, losses and optimisers.

Left out is what a train step does not need and what would ask for more packages: environments,
replay on disk, processes, loggers.
"""

import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml


def install(path: str | Path) -> None:
    """Makes `import recall2imagine.agent` find the clone at `path` and work."""
    root = Path(path).resolve() / "recall2imagine"
    if not (root / "ssm_nets.py").is_file():
        raise FileNotFoundError(f"{root.parent} is not a clone of Recall2Imagine: no {root.name}/")
    install_package("recall2imagine", root)
    install_embodied(root / "embodied")
    install_ruamel()


def install_package(name: str, root: Path) -> types.ModuleType:
    """A package whose modules are found in `root`, without running its __init__.

    Theirs import everything: simulators, message queues, cloud storage.
    """
    package = types.ModuleType(name)
    package.__path__ = [str(root)]
    sys.modules[name] = package
    return package


def install_embodied(root: Path) -> None:
    """`embodied` with what an agent's class and its configuration use."""
    embodied = install_package("embodied", root)
    install_package("embodied.core", root / "core")
    names = {"base": "Agent", "config": "Config", "path": "Path", "space": "Space"}
    for module, name in names.items():
        imported = importlib.import_module(f"embodied.core.{module}")
        setattr(embodied, name, getattr(imported, name))


def install_ruamel() -> None:
    """The agent reads its configs.yaml with ruamel.yaml; PyYAML reads the same file here.

    YAML 1.2, which ruamel follows, takes 1e-4 for a number; PyYAML's 1.1 asks for a point in it.
    """

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))

    class YAML:
        def __init__(self, typ: str):
            del typ

        def load(self, text: str) -> Any:
            return yaml.load(text, Loader)

    package, module = types.ModuleType("ruamel"), types.ModuleType("ruamel.yaml")
    package.yaml, module.YAML = module, YAML
    sys.modules |= {"ruamel": package, "ruamel.yaml": module}


MODULES = {
    "world": ("wm/enc", "wm/rssm", "wm/dec", "wm/rew", "wm/cont"),
    "actor": ("task_behavior/ac/actor",),
    "critic": ("task_behavior/critic/net",),
}
"""Where in its flat state the parameters of each part are; the rest belongs to optimisers."""


class Agent:
    """Its agent for vectors and discrete actions, with `train` as a function of arrays.

    Its POPGym configuration, with float32 throughout as CPUs have it, and with `changes`.

    Args:
        path: the clone.
        changes: by name or pattern, as on its command line.
        numbers: of an observation.
        actions: how many there are.
    """

    def __init__(self, path: str, changes: dict[str, Any], *, numbers: int, actions: int):
        install(path)
        import embodied
        from recall2imagine import agent, ninjax

        configs = agent.Agent.configs
        config = embodied.Config(configs["defaults"]).update(configs["popgym"])
        config = config.update({"jax.precision": "float32", "jax.platform": "cpu"}).update(changes)
        flags = ("is_first", "is_last", "is_terminal")
        observations = {
            "observation": embodied.Space(np.float32, (numbers,)),
            "reward": embodied.Space(np.float32),
            **{name: embodied.Space(bool) for name in flags},
        }
        one_hot = types.SimpleNamespace(shape=(actions,), discrete=True)  # as its wrapper makes it
        # `inner` is the agent itself, without the wrapper that puts devices and jit around it.
        inner = agent.Agent.inner(observations, {"action": one_hot}, None, config, name="agent")
        self._initial, self._train = ninjax.pure(inner.train_initial), ninjax.pure(inner.train)

    def init(self, data: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Its variables (parameters, optimisers), the carry before a batch, and a seed."""
        seed, batch = jnp.uint32(0), len(data["is_first"])
        carry, variables = jax.jit(lambda seed: self._initial({}, seed, batch))(seed)

        # Only what is created is asked for, so that no step is computed.
        @jax.jit
        def create(seed, data, carry):
            return self._train({}, seed, data, carry, ignore=True)[1]

        return create(seed, data, carry) | variables, carry, seed

    def train(self, variables: Any, carry: Any, seed: Any, data: dict[str, Any]):
        """One step: variables, carry and metrics."""
        outputs, variables = self._train(variables, seed, data, carry, create=False)
        _, carry, metrics = outputs
        return variables, carry, metrics

    def parameters(self, variables: dict[str, Any]) -> dict[str, int]:
        """How many numbers each part learns."""
        return {
            part: sum(
                leaf.size
                for name, value in variables.items()
                if name.startswith(tuple(f"agent/{module}/" for module in modules))
                for leaf in jax.tree.leaves(value)
            )
            for part, modules in MODULES.items()
        }
