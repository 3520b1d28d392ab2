"""Opening, decompressing and splitting input files.

Local paths are opened as they are; anything with `://` goes through fsspec. Streams are read in
pieces, so that memory is bounded by the longest line that is accepted, not by the file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from manifests.errors import InputError

_PIECE = 1 << 20
_ZSTD_PIECE = 1 << 16
_BOM = b"\xef\xbb\xbf"
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


class DamagedStreamError(Exception):
    """Compressed data that ends early or is wrong; everything before it was delivered."""


def is_url(uri: str) -> bool:
    """Whether a path is an fsspec URL."""
    return "://" in uri


def open_binary(uri: str) -> IO[bytes]:
    """Open a local path or fsspec URL for reading bytes.

    Raises:
        InputError: It cannot be opened.
    """
    try:
        if is_url(uri):
            import fsspec

            opened: IO[bytes] = fsspec.open(uri, "rb").open()
            return opened
        return Path(uri).open("rb")
    except (OSError, ImportError, ValueError) as error:
        raise InputError(
            f"corpus file {uri}",
            expected="a file that can be read",
            found=str(error),
            remedy="correct the path or its permissions",
        ) from None


def pieces(file: IO[bytes], compression: str | None) -> Iterator[bytes]:
    """The decompressed bytes of an open file, piece by piece.

    Raises:
        DamagedStreamError: After the last good piece, when compressed data is truncated or wrong,
            or the file cannot be read on.
    """
    try:
        if compression == "gzip":
            yield from _gzip_pieces(file)
        elif compression == "zstd":
            yield from _zstd_pieces(file)
        else:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        # A disk or network that fails in the middle: what came before it stays good.
        raise DamagedStreamError(str(error)) from None


def _gzip_pieces(file: IO[bytes]) -> Iterator[bytes]:
    stream = gzip.GzipFile(fileobj=file, mode="rb")
    while True:
        try:
            # read1 hands out what it has before it meets the damage; read would lose it.
            piece = stream.read1(_PIECE)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DamagedStreamError(str(error)) from None
        if not piece:
            return
        yield piece


def _zstd_pieces(file: IO[bytes]) -> Iterator[bytes]:
    # decompressobj, not stream_reader: only it tells a finished frame from a truncated one.
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    inside = False
    while data := file.read(_ZSTD_PIECE):
        while data:
            try:
                piece = decompressor.decompress(data)
            except zstandard.ZstdError as error:
                raise DamagedStreamError(str(error)) from None
            inside = not decompressor.eof
            data = decompressor.unused_data if decompressor.eof else b""
            if decompressor.eof:
                decompressor = zstandard.ZstdDecompressor().decompressobj()
            if piece:
                yield piece
    if inside:
        raise DamagedStreamError("the last zstd frame is incomplete")


class TooLong(bytes):
    """The first bytes of a line that is longer than the limit; the rest was skipped."""


def split_lines(stream: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Lines without their line feed, split on line feeds only; a byte-order mark is dropped.

    A line of more than `limit` bytes comes as `TooLong`, and its rest is never held. When the
    stream breaks, the whole lines before are delivered, then the exception passes.
    """
    rest: list[bytes] = []
    held = 0
    too_long = False
    first = True
    for piece in stream:
        lines = piece.split(b"\n")
        for index, line in enumerate(lines):
            if not too_long:
                rest.append(line)
                held += len(line)
                if held > limit:
                    rest, too_long = [b"".join(rest)[:200]], True
            if index == len(lines) - 1:
                break
            whole = b"".join(rest) if len(rest) > 1 else rest[0]
            if first:
                whole, first = whole.removeprefix(_BOM), False
            yield TooLong(whole) if too_long else whole
            rest, held, too_long = [], 0, False
    last = b"".join(rest)
    if first:
        last = last.removeprefix(_BOM)
    if last:
        yield TooLong(last) if too_long else last


def read_all(stream: Iterator[bytes], limit: int) -> bytes:
    """A whole stream without its byte-order mark, or `TooLong` when it is longer than `limit`."""
    parts: list[bytes] = []
    held = 0
    for piece in stream:
        parts.append(piece)
        held += len(piece)
        if held > limit:
            return TooLong(b"".join(parts)[:200])
    return b"".join(parts).removeprefix(_BOM)
