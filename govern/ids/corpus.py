"""A raw corpus as a stream of Arrow batches: `read_corpus`.

Every input record becomes one row, either of a batch's `documents` or of its `rejects`. Batches are
bounded by bytes and rows; nothing is held beyond the one that is being filled.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from govern.ids.inputs import CorpusFile, find_files, require_unchanged
from govern.ids.readers import record as reasons
from govern.ids.readers.columns import batch_records, require_field
from govern.ids.readers.record import MISSING, Broken, Fields, Record
from govern.ids.readers.source import Source
from govern.ids.readers.streams import open_binary
from manifests.database import SEQUENCE_COLUMNS
from manifests.errors import InputError
from manifests.schema import CONTEXT_BYTES, DOCUMENTS, REJECTS

_FIRM = frozenset(DOCUMENTS.names) | frozenset(SEQUENCE_COLUMNS) | {"text"}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How records are read.

    Attributes:
        source: The source of every document; by default the name of the input: a file's without
            its suffixes, or the folder's.
        text_field: The field with the text.
        id_field: The field with the document's ID; a record without it is named path#row.
        keep: Governance columns to keep as they are.
        batch_bytes: Bytes of text after which a batch is handed on.
        batch_rows: Documents after which a batch is handed on.
        max_record_bytes: A longer record is rejected, and never held in memory.
    """

    source: str | None = None
    text_field: str = "text"
    id_field: str = "id"
    keep: tuple[str, ...] = ()
    batch_bytes: int = 8 << 20
    batch_rows: int = 16_384
    max_record_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        clash = sorted(_FIRM & set(self.keep))
        if clash or len(set(self.keep)) != len(self.keep):
            raise InputError(
                f"--keep {','.join(self.keep)}",
                expected="distinct columns with names of their own",
                found=f"{', '.join(clash)}, which the manifest has" if clash else "a name twice",
                remedy="leave it out, or rename the field in the corpus",
            )


class Position(NamedTuple):
    """A place in a sequence of files: so many files are done, and so many records of the next."""

    files: int
    records: int


BEGINNING = Position(0, 0)


@dataclass(frozen=True, kw_only=True)
class CorpusBatch:
    """A piece of a corpus.

    Attributes:
        documents: source, doc_id, uri string; row, start, end int64; text large_string; then the
            kept columns as strings (what is not a string is its JSON text).
        rejects: uri string, row int64, reason string, context binary.
        kinds: For each kept column the JSON kinds seen: a subset of str, int, float, bool, json.
        read: Files that were finished with this batch, in order.
        end: Where reading goes on behind this batch; None behind the last one.
    """

    documents: pa.RecordBatch
    rejects: pa.RecordBatch
    kinds: tuple[frozenset[str], ...]
    read: tuple[CorpusFile, ...]
    end: Position | None


def read_corpus(
    inputs: Sequence[str | os.PathLike[str]], options: ReadOptions
) -> Iterator[CorpusBatch]:
    """Read a corpus as batches, file after file in the order of their names.

    Raises:
        InputError: An input cannot be found or opened, or has no text column at all.
    """
    yield from read_files(find_files(inputs, options.source), options)


def read_files(
    files: Sequence[CorpusFile], options: ReadOptions, begin: Position = BEGINNING
) -> Iterator[CorpusBatch]:
    """`read_corpus` for files that `find_files` found, from `begin` on.

    Raises:
        InputError: A file cannot be opened, has no text column, or changed since it was found.
    """
    fields = Fields(options.text_field, options.id_field, options.keep)
    batch = _Batch(options)
    for number, one in enumerate(files[begin.files :], begin.files):
        with open_binary(one.uri) as file:
            batch.enter(one)
            source = Source(
                uri=one.uri,
                file=file,
                compression=one.format.compression,
                fields=fields,
                limit=options.max_record_bytes,
            )
            done = begin.records if number == begin.files else 0
            for count, item in enumerate(islice(_records(one, source), done, None), done + 1):
                batch.add(item)
                if batch.full:
                    yield batch.take(Position(number, count))
        require_unchanged(one)
        batch.read.append(one)
    yield batch.take(None)


def _records(one: CorpusFile, source: Source) -> Iterator[Record | Broken]:
    """The records of a file one by one, also where its reader yields them as Arrow batches."""
    rows = 0
    for item in one.reader.read(source):
        if isinstance(item, pa.RecordBatch):
            require_field(one.uri, source.fields.text, item.schema.names)
            yield from batch_records(item, rows, source.fields)
            rows += item.num_rows
        else:
            rows = item.row + 1
            yield item


