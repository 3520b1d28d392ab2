"""Mail: mbox files and single messages (RFC 5322, MIME), by the standard library."""

from __future__ import annotations

import email
import email.errors
import email.header
import email.message
from collections.abc import Iterator

from govern.ids.readers import record as reasons
from govern.ids.readers.encodings import decode
from govern.ids.readers.extras import PYTHON
from govern.ids.readers.record import Broken, Record, UnreadableError
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong, split_lines

_SEPARATOR = b"From "


def read_mbox(source: Source) -> Iterator[Item]:
    """Messages of an mbox file: each begins with a line `From …` behind an empty line."""
    row = start = offset = 0
    held: list[bytes] = []
    too_long = False
    between = True
    try:
        for line in split_lines(source.pieces(), source.limit):
            if between and line.startswith(_SEPARATOR) and offset > start:
                yield _item(source, row, start, offset, held, too_long=too_long)
                row, start, held, too_long = row + 1, offset, [], False
            offset += (line.length if isinstance(line, TooLong) else len(line)) + 1
            between = not line.strip()
            held.append(line)
            too_long = too_long or offset - start > source.limit
            if too_long:
                held = held[:1]
    except DamagedStreamError as error:
        # The message that breaks off is the record that is lost.
        yield Broken(row, reasons.TRUNCATED_FILE, str(error).encode())
        return
    if offset > start and (row or any(line.strip() for line in held)):
        yield _item(source, row, start, offset, held, too_long=too_long)


def _item(
    source: Source, row: int, start: int, end: int, lines: list[bytes], *, too_long: bool
) -> Item:
    if too_long:
        return Broken(row, reasons.TOO_LONG, lines[0])
    if lines[0].startswith(_SEPARATOR):
        lines = lines[1:]
    return _message(source, row, b"\n".join(lines), (start, end))


def read_message(source: Source) -> Iterator[Item]:
    """A file with one message."""
    try:
        data = source.whole()
    except DamagedStreamError as error:
        yield Broken(0, reasons.TRUNCATED_FILE, str(error).encode())
        return
    if isinstance(data, TooLong):
        yield Broken(0, reasons.TOO_LONG, data)
        return
    yield _message(source, 0, data, (0, len(data)))


def _message(source: Source, row: int, data: bytes, span: tuple[int, int]) -> Record | Broken:
    """The plain text of a message; its Message-ID is its ID, headers are its fields."""
    try:
        message = email.message_from_bytes(data)
        text = _plain_text(message)
    except UnreadableError as error:
        return Broken(row, error.reason, error.context)
    except Exception as error:  # noqa: BLE001  the parser raises all sorts on malformed messages
        return Broken(row, reasons.EXTRACTION_FAILED, repr(error).encode("utf-8", "replace"))
    doc_id, kept = source.fields.named(
        lambda name: _header(message, "message-id" if name == "id" else name)
    )
    return Record(row, text, doc_id, kept, *span)


def _plain_text(message: email.message.Message) -> str:
    """All parts of type text/plain that are no attachments, one below the other."""
    texts = []
    kinds = []
    for part in message.walk():
        kinds.append(part.get_content_type())
        if kinds[-1] != "text/plain" or part.get_content_disposition() == "attachment":
            continue
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            texts.append(decode(payload, part.get_content_charset()))
    if not any(text.strip() for text in texts):
        reason = reasons.EMPTY_TEXT if texts else reasons.NO_TEXT
        raise UnreadableError(reason, ", ".join(kinds))
    return "\n".join(texts)


def _header(message: email.message.Message, name: str) -> str | None:
    value = message.get(name)
    if value is None:
        return None
    raw = " ".join(str(value).split())
    try:
        decoded = str(email.header.make_header(email.header.decode_header(raw)))
    except (ValueError, LookupError, email.errors.MessageError):
        decoded = raw
    return decoded.strip() or None


MBOX = Reader(read=read_mbox, shaped_by=(PYTHON,))
MESSAGE = Reader(read=read_message, shaped_by=(PYTHON,))
