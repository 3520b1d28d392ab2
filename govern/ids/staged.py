"""The stages of a build as tasks of an engine: `Staged`.

    .work/driver          the mark of the driver that goes on here
    .work/parts/…         what reading leaves (`parts`)
    .work/stages/
        numbers.i64       int64 for each record: the text that it stands for, or -1
        documents.i64     int64 for each text: the record that stands for it
        plan.json         how the rest is cut into tasks
        keys/ pairs/      exchanges: a Parquet file for each task, a row group for each reader
        cuts.json         the first pair of every range but the first
        links/            the verified links of each range

Tasks whose file is there are not run again, so a build goes on where its driver died. The driver
itself settles, clusters and writes, and between any two stages it counts: every text has a key in
every band, every key reaches its bucket, every pair its range.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from govern.engines.base import Engine
from govern.ids.corpus import ReadOptions
from govern.ids.exchange import FENCE_NAME, Groups, Indices, Place
from govern.ids.ingest import Ingested, collect, ingest
from govern.ids.inputs import Inputs
from govern.ids.minhash import Banding, permutations
from govern.ids.parts import MOST_ENGINE_TASKS, PARTS_NAME, Part, plan_tasks, published
from govern.ids.progress import Progress
from govern.ids.settle import NOT_A_DOCUMENT, Settled
from govern.ids.tasks import (
    CUTS_NAME,
    DOCUMENTS_NAME,
    NUMBERS_NAME,
    PLAN_NAME,
    Numbered,
    Plan,
    Reading,
    keys_task,
    links_task,
    pairs_task,
    read_files_task,
)
from govern.ids.verify import Links, stored_links
from manifests.errors import EngineError
from manifests.files import atomic_write, canonical_json

# Texts of a bucket: a worker takes about 50 bytes for each.
TEXTS_PER_BUCKET = 1 << 24
# Pairs of a range, those that several bands have counted as often: about 100 bytes each.
PAIRS_PER_RANGE = (1 << 17, 1 << 24)
_RANGES = 64
A = TypeVar("A")


class Staged:
    """A build's stages, on an engine.

    Args:
        engine: Runs the tasks.
        work: The working folder, on a file system that driver and workers share.
        progress: Told about stages.
    """

    def __init__(self, engine: Engine, work: Path, progress: Progress) -> None:
        self._engine = engine
        self._place = Place(work.absolute(), secrets.token_hex(16))
        self._progress = progress
        self._parts: list[list[Part]] = []
        atomic_write(self._place.work / FENCE_NAME, self._place.mark.encode())

    def read(
        self, found: Inputs, options: ReadOptions, parameters: Mapping[str, Any], *, durable: bool
    ) -> Ingested:
        """Read, sketch and store a corpus: what `ingest` does, by tasks."""
        place = self._place
        tasks = plan_tasks(found.files, MOST_ENGINE_TASKS)
        (place.work / PARTS_NAME).mkdir(exist_ok=True)
        readings = [
            Reading(
                place=place,
                number=task.number,
                part_bytes=task.part_bytes,
                files=tuple((f.uri, f.bytes, f.version, f.source) for f in task.files),
                extractors=found.extractors,
                folder=str(Path.cwd()),
                options=options,
                ngram=parameters["ngram"],
                num_perm=parameters["num_perm"],
                seed=parameters["seed"],
                durable=durable,
            )
            for task in tasks
        ]

        def is_there(reading: Reading) -> bool:
            parts = published(place.work / PARTS_NAME, tasks[reading.number])
            return bool(parts) and parts[-1].end is None

        self._run("reading", read_files_task, readings, is_there)
        for reading in readings:
            if not is_there(reading):
                raise EngineError(
                    f"stage reading, task {reading.number} ({reading.files[0][0]}, …)",
                    expected=f"all its parts in {place.work / PARTS_NAME}",
                    found="not the last one",
                    remedy="let --out lie on one file system that all machines have at this path, "
                    "then run it again with --resume",
                )
        self._parts = [published(place.work / PARTS_NAME, task) for task in tasks]
        parts = [part for several in self._parts for part in several]
        return collect(parts, place.work, parameters["num_perm"])

    def link(self, settled: Settled, banding: Banding, threshold: float) -> tuple[Links, int]:
        """Candidate pairs and their verification.

        Returns:
            The links, ascending by (a, b), and how many pairs were verified.
        """
        plan = self._make_plan(settled, banding, threshold)
        self._run_numbered("keys", keys_task, len(plan.parts))
        per_bucket = self._count_keys(plan)
        self._run_numbered("pairs", pairs_task, plan.buckets)
        pairs = self._count_pairs(per_bucket)
        ranges = self._cut(plan, pairs)
        self._run_numbered("links", links_task, ranges)
        return self._gather(ranges, pairs)

    def _make_plan(self, settled: Settled, banding: Banding, threshold: float) -> Plan:
        """Pin how it goes on; what was made by another plan is removed."""
        stages = self._place.work / "stages"
        texts = len(settled.document_of)
        plan = Plan(
            parts=tuple(tuple((p.path.name, p.documents) for p in task) for task in self._parts),
            texts=texts,
            bands=banding.bands,
            rows=banding.rows,
            splits=1 << max(0, (texts - 1) // TEXTS_PER_BUCKET).bit_length(),
            threshold=threshold,
        )
        path, data = stages / PLAN_NAME, canonical_json(vars(plan))
        if not path.exists() or path.read_bytes() != data:
            shutil.rmtree(stages, ignore_errors=True)
        numbers = np.full(len(settled.text_of), NOT_A_DOCUMENT, dtype=np.int64)
        numbers[settled.document_of] = np.arange(texts)
        atomic_write(stages / NUMBERS_NAME, numbers.tobytes())
        atomic_write(stages / DOCUMENTS_NAME, settled.document_of.astype(np.int64).tobytes())
        atomic_write(path, data)
        return plan

    def _run(
        self,
        stage: str,
        task: Callable[[A], None],
        arguments: Sequence[A],
        is_there: Callable[[A], bool],
    ) -> None:
        """Run the tasks of a stage whose output is not there."""
        missing = [one for one in arguments if not is_there(one)]
        self._progress.stage(stage, len(arguments), "tasks")
        self._progress.advance(len(arguments) - len(missing))
        self._engine.run(stage, task, missing, self._progress.advance)

    def _run_numbered(self, stage: str, task: Callable[[Numbered], None], count: int) -> None:
        self._run(
            stage,
            task,
            [Numbered(self._place, number) for number in range(count)],
            lambda one: self._place.file(stage, one.number).exists(),
        )

    def _count_keys(self, plan: Plan) -> Indices:
        """How many keys each bucket has; every text must have one in every band."""
        numbers: npt.NDArray[Any] = np.fromfile(
            self._place.work / "stages" / NUMBERS_NAME, dtype=np.int64
        )
        per_bucket = np.zeros(plan.buckets, dtype=np.int64)
        first = 0
        for number, parts in enumerate(plan.parts):
            count = sum(documents for _, documents in parts)
            texts = int((numbers[first : first + count] >= 0).sum())
            first += count
            with Groups(self._place.file("keys", number)) as file:
                file.require_rows(texts * plan.bands)
                per_bucket += file.rows
        return per_bucket

    def _count_pairs(self, per_bucket: Indices) -> int:
        """How many candidate pairs there are; every key must have reached its bucket."""
        pairs = 0
        for bucket, keys in enumerate(per_bucket.tolist()):
            path = self._place.file("pairs", bucket)
            with Groups(path) as file:
                file.require_rows(int(file.rows.sum()))
                if file.counts["keys"] != keys:
                    raise _lost("keys", path, keys, file.counts["keys"])
                pairs += int(file.rows.sum())
        return pairs

    def _cut(self, plan: Plan, pairs: int) -> int:
        """Cut the pairs into ranges of about one size; how many there are.

        Quantiles of a sample: a family of a million copies has most of its pairs with few texts, so
        equal ranges of texts would be far from equal ranges of pairs.
        """
        low, high = PAIRS_PER_RANGE
        ranges = -(-pairs // max(low, min(high, pairs // _RANGES)))
        samples = [np.zeros((0, 2), dtype=np.int64)]
        for bucket in range(plan.buckets):
            with Groups(self._place.file("pairs", bucket)) as file:
                samples.append(np.array(file.counts["samples"], dtype=np.int64).reshape(-1, 2))
        sample = np.concatenate(samples)
        sample = sample[np.lexsort((sample[:, 1], sample[:, 0]))]
        at = [len(sample) * number // ranges for number in range(1, ranges)]
        cuts = sorted({(a, b) for a, b in sample[at].tolist()})
        path = self._place.work / "stages" / CUTS_NAME
        data = canonical_json(cuts)
        if path.exists() and path.read_bytes() != data:
            shutil.rmtree(self._place.work / "stages" / "links", ignore_errors=True)
        atomic_write(path, data)
        return len(cuts) + 1

    def _gather(self, ranges: int, pairs: int) -> tuple[Links, int]:
        """The links of all ranges; every pair must have reached its own."""
        paths = [self._place.file("links", number) for number in range(ranges)]
        found = candidates = 0
        for path in paths:
            with Groups(path) as file:
                file.require_rows(int(file.rows.sum()))
                found += file.counts["pairs"]
                candidates += file.counts["candidates"]
        if found != pairs:
            raise _lost("pairs", paths[0].parent, pairs, found)

        def links() -> Iterator[Links]:
            for path in paths:
                with Groups(path) as file:
                    yield Links(**file.read(0))

        return stored_links(links(), self._place.work), candidates


def read_inputs(
    found: Inputs,
    options: ReadOptions,
    parameters: Mapping[str, Any],
    work: Path,
    *,
    staged: Staged | None,
    workers: int,
    durable: bool,
    progress: Progress,
) -> Ingested:
    """Read, sketch and store a corpus, by an engine's tasks or by threads.

    Args:
        found: The corpus.
        options: How records are read.
        parameters: ngram, num_perm and seed of the signatures.
        work: The working folder.
        staged: The stages on an engine; None for threads.
        workers: Threads.
        durable: Whether what was read must outlive the machine's power.
        progress: Told about the stage.
    """
    if staged:
        return staged.read(found, options, parameters, durable=durable)
    progress.stage("reading", None, "bytes")
    return ingest(
        found.files,
        options,
        work,
        ngram=parameters["ngram"],
        permutations=permutations(parameters["num_perm"], parameters["seed"]),
        workers=workers,
        advance=progress.advance,
        durable=durable,
    )


def _lost(what: str, path: Path, expected: int, found: int) -> EngineError:
    return EngineError(
        f"stage {path.parent.name if path.suffix else path.name}, {path}",
        expected=f"{expected} {what} to have been read",
        found=f"{found}",
        remedy="remove it and run it again with --resume; if it is so again, a worker is not to be "
        "trusted",
    )
