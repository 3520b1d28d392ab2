"""Adding 1 % to a manifest: its cost beside that of the build, and the same partition.

    python benchmarks/ids_add.py --documents 200000 --work DIR [--verify]

The corpus is that of `ids_scale`: its last 1 % is added to a build over the rest. Each step is a
process of its own, so its seconds include imports and loading compiled code, and its peak memory is
its own. `--verify` builds everything at once, compares the partitions and looks that every old ID
was kept or became an alias.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from planted import write_corpus

from manifests import open_manifest

BUILD = """
import sys
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
config = BuildConfig(read=ReadOptions(source="s"), workers=2)
build_ids([sys.argv[1]], sys.argv[2], config)
"""
ADD = """
import sys
from govern.ids.add import AddConfig, add_documents
report = add_documents([sys.argv[1]], sys.argv[2], AddConfig(workers=2))
print("   ", report.documents, "documents,", report.joined, "joined,", report.merged, "merged,",
      report.reassigned, "reassigned,", report.candidates, "pairs verified", flush=True)
"""


USAGE = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6)
"""


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds of a step."""

    cpu: float
    wall: float


def step(name: str, code: str, *arguments: Path) -> Cost:
    """Run a step in a process of its own."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", code + USAGE, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall = time.perf_counter() - begin
    *said, usage = done.stdout.splitlines()
    cpu, peak = map(float, usage.split())
    for line in said:
        print(line)
    print(f"{name:20} {cpu:7.1f} CPU s {wall:7.1f} s, peak {peak:.2f} GB", flush=True)
    return Cost(cpu=cpu, wall=wall)


def sequences(manifest: Path) -> tuple[np.ndarray, np.ndarray]:
    """The number in the corpus and the sequence ID of each document, by number."""
    rows = open_manifest(manifest).table("documents", ["doc_id", "sequence_id"])
    numbers = np.array([int(doc_id[1:]) for doc_id in rows["doc_id"].to_pylist()])
    order = np.argsort(numbers)
    return numbers[order], rows["sequence_id"].to_numpy()[order]


def compare(before: tuple[np.ndarray, np.ndarray], grown: Path, whole: Path) -> None:
    """Say whether the partitions are equal, and every old ID was kept or became an alias."""
    (numbers, one), (_, other) = sequences(grown), sequences(whole)
    pairs = len(np.unique(np.stack([one, other]), axis=1)[0])
    same = pairs == len(set(one.tolist())) == len(set(other.tolist()))
    print("the partitions are equal" if same else "THE PARTITIONS DIFFER")
    aliases = set(open_manifest(grown).table("aliases")["alias_id"].to_pylist())
    lost = set(before[1].tolist()) - set(one.tolist()) - aliases
    changed = int((one[np.searchsorted(numbers, before[0])] != before[1]).sum())
    print(f"{len(lost)} IDs lost, {changed} old documents with another ID")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=260)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--verify", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    whole = options.work / f"corpus-{options.documents}-{options.words}.jsonl"
    if not whole.exists():
        write_corpus(whole, options.documents, options.words)
    most, rest = options.work / "most.jsonl", options.work / "rest.jsonl"
    # Line by line: a child's peak memory would begin at its parent's.
    with whole.open("rb") as lines:
        for path, count in ((most, options.documents - options.documents // 100), (rest, None)):
            with path.open("wb") as file:
                file.writelines(islice(lines, count))
    for name in ("m", "warm", "whole"):
        shutil.rmtree(options.work / name, ignore_errors=True)
    step("build of 99 %", BUILD, most, options.work / "m")
    before = sequences(options.work / "m") if options.verify else None
    # Loops are compiled for the first addition on a machine; nobody waits for that again.
    shutil.copytree(options.work / "m", options.work / "warm", copy_function=os.link)
    step("add 1 %, first time", ADD, rest, options.work / "warm")
    added = step("add 1 %", ADD, rest, options.work / "m")
    full = step("build of 100 %", BUILD, whole, options.work / "whole")
    print(
        f"adding 1 % costs {added.cpu / full.cpu:.1%} of the CPU seconds of a build of everything"
    )
    print(f"and {added.wall / full.wall:.1%} of its time")
    if before is not None:
        compare(before, options.work / "m", options.work / "whole")


if __name__ == "__main__":
    main()
