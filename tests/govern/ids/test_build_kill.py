"""kill -9 at random moments of a build: a re-run gives the bytes of an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import edited, prose, tree_bytes, write_jsonl

from govern.ids.pipeline import build_ids
from manifests import open_manifest
from manifests.errors import ManifestError

# Tells when the work begins, so that the moments are not wasted on starting Python.
CHILD = """
import sys
from govern.ids.pipeline import build_ids
print("begin", flush=True)
build_ids([sys.argv[1]], sys.argv[2])
"""


def kill_and_rerun(tmp_path: Path, moments: int, seed: int) -> int:
    """Kill builds at random moments; how many died before they had a manifest."""
    records = [
        {"id": f"{k}-{v}", "text": edited(prose(k, 150), 3, v)}
        for k in range(400)
        for v in range(6)
    ]
    corpus = write_jsonl(tmp_path / "a.jsonl", records)
    begin = time.perf_counter()
    build_ids([corpus], tmp_path / "whole")
    lasts = time.perf_counter() - begin
    expected = tree_bytes(tmp_path / "whole")
    chooser = random.Random(seed)
    died = 0
    for moment in range(moments):
        out = tmp_path / f"m{moment}"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(corpus), str(out)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        time.sleep(chooser.uniform(0, lasts * 1.5))
        child.kill()
        assert child.wait() in (0, -signal.SIGKILL)
        child.stdout.close()
        try:
            open_manifest(out)
        except ManifestError:
            died += 1
            build_ids([corpus], out)
        # Killed between `manifest.json` and the sweep it is a manifest with litter beside it.
        found = {k: v for k, v in tree_bytes(out).items() if not k.startswith(".work")}
        assert found == expected
    return died


def test_killed_builds_leave_nothing_wrong(tmp_path: Path) -> None:
    kill_and_rerun(tmp_path, moments=4, seed=1)


@pytest.mark.slow
def test_builds_killed_at_twenty_moments(tmp_path: Path) -> None:
    died = kill_and_rerun(tmp_path, moments=20, seed=2)
    assert died >= 3, "most moments must fall inside the build"
