"""The formats: JSONL, CSV, text, Parquet, Arrow IPC (as Hugging Face `datasets` writes it)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from govern.ids.readers import record as reasons
from govern.ids.readers.record import MISSING, Broken, Fields, Record
from govern.ids.readers.streams import DamagedStreamError, TooLong, pieces, read_all, split_lines
from manifests.errors import InputError

Reader = Callable[[IO[bytes], str, "str | None", Fields, int], Iterator[Record | Broken]]
_TABLE_BATCH = 1024


def read_jsonl(
    file: IO[bytes], uri: str, compression: str | None, fields: Fields, limit: int
) -> Iterator[Record | Broken]:
    """One JSON object a line; lines end at line feeds only, lines of white space are no records."""
    del uri
    row = -1
    try:
        for line in split_lines(pieces(file, compression), limit):
            if not line or line.isspace():
                continue
            row += 1
            if isinstance(line, TooLong):
                yield Broken(row, reasons.TOO_LONG, line)
                continue
            yield _json_record(row, line, fields)
    except DamagedStreamError as error:
        yield Broken(row + 1, reasons.TRUNCATED_FILE, str(error).encode())


def _json_record(row: int, line: bytes, fields: Fields) -> Record | Broken:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Broken(row, reasons.INVALID_UTF8, line)
    except (ValueError, RecursionError):
        return Broken(row, reasons.INVALID_JSON, line)
    if type(value) is not dict:
        return Broken(row, reasons.NOT_AN_OBJECT, line)
    get = value.get
    return Record(
        row,
        get(fields.text, MISSING),
        get(fields.doc_id),
        tuple([get(name) for name in fields.kept]) if fields.kept else (),
    )


def read_csv(
    file: IO[bytes], uri: str, compression: str | None, fields: Fields, limit: int
) -> Iterator[Record | Broken]:
    """CSV with a header line; fields in quotes may hold line feeds."""
    csv.field_size_limit(limit)
    # Undecodable bytes become lone surrogates, which the caller rejects record by record.
    lines = (
        line.decode("utf-8", "surrogateescape") + "\n"
        for line in split_lines(pieces(file, compression), limit)
    )
    rows = csv.reader(lines)
    row = -1
    header: list[str] | None = None
    while True:
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row += 1
            yield Broken(row, reasons.TOO_LONG, str(error).encode())
            continue
        except DamagedStreamError as error:
            yield Broken(row + 1, reasons.TRUNCATED_FILE, str(error).encode())
            return
        if header is None:
            header = values
            _require_column(uri, fields.text, header)
            continue
        if not values:
            continue
        row += 1
        if len(values) != len(header):
            context = ",".join(values).encode("utf-8", "surrogateescape")
            yield Broken(row, reasons.WRONG_COLUMNS, context)
            continue
        one = dict(zip(header, values, strict=True))
        kept = tuple(one.get(name) for name in fields.kept)
        yield Record(row, one[fields.text], one.get(fields.doc_id) or None, kept)


def read_text(
    file: IO[bytes], uri: str, compression: str | None, fields: Fields, limit: int
) -> Iterator[Record | Broken]:
    """A text file is one document, and its path is its ID."""
    try:
        data = read_all(pieces(file, compression), limit)
    except DamagedStreamError as error:
        yield Broken(0, reasons.TRUNCATED_FILE, str(error).encode())
        return
    if isinstance(data, TooLong):
        yield Broken(0, reasons.TOO_LONG, data)
        return
    try:
        yield Record(0, data.decode("utf-8"), uri, (None,) * len(fields.kept))
    except UnicodeDecodeError:
        yield Broken(0, reasons.INVALID_UTF8, data)


def read_parquet(
    file: IO[bytes], uri: str, compression: str | None, fields: Fields, limit: int
) -> Iterator[Record | Broken]:
    """Parquet, row group by row group."""
    del limit
    row = 0
    try:
        parquet = pq.ParquetFile(_plain(file, compression))
        columns = _wanted(uri, fields, parquet.schema_arrow)
        for batch in parquet.iter_batches(_TABLE_BATCH, columns=columns):
            yield from _table_records(batch, row, fields)
            row += batch.num_rows
    except (pa.ArrowException, OSError, DamagedStreamError) as error:
        yield Broken(row, reasons.DAMAGED_FILE, str(error).encode())


def read_arrow(
    file: IO[bytes], uri: str, compression: str | None, fields: Fields, limit: int
) -> Iterator[Record | Broken]:
    """Arrow IPC: the stream format of Hugging Face `datasets`, or the file format (Feather)."""
    del limit
    row = 0
    try:
        for batch in _arrow_batches(_plain(file, compression)):
            batch = batch.select(_wanted(uri, fields, batch.schema))
            yield from _table_records(batch, row, fields)
            row += batch.num_rows
    except (pa.ArrowException, OSError, DamagedStreamError) as error:
        yield Broken(row, reasons.DAMAGED_FILE, str(error).encode())


def _arrow_batches(file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    if file.read(6) == b"ARROW1":
        file.seek(0)
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    file.seek(0)
    yield from pa.ipc.open_stream(file)


def _plain(file: IO[bytes], compression: str | None) -> IO[bytes]:
    # Both formats need to seek, so a compressed one is held whole; they compress inside as a rule.
    return file if compression is None else io.BytesIO(b"".join(pieces(file, compression)))


def _wanted(uri: str, fields: Fields, schema: pa.Schema) -> list[str]:
    _require_column(uri, fields.text, schema.names)
    wanted = dict.fromkeys((fields.text, fields.doc_id, *fields.kept))
    return [name for name in wanted if name in schema.names]


def _require_column(uri: str, name: str, found: list[str]) -> None:
    if name not in found:
        raise InputError(
            f"corpus file {uri}",
            expected=f"a column {name!r}",
            found=f"columns {', '.join(found)}",
            remedy="name the text column with --text-field",
        )


def _table_records(batch: pa.RecordBatch, row: int, fields: Fields) -> Iterator[Record | Broken]:
    nothing = [None] * batch.num_rows

    def column(name: str) -> list[Any]:
        return _values(batch.column(name)) if name in batch.schema.names else nothing

    kept = [column(name) for name in fields.kept]
    texts, ids = column(fields.text), column(fields.doc_id)
    for i in range(batch.num_rows):
        yield Record(row + i, texts[i], ids[i], tuple([values[i] for values in kept]))


def _values(column: pa.Array) -> list[Any]:
    """Python values; a string that is not UTF-8 comes as its bytes, to be rejected by itself."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return values


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".txt": read_text,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
