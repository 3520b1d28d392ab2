"""WARC and WET (ISO 28500), as warcio parses them (extra `warc`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from email.message import Message
from typing import Any

from govern.ids.readers import record as reasons
from govern.ids.readers.encodings import decode
from govern.ids.readers.extras import required
from govern.ids.readers.html import page_text
from govern.ids.readers.record import Broken, Record, UnreadableError
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong, pieces, read_all

# `warcinfo`, `request`, `metadata` and `revisit` records are about documents and hold none.
_WITH_DOCUMENT = frozenset({"response", "resource", "conversion"})
_LINE = 1 << 16
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_NAMES = {"id": "WARC-Record-ID", "url": "WARC-Target-URI", "date": "WARC-Date"}


class _Stream(io.RawIOBase):
    """The decompressed file for `io.BufferedReader`."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._stream, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n


class _Counted:
    """Reads and counts; no line is longer than `_LINE`, so that damage cannot fill the memory."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._file = io.BufferedReader(_Stream(stream), 1 << 16)
        self.offset = 0

    def read(self, size: int) -> bytes:
        return self._count(self._file.read(size))

    def readline(self, size: int = _LINE) -> bytes:
        return self._count(self._file.readline(min(size, _LINE)))

    def tell(self) -> int:
        return self.offset

    def _count(self, data: bytes) -> bytes:
        self.offset += len(data)
        return data


def read_warc(source: Source) -> Iterator[Item]:
    """The documents of an archive; the span is the WARC record in the decompressed file.

    Text comes as it is (WET), HTML as its main text; other content is rejected as `not_text`.
    """
    required("warcio", "warc", "WARC files")
    from warcio.recordloader import ArcWarcRecordLoader

    loader = ArcWarcRecordLoader(verify_http=False, arc2warc=False)
    stream = _Counted(source.pieces())
    row = 0
    try:
        while first := _first_line(stream):
            start = stream.offset - len(first)
            archived = _parsed(loader, stream, first)
            if archived.rec_type not in _WITH_DOCUMENT:
                _skip(archived, start)
                continue
            yield _item(source, archived, stream, row, start)
            row += 1
    except DamagedStreamError as error:
        yield Broken(row, reasons.TRUNCATED_FILE, str(error).encode())
    except UnreadableError as error:
        yield Broken(row, error.reason, error.context)


def _parsed(loader: Any, stream: _Counted, first: bytes) -> Any:
    try:
        return loader.parse_record_stream(stream, first, "warc", no_record_parse=True)
    except (DamagedStreamError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  warcio's own exceptions have no common root
        raise UnreadableError(reasons.DAMAGED_FILE, repr(error)) from None


def _first_line(stream: _Counted) -> bytes:
    """The line that begins a record, behind the empty lines that end the one before."""
    while (line := stream.readline()) and not line.strip():
        pass
    if line and not line.startswith(b"WARC/"):
        raise UnreadableError(reasons.DAMAGED_FILE, line)
    return line


def _item(source: Source, archived: Any, stream: _Counted, row: int, start: int) -> Item:
    headers = archived.rec_headers
    if archived.length is not None and archived.length > source.limit:
        _skip(archived, start)
        return Broken(row, reasons.TOO_LONG, _bytes(headers.get_header(_NAMES["url"])))
    block = _whole_block(archived)
    try:
        text = _text(archived, block, source.limit)
    except UnreadableError as error:
        return Broken(row, error.reason, error.context)
    doc_id, kept = source.fields.named(lambda name: headers.get_header(_NAMES.get(name, name)))
    return Record(row, text, doc_id, kept, start, stream.offset)


def _whole_block(archived: Any) -> bytes:
    if archived.length is None:
        raise UnreadableError(reasons.DAMAGED_FILE, "a WARC record without Content-Length")
    block: bytes = archived.raw_stream.read()
    if len(block) < archived.length:
        raise DamagedStreamError("the file ends inside a WARC record")
    return block


def _skip(archived: Any, start: int) -> None:
    if archived.length is None:
        raise UnreadableError(reasons.DAMAGED_FILE, "a WARC record without Content-Length")
    left = archived.length
    while left and (piece := archived.raw_stream.read(min(left, 1 << 20))):
        left -= len(piece)
    if left:
        raise DamagedStreamError(f"the file ends inside the WARC record at byte {start}")


def _text(archived: Any, block: bytes, limit: int) -> str:
    """The text of a record's content.

    Raises:
        UnreadableError: It has none, or is the answer to a request that failed.
    """
    declared = archived.content_type
    if archived.rec_type == "response" and (declared or "").startswith("application/http"):
        declared, block = _http_body(block, limit)
    header = Message()
    header["Content-Type"] = declared or "unknown"
    kind = header.get_content_type() if declared else ""
    charset = header.get_content_charset()
    if kind in _PAGES:
        return page_text(block, charset)
    if kind != "text/plain":
        raise UnreadableError(reasons.NOT_TEXT, declared or "no content type")
    return decode(block, charset)


def _http_body(block: bytes, limit: int) -> tuple[str | None, bytes]:
    """Content type and body of an HTTP response, without transfer and content encoding."""
    from warcio.bufferedreaders import ChunkedDataReader
    from warcio.recordloader import ArcWarcRecordLoader

    stream = io.BytesIO(block)
    try:
        head = ArcWarcRecordLoader().http_parser.parse(stream)
    except Exception as error:  # noqa: BLE001  warcio's own exceptions have no common root
        raise UnreadableError(reasons.EXTRACTION_FAILED, repr(error)) from None
    status = head.get_statuscode()
    if not status.startswith("2"):
        raise UnreadableError(reasons.HTTP_STATUS, status)
    if (head.get_header("transfer-encoding") or "").lower() == "chunked":
        # Many archives hold the body already joined; this reader sees that by itself.
        body = ChunkedDataReader(stream).read()
    else:
        body = stream.read()
    coding = (head.get_header("content-encoding") or "identity").lower()
    return head.get_header("content-type"), _decoded(body, coding, limit)


def _decoded(body: bytes, coding: str, limit: int) -> bytes:
    if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        try:
            whole = read_all(pieces(io.BytesIO(body), "gzip"), limit)
        except DamagedStreamError as error:
            raise UnreadableError(reasons.EXTRACTION_FAILED, f"{coding}: {error}") from None
        if isinstance(whole, TooLong):
            raise UnreadableError(reasons.TOO_LONG, whole)
        return whole
    if coding not in ("identity", "gzip", "x-gzip"):
        raise UnreadableError(reasons.NOT_TEXT, f"content encoding {coding}")
    return body


def _bytes(header: str | None) -> bytes:
    return (header or "").encode("utf-8", "replace")


WARC = Reader(read=read_warc, shaped_by=("warcio", "trafilatura", "lxml"), extra="warc")
WET = Reader(read=read_warc, shaped_by=("warcio",), extra="warc")
