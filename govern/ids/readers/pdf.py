"""PDF: the text layer, as pypdf finds it (extra `pdf`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import IO

from govern.ids.readers import record as reasons
from govern.ids.readers.extras import quiet, required
from govern.ids.readers.record import Broken, Record, UnreadableError
from govern.ids.readers.source import Item, Reader, Source
from govern.ids.readers.streams import DamagedStreamError

# ISO 32000-1, 7.5.5: the last line is the marker; readers look for it in the last 1024 bytes.
_END_MARKER = b"%%EOF"
_TRAILER = 1024


def read_pdf(source: Source) -> Iterator[Item]:
    """A PDF is one document, its path is its ID, its span the whole file."""
    try:
        with quiet("pypdf"), warnings.catch_warnings(), source.seekable() as file:
            warnings.simplefilter("ignore")
            size = file.seek(0, 2)
            text = _text(file, size, source.limit)
    except UnreadableError as error:
        yield Broken(0, error.reason, error.context)
    except DamagedStreamError as error:
        yield Broken(0, reasons.TRUNCATED_FILE, str(error).encode())
    else:
        yield Record(0, text, source.uri, (None,) * len(source.fields.kept), 0, size)


def _text(file: IO[bytes], size: int, limit: int) -> str:
    """The text of the pages, with an empty line between them."""
    pypdf = required("pypdf", "pdf", "PDF files")
    file.seek(max(0, size - _TRAILER))
    if _END_MARKER not in file.read():
        # pypdf would mend a cut file by leaving out the pages that are gone.
        raise UnreadableError(reasons.TRUNCATED_FILE, "no %%EOF at the end")
    file.seek(0)
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError(reasons.ENCRYPTED, "a password is needed")
        pages: list[str] = []
        held = 0
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            held += len(pages[-1])
            if held > limit:
                raise UnreadableError(reasons.TOO_LONG, pages[0][:200])
    except UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001  whatever one file does to it, the next is read
        raise UnreadableError(reasons.EXTRACTION_FAILED, repr(error)) from None
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise UnreadableError(reasons.NO_TEXT, f"{len(pages)} pages without a text layer")
    return text


READER = Reader(read=read_pdf, shaped_by=("pypdf",), extra="pdf")
