"""kill -9 at random moments of a build or an addition: a re-run gives the undisturbed bytes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import edited, prose, tree_bytes, write_jsonl

from govern.ids.add import add_documents
from govern.ids.pipeline import build_ids
from manifests import open_manifest
from manifests.errors import InputError

# Tells when the work begins, so that the moments are not wasted on starting Python.
BUILD = """
import sys
from govern.ids.pipeline import build_ids
print("begin", flush=True)
build_ids([sys.argv[1]], sys.argv[2])
"""
ADD = """
import sys
from govern.ids.add import add_documents
print("begin", flush=True)
add_documents([sys.argv[1]], sys.argv[2])
"""


def corpora(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus, and one to add to it."""
    records = [
        {"id": f"{k}-{v}", "text": edited(prose(k, 150), 3, v)}
        for v in range(6)
        for k in range(400)
    ]
    return (
        write_jsonl(tmp_path / "a.jsonl", records[:1800]),
        write_jsonl(tmp_path / "b.jsonl", records[1800:]),
    )


def seconds_of(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def kill(code: str, corpus: Path, out: Path, after: float) -> None:
    """Start the code on a corpus and a manifest; kill it `after` seconds into its work."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(corpus), str(out)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"begin\n"
    time.sleep(after)
    child.kill()
    assert child.wait() in (0, -signal.SIGKILL)
    child.stdout.close()


def kill_builds(tmp_path: Path, moments: int, seed: int) -> int:
    """Kill builds at random moments; how many died before they had a manifest."""
    corpus, _ = corpora(tmp_path)
    lasts = seconds_of(lambda: build_ids([corpus], tmp_path / "whole"))
    expected = tree_bytes(tmp_path / "whole")
    chooser = random.Random(seed)
    died = 0
    for moment in range(moments):
        out = tmp_path / f"m{moment}"
        kill(BUILD, corpus, out, chooser.uniform(0, lasts * 1.5))
        if (out / "manifest.json").exists():
            # Killed between `manifest.json` and the sweep, it is a manifest with litter beside it.
            with pytest.raises(InputError, match="found a finished manifest"):
                build_ids([corpus], out)
        else:
            died += 1
            build_ids([corpus], out)
        assert tree_bytes(out) == expected
    return died


def kill_additions(tmp_path: Path, moments: int, seed: int) -> int:
    """Kill additions at random moments; how many died before they were committed."""
    corpus, more = corpora(tmp_path)
    build_ids([corpus], tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    lasts = seconds_of(lambda: add_documents([more], tmp_path / "whole"))
    expected = tree_bytes(tmp_path / "whole")
    chooser = random.Random(seed)
    died = 0
    for moment in range(moments):
        out = tmp_path / f"m{moment}"
        shutil.copytree(tmp_path / "before", out)
        kill(ADD, more, out, chooser.uniform(0, lasts * 1.5))
        # Whatever was left, it is a manifest: that before or that after.
        died += open_manifest(out).snapshot == 1
        add_documents([more], out)
        assert tree_bytes(out) == expected
    return died


def test_killed_builds_leave_nothing_wrong(tmp_path: Path) -> None:
    kill_builds(tmp_path, moments=3, seed=1)


def test_killed_additions_leave_nothing_wrong(tmp_path: Path) -> None:
    kill_additions(tmp_path, moments=3, seed=1)


@pytest.mark.slow
def test_builds_killed_at_twenty_moments(tmp_path: Path) -> None:
    died = kill_builds(tmp_path, moments=20, seed=2)
    assert died >= 3, "most moments must fall inside the build"


@pytest.mark.slow
def test_additions_killed_at_twenty_moments(tmp_path: Path) -> None:
    died = kill_additions(tmp_path, moments=20, seed=2)
    assert died >= 3, "most moments must fall inside the addition"
