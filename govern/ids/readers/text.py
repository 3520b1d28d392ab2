"""Text files: each is one document."""

from __future__ import annotations

from collections.abc import Iterator

from govern.ids.readers import record as reasons
from govern.ids.readers.encodings import as_utf8
from govern.ids.readers.record import Broken, Record
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong, read_all


def read_text(source: Source) -> Iterator[Item]:
    """The text of the file, without its byte-order mark; its path is its ID."""
    try:
        data = read_all(as_utf8(source.pieces()), source.limit)
    except DamagedStreamError as error:
        yield Broken(0, reasons.TRUNCATED_FILE, str(error).encode())
        return
    if isinstance(data, TooLong):
        yield Broken(0, reasons.TOO_LONG, data)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Broken(0, reasons.INVALID_UTF8, data)
        return
    yield Record(0, text, source.uri, (None,) * len(source.fields.kept))


READER = Reader(read=read_text)
