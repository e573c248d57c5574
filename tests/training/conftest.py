"""Everything here runs in a folder of its own, with a reporter that remembers."""

from __future__ import annotations

from typing import Any

import pytest

from ssmrl.training.config import EnvConfig, LoggerConfig, TrainConfig
from tests.training.stub import StubConfig, StubMemoryConfig


class Record:
    """A reporter for tests."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.updates: list[tuple[int, dict[str, Any], float]] = []
        self.stopped = 0

    def start(self, title: str, step: int, total: int) -> None:
        self.messages.append(title)

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None:
        self.updates.append((step, metrics, rate))

    def message(self, text: str) -> None:
        self.messages.append(text)

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_config():
    """TrainConfig of the stub: ``make_config(total_steps=..., agent={...}, env={...})``."""

    def make(**changes: Any) -> TrainConfig:
        agent = StubConfig(**changes.pop("agent", {}))
        memory = StubMemoryConfig(**changes.pop("memory", {}))
        env = EnvConfig(**{"name": "stub/line", **changes.pop("env", {})})
        defaults = {"total_steps": 200, "checkpoint_every": 60, "run_dir": "runs/test"}
        return TrainConfig(
            **{**defaults, **changes}, agent=agent, memory=memory, env=env, logger=LoggerConfig()
        )

    return make
