"""JSON Lines, plain or compressed, as Dolma, C4 and RedPajama ship them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from govern.ids.readers import record as reasons
from govern.ids.readers.record import MISSING, Broken, Fields, Record, value_at
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong


def read_jsonl(source: Source) -> Iterator[Item]:
    """One JSON object a line; lines end at line feeds only, lines of white space are no records."""
    row = -1
    try:
        for line in source.lines():
            if not line or line.isspace():
                continue
            row += 1
            if isinstance(line, TooLong):
                yield Broken(row, reasons.TOO_LONG, line)
                continue
            yield _record(row, line, source.fields)
    except DamagedStreamError as error:
        yield Broken(row + 1, reasons.TRUNCATED_FILE, str(error).encode())


def _record(row: int, line: bytes, fields: Fields) -> Record | Broken:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _record_by_python(row, line, fields)
    if type(value) is dict:
        record = _chosen(row, value, fields)
        if _is_exact(record.text) and _is_exact(record.doc_id) and all(map(_is_exact, record.kept)):
            return record
    return _record_by_python(row, line, fields)


def _is_exact(value: Any) -> bool:
    """Whether orjson gives a value as Python does: integers of more than 64 bits become floats."""
    kind = type(value)
    return (
        kind in (str, int, bool)
        or value is None
        or value is MISSING
        or (kind is float and -(2.0**63) < value < 2.0**63)
    )


def _record_by_python(row: int, line: bytes, fields: Fields) -> Record | Broken:
    """What a line is: the rule, which orjson follows at speed for all but odd lines.

    Python also reads NaN, Infinity, lone surrogates and integers of up to 4,300 digits.
    """
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Broken(row, reasons.INVALID_UTF8, line)
    except (ValueError, RecursionError):
        return Broken(row, reasons.INVALID_JSON, line)
    if type(value) is not dict:
        return Broken(row, reasons.NOT_AN_OBJECT, line)
    return _chosen(row, value, fields)


def _chosen(row: int, value: dict[str, Any], fields: Fields) -> Record:
    return Record(
        row,
        value_at(value, fields.text),
        value_at(value, fields.doc_id),
        tuple([value_at(value, name) for name in fields.kept]) if fields.kept else (),
    )


READER = Reader(read=read_jsonl)
