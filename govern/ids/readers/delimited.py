"""CSV (RFC 4180) and TSV (IANA text/tab-separated-values), both with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial

from govern.ids.readers import record as reasons
from govern.ids.readers.columns import require_field
from govern.ids.readers.record import Broken, Record, value_at
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong


class _LongLineError(Exception):
    """A line above the limit, with its beginning."""


class _Lines:
    """Lines as the csv module wants them; goes on behind a line that is too long."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if isinstance(line, TooLong):
            raise _LongLineError(line)
        # Undecodable bytes become lone surrogates, which the caller rejects record by record.
        return line.decode("utf-8", "surrogateescape") + "\n"


def read_delimited(source: Source, dialect: type[csv.Dialect]) -> Iterator[Item]:
    """One record a row, named by the header; in CSV, fields in quotes may hold line feeds."""
    csv.field_size_limit(source.limit)
    rows = csv.reader(_Lines(source.lines()), dialect)
    row = -1
    header: list[str] | None = None
    while True:
        try:
            values = next(rows)
        except StopIteration:
            return
        except _LongLineError as error:
            row += 1
            yield Broken(row, reasons.TOO_LONG, error.args[0])
            continue
        except csv.Error as error:
            row += 1
            reason = reasons.TOO_LONG if "larger" in str(error) else reasons.INVALID_CSV
            yield Broken(row, reason, str(error).encode())
            continue
        except DamagedStreamError as error:
            yield Broken(row + 1, reasons.TRUNCATED_FILE, str(error).encode())
            return
        if not values:
            continue
        if header is None:
            header = values
            require_field(source.uri, source.fields.text, header)
            continue
        row += 1
        yield _record(row, header, values, source)


def _record(row: int, header: list[str], values: list[str], source: Source) -> Record | Broken:
    if len(values) != len(header):
        context = ",".join(values).encode("utf-8", "surrogateescape")
        return Broken(row, reasons.WRONG_COLUMNS, context)
    # An empty ID is no ID, so that the next alternative or the path names the record.
    one = {name: value or None for name, value in zip(header, values, strict=True)}
    kept = dict(zip(header, values, strict=True))
    return Record(
        row,
        value_at(kept, source.fields.text),
        value_at(one, source.fields.doc_id),
        tuple([value_at(kept, name) for name in source.fields.kept]),
    )


class _Csv(csv.excel):
    strict = True  # a stray quote is a reject; without it the rest of the file would be one field


class _Tsv(csv.excel_tab):
    quoting = csv.QUOTE_NONE
    quotechar = None


CSV = Reader(read=partial(read_delimited, dialect=_Csv))
TSV = Reader(read=partial(read_delimited, dialect=_Tsv))
