"""One world for the whole session, and a copy of it for whoever tampers."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_world import World, build_world


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("audit") / "world")


@pytest.fixture
def world(pristine: World, tmp_path: Path) -> World:
    return pristine.copy(tmp_path / "world")
