"""Raw JSONL to a manifest on disk, end to end, on a corpus with planted families (`planted`).

    python benchmarks/ids_scale.py --documents 1000000 --words 260 --work DIR

Prints wall and CPU seconds of each stage with the greatest resident memory in it, anonymous memory
and mapped files apart; then how many of the planted pairs share a sequence ID. A sample of pairs of
each kind is compared by plain Python sets, and only those at or above the threshold must.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import planted

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from manifests import open_manifest

_SAMPLE = 2_000


class Stopwatch(threading.Thread):
    """Prints what each stage took as the next one begins."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.name_of_stage, self.wall, self.cpu = "", 0.0, 0.0
        self.peak = {"RssAnon": 0, "RssFile": 0}

    def run(self) -> None:
        """Look at the resident memory ten times a second."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peak:
                    self.peak[name] = max(self.peak[name], int(value.split()[0]))
            time.sleep(0.1)

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """A stage begins."""
        del total, unit
        self.end()
        self.name_of_stage, self.wall, self.cpu = name, time.perf_counter(), time.process_time()

    def advance(self, amount: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """The last stage has ended."""
        if self.name_of_stage:
            wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            anonymous, mapped = (self.peak[name] / 1e6 for name in ("RssAnon", "RssFile"))
            print(
                f"  {self.name_of_stage:18} wall {wall:7.1f} s  CPU {cpu:7.1f} s  "
                f"anonymous {anonymous:5.2f} GB  mapped {mapped:5.2f} GB",
                flush=True,
            )
        self.peak = dict.fromkeys(self.peak, 0)


def print_truth(manifest: Path, documents: int, words: int, threshold: float) -> None:
    """How many of a sample of planted pairs share an ID, kind by kind."""
    rows = open_manifest(manifest).table("documents", ["row", "sequence_id"])
    ids = np.zeros(documents, dtype=np.int64)
    ids[rows["row"].to_numpy()] = rows["sequence_id"].to_numpy()
    order = np.random.default_rng(1).permutation(documents)[: 40 * _SAMPLE]
    kinds = np.array([planted.kind_of(document) for document in order.tolist()])
    family, template = (order[kinds == k] for k in (planted.FAMILY, planted.TEMPLATE))
    for kind, name in enumerate(planted.KINDS[: planted.SINGLE]):
        some = order[kinds == kind][:_SAMPLE]
        if kind in (planted.FAMILY, planted.TEMPLATE):
            others = (family if kind == planted.FAMILY else template)[::-1][: len(some)]
        else:
            others = np.array([planted.parent_of(document) for document in some.tolist()])
        similar = jaccards(some, others, words) >= threshold
        shared = ids[some] == ids[others]
        print(
            f"  {name:9} {len(some)} pairs: {similar.sum()} at or above {threshold}, "
            f"{(similar & shared).sum()} of them share an ID; {(~similar & shared).sum()} below do"
        )


def jaccards(
    left: np.ndarray[tuple[int], np.dtype[np.int64]],
    right: np.ndarray[tuple[int], np.dtype[np.int64]],
    words: int,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Exact Jaccard similarity of pairs of documents, by plain Python."""
    forms = planted.word_forms()

    def sets(documents: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[set[tuple[str, ...]]]:
        texts = [[forms[i] for i in row] for row in planted.words_of(documents, words).tolist()]
        return [{tuple(t[i : i + 5]) for i in range(len(t) - 4)} for t in texts]

    pairs = zip(sets(left), sets(right), strict=True)
    return np.array([len(a & b) / len(a | b) for a, b in pairs])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=260)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="local", help="CPU seconds are then the driver's only")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    corpus = options.work / f"planted-{options.documents}-{options.words}.jsonl"
    if not corpus.exists():
        planted.write_corpus(corpus, options.documents, options.words)
    out = options.work / "manifest"
    shutil.rmtree(out, ignore_errors=True)
    watch = Stopwatch()
    watch.start()
    config = BuildConfig(
        read=ReadOptions(keep=("owner",)), workers=options.workers, engine=options.engine
    )
    report = build_ids([corpus], out, config, watch)
    watch.end()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"corpus {corpus.stat().st_size / 1e6:.0f} MB, {report.documents} documents")
    print(f"{report.sequences} sequences, {report.candidates} candidates, {report.links} links")
    print(f"wall {report.seconds:.1f} s, CPU {time.process_time():.1f} s")
    print(f"peak resident memory {usage.ru_maxrss / 1e6:.2f} GB (with mapped files)")
    print_truth(out, options.documents, options.words, config.threshold)


if __name__ == "__main__":
    main()
