"""SIGKILL at random moments: of a worker, executor, node or driver. The same bytes every time.

A build runs in a process of its own with the cluster that it is killed in, under a time limit.
With `pytest -rP --log-level=INFO` a test says what it killed when, and how long builds took.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_world import build, edited, prose, tree_bytes, write_jsonl

pytestmark = pytest.mark.slow
LOG = logging.getLogger(__name__)
# Seconds after which a build counts as hanging.
LIMIT = 240
HERE = Path(__file__).parent
PACKAGES = {"processes": "govern", "ray": "ray", "spark": "pyspark"}
# What runs a task on each engine, by its command line.
VICTIMS = {
    "processes": ("multiprocessing.spawn", "spawn_main"),
    "ray": ("raylet/raylet", "ray::attempt", "ray::IDLE"),
    "spark": ("CoarseGrainedExecutorBackend", "pyspark.daemon"),
}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tasks of reading, and pairs enough for some ranges."""
    folder = tmp_path_factory.mktemp("larger")
    records = [
        {"id": f"{family}-{copy}", "text": edited(prose(family, 300), 3, copy)}
        for family in range(1500)
        for copy in range(8)
    ]
    for shard in range(8):
        write_jsonl(folder / f"{shard}.jsonl", records[shard::8])
    return folder


@pytest.fixture(scope="module")
def undisturbed(larger: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "m"
    build(larger, out, memory=10**9)
    return tree_bytes(out)


def begun(engine: str, corpus: Path, out: Path, *, resume: bool = False) -> subprocess.Popen[bytes]:
    """A build in a process of its own."""
    paths = [str(HERE), *filter(None, sys.path)]
    return subprocess.Popen(
        [sys.executable, str(HERE / "disturbed_build.py"), engine, corpus, out, str(int(resume))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[bytes]) -> str:
    """What the build said, when it ended well and within its limit."""
    try:
        _, said = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"hangs for more than {LIMIT} s")
    assert process.returncode == 0, said.decode()[-2000:]
    return said.decode()


def descendants(process: int) -> Iterator[tuple[int, str]]:
    """Every process below another, with its command line."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [process]
    while waiting:
        for child in children.get(waiting.pop(), []):
            try:
                line = (Path("/proc") / str(child) / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            yield child, line.decode(errors="replace")
            waiting.append(child)


def kill_one(process: int, names: tuple[str, ...], chooser: random.Random) -> str | None:
    """Kill a process below another whose command line has one of the names; its name and number."""
    found = {name: sorted(n for n, line in descendants(process) if name in line) for name in names}
    # Of two nodes the second: the first has the driver.
    found = {name: some[name.startswith("raylet") :] for name, some in found.items()}
    there = [name for name in names if found[name]]
    if not there:
        return None
    name = chooser.choice(there)
    victim = chooser.choice(found[name])
    os.kill(victim, signal.SIGKILL)
    return f"{name} {victim}"


def lasts(engine: str, corpus: Path, out: Path, expected: dict[str, bytes]) -> tuple[float, float]:
    """Seconds until the working folder is there, and until the end, of an undisturbed build."""
    begin = time.monotonic()
    process = begun(engine, corpus, out)
    while not (out / ".work").exists() and process.poll() is None:
        time.sleep(0.05)
    starts = time.monotonic() - begin
    finished(process)
    assert tree_bytes(out) == expected
    return starts, time.monotonic() - begin


def wait_for_start(process: subprocess.Popen[bytes], out: Path) -> None:
    while not (out / ".work/driver").exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.parametrize("engine", PACKAGES)
def test_workers_killed_at_ten_moments(
    tmp_path: Path, larger: Path, undisturbed: dict[str, bytes], engine: str
) -> None:
    pytest.importorskip(PACKAGES[engine], reason=f"extra {engine}")
    chooser = random.Random(1)
    starts, ends = lasts(engine, larger, tmp_path / "first", undisturbed)
    died = 0
    for turn in range(10):
        out = tmp_path / str(turn)
        begin = time.monotonic()
        process = begun(engine, larger, out)
        wait_for_start(process, out)
        time.sleep((turn + chooser.random()) / 10 * (ends - starts) * 0.8)
        moment = time.monotonic() - begin
        killed = kill_one(process.pid, VICTIMS[engine], chooser)
        died += killed is not None
        finished(process)
        took = time.monotonic() - begin
        LOG.info("killed at %.1f s, ended at %.1f s: %s", moment, took, killed)
        assert tree_bytes(out) == undisturbed, turn
    LOG.info("undisturbed: %.1f s", ends)
    assert died >= 7, "most moments must fall inside the build"


@pytest.mark.parametrize("engine", PACKAGES)
def test_drivers_killed_at_five_moments(
    tmp_path: Path, larger: Path, undisturbed: dict[str, bytes], engine: str
) -> None:
    pytest.importorskip(PACKAGES[engine], reason=f"extra {engine}")
    chooser = random.Random(2)
    starts, ends = lasts(engine, larger, tmp_path / "first", undisturbed)
    died = 0
    for turn in range(5):
        out = tmp_path / str(turn)
        process = begun(engine, larger, out)
        wait_for_start(process, out)
        time.sleep((turn + chooser.random()) / 5 * (ends - starts) * 0.8)
        below = [child for child, _ in descendants(process.pid)]
        reached = sorted(path.name for path in out.glob(".work/stages/*/"))
        process.kill()
        process.communicate()
        begin = time.monotonic()
        if not (out / "manifest.json").exists():
            died += 1
            finished(begun(engine, larger, out, resume=True))
        LOG.info("killed at stages %s, resumed for %.1f s", reached, time.monotonic() - begin)
        assert tree_bytes(out) == undisturbed, turn
        require_gone(below)
    LOG.info("undisturbed: %.1f s", ends)
    assert died >= 3, "most moments must fall inside the build"


def require_gone(processes: list[int]) -> None:
    """Workers do not outlive their driver."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        left = [one for one in processes if is_alive(one)]
        if not left:
            return
        time.sleep(0.5)
    pytest.fail(f"{len(left)} processes are left")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
