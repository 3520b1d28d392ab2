"""Kill a forget again and again, look at what is left, let a re-run complete it, verify the result.

    python forget_killing.py BASE (out|in-place|also) operations FIRST STRIDE
    python forget_killing.py BASE (out|in-place|also) signals KILLS

`also` forgets in place in two runs at once, which share every file by hard link.

`operations` ends the process before its n-th operation that changes the disk; `signals` sends a
real SIGKILL to `govern forget` at moments spread over its whole time and as soon as certain files
appear. Prints how many kills there were, and in which states they left the run.

A program, because forking wants a process in which no library has started a thread: the parent
copies files and compares bytes, and only its children run the toolkit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet  # noqa: F401  loaded here once instead of in every child
from forget_world import BASE, SIGNED, FakeMeasurer
from kill_points import ended, forked, run_killed_at
from synthetic_run import tree_digest

import govern.audit.report
import govern.cli
import govern.cli.forget as command
import govern.forget.execute
import govern.forget.tombstone
import manifests.checks
import manifests.tombstones  # noqa: F401
import sinkmodel.allocation  # noqa: F401
from govern.audit.ledger import read_ledger
from govern.audit.report_file import read_report
from govern.audit.verify import verify_report
from manifests import open_manifest

WHOLE_EVERY = 10  # the manifest, whose check takes longest, is verified after every tenth kill
_connect = duckdb.connect


class Scene:
    """One pristine world, and the copy in which the killing happens."""

    def __init__(self, base: Path, mode: str) -> None:
        self.pristine, self.now = base / "pristine", base / "now"
        names = {"out": ["after"], "in-place": ["run"], "also": ["run", "twin"]}[mode]
        self.twin = mode == "also"
        self.results = [self.now / name for name in names]
        homes = [f"report/{name}" for name in names] if self.twin else ["report"]
        self.reports = [self.now / home / "REPORT.json" for home in homes]
        self.arguments = [
            "--quiet", *BASE, "--doc-id", "licence-1", "--doc-id", "secret", *SIGNED,
            *(["--out", "after"] if mode == "out" else ["--in-place", "--yes"]),
            *(["--also", "twin"] if self.twin else []),
            "--ledger", "ledger", "--report", "report",
        ]  # fmt: skip
        self.states: Counter[str] = Counter()
        self.kills = 0
        self.fresh()
        self.old = tree_digest(self.now / "run")
        self.complete()
        self.new = tree_digest(self.results[0])

    def fresh(self) -> None:
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(self.pristine, self.now)
        if self.twin:
            shutil.copytree(self.now / "run", self.now / "twin", copy_function=os.link)
        os.chdir(self.now)

    def forget(self) -> None:
        """`govern forget`, as the command line runs it; returns where it exits with 0."""
        try:
            govern.cli.main(self.arguments)
        except SystemExit as stop:
            if stop.code:
                raise AssertionError(f"exit {stop.code}") from None

    def survived(self) -> None:
        """Count one kill, and hold what it left against the promises."""
        digests = [tree_digest(run) if run.exists() else self.old for run in self.results]
        signed = [(report.parent / ".pending" / "envelope.json").exists() or report.exists()
                  for report in self.reports]  # fmt: skip
        recorded = any((self.now / "ledger").rglob("0*.json"))
        for digest, is_signed in zip(digests, signed, strict=True):
            assert digest == self.new or not is_signed, "signed before it was erased"
            assert digest == self.new or not recorded, "recorded before all were erased"
        state = {(self.old,): "old", (self.new,): "new"}.get(tuple(set(digests)), "between")
        self.kills += 1
        self.states[state] += 1
        self.states["signed"] += any(signed) or recorded
        self.states["recorded"] += recorded
        self.states["reported"] += self.reports[-1].exists()

    def complete(self) -> None:
        """What is there can be read; a re-run completes it; a stranger finds nothing wrong."""

        def work() -> None:
            if (self.now / "ledger" / "heads").is_dir():
                read_ledger(self.now / "ledger")
            for report in self.reports:
                if report.exists():
                    read_report(report)
            self.forget()
            for report, run in zip(self.reports, self.results, strict=True):
                found = verify_report(
                    report, model=run, ledger=self.now / "ledger",
                    manifest=self.now / "manifest" if self.kills % WHOLE_EVERY == 0 else None,
                    public_key=self.now / "keys" / "govern-public.pem",
                )  # fmt: skip
                assert not found.failed, found.failed
                assert not (report.parent / ".pending").exists()
            assert len(list((self.now / "ledger" / "entries").iterdir())) == len(self.results)
            assert open_manifest(self.now / "manifest").rows("tombstones") == 2

        assert not run_killed_at(0, work)

    def completed(self) -> None:
        self.complete()
        for run in self.results:
            assert tree_digest(run) == self.new, "completed to something else"


def operations(scene: Scene, first: int, stride: int) -> int:
    """Kill before operation `first`, `first + stride`, …; returns how many there are."""
    point = first
    while True:
        scene.fresh()
        killed = run_killed_at(point, scene.forget)
        if killed:
            scene.survived()
        scene.completed()
        if not killed:
            return point - 1
        point += stride


def signals(scene: Scene, kills: int) -> None:
    """Kill with SIGKILL, half of the times after a while, half when a file appears."""
    whole = _timed(scene)
    triggers = _triggers(scene)
    for number in range(4 * kills):
        scene.fresh()
        if number % 2:
            begin, share = time.monotonic(), (number * 0.61803) % 1  # spread evenly over the time
            until: Callable[[], bool] = lambda: time.monotonic() - begin > share * whole  # noqa: B023, E731
        else:
            until = next(triggers)
        if _signalled(scene, until):
            scene.survived()
            scene.completed()
        if scene.kills >= kills:
            return
    raise AssertionError(f"{scene.kills} kills in {4 * kills} attempts")


def _triggers(scene: Scene) -> Iterator[Callable[[], bool]]:
    patterns = (
        "report/**/.pending/job.json", "run/.erase.json", ".after.erasing/config.json", "after",
        "report/**/.pending/envelope.json", "ledger/entries/0*", "ledger/heads/0*",
        "report/**/REPORT.json", "report/**/REPORT.html",
    )  # fmt: skip
    while True:
        for pattern in patterns:
            yield lambda pattern=pattern: any(scene.now.glob(pattern))  # type: ignore[misc]


def _timed(scene: Scene) -> float:
    scene.fresh()
    begin = time.monotonic()
    assert not run_killed_at(0, scene.forget)
    return time.monotonic() - begin


def _signalled(scene: Scene, until: Callable[[], bool]) -> bool:
    """Run `govern forget` in a child and kill it; False if it had finished before."""
    child = forked(scene.forget)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and not until():
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (0, -signal.SIGKILL), f"the command failed by itself: {code}"
    return code != 0


def main(base: str, mode: str, how: str, *numbers: str) -> None:
    # One thread for each query: a forked child that starts more spends its time on that.
    duckdb.connect = lambda *a, **k: _connect(*a, **{**k, "config": {"threads": 1}})
    command.make_measurer = lambda *_: FakeMeasurer()  # type: ignore[assignment]
    # Compiled once here instead of in every child.
    govern.audit.report.environment().get_template("report.html.j2")
    scene = Scene(Path(base), mode)
    result = {"points": 0}
    if how == "operations":
        result["points"] = operations(scene, *map(int, numbers))
    else:
        signals(scene, *map(int, numbers))
    sys.stdout.write(json.dumps(result | {"kills": scene.kills} | dict(scene.states)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
