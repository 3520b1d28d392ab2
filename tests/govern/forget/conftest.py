"""The command line as a person types it: `run(*arguments)` gives exit code, stdout and stderr."""

from __future__ import annotations

from pathlib import Path

import pytest
from forget_world import FakeMeasurer, Run, World, build_world

import govern.cli
import govern.cli.forget as command
from govern.audit.signing import generate_keys


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            govern.cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in the current directory, with keys; nothing is measured for real."""
    world = build_world(tmp_path)
    generate_keys(tmp_path / "keys")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "make_measurer", lambda *_: FakeMeasurer())
    return world
