"""A kill at any file operation leaves the old run, the new run, or one that a re-run completes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Forking must happen where no other thread runs, so the whole loop lives in its own process.
DRIVER = """
import os, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from kill_points import run_killed_at
from synthetic_run import contents, tree_digest, write_run
import sinkmodel.allocation
from sinkmodel import erase

base, mode = Path(sys.argv[2]), sys.argv[3]
pristine = base / "pristine"
run, out = base / "run", base / "out"
twin = base / "twin"


def fresh():
    for path in base.iterdir():
        if path != pristine:
            shutil.rmtree(path)
    shutil.copytree(pristine, run)
    # A second run that shares every file: no kill may change it either.
    shutil.copytree(run, twin, copy_function=os.link)


def work():
    target = out if mode == "out" else None
    return erase.erase_blocks(run, [7, 8, 9], [33], out=target, pending=PENDING)


PENDING = sys.argv[4] == "pending"
result = out if mode == "out" else run
old = tree_digest(pristine)
fresh()
work()
new = tree_digest(result)
assert new != old
point, seen = 0, set()
while True:
    point += 1
    fresh()
    killed = run_killed_at(point, work)
    assert tree_digest(twin) == old, (point, "the twin changed")
    if mode == "out":
        assert tree_digest(run) == old, (point, "the source changed")
        assert not out.exists() or tree_digest(out) == new, (point, "torn output")
        seen.add("new" if out.exists() else "old")
    else:
        now = tree_digest(run)
        state = {old: "old", new: "new"}.get(now, "between")
        assert state == "old" or (run / erase.JOURNAL).exists() or (
            state == "new" and not PENDING
        ), (point, state)
        seen.add(state)
    published = mode == "out" and out.exists() and not PENDING
    receipt = None if published else work()
    assert tree_digest(result) == new, (point, "not completed")
    if receipt is not None and not receipt.already_erased:
        checks = erase.verify_erased(receipt, result)
        assert all(check.passed for check in checks), (point, checks)
    if not killed:
        break
print(point, " ".join(sorted(seen)))
"""


# Each pair in its usual place: the command erases with a pending receipt, a caller without.
@pytest.mark.parametrize(
    ("mode", "pending"),
    [
        ("out", "pending"),
        ("in place", "settled"),
        pytest.param("out", "settled", marks=pytest.mark.slow),
        pytest.param("in place", "pending", marks=pytest.mark.slow),
    ],
)
def test_killed_at_every_operation(tmp_path: Path, mode: str, pending: str) -> None:
    from synthetic_run import write_run

    write_run(tmp_path / "pristine")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]), tmp_path, mode, pending],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    points, *seen = done.stdout.split()
    assert int(points) > 25, "the shim saw too few operations to mean anything"
    assert seen == (["new", "old"] if mode == "out" else ["between", "new", "old"])
    shutil.rmtree(tmp_path / "pristine")
