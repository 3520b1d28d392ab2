"""A kill anywhere in a forget: no report for an incomplete erase, and a re-run completes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forget_world import build_world

from govern.audit.signing import generate_keys

TESTS = Path(__file__).parents[2]
Record = Callable[[str, object], None]
MODES = ("out", "in-place", "also")


@pytest.fixture
def base() -> Iterator[Path]:
    """Where there is a file system in memory, syncing thousands of files costs nothing there."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="forget-kill-", dir=place))
    build_world(path / "pristine")
    generate_keys(path / "pristine" / "keys")
    yield path
    shutil.rmtree(path)


def drive(base: Path, *arguments: object) -> dict[str, int]:
    """What `forget_killing.py` says of its kills."""
    done = subprocess.run(
        [sys.executable, TESTS / "forget_killing.py", base, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("mode", "first", "stride"), [("out", 11, 29), ("in-place", 17, 37), ("also", 19, 53)]
)
def test_killed_at_some_operations(base: Path, mode: str, first: int, stride: int) -> None:
    found = drive(base, mode, "operations", first, stride)
    assert found["points"] > 90
    assert min(found[state] for state in ("old", "new", "recorded")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_every_operation(base: Path, mode: str, record_property: Record) -> None:
    found = drive(base, mode, "operations", 1, 1)
    for name, count in found.items():
        record_property(name, count)
    assert found["kills"] == found["points"] > 90
    between = found.get("between", 0)
    assert found["old"] + found["new"] + between == found["kills"]
    assert min(found[state] for state in ("old", "new", "signed", "recorded", "reported")) > 0
    # Out of place nobody ever sees a half erased run; in place the journal says what it is.
    assert (between > 0) == (mode != "out")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_by_a_signal_at_any_moment(base: Path, mode: str, record_property: Record) -> None:
    found = drive(base, mode, "signals", 40)
    for name, count in found.items():
        record_property(name, count)
    assert found["kills"] == 40
    assert min(found[state] for state in ("old", "new", "signed", "recorded")) > 0
