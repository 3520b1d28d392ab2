"""Processor time of each stage of a build by tasks, in microseconds a document.

    python benchmarks/stage_rates.py --documents 200000 --words 260 --work DIR

All tasks run in this process, one after another, so that its processor time is that of the tasks;
between two stages it is the driver's. `cluster_simulation.py` takes its rates from here.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import planted

from govern.engines.base import attempt, calls, value_of
from govern.ids import pipeline
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids


class Timed:
    """An engine without workers, which prints what each stage took."""

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self.since = time.process_time()

    def note(self, name: str) -> None:
        """What was done since the last note."""
        now = time.process_time()
        print(f"  {name:20} {1e6 * (now - self.since) / self._documents:7.2f} us", flush=True)
        self.since = now

    def run(
        self,
        stage: str,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        finished: Callable[[int], None],
    ) -> list[Any]:
        """Run the tasks here."""
        self.note(f"driver before {stage}")
        values = [value_of(attempt(call)) for call in calls(stage, function, arguments)]
        finished(len(values))
        self.note(stage)
        return values

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """A stage begins; writing is the driver's."""
        del total, unit
        if name == "writing":
            self.note("driver before writing")

    def advance(self, amount: int) -> None:
        """Nothing."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=260)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    corpus = options.work / f"planted-{options.documents}-{options.words}.jsonl"
    if not corpus.exists():
        planted.write_corpus(corpus, options.documents, options.words)
    config = BuildConfig(read=ReadOptions(keep=("owner",)), workers=1, engine="processes")
    # The second build has every loop compiled.
    for documents in (options.documents, options.documents):
        engine = Timed(documents)

        @contextmanager
        def opened(*_: Any, engine: Timed = engine) -> Iterator[Timed]:
            yield engine

        pipeline.open_engine = opened
        out = options.work / "manifest"
        shutil.rmtree(out, ignore_errors=True)
        print(f"{documents} documents")
        build_ids([corpus], out, config, engine)
        engine.note("writing")


if __name__ == "__main__":
    main()
