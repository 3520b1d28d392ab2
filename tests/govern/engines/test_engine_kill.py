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
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from engine_world import PACKAGES as CLUSTERS
from engine_world import build, edited, prose, tree_bytes, write_jsonl

pytestmark = pytest.mark.slow
LOG = logging.getLogger(__name__)
# Seconds after which a build counts as hanging.
LIMIT = 240
HERE = Path(__file__).parent
PACKAGES = {"processes": "govern", **CLUSTERS}
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


def kill_one(process: int, names: Sequence[str], chooser: random.Random) -> str | None:
    """Kill a process below another that has the first of the names which any has; its name."""
    for name in names:
        found = sorted(child for child, line in descendants(process) if name in line)
        # Of two nodes the second: the first has the driver.
        found = found[name.startswith("raylet") :]
        if found:
            os.kill(chooser.choice(found), signal.SIGKILL)
            return name
    return None


def published(out: Path) -> int:
    """How many files and parts tasks have published."""
    return sum(1 for what in ("parts/[0-9]*", "stages/*/[0-9]*") for _ in out.glob(f".work/{what}"))


def undisturbed_build(engine: str, corpus: Path, out: Path, expected: dict[str, bytes]) -> int:
    """How much a build publishes that nobody disturbs."""
    begin = time.monotonic()
    process = begun(engine, corpus, out)
    most = 0
    while process.poll() is None:
        most = max(most, published(out))
        time.sleep(0.05)
    finished(process)
    assert tree_bytes(out) == expected
    LOG.info("undisturbed: %d published, ended at %.1f s", most, time.monotonic() - begin)
    return most


def wait_for_moment(
    process: subprocess.Popen[bytes], out: Path, share: float, most: int, chooser: random.Random
) -> int:
    """Wait until a share of the files is there, and up to a second more; how many there are.

    By files and not by time: a machine that others use as well would shift the moments.
    """
    while not (out / ".work/driver").exists() and process.poll() is None:
        time.sleep(0.02)
    while published(out) < 0.9 * share * most and (out / ".work").exists():
        time.sleep(0.02)
    time.sleep(chooser.random())
    return published(out)


@pytest.mark.parametrize("engine", PACKAGES)
def test_workers_killed_at_ten_moments(
    tmp_path: Path, larger: Path, undisturbed: dict[str, bytes], engine: str
) -> None:
    pytest.importorskip(PACKAGES[engine], reason=f"extra {engine}")
    chooser = random.Random(1)
    most = undisturbed_build(engine, larger, tmp_path / "first", undisturbed)
    died = 0
    for turn in range(10):
        out = tmp_path / str(turn)
        begin = time.monotonic()
        process = begun(engine, larger, out)
        reached = wait_for_moment(process, out, (turn + chooser.random()) / 10, most, chooser)
        at = turn % len(VICTIMS[engine])
        names = (*VICTIMS[engine][at:], *VICTIMS[engine][:at])
        killed = kill_one(process.pid, names, chooser)
        died += killed is not None
        finished(process)
        took = time.monotonic() - begin
        LOG.info("%s killed after %d published, ended at %.1f s", killed, reached, took)
        assert tree_bytes(out) == undisturbed, turn
    assert died >= 7, "most moments must fall inside the build"


@pytest.mark.parametrize("engine", PACKAGES)
def test_drivers_killed_at_five_moments(
    tmp_path: Path, larger: Path, undisturbed: dict[str, bytes], engine: str
) -> None:
    pytest.importorskip(PACKAGES[engine], reason=f"extra {engine}")
    chooser = random.Random(2)
    most = undisturbed_build(engine, larger, tmp_path / "first", undisturbed)
    died = 0
    for turn in range(5):
        out = tmp_path / str(turn)
        process = begun(engine, larger, out)
        reached = wait_for_moment(process, out, (turn + chooser.random()) / 5, most, chooser)
        below = [child for child, _ in descendants(process.pid)]
        process.kill()
        process.communicate()
        begin = time.monotonic()
        if not (out / "manifest.json").exists():
            died += 1
            finished(begun(engine, larger, out, resume=True))
        took = time.monotonic() - begin
        LOG.info("killed after %d published, went on for %.1f s", reached, took)
        assert tree_bytes(out) == undisturbed, turn
        require_gone(below)
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