@dataclass
class _Batch:
    """The batch being filled: judges records and gathers columns."""

    options: ReadOptions
    read: list[CorpusFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("source", "doc_id", "uri", "row", "start", "end", "text")
        }
        self.kept: list[list[str | None]] = [[] for _ in self.options.keep]
        self.kinds: list[set[str]] = [set() for _ in self.options.keep]
        self.rejects: dict[str, list[Any]] = {name: [] for name in REJECTS.names}
        self.size = 0

    @property
    def full(self) -> bool:
        rows = len(self.columns["row"]) + len(self.rejects["row"])
        return self.size >= self.options.batch_bytes or rows >= self.options.batch_rows

    def enter(self, file: CorpusFile) -> None:
        """Go on with another file."""
        self.uri, self.source = file.uri, file.source

    def add(self, item: Record | Broken) -> None:
        """Put a record where it belongs."""
        if isinstance(item, Broken):
            self._reject(item.row, item.reason, item.context)
            return
        row, text, doc_id, kept, start, end = item
        if type(text) is not str:
            self._reject(row, _why_no_text(text), _context(text))
            return
        if not text or text.isspace():
            self._reject(row, reasons.EMPTY_TEXT, _context(doc_id))
            return
        if doc_id is None or doc_id is MISSING:
            doc_id = f"{self.uri}#{row}"
        elif type(doc_id) is int:
            doc_id = str(doc_id)
        elif type(doc_id) is not str or not doc_id:
            self._reject(row, reasons.BAD_ID, _context(doc_id))
            return
        try:
            n_bytes = len(text) if text.isascii() else len(text.encode())
            doc_id.encode()
        except UnicodeEncodeError:
            self._reject(row, reasons.INVALID_UTF8, _context(text))
            return
        if n_bytes > self.options.max_record_bytes:
            self._reject(row, reasons.TOO_LONG, _context(text))
            return
        columns = self.columns
        columns["source"].append(self.source)
        columns["doc_id"].append(doc_id)
        columns["uri"].append(self.uri)
        columns["row"].append(row)
        columns["start"].append(0 if start is None else start)
        columns["end"].append(n_bytes if end is None else end)
        columns["text"].append(text)
        for values, kinds, value in zip(self.kept, self.kinds, kept, strict=True):
            values.append(_kept_value(value, kinds))
        self.size += n_bytes

    def _reject(self, row: int, reason: str, context: bytes) -> None:
        for name, value in zip(
            REJECTS.names, (self.uri, row, reason, bytes(context[:CONTEXT_BYTES])), strict=True
        ):
            self.rejects[name].append(value)

    def take(self, end: Position | None) -> CorpusBatch:
        """The batch as Arrow; this object starts anew."""
        columns = self.columns
        arrays = {
            "source": pa.array(columns["source"], pa.string()),
            "doc_id": pa.array(columns["doc_id"], pa.string()),
            "uri": pa.array(columns["uri"], pa.string()),
            "row": pa.array(columns["row"], pa.int64()),
            "start": pa.array(columns["start"], pa.int64()),
            "end": pa.array(columns["end"], pa.int64()),
            "text": pa.array(columns["text"], pa.large_string()),
        }
        for name, values in zip(self.options.keep, self.kept, strict=True):
            arrays[name] = pa.array(values, pa.string())
        batch = CorpusBatch(
            documents=pa.record_batch(arrays),
            rejects=pa.RecordBatch.from_pydict(self.rejects, schema=REJECTS),
            kinds=tuple(frozenset(kinds) for kinds in self.kinds),
            read=tuple(self.read),
            end=end,
        )
        self._clear()
        self.read = []
        return batch


def _why_no_text(text: Any) -> str:
    if text is MISSING:
        return reasons.MISSING_TEXT
    if text is None:
        return reasons.NULL_TEXT
    return reasons.INVALID_UTF8 if isinstance(text, bytes) else reasons.TEXT_NOT_STRING


def _context(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None or value is MISSING:
        return b""
    text = value if isinstance(value, str) else repr(value)
    return text[:CONTEXT_BYTES].encode("utf-8", "backslashreplace")


def _kept_value(value: Any, kinds: set[str]) -> str | None:
    if value is None or value is MISSING:
        return None
    if type(value) is str:
        kinds.add("str")
        return value.encode("utf-8", "backslashreplace").decode()
    if type(value) in (bool, float) or (type(value) is int and -(2**63) <= value < 2**63):
        kinds.add(type(value).__name__)
        return json.dumps(value)
    kinds.add("json")
    return json.dumps(value, ensure_ascii=True, sort_keys=True, default=str)


def kept_type(kinds: Iterable[str]) -> pa.DataType:
    """The type of a kept column from the kinds that were seen: as it is, or text when mixed."""
    seen = Counter(kinds).keys()
    if seen == {"bool"}:
        return pa.bool_()
    if seen == {"int"}:
        return pa.int64()
    if seen and seen <= {"int", "float"}:
        return pa.float64()
    return pa.string()
