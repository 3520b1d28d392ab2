"""Arrow batches as records: how a field is found among columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from govern.ids.readers.record import Fields, Record, alternatives
from manifests.errors import InputError


def require_field(uri: str, field: str, columns: list[str]) -> None:
    """Refuse a table without the text column: every one of its records would be a reject.

    Raises:
        InputError: It has no column by this name, nor the first name of one of its paths.
    """
    if not _names(field, columns):
        raise InputError(
            f"corpus file {uri}",
            expected=f"a column {field!r}",
            found=f"columns {', '.join(columns)}",
            remedy="name the text column with --text-field",
        )


def wanted_columns(fields: Fields, columns: list[str]) -> list[str]:
    """The columns that the fields need, each once."""
    needed = (fields.text, fields.doc_id, *fields.kept)
    return list(dict.fromkeys(name for field in needed for name in _names(field, columns)))


def _names(field: str, columns: list[str]) -> list[str]:
    if field in columns:
        return [field]
    heads = [name for path in alternatives(field) for name in (".".join(path), path[0])]
    return [name for name in dict.fromkeys(heads) if name in columns]


def batch_records(batch: pa.RecordBatch, row: int, fields: Fields) -> Iterator[Record]:
    """The records of a batch whose columns are named as the fields are.

    Args:
        batch: The batch; integer columns `start` and `end`, if both are there, are the spans.
        row: The number of its first row.
        fields: The fields.
    """
    texts = _field_values(batch, fields.text)
    ids = _field_values(batch, fields.doc_id)
    kept = [_field_values(batch, name) for name in fields.kept]
    spans = [_span(batch, name) for name in ("start", "end")]
    for i in range(batch.num_rows):
        yield Record(
            row + i,
            texts[i],
            ids[i],
            tuple([values[i] for values in kept]),
            spans[0][i],
            spans[1][i],
        )


def _span(batch: pa.RecordBatch, name: str) -> list[Any]:
    names = batch.schema.names
    if not {"start", "end"} <= set(names) or not pa.types.is_integer(batch.schema.field(name).type):
        return [None] * batch.num_rows
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _field_values(batch: pa.RecordBatch, field: str) -> list[Any]:
    """One value a row: of the first alternative that is not null."""
    names = batch.schema.names
    if field in names:
        return _values(batch.column(names.index(field)))
    found = [_values(one) for path in alternatives(field) for one in _at(batch, path)]
    if len(found) == 1:
        return found[0]
    return [_first(row) for row in zip(*found, strict=True)] if found else [None] * batch.num_rows


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _at(batch: pa.RecordBatch, path: tuple[str, ...]) -> list[pa.Array]:
    """The column at a path into structs, or nothing."""
    names = batch.schema.names
    if (whole := ".".join(path)) in names:
        return [batch.column(names.index(whole))]
    if path[0] not in names:
        return []
    column = batch.column(names.index(path[0]))
    for name in path[1:]:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            return []
        column = pc.struct_field(column, name)
    return [column]


def _values(column: pa.Array) -> list[Any]:
    """Python values; a string that is not UTF-8 comes as its bytes, to be rejected by itself.

    Raises:
        ValueError: The column's offsets lead out of its data.
    """
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not text:
        column.validate(full=True)
    elif not _valid(column):
        # Nothing checks files of other writers before this: neither the offsets nor the letters.
        column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        column.validate(full=True)
        return [_decoded(value) for value in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value
