"""Bytes to text: byte-order marks of streams, and the encodings that pages and mails declare."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from govern.ids.readers import record as reasons
from govern.ids.readers.record import UnreadableError
from govern.ids.readers.streams import DamagedStreamError

# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What a document may declare, by Python's names. Not every codec: `unicode_escape`, `idna` or
# `zlib` in a hostile document would run code that no text needs.
_DECLARABLE = frozenset(
    """
    utf-8 utf-16 utf-16-le utf-16-be utf-32 koi8-r koi8-u mac-roman mac-cyrillic tis-620 cp866 cp874
    cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 iso8859-2 iso8859-3 iso8859-4
    iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-9 iso8859-10 iso8859-11 iso8859-13 iso8859-14
    iso8859-15 iso8859-16 gbk gb18030 gb2312 big5 big5hkscs euc_jp shift_jis cp932 iso2022_jp euc_kr
    cp949 johab
    """.split()  # noqa: SIM905  a table reads better than 45 quoted names
)


def as_utf8(stream: Iterator[bytes]) -> Iterator[bytes]:
    """A stream in UTF-8: one that begins with the mark of UTF-16 or UTF-32 is recoded.

    Everything else passes as it is. A lone surrogate becomes bytes that are not UTF-8, so that it
    spoils the record that it stands in and no other.

    Raises:
        DamagedStreamError: The stream ends inside a character, or has one that does not exist.
    """
    head = b""
    for piece in stream:
        head += piece
        if len(head) >= 4:
            break
    mark = next((mark for mark in _MARKS if head.startswith(mark)), None)
    if mark is None:
        if head:
            yield head
        yield from stream
        return
    decoder = codecs.getincrementaldecoder(_MARKS[mark])("surrogatepass")
    try:
        yield decoder.decode(head).encode("utf-8", "surrogatepass")
        for piece in stream:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DamagedStreamError(str(error)) from None


def decode(data: bytes, declared: str | None) -> str:
    """The text of a page or a mail.

    A byte-order mark counts first, then what the document declares, then UTF-8. As browsers do
    (WHATWG Encoding Standard, section 4.2), Latin-1 and ASCII are read as Windows-1252.

    Raises:
        UnreadableError: The encoding is not known, or the bytes are not in it.
    """
    if data.startswith(codecs.BOM_UTF8):
        name = "utf-8-sig"
    elif mark := next((mark for mark in _MARKS if data.startswith(mark)), None):
        name = _MARKS[mark]
    else:
        name = _codec(declared) if declared else "utf-8"
    try:
        return data.decode(name)
    except UnicodeError as error:
        reason = reasons.INVALID_UTF8 if name.startswith("utf-8") else reasons.WRONG_ENCODING
        raise UnreadableError(reason, str(error)) from None


def _codec(declared: str) -> str:
    try:
        name = codecs.lookup(declared.strip("\"' \t\r\n")).name
    except (LookupError, ValueError):
        name = ""
    if name in ("iso8859-1", "ascii"):
        return "cp1252"
    if name not in _DECLARABLE:
        raise UnreadableError(reasons.WRONG_ENCODING, f"declared encoding {declared[:60]!r}")
    return name
