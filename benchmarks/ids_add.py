"""Adding 1 % to a manifest: its cost beside that of the build, and the same partition.

    python benchmarks/ids_add.py --documents 200000 --work DIR [--verify]

The corpus is that of `ids_scale`: its last 1 % is added to a build over the rest. Each step is a
process of its own, so its CPU seconds include imports and loading compiled code. `--verify` builds
everything at once and compares the partitions.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

from ids_scale import write_corpus

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


def step(name: str, code: str, *arguments: Path) -> float:
    """Run a step in a process of its own; its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:24} {seconds:8.1f} CPU s, peak so far {after.ru_maxrss / 1e6:.2f} GB", flush=True)
    return seconds


def partition(manifest: Path) -> set[frozenset[str]]:
    rows = open_manifest(manifest).table("documents", ["doc_id", "sequence_id"])
    members = defaultdict(set)
    for doc_id, sequence in zip(*(rows[n].to_pylist() for n in rows.column_names), strict=True):
        members[sequence].add(doc_id)
    return {frozenset(ids) for ids in members.values()}


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
    for name in ("m", "whole"):
        shutil.rmtree(options.work / name, ignore_errors=True)
    warm = options.work / "warm.jsonl"
    warm.write_text(json.dumps({"id": "w", "text": "compiled code is cached now"}) + "\n")
    for code, name in ((BUILD, "build (empty)"), (ADD, "add (nothing new)")):
        step(name, code, warm, options.work / "m")
    shutil.rmtree(options.work / "m")
    full = step("build of 99 %", BUILD, most, options.work / "m")
    added = step("add 1 %", ADD, rest, options.work / "m")
    print(f"adding 1 % costs {added / full:.1%} of the build")
    if options.verify:
        step("build of 100 %", BUILD, whole, options.work / "whole")
        same = partition(options.work / "m") == partition(options.work / "whole")
        print("the partitions are equal" if same else "THE PARTITIONS DIFFER")


if __name__ == "__main__":
    main()
