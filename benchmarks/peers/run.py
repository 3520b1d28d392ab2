"""One measurement of one tool in a process of its own; prints one JSON object.

PYTHONPATH=benchmarks python -m peers.run NAME signatures CORPUS.jsonl RUNS
PYTHONPATH=benchmarks python -m peers.run NAME cluster SHARDS_DIRECTORY OUT WORKERS
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

BEGIN = time.perf_counter()


def cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, whose))


def signatures(tool: ModuleType, corpus: Path, runs: int) -> dict[str, Any]:
    """CPU seconds of the best of several runs over texts that are in memory."""
    texts = [json.loads(line)["text"] for line in corpus.open()]
    prepare = getattr(tool, "prepare", list)
    tool.signatures(prepare([*texts[:5], "Éirinn 北京"]))
    ready, best = prepare(texts), float("inf")
    for _ in range(runs):
        begin = cpu_seconds()
        tool.signatures(ready)
        best = min(best, cpu_seconds() - begin)
    return {"cpu": best, "bytes": sum(len(text.encode()) for text in texts), "count": len(texts)}


def cluster(tool: ModuleType, shards: Path, out: Path, workers: int) -> dict[str, Any]:
    """Seconds of the whole process, its start and imports included."""
    files = sorted(shards.glob("*.jsonl"))
    tool.cluster(files, out, workers)
    result = {"wall": time.perf_counter() - BEGIN, "cpu": cpu_seconds()}
    if hasattr(tool, "export"):
        tool.export(files, out)
    return result


def main(name: str, what: str, *rest: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        tool = importlib.import_module(f"peers.{name}")
        if what == "signatures":
            result = signatures(tool, Path(rest[0]), int(rest[1]))
        else:
            result = cluster(tool, Path(rest[0]), Path(rest[1]), int(rest[2]))
    result["versions"] = ", ".join(f"{p} {version(p)}" for p in tool.PACKAGES)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
