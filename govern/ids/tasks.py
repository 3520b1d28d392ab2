"""What a worker does: the tasks of each stage, from files to files.

    read_files_task   files of the corpus         → parts
    keys_task         the parts of one task       → keys/NNNNN: band keys, a group for each bucket
    pairs_task        a bucket of every keys file → pairs/NNNNN: candidate pairs, ascending
    links_task        a range of every pairs file → links/NNNNN: distinct pairs, verified

The kernels are those of the threads in `pipeline`, and so are the results. A *bucket* is a band, or
a range of the keys of one, since a key says nothing without its band. Ranges of pairs ascend, so
that the links of all ranges, one after another, are those of one merge.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from govern.ids.corpus import ReadOptions
from govern.ids.exchange import Groups, Indices, Place, once, write_groups
from govern.ids.ingest import COMPUTED, fixed_rows, missing_batches, sketched, values_and_offsets
from govern.ids.inputs import CorpusFile
from govern.ids.lsh import distinct, join_pairs, keys_of, pairs_of_band, split_pairs
from govern.ids.minhash import Banding, permutations
from govern.ids.parts import PARTS_NAME, PartWriter, Task
from govern.ids.readers.registry import format_of
from govern.ids.readers.streams import is_url
from govern.ids.sets import Hashes, ShingleSets, held_sets, sets_within
from govern.ids.store import DocumentStore, split_rows
from govern.ids.verify import PAIRS_PER_TASK, jaccard_of
from manifests.errors import EngineError

PLAN_NAME, CUTS_NAME = "plan.json", "cuts.json"
NUMBERS_NAME, DOCUMENTS_NAME = "numbers.i64", "documents.i64"
# Of the rows of a pairs file: one in so many is known to the driver, which cuts ranges by them, and
# so many samples make a group. A range reads up to a group too much at either end.
PAIRS_PER_SAMPLE = 1 << 12
_SAMPLES_PER_GROUP = 4
# Numbers of texts from here on do not fit the 32 bits that a pair has for each of its two.
_TOO_LARGE = 1 << 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the records of a build are cut into tasks; equal plans have equal files.

    Attributes:
        parts: For each reading task, the names of its parts and the documents of each.
        texts: How many distinct texts there are.
        bands, rows: The banding.
        splits: Buckets of a band, a power of two.
        threshold: The least similarity of a link.
    """

    parts: tuple[tuple[tuple[str, int], ...], ...]
    texts: int
    bands: int
    rows: int
    splits: int
    threshold: float

    @property
    def banding(self) -> Banding:
        """How signatures are cut."""
        return Banding(bands=self.bands, rows=self.rows)

    @property
    def buckets(self) -> int:
        """How many buckets there are, through all bands."""
        return self.bands * self.splits

    def first_record(self, task: int) -> int:
        """The number of the first document of a reading task."""
        return sum(count for parts in self.parts[:task] for _, count in parts)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A reading task. A file travels as what it is known by; its reader is found where it is read.

    Attributes:
        place: Where its parts go.
        number, part_bytes: As `parts.Task`.
        files: uri, bytes, version and source of each.
        extractors: What shapes text on the driver.
        folder: Where relative paths begin.
        options: How records are read.
        ngram, num_perm, seed: What signatures are made with.
        durable: Whether parts must outlive the machine's power.
    """

    place: Place
    number: int
    part_bytes: int
    files: tuple[tuple[str, int, str, str], ...]
    extractors: tuple[str, ...]
    folder: str
    options: ReadOptions
    ngram: int
    num_perm: int
    seed: int
    durable: bool


@dataclass(frozen=True)
class Numbered:
    """A task of a later stage."""

    place: Place
    number: int


def read_files_task(reading: Reading) -> None:
    """Read and sketch what is not yet in parts."""
    reading.place.require_mine()
    if any(not is_url(uri) and not os.path.isabs(uri) for uri, *_ in reading.files):
        os.chdir(reading.folder)
    task = Task(
        reading.number,
        tuple(_corpus_file(reading, *known) for known in reading.files),
        reading.part_bytes,
    )
    folder = reading.place.work / PARTS_NAME
    coefficients = permutations(reading.num_perm, reading.seed)
    with PartWriter(
        folder, durable=reading.durable, may_publish=reading.place.require_mine
    ) as writer:
        for _, batch in missing_batches([task], folder, reading.options, lambda _: None):
            writer.add(sketched(task, batch, reading.ngram, coefficients))


def _corpus_file(reading: Reading, uri: str, size: int, version: str, source: str) -> CorpusFile:
    found = format_of(uri)
    here = found.extractors if found is not None else ("no reader",)
    if found is None or not set(here) <= set(reading.extractors):
        raise EngineError(
            f"corpus file {uri}",
            expected=f"the extractors of the driver ({', '.join(reading.extractors) or 'none'})",
            found=", ".join(here),
            remedy="install the same releases on every machine",
        )
    return CorpusFile(uri=uri, bytes=size, version=version, source=source, format=found)


def keys_task(task: Numbered) -> None:
    """The band keys of the texts that the parts of one reading task stand for."""
    path = task.place.file("keys", task.number)
    once(path, lambda: _find_keys(task, path))


def _find_keys(task: Numbered, path: Path) -> None:
    plan = load_plan(task.place)
    first = plan.first_record(task.number)
    blocks, texts = [], []
    for name, count in plan.parts[task.number]:
        numbers = _numbers(task.place, first, count)
        first += count
        with _open_part(task.place, name) as documents:
            at = 0
            for column in documents.column("signature"):
                signatures = fixed_rows(column, np.uint32, column.type.byte_width // 4)
                here = numbers[at : at + len(signatures)]
                at += len(signatures)
                blocks.append(keys_of(signatures, here >= 0, plan.banding))
                texts.append(here[here >= 0])
    block = np.concatenate([np.zeros((plan.bands, 0), dtype=np.uint64), *blocks], axis=1)
    owners = np.concatenate([np.zeros(0, dtype=np.int64), *texts])
    keys, owners, bounds = by_bucket(block, owners, plan.splits)
    counts = {"texts": int(block.shape[1])}
    write_groups(task.place, path, {"key": keys, "text": owners}, bounds, counts)


def _numbers(place: Place, first: int, count: int) -> Indices:
    numbers = np.fromfile(
        place.work / "stages" / NUMBERS_NAME, dtype=np.int64, count=count, offset=8 * first
    )
    if len(numbers) != count:
        raise EngineError(
            f"working file {place.work / 'stages' / NUMBERS_NAME}",
            expected=f"{count} numbers from {first} on",
            found=f"{len(numbers)}",
            remedy="run it again with --resume",
        )
    return numbers


def by_bucket(
    block: npt.NDArray[np.uint64], texts: Indices, splits: int
) -> tuple[npt.NDArray[np.uint64], Indices, Indices]:
    """Keys and their texts, bucket after bucket, and where each bucket begins and the last ends.

    Args:
        block: uint64 [bands, texts].
        texts: int64 [texts].
        splits: Buckets of a band.
    """
    bands, n = block.shape
    keys, owners = block.reshape(-1), np.tile(texts, bands)
    bucket = np.repeat(np.arange(bands) * splits, n)
    if splits > 1:
        bits = splits.bit_length() - 1
        bucket += (keys >> np.uint64(64 - bits)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        keys, owners = keys[order], owners[order]
    ends = np.cumsum(np.bincount(bucket, minlength=bands * splits))
    return keys, owners, np.concatenate([[0], ends])


def pairs_task(task: Numbered) -> None:
    """The candidate pairs of a bucket."""
    path = task.place.file("pairs", task.number)
    once(path, lambda: _find_pairs(task, path))


def _find_pairs(task: Numbered, path: Path) -> None:
    plan = load_plan(task.place)
    keys, texts = [], []
    for number in range(len(plan.parts)):
        with Groups(task.place.file("keys", number)) as file:
            columns = file.read(task.number)
        keys.append(columns["key"])
        texts.append(columns["text"])
    a, b = pairs_between(np.concatenate(keys), np.concatenate(texts))
    samples = range(0, len(a), PAIRS_PER_SAMPLE)
    counts = {
        "keys": sum(map(len, keys)),
        "samples": [[int(a[at]), int(b[at])] for at in samples],
    }
    bounds = [*samples[::_SAMPLES_PER_GROUP], len(a)]
    write_groups(task.place, path, {"a": a, "b": b}, bounds, counts)


def pairs_between(keys: npt.NDArray[np.uint64], texts: Indices) -> tuple[Indices, Indices]:
    """The candidate pairs of a bucket, ascending, each with a < b.

    Args:
        keys: uint64 [texts].
        texts: int64 [texts], distinct; of any size, where `pairs_of_band` wants 32 bits.
    """
    ranks = np.sort(texts) if len(texts) and texts.max() >= _TOO_LARGE else None
    pairs = pairs_of_band(keys, texts if ranks is None else np.searchsorted(ranks, texts))
    pairs.sort()
    a, b = split_pairs(pairs)
    return (a, b) if ranks is None else (ranks[a], ranks[b])


def links_task(task: Numbered) -> None:
    """The links among the pairs of a range."""
    path = task.place.file("links", task.number)
    once(path, lambda: _find_links(task, path))


def _find_links(task: Numbered, path: Path) -> None:
    plan = load_plan(task.place)
    a, b = _pairs_of_range(task, plan)
    texts = distinct([a, b])
    # By their places among the texts of this range, which are below 2^32 in any corpus.
    pairs = distinct([join_pairs(np.searchsorted(texts, a), np.searchsorted(texts, b))])
    left, right = split_pairs(pairs)
    parts = _parts(task.place)
    jaccard = np.zeros(len(pairs))
    for begin in range(0, len(pairs), PAIRS_PER_TASK):
        some = slice(begin, begin + PAIRS_PER_TASK)
        here = distinct([left[some], right[some]])
        jaccard[some] = jaccard_of(
            parts.sets(texts[here]),
            np.searchsorted(here, left[some]),
            np.searchsorted(here, right[some]),
            plan.threshold,
        )
    parts.release()
    linked = jaccard > 0
    columns = {"a": texts[left[linked]], "b": texts[right[linked]], "jaccard": jaccard[linked]}
    counts = {"pairs": len(a), "candidates": len(pairs)}
    write_groups(task.place, path, columns, [0, int(linked.sum())], counts)


def _pairs_of_range(task: Numbered, plan: Plan) -> tuple[Indices, Indices]:
    low, high = load_cuts(task.place)[task.number]
    found = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    for bucket in range(plan.buckets):
        file, firsts = _pairs_file(task.place, bucket)
        for group, first in enumerate(firsts):
            behind = firsts[group + 1] if group + 1 < len(firsts) else None
            if (high is None or first < high) and (behind is None or low < behind):
                columns = file.read(group)
                a, b = columns["a"], columns["b"]
                here = slice(place_of(a, b, low), place_of(a, b, high))
                found.append((a[here], b[here]))
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


# Each range reads a little of each file, and a worker does many ranges.
@functools.lru_cache(maxsize=256)
def _pairs_file(place: Place, bucket: int) -> tuple[Groups, list[tuple[int, ...]]]:
    """A file of pairs, opened, and the first pair of each of its groups."""
    file = Groups(place.file("pairs", bucket))
    return file, [tuple(pair) for pair in file.counts["samples"][::_SAMPLES_PER_GROUP]]


def place_of(a: Indices, b: Indices, pair: tuple[int, int] | None) -> int:
    """Where a pair would stand among ascending pairs; at their end for None."""
    if pair is None:
        return len(a)
    begin, end = np.searchsorted(a, pair[0], "left"), np.searchsorted(a, pair[0], "right")
    return int(begin + np.searchsorted(b[begin:end], pair[1]))


@functools.lru_cache(maxsize=2)
def load_plan(place: Place) -> Plan:
    """The plan of a build, as its driver left it."""
    known = json.loads((place.work / "stages" / PLAN_NAME).read_bytes())
    parts = tuple(tuple((n, c) for n, c in task) for task in known.pop("parts"))
    return Plan(parts=parts, **known)


@functools.lru_cache(maxsize=2)
def load_cuts(place: Place) -> list[tuple[tuple[int, int], tuple[int, int] | None]]:
    """The ranges of pairs: each from its first pair on, up to the next one's."""
    cuts = [(a, b) for a, b in json.loads((place.work / "stages" / CUTS_NAME).read_bytes())]
    return list(zip([(0, 0), *cuts], [*cuts, None], strict=True))


