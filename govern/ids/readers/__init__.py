"""Readers: one file in, its records out, in file order.

    record     what a reader yields: `Record`, `Broken`, the reasons of rejects
    source     what a reader gets and is: `Source`, `Reader`
    registry   suffix -> reader; readers of other packages by entry points
    streams    opening local paths and fsspec URLs, decompressing, splitting into lines
    encodings  byte-order marks, declared encodings
    columns    Arrow batches -> records
    extras     optional libraries, imported only when a file needs them
    jsonl, delimited, text, tables, warc, html, pdf, mail: the formats

A reader never drops a record: what cannot become a document is `Broken`, with a reason and up to
200 bytes of context. `docs/corpora.md` shows how another package brings a reader of its own.
"""

from govern.ids.readers.record import Broken, Fields, Record, UnreadableError
from govern.ids.readers.source import Reader, Source
from govern.ids.readers.streams import DamagedStreamError, TooLong

__all__ = [
    "Broken",
    "DamagedStreamError",
    "Fields",
    "Reader",
    "Record",
    "Source",
    "TooLong",
    "UnreadableError",
]
