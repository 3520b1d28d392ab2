"""Raw JSONL to a manifest on disk, end to end, on a synthetic corpus with planted families.

    python benchmarks/ids_scale.py --documents 1000000 --words 260 --work /tmp/scale

Of the documents 10 % are one family of light edits, 5 % exact copies, 10 % light edits and 10 %
heavy edits of other documents, 5 % fill a template, the rest are alone. Words follow a Zipf law
over 50,000 word forms. Prints seconds of each stage and the peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids

FORMS = 50_000


def word_forms(random: np.random.Generator) -> np.ndarray:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = np.arange(30, 4, -1, dtype=float)
    lengths = random.integers(2, 10, FORMS)
    drawn = random.choice(letters, size=lengths.sum(), p=weights / weights.sum())
    ends = np.cumsum(lengths)
    return np.array(
        ["".join(drawn[e - n : e]) for e, n in zip(ends, lengths, strict=True)], dtype=object
    )


def write_corpus(path: Path, documents: int, words: int) -> None:
    random = np.random.default_rng(7)
    forms = word_forms(random)
    weights = 1 / np.arange(1, FORMS + 1)
    cumulative = np.cumsum(weights / weights.sum())

    def fresh() -> np.ndarray:
        return np.searchsorted(cumulative, random.random(words))

    giant, template, last = fresh(), fresh(), fresh()
    with path.open("w") as file:
        for number in range(documents):
            kind = random.random()
            if kind < 0.10:
                text = edited(giant, 2, random)
            elif kind < 0.15:
                text = last
            elif kind < 0.25:
                text = edited(last, max(1, words // 100), random)
            elif kind < 0.35:
                text = edited(last, max(1, words // 25), random)
            elif kind < 0.40:
                text = np.concatenate([template[: words // 2], fresh()[: words // 2]])
            else:
                text = last = fresh()
            line = {"id": f"d{number}", "text": " ".join(forms[np.minimum(text, FORMS - 1)])}
            file.write(json.dumps(line) + "\n")


def edited(text: np.ndarray, edits: int, random: np.random.Generator) -> np.ndarray:
    changed = text.copy()
    changed[random.integers(0, len(text), edits)] = random.integers(0, FORMS, edits)
    return changed


class Stopwatch:
    """Prints the seconds of each stage as the next one begins."""

    def __init__(self) -> None:
        self.name, self.begin = "", time.perf_counter()

    def stage(self, name: str, total: int | None, unit: str) -> None:
        self.end()
        self.name, self.begin = f"{name} ({total or ''} {unit})", time.perf_counter()

    def advance(self, amount: int) -> None:
        """Nothing."""

    def end(self) -> None:
        if self.name:
            print(f"  {self.name:40} {time.perf_counter() - self.begin:8.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=260)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    corpus = options.work / f"corpus-{options.documents}-{options.words}.jsonl"
    if not corpus.exists():
        write_corpus(corpus, options.documents, options.words)
    out = options.work / "manifest"
    shutil.rmtree(out, ignore_errors=True)
    watch = Stopwatch()
    report = build_ids(
        [corpus], out, BuildConfig(read=ReadOptions(), workers=options.workers), watch
    )
    watch.end()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"corpus {corpus.stat().st_size / 1e6:.0f} MB, {report.documents} documents")
    print(f"{report.sequences} sequences, {report.candidates} candidates, {report.links} links")
    print(f"wall {report.seconds:.1f} s, CPU {usage.ru_utime + usage.ru_stime:.1f} s")
    print(f"peak resident memory {usage.ru_maxrss / 1e6:.2f} GB (with mapped files)")


if __name__ == "__main__":
    main()
