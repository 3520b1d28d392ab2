"""What a reader gets and what it is: `Source` and `Reader`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeAlias

import pyarrow as pa

from govern.ids.readers.encodings import as_utf8
from govern.ids.readers.record import Broken, Fields, Record
from govern.ids.readers.streams import TooLong, pieces, read_all, split_lines

_IN_MEMORY = 32 << 20

Item: TypeAlias = Record | Broken | pa.RecordBatch


@dataclass(frozen=True, kw_only=True)
class Source:
    """One open file.

    Attributes:
        uri: As the user named it.
        file: Open for reading bytes, seekable, as it lies on the disk.
        compression: `gzip`, `zstd`, `bz2`, `xz` or None.
        fields: The names of the fields to read.
        limit: Bytes; a longer record is to be rejected as `too_long` and never held.
    """

    uri: str
    file: IO[bytes]
    compression: str | None
    fields: Fields
    limit: int

    def pieces(self) -> Iterator[bytes]:
        """The decompressed bytes; raises DamagedStreamError behind the last good piece."""
        return pieces(self.file, self.compression)

    def lines(self) -> Iterator[bytes]:
        """Lines in UTF-8 without their line feed; one above the limit comes as `TooLong`."""
        return split_lines(as_utf8(self.pieces()), self.limit)

    def whole(self) -> bytes | TooLong:
        """All decompressed bytes."""
        return read_all(self.pieces(), self.limit)

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """The decompressed file for a library that seeks; a large one lies in a temporary file."""
        if self.compression is None:
            yield self.file
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spooled:
            for piece in self.pieces():
                spooled.write(piece)
            spooled.seek(0)
            yield spooled


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files of one suffix are read.

    Attributes:
        read: The records of a file, in file order, each once: as `Record` and `Broken` with rows
            0, 1, 2 …, or as Arrow batches with columns named as the fields are (and, if they have
            a place in the file, int64 columns `start` and `end`), whose rows are counted for it.
        shaped_by: Distributions whose version shapes the text; manifests record it.
        extra: The extra of memsinks-govern that installs them.
    """

    read: Callable[[Source], Iterator[Item]]
    shaped_by: tuple[str, ...] = ()
    extra: str | None = None
