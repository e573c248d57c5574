"""Registers the schemas with Hydra and turns overrides into configuration objects."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssmrl.training.cli.messages import near_match
from ssmrl.training.components import Components
from ssmrl.training.config import (
    EnvConfig,
    LoggerConfig,
    TensorboardConfig,
    WandbConfig,
    check_ranges,
    structured,
)
from ssmrl.training.errors import UsageError, first_line

GROUPS = ("agent", "memory", "env", "logger", "experiment")
LOGGERS = {
    "none": LoggerConfig,
    "console": lambda: LoggerConfig("console"),
    "tensorboard": TensorboardConfig,
    "wandb": WandbConfig,
}


class Composer:
    """One primary configuration and the groups that it chooses from.

    Args:
        components: the registries to choose from.
        config_dir: the folder of YAML files.
        config_name: ``train`` or ``evaluate``: the primary YAML file there; None where the
            dataclass is everything and there are no groups to choose from.
        kind: its dataclass.
    """

    def __init__(
        self, components: Components, config_dir: Path, config_name: str | None, kind: type
    ):
        self.components, self.config_dir = components, config_dir.resolve()
        self.config_name, self.kind = config_name, kind
        self.groups: list[str] = []
        if config_name is not None:
            chosen = {group for group, _ in self._defaults(f"{config_name}.yaml")}
            self.groups = [group for group in GROUPS if group in chosen]
            self._register()

    def _register(self) -> None:
        store = ConfigStore.instance()
        store.store(name=f"{self.config_name}_schema", node=self.kind)
        for name, make in LOGGERS.items():
            self._store("logger", name, make())
        self._store("env", "base_env", EnvConfig())
        if self.config_name == "evaluate":
            self._store("env", "run", EnvConfig(name="run"))
        for group, list_names, config_of in (
            ("agent", self.components.list_agents, self.components.agent_config),
            ("memory", self.components.list_memories, self.components.memory_config),
        ):
            if group not in self.groups:
                continue
            for name in list_names():
                node = structured(config_of(name))
                # A YAML file of the same name hides the stored node, and builds on this one:
                #   defaults: [base_<name>, _self_]
                store.store(group=group, name=f"base_{name}", node=node)
                self._store(group, name, node)
        self._register_named_environments()

    def _defaults(self, path: str | Path) -> list[tuple[str, Any]]:
        """(group, choice) of every entry in a YAML file's defaults list."""
        content = yaml.safe_load((self.config_dir / path).read_text()) or {}
        entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
        return [(key.split()[-1].lstrip("/"), value) for e in entries for key, value in e.items()]

    def _register_named_environments(self) -> None:
        """Environments have no YAML file: give Hydra those that YAML files choose."""
        experiments = [f"experiment/{name}.yaml" for name in self.yaml_choices("experiment")]
        for path in [f"{self.config_name}.yaml", *experiments]:
            for group, choice in self._defaults(path):
                if group == "env":
                    self.choose("env", str(choice))

    def _store(self, group: str, name: str, node: Any) -> None:
        if not (self.config_dir / group / f"{name}.yaml").exists():
            folder, _, last = f"{group}/{name}".rpartition("/")
            # The package is the group itself, however deep the name: env/popgym/x is `env`.
            ConfigStore.instance().store(group=folder, name=last, node=node, package=group)

    def yaml_choices(self, group: str) -> list[str]:
        """Names of the YAML files of a group."""
        folder = self.config_dir / group
        names = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
        return sorted(name.as_posix() for name in names)

    def choices(self, group: str) -> list[str]:
        """Everything ``group=`` may be, sorted; for ``env`` the registered ones."""
        registered: Sequence[str] = {
            "agent": self.components.list_agents,
            "memory": self.components.list_memories,
            "env": self.components.list_envs,
            "logger": lambda: list(LOGGERS),
            "experiment": list,
        }[group]()
        return sorted({*registered, *self.yaml_choices(group)})

    def choose(self, group: str, choice: str) -> str:
        """The accepted spelling of a choice; an environment is registered with Hydra on the way.

        Raises:
            UsageError: there is no such choice.
        """
        if group == "experiment" and choice in ("null", "None", ""):
            return "null"
        if group == "env" and choice not in self.yaml_choices("env"):
            if choice == "run" and self.config_name == "evaluate":
                return choice
            try:
                name = self.components.canonical_name(choice)
            except ValueError as error:
                raise UsageError(f"env={choice}: {error}") from None
            if name not in self.yaml_choices("env"):
                self._store("env", name, EnvConfig(name=name))
            return name
        known = self.choices(group)
        if choice not in known:
            raise UsageError(
                f"{group}={choice}: no such {group}{near_match(choice, known)}"
                f"\navailable: {', '.join(known) or 'none yet'}"
            )
        return choice

    @contextlib.contextmanager
    def _hydra(self) -> Iterator[None]:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(self.config_dir), version_base="1.3"):
            yield
        GlobalHydra.instance().clear()

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose; errors are Hydra's and OmegaConf's own."""
        if self.groups:
            with self._hydra():
                return compose(self.config_name, overrides=list(overrides))
        # Hydra would take a key for a choice where any configuration has a group of that name.
        config = structured(self.kind)
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            OmegaConf.update(config, override.key_or_group, override.value())
        return config

    def build(self, config: DictConfig) -> Any:
        """The dataclasses of a composed configuration, ranges checked.

        Raises:
            UsageError: a value is missing or out of its range.
        """
        try:
            parts = OmegaConf.to_object(config)
            # The root is a plain node for Hydra's sake; the groups below it keep their types.
            names = {f.name for f in dataclasses.fields(self.kind)}
            values = parts if isinstance(parts, dict) else vars(parts)
            built = self.kind(**{str(k): v for k, v in values.items() if k in names})
            check_ranges(built)
        except (ValueError, OmegaConfBaseException) as error:
            raise UsageError(first_line(error)) from None
        return built