def _open_part(place: Place, name: str) -> DocumentStore:
    return DocumentStore([place.work / PARTS_NAME / name / "documents.arrow"], COMPUTED)


class _Parts:
    """The shingle sets of texts, where reading left them; a part is opened when it is needed."""

    def __init__(self, place: Place) -> None:
        plan = load_plan(place)
        known = [part for task in plan.parts for part in task]
        self._place = place
        self._names = [name for name, _ in known]
        self._ends = np.cumsum([0, *(count for _, count in known)])
        # The record that stands for each text; there is at least one.
        self._documents = np.memmap(
            place.work / "stages" / DOCUMENTS_NAME, dtype=np.int64, mode="r", shape=(plan.texts,)
        )
        self._opened: dict[int, tuple[DocumentStore, Hashes]] = {}

    def sets(self, texts: Indices) -> ShingleSets:
        """The set of each text, in memory."""
        return held_sets(len(texts), self._where(self._documents[texts]))

    def _where(self, records: Indices) -> Iterator[tuple[Indices, ShingleSets]]:
        for part, places, rows in split_rows(records, self._ends):
            if part not in self._opened:
                documents = _open_part(self._place, self._names[part])
                self._opened[part] = documents, values_and_offsets(documents)
            for some, sets in sets_within(self._opened[part][1], rows):
                yield places[some], sets

    def release(self) -> None:
        """Give back the memory that the mapped parts take."""
        for documents, _ in self._opened.values():
            documents.release()


@functools.lru_cache(maxsize=1)
def _parts(place: Place) -> _Parts:
    return _Parts(place)
