"""What reading left on disk, in parts: each is published once, by a rename, and never changes.

    parts/00003-00001/       part 1 of task 3
        documents.arrow      a row per document: its columns, key, content, signature and hashes
        rejects.arrow        the records that are no documents
        part.json            where the task goes on behind this part, what the kept columns hold,
                             how much there is of all

A *task* is a run of whole files and depends on nothing but them: tasks may be done in any order, by
anybody, and one whose last part is there is done; two workers that do the same one publish the same
parts, and the first of each stays. A *part* is as much of a task as is worth keeping when a build
is interrupted. Where parts end leaves no trace in a manifest.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa

from govern.ids.corpus import Position
from govern.ids.inputs import CorpusFile
from manifests.errors import IntegrityError
from manifests.files import canonical_json, fsync_directory, naming
from manifests.schema import REJECTS

PARTS_NAME = "parts"
_TABLES = ("documents.arrow", "rejects.arrow")
# Raised when a part's columns change their meaning, so that no build goes on from older parts.
PARTS_FORMAT = 4
# Bytes of text of a part: a few seconds of work. A part is one open file later, so there are no
# more than some hundreds of them, however large the corpus is.
PART_BYTES = 256 << 20
# More than threads need for tasks of an engine's workers, each of which reads with one thread.
MOST_TASKS, MOST_ENGINE_TASKS = 128, 4096


class Task(NamedTuple):
    """Files to be read by one worker, and the bytes of text after which a part of it ends."""

    number: int
    files: tuple[CorpusFile, ...]
    part_bytes: int


class Piece(NamedTuple):
    """A batch of a task: rows of `documents.arrow` and `rejects.arrow`.

    Attributes:
        task: The task.
        documents: Columns of a document's working file.
        rejects: Columns of `manifests.schema.REJECTS`.
        kinds: JSON kinds seen in each kept column.
        text_bytes: Bytes of text of the documents.
        end: Where the task goes on behind this batch; None when it is done.
    """

    task: Task
    documents: pa.RecordBatch
    rejects: pa.RecordBatch
    kinds: tuple[frozenset[str], ...]
    text_bytes: int
    end: Position | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A published part."""

    path: Path
    kinds: tuple[frozenset[str], ...]
    documents: int
    n_rejects: int
    text_bytes: int
    bytes: int
    end: Position | None

    def rejects(self) -> pa.Table:
        """Its rejects."""
        with pa.ipc.open_file(self.path / "rejects.arrow") as reader:
            return reader.read_all()

    def require_whole(self) -> None:
        """Refuse a part without all rows of its maker, or with other bytes than it published.

        Raises:
            IntegrityError: So it is.
        """
        sizes = sum((self.path / name).stat().st_size for name in _TABLES)
        self._require("bytes, as they were published", self.bytes, sizes)
        rows = sum(_rows(self.path / name) for name in _TABLES)
        self._require("documents and rejects", self.documents + self.n_rejects, rows)

    def _require(self, what: str, expected: int, found: int) -> None:
        if found != expected:
            raise IntegrityError(
                f"working files {self.path}",
                expected=f"{expected} {what}",
                found=f"{found}",
                remedy="remove this folder and those after it of the same task, then run the build "
                "again with --resume",
            )


def _rows(path: Path) -> int:
    """Rows of an Arrow file; what they hold is not read."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        return sum(reader.get_batch(k).num_rows for k in range(reader.num_record_batches))


def plan_tasks(files: Sequence[CorpusFile], most: int = MOST_TASKS) -> list[Task]:
    """Cut a corpus into about `most` runs of whole files, of at least `PART_BYTES` each."""
    part_bytes = max(PART_BYTES, sum(file.bytes for file in files) // most)
    runs: list[list[CorpusFile]] = [[]]
    size = 0
    for file in files:
        if size >= part_bytes:
            runs.append([])
            size = 0
        runs[-1].append(file)
        size += file.bytes
    return [Task(number, tuple(run), part_bytes) for number, run in enumerate(runs)]


def published(folder: Path, task: Task) -> list[Part]:
    """The parts of a task that are there, in order; the last one's `end` tells what is missing."""
    parts: list[Part] = []
    while (path := _place(folder, task, len(parts))).is_dir():
        known = json.loads((path / "part.json").read_bytes())
        parts.append(
            Part(
                path=path,
                kinds=tuple(frozenset(kinds) for kinds in known["kinds"]),
                documents=known["documents"],
                n_rejects=known["rejects"],
                text_bytes=known["text_bytes"],
                bytes=known["bytes"],
                end=Position(*known["end"]) if known["end"] else None,
            )
        )
    return parts


