"""A kill anywhere in a forget: no report for an incomplete erase, and a re-run completes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forget_world import build_world

from govern.audit.signing import generate_keys

# Forking must happen where no library has started a thread: the parent copies files and compares
# bytes, and only its children run the toolkit.
DRIVER = """
import os, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
base, in_place = Path(sys.argv[2]), sys.argv[3] == "in place"
point, stride = int(sys.argv[4]), int(sys.argv[5])
from kill_points import run_killed_at
from forget_world import FakeMeasurer
from synthetic_run import tree_digest
from govern.audit.ledger import read_ledger
from govern.audit.report_file import read_report
from govern.audit.verify import verify_report
from govern.forget.execute import forget
from govern.forget.request import ForgetRequest
from manifests import open_manifest
import govern.audit.report, govern.forget.tombstone, manifests.checks, manifests.tombstones
import duckdb, pyarrow.parquet, sinkmodel.allocation

# Compiled once here instead of in every child.
govern.audit.report._environment().get_template("report.html.j2")
pristine, now = base / "pristine", base / "now"
result = now / ("run" if in_place else "after")
report = now / "report" / "REPORT.json"


def work():
    return forget(
        now / "run",
        now / "manifest",
        ForgetRequest(kind="doc-id", values=("licence-1", "secret"), reference="R", reason="r"),
        out=None if in_place else result,
        in_place=in_place,
        key=pristine / "keys" / "govern-private.pem",
        ledger=now / "ledger",
        report_dir=report.parent,
        measurer=FakeMeasurer(),
    )


def complete():
    if (now / "ledger" / "heads").is_dir():
        read_ledger(now / "ledger")
    outcome = work()
    assert outcome.report == report, outcome
    found = verify_report(
        report, model=result, manifest=now / "manifest", ledger=now / "ledger",
        public_key=pristine / "keys" / "govern-public.pem",
    )
    assert not found.failed, found.failed
    assert len(list((now / "ledger" / "entries").iterdir())) == 1
    assert open_manifest(now / "manifest").rows("tombstones") == 2
    assert not (report.parent / ".pending").exists()


def fresh():
    shutil.rmtree(now, ignore_errors=True)
    shutil.copytree(pristine, now)


fresh()
old = tree_digest(now / "run")
assert not run_killed_at(0, complete)
new = tree_digest(result)
seen = set()
while True:
    fresh()
    killed = run_killed_at(point, work)
    digest = tree_digest(result) if result.exists() else old
    state = {old: "old", new: "new"}.get(digest, "between")
    seen.add(state)
    if any((now / "ledger").rglob("0*.json")) or report.exists():
        assert state == "new", (point, "recorded before it was erased")
        seen.add("recorded")
    assert not run_killed_at(0, complete), point
    assert tree_digest(result) == new, point
    if not killed:
        break
    point += stride
print(point, *sorted(seen))
"""


def drive(tmp_path: Path, mode: str, first: int, stride: int) -> tuple[int, list[str]]:
    build_world(tmp_path / "pristine")
    generate_keys(tmp_path / "pristine" / "keys")
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, tests, tmp_path, mode, str(first), str(stride)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    points, *seen = done.stdout.split()
    return int(points), seen


@pytest.mark.parametrize("mode", ["out", "in place"])
def test_killed_at_some_operations(tmp_path: Path, mode: str) -> None:
    points, seen = drive(tmp_path, mode, first=11, stride=23)
    assert points > 90
    assert {"old", "new", "recorded"} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["out", "in place"])
def test_killed_at_every_operation(tmp_path: Path, mode: str) -> None:
    points, seen = drive(tmp_path, mode, first=1, stride=1)
    assert points > 90
    assert seen == (["between"] if mode == "in place" else []) + ["new", "old", "recorded"]
