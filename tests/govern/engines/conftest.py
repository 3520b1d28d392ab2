"""Several tasks of several parts even of small files; durability is not what is tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_world import SMALL_PARTS, build, crowded

from govern.engines.processes import Processes


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SMALL_PARTS, 8_000)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowded(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Two processes for all tests: each takes a second to begin."""
    engine = Processes(2)
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest that threads build of it."""
    out = tmp_path_factory.mktemp("whole") / "m"
    build(corpus, out)
    return out