def _place(folder: Path, task: Task, number: int) -> Path:
    return folder / f"{task.number:05}-{number:05}"


class PartWriter:
    """Writes the pieces of tasks, in order, as parts.

    A part is made durable and published by a thread of its own while the next one is written.

    Args:
        folder: Where parts are published.
        durable: Whether a part must outlive the machine's power, not only this process.
        may_publish: Called before each part is published; may refuse.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool,
        may_publish: Callable[[], None] = lambda: None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._durable = durable
        self._may_publish = may_publish
        self._part: _OpenPart | None = None
        self._place = Path()
        self._publisher = ThreadPoolExecutor(1)
        self._publishing: Future[None] | None = None

    def add(self, piece: Piece) -> None:
        """Add a piece; it ends a part when that is full or the task is done."""
        if self._part is None:
            self._place = self._next_place(piece.task)
        with naming(self._place):
            if self._part is None:
                # A name of its own: another worker may be at the same part.
                temporary = f".{self._place.name}.{secrets.token_hex(4)}.tmp"
                self._part = _OpenPart(self._folder / temporary, piece)
            self._part.add(piece)
            full = piece.end is None or self._part.text_bytes >= piece.task.part_bytes
            if full:
                self._part.close(piece.end)
        if full:
            self._wait()
            self._publishing = self._publisher.submit(self._publish, self._part.path, self._place)
            self._part = None

    def _next_place(self, task: Task) -> Path:
        self._wait()
        return _place(self._folder, task, len(published(self._folder, task)))

    def _publish(self, path: Path, place: Path) -> None:
        if self._durable:
            with naming(place):
                for file in path.iterdir():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
                fsync_directory(path)
        self._may_publish()
        try:
            path.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            # Another worker was faster with the same.
            shutil.rmtree(path)
        if self._durable:
            fsync_directory(place.parent)

    def _wait(self) -> None:
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._part is not None:
                self._part.abandon()
            if error is None:
                self._wait()
        finally:
            self._publisher.shutdown()


class _OpenPart:
    """A part that is being written under a temporary name."""

    def __init__(self, path: Path, first: Piece) -> None:
        path.mkdir()
        self.path = path
        self.documents = 0
        self.n_rejects = 0
        self.text_bytes = 0
        self._kinds: list[set[str]] = [set() for _ in first.kinds]
        self._documents = pa.ipc.new_file(path / "documents.arrow", first.documents.schema)
        self._rejects = pa.ipc.new_file(path / "rejects.arrow", REJECTS)

    def add(self, piece: Piece) -> None:
        if piece.documents.num_rows:
            self._documents.write_batch(piece.documents)
            self.documents += piece.documents.num_rows
        if piece.rejects.num_rows:
            self._rejects.write_batch(piece.rejects)
            self.n_rejects += piece.rejects.num_rows
        self.text_bytes += piece.text_bytes
        for seen, new in zip(self._kinds, piece.kinds, strict=True):
            seen |= new

    def close(self, end: Position | None) -> None:
        self._documents.close()
        self._rejects.close()
        known = {
            "kinds": [sorted(kinds) for kinds in self._kinds],
            "documents": self.documents,
            "rejects": self.n_rejects,
            "text_bytes": self.text_bytes,
            "bytes": sum((self.path / name).stat().st_size for name in _TABLES),
            "end": end,
        }
        (self.path / "part.json").write_bytes(canonical_json(known))

    def abandon(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def all_parts(folder: Path, tasks: Sequence[Task]) -> Iterator[Part]:
    """Every published part, task by task."""
    for task in tasks:
        yield from published(folder, task)
