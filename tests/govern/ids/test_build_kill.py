"""kill -9 at any moment of a build or an addition: the next run gives the undisturbed bytes.

Swept over every file operation on a tiny corpus, and at moments of time on a larger one. What comes
after a kill alternates between `resume` and a new beginning.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from corpora import edited, prose, tree_bytes, write_jsonl
from kill_points import run_killed_after, run_killed_at

from govern.ids.add import add_documents
from govern.ids.corpus import ReadOptions
from govern.ids.output import is_unfinished
from govern.ids.pipeline import BuildConfig, build_ids
from manifests import open_manifest
from manifests.errors import InputError

READ = ReadOptions(source="s", batch_rows=100)
CONFIG = BuildConfig(read=READ, workers=2)
# Few bands, so few files: a sweep is as long as a build has file operations.
TINY = BuildConfig(read=READ, workers=1, num_perm=16, threshold=0.9)
_TEMPORARY = re.compile(r"\.\w{8}\.tmp(?=/|$)")


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tasks of several parts even of small files; durability is not what is tested."""
    monkeypatch.setattr("govern.ids.parts.PART_BYTES", 20_000)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def records(families: int, variants: int, words: int) -> list[dict[str, str]]:
    return [
        {"id": f"{k}-{v}", "text": edited(prose(k, words), 1 + words // 50, v)}
        for v in range(variants)
        for k in range(families)
    ]


def shards(folder: Path, rows: list[dict[str, str]], number: int) -> Path:
    for shard in range(number):
        write_jsonl(folder / f"{shard}.jsonl", rows[shard::number])
    return folder


def build(corpus: Path, out: Path, config: BuildConfig = CONFIG, *, resume: bool = False) -> None:
    build_ids([corpus], out, config, resume=resume)


def finish(corpus: Path, out: Path, config: BuildConfig = CONFIG, *, resume: bool) -> bool:
    """Run a killed build again; whether there was something to resume."""
    unfinished = is_unfinished(out)
    if (out / "manifest.json").exists():
        # Killed between `manifest.json` and the sweep, it is a manifest with litter beside it.
        with pytest.raises(InputError, match="found a finished manifest"):
            build(corpus, out, config, resume=resume)
    else:
        build(corpus, out, config, resume=resume)
    return unfinished


def remains(directory: Path) -> int:
    """What a killed process left, whatever its temporary names: equal remains are tried once."""
    return hash(
        frozenset(
            (_TEMPORARY.sub("", path.as_posix()), path.is_file() and path.read_bytes())
            for path in directory.rglob("*")
        )
    )


def test_builds_killed_at_every_file_operation(tmp_path: Path) -> None:
    corpus = shards(tmp_path / "corpus", records(40, 3, 60), 2)
    build(corpus, tmp_path / "whole", TINY)
    expected = tree_bytes(tmp_path / "whole")
    out = tmp_path / "m"
    seen: set[int] = set()
    resumed = 0
    for point in count(1):
        killed = run_killed_at(point, lambda: build(corpus, out, TINY))
        left = remains(out)
        if left not in seen:
            seen.add(left)
            resume = len(seen) % 2 == 0
            resumed += finish(corpus, out, TINY, resume=resume) and resume
            assert tree_bytes(out) == expected, point
        shutil.rmtree(out, ignore_errors=True)
        if not killed:
            break
    assert len(seen) > 30
    assert resumed > 5


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    corpus = shards(tmp_path / "corpus", records(40, 3, 60), 4)
    build(corpus, tmp_path / "whole", TINY)
    out = tmp_path / "m"
    kept: list[set[str]] = [set()]
    for point in range(12, 48, 4):
        assert run_killed_at(point, lambda: build(corpus, out, TINY, resume=True))
        kept.append({path.name for path in out.glob(".work/parts/[0-9]*")})
        assert kept[-1] >= kept[-2]
    sizes = sorted({len(parts) for parts in kept})
    assert len(sizes) > 2, "kills must fall before, between and behind the parts"
    stamps = {path: path.stat().st_mtime_ns for path in out.glob(".work/parts/[0-9]*/*")}
    assert run_killed_at(44, lambda: build(corpus, out, TINY, resume=True))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    build(corpus, out, TINY, resume=True)
    assert tree_bytes(out) == tree_bytes(tmp_path / "whole")


def test_additions_killed_at_every_file_operation(tmp_path: Path) -> None:
    rows = records(20, 3, 60)
    build(shards(tmp_path / "old", rows[:40], 2), tmp_path / "before", TINY)
    more = write_jsonl(tmp_path / "more.jsonl", rows[30:])
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    add_documents([more], tmp_path / "whole")
    digests = {open_manifest(tmp_path / name).digest for name in ("before", "whole")}
    expected = tree_bytes(tmp_path / "whole")
    out = tmp_path / "m"
    found, seen = set(), set()
    for point in count(1):
        shutil.copytree(tmp_path / "before", out)
        killed = run_killed_at(point, lambda: add_documents([more], out))
        left = remains(out)
        if left not in seen:
            seen.add(left)
            found.add(open_manifest(out).digest)
            add_documents([more], out)
            assert tree_bytes(out) == expected, point
        shutil.rmtree(out)
        if not killed:
            break
    assert found == digests
    assert len(seen) > 20


def seconds_of(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def moments(number: int, lasts: float, seed: int) -> list[float]:
    """A random moment in each of so many equal stretches of time."""
    chooser = random.Random(seed)
    return [(k + chooser.random()) * lasts / number for k in range(number)]


def kill_builds(tmp_path: Path, number: int, seed: int) -> None:
    """Kill builds at moments of time; each is killed once more while it goes on."""
    corpus = shards(tmp_path / "corpus", records(400, 6, 150), 3)
    build(corpus, tmp_path / "warm")
    lasts = seconds_of(lambda: build(corpus, tmp_path / "whole"))
    expected = tree_bytes(tmp_path / "whole")
    out = tmp_path / "m"
    died = resumed = 0
    for turn, moment in enumerate(moments(number, lasts, seed)):
        died += run_killed_after(moment, lambda: build(corpus, out))
        resume = turn % 3 > 0
        if turn % 3 == 2 and not (out / "manifest.json").exists():
            run_killed_after(moment / 2, lambda: build(corpus, out, resume=True))
        resumed += finish(corpus, out, resume=resume) and resume
        assert tree_bytes(out) == expected
        shutil.rmtree(out)
    assert died >= max(1, number // 4), "most moments must fall inside the build"
    assert resumed >= number // 10, "some builds must have left something to go on with"


def kill_additions(tmp_path: Path, number: int, seed: int) -> None:
    """Kill additions at moments of time."""
    rows = records(400, 6, 150)
    build(shards(tmp_path / "old", rows[:1800], 2), tmp_path / "before")
    more = write_jsonl(tmp_path / "more.jsonl", rows[1800:])
    for name in ("warm", "whole"):
        shutil.copytree(tmp_path / "before", tmp_path / name)
    add_documents([more], tmp_path / "warm")
    lasts = seconds_of(lambda: add_documents([more], tmp_path / "whole"))
    expected = tree_bytes(tmp_path / "whole")
    out = tmp_path / "m"
    died = 0
    for moment in moments(number, lasts, seed):
        shutil.copytree(tmp_path / "before", out)
        died += run_killed_after(moment, lambda: add_documents([more], out))
        # Whatever was left, it is a manifest: that before or that after.
        assert open_manifest(out).snapshot in (1, 2)
        add_documents([more], out)
        assert tree_bytes(out) == expected
        shutil.rmtree(out)
    assert died >= max(1, number // 4), "most moments must fall inside the addition"


def test_builds_killed_at_three_moments(tmp_path: Path) -> None:
    kill_builds(tmp_path, 3, seed=1)


def test_additions_killed_at_three_moments(tmp_path: Path) -> None:
    kill_additions(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_builds_killed_at_twenty_moments(tmp_path: Path) -> None:
    kill_builds(tmp_path, 20, seed=2)


@pytest.mark.slow
def test_additions_killed_at_twenty_moments(tmp_path: Path) -> None:
    kill_additions(tmp_path, 20, seed=2)
