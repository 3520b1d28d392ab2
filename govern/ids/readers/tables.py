"""Parquet, and Arrow IPC: the stream format of Hugging Face `datasets`, and the file format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from govern.ids.readers import record as reasons
from govern.ids.readers.columns import batch_records, require_field, wanted_columns
from govern.ids.readers.record import Broken
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError

_MOST_ROWS = 1024
_BATCH_BYTES = 32 << 20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# What pyarrow raises on damaged files; its own errors are ValueErrors as a rule, but not always.
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, DamagedStreamError)


def read_parquet(source: Source) -> Iterator[Item]:
    """Parquet, some rows at a time."""
    row = 0
    try:
        with source.seekable() as file, pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            require_field(source.uri, source.fields.text, names)
            columns = wanted_columns(source.fields, names)
            for batch in parquet.iter_batches(_rows_at_once(parquet), columns=columns):
                yield from batch_records(batch, row, source.fields)
                row += batch.num_rows
            if row != parquet.metadata.num_rows:
                raise ValueError(f"{row} rows of {parquet.metadata.num_rows}")
    except _DAMAGE as error:
        yield _damaged(row, error)


def _rows_at_once(parquet: pq.ParquetFile) -> int:
    """Few rows where they are large, so that a batch of long documents does not fill the memory."""
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    largest = max((g.total_byte_size / max(1, g.num_rows) for g in groups), default=1)
    return int(min(_MOST_ROWS, max(1, _BATCH_BYTES // max(1, largest))))


def read_arrow(source: Source) -> Iterator[Item]:
    """Arrow IPC, batch by batch as it was written."""
    row = 0
    try:
        with source.seekable() as file:
            for batch in _arrow_batches(file):
                require_field(source.uri, source.fields.text, batch.schema.names)
                yield from batch_records(batch, row, source.fields)
                row += batch.num_rows
    except _DAMAGE as error:
        yield _damaged(row, error)


def _arrow_batches(file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    head = file.read(6)
    file.seek(0)
    if head == b"ARROW1":
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    yield from pa.ipc.open_stream(file)
    # A stream that was cut between two batches reads like a whole one but for its end marker.
    file.seek(-len(_END_OF_STREAM), 2)
    if file.read() != _END_OF_STREAM:
        raise DamagedStreamError("no end-of-stream marker: the file is cut, or was never finished")


def _damaged(row: int, error: Exception) -> Broken:
    cut = isinstance(error, DamagedStreamError)
    reason = reasons.TRUNCATED_FILE if cut else reasons.DAMAGED_FILE
    return Broken(row, reason, str(error).encode("utf-8", "replace"))


PARQUET = Reader(read=read_parquet)
ARROW = Reader(read=read_arrow)
