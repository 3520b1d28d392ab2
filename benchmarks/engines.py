"""One corpus of planted families (`planted`) to a manifest, on each engine of this machine.

    python benchmarks/engines.py --work DIR --documents 1000000 --words 260 local:1 local:2 ray:2

Every build is a process of its own. Prints a row of a table for each: wall seconds of the command;
of these the seconds until it began to read (interpreter, imports, cluster); processor seconds of
the command and all processes below it, as they were last seen; their greatest memory, as
proportional set size (a page that n of them share counts as 1/n), anonymous memory and mapped files
apart; how many there were; and the beginning of the manifest's digest, which must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import planted

_FILES = 8
_EVERY = 0.5  # seconds between two looks at the memory


@dataclass(eq=False)
class Usage(threading.Thread):
    """The greatest memory of a process and all below it, in kB, and their processor seconds."""

    process: int
    seconds: dict[int, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=lambda: {"Pss": 0, "Pss_Anon": 0})
    processes: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        """Look until the process has ended."""
        while Path(f"/proc/{self.process}").exists():
            sums = dict.fromkeys(self.peak, 0)
            count = 0
            for number in family(self.process):
                count += 1
                try:
                    lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
                    self.seconds[number] = processor_seconds(number)
                except OSError:
                    continue
                for line in lines:
                    name, _, value = line.partition(":")
                    if name in sums:
                        sums[name] += int(value.split()[0])
            self.processes = max(self.processes, count)
            self.peak = {name: max(seen, sums[name]) for name, seen in self.peak.items()}
            time.sleep(_EVERY)


def processor_seconds(process: int) -> float:
    """User and system time of a process that lives, without its children's."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(process: int) -> Iterator[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [process]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children.get(one, [])


def write_shards(folder: Path, documents: int, words: int) -> None:
    """The corpus in some files: a file is the least that a task reads."""
    temporary = folder.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    ends = [documents * number // _FILES for number in range(_FILES + 1)]
    for number in range(_FILES):
        path = temporary / f"{number}.jsonl"
        planted.write_corpus(path, documents, words, ends[number], ends[number + 1])
    temporary.rename(folder)


def measure(corpus: Path, work: Path, engine: str, workers: int) -> str:
    """Build it; prints a row, and returns the manifest's digest."""
    out = work / f"manifest-{engine}-{workers}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "govern", "--output", "json", "ids", "build", str(corpus)]
    command += ["--out", str(out), "--keep", "owner", "--engine", engine]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    usage = Usage(process.pid)
    usage.start()
    while not (out / ".work").exists() and process.poll() is None:
        time.sleep(0.01)
    start = time.perf_counter() - begin
    said, _ = process.communicate()
    wall = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{engine} ended with {process.returncode}")
    report = json.loads(said)
    total, anonymous = (usage.peak[name] / 1e6 for name in ("Pss", "Pss_Anon"))
    print(
        f"| {engine} | {workers} | {wall:.1f} | {start:.1f} | {sum(usage.seconds.values()):.1f} | "
        f"{anonymous:.2f} | {total:.2f} | {usage.processes} | {report['digest'][:16]} |",
        flush=True,
    )
    shutil.rmtree(out)
    return str(report["digest"])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=260)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("engines", nargs="*", metavar="ENGINE:WORKERS")
    options = parser.parse_args()
    corpus = options.work / f"planted-{options.documents}-{options.words}"
    if not corpus.exists():
        write_shards(corpus, options.documents, options.words)
    digests = set()
    if options.engines:
        print(
            "| engine | workers | wall s | start-up s | CPU s | anonymous GB | with mapped GB | "
            "processes | digest |"
        )
    for one in options.engines:
        engine, _, workers = one.partition(":")
        digests.add(measure(corpus, options.work, engine, int(workers)))
    if len(digests) > 1:
        raise SystemExit("the digests differ")


if __name__ == "__main__":
    main()
