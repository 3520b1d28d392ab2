"""HTML pages: the main text, as trafilatura finds it (extra `html`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from govern.ids.readers import record as reasons
from govern.ids.readers.encodings import decode
from govern.ids.readers.extras import quiet, required
from govern.ids.readers.record import Broken, Record, UnreadableError
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong

# HTML, section 13.2.3.2: the declaration stands in the first 1024 bytes.
_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_PROLOG = 1024


def page_text(data: bytes, declared: str | None) -> str:
    """The main text of a page.

    Args:
        data: The page.
        declared: The encoding that came with it, which counts more than its own declaration.

    Raises:
        UnreadableError: Its encoding is wrong, or it has no text.
        MissingExtraError: trafilatura is not installed.
    """
    trafilatura = required("trafilatura", "html", "HTML pages")
    found = _DECLARED.search(data[:_PROLOG])
    page = decode(data, declared or (found[1].decode("ascii") if found else None))
    if not page.strip():
        raise UnreadableError(reasons.EMPTY_TEXT, b"")
    with quiet("trafilatura", "htmldate", "justext"):
        try:
            # Comments are other authors' text; tables may be the document.
            text = trafilatura.extract(page, include_comments=False, include_tables=True)
        except Exception as error:  # noqa: BLE001  whatever one page does to it, the next is read
            raise UnreadableError(reasons.EXTRACTION_FAILED, repr(error)) from None
    if not text:
        raise UnreadableError(reasons.NO_TEXT, page[:200].encode())
    return str(text)


def read_html(source: Source) -> Iterator[Item]:
    """A page is one document, its path is its ID, its span the whole file."""
    try:
        data = source.whole()
        if isinstance(data, TooLong):
            raise UnreadableError(reasons.TOO_LONG, data)
        text = page_text(data, None)
    except UnreadableError as error:
        yield Broken(0, error.reason, error.context)
    except DamagedStreamError as error:
        yield Broken(0, reasons.TRUNCATED_FILE, str(error).encode())
    else:
        yield Record(0, text, source.uri, (None,) * len(source.fields.kept), 0, len(data))


READER = Reader(read=read_html, shaped_by=("trafilatura", "lxml"), extra="html")
