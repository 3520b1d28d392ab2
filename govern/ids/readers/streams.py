"""Opening, decompressing and splitting input files.

Local paths are opened as they are; anything with `://` goes through fsspec. Streams are read in
pieces, so that memory is bounded by the longest line that is accepted, not by the file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from manifests.errors import InputError, MissingExtraError

_PIECE = 1 << 20
_ZSTD_PIECE = 1 << 12
_XZ_MEMORY = 256 << 20
_BOM = b"\xef\xbb\xbf"
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}


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
            filesystem, path = filesystem_of(uri)
            opened: IO[bytes] = filesystem.open(path, "rb")
            return opened
        return Path(uri).open("rb")
    except (OSError, ValueError) as error:
        raise InputError(
            f"corpus file {uri}",
            expected="a file that can be read",
            found=str(error),
            remedy="correct the path or its permissions",
        ) from None


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and its path there.

    Raises:
        MissingExtraError: The driver of its protocol is not installed.
        InputError: No such protocol, or one that does not connect.
    """
    import fsspec

    protocol = url.split("://")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        # fsspec says which package: "Install s3fs to access S3".
        raise MissingExtraError(
            f"input {url}",
            expected=f"the fsspec driver of {protocol}://",
            found="none",
            remedy=str(error)[:1].lower() + str(error)[1:],
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"input {url}",
            expected=f"a URL that fsspec can open by {protocol}://",
            found=str(error),
            remedy="correct the URL",
        ) from None
    return filesystem, path


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
        elif compression == "bz2":
            yield from _bounded_pieces(file, bz2.BZ2Decompressor)
        elif compression == "xz":
            yield from _bounded_pieces(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))
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
    # decompressobj, not stream_reader: only it tells a finished frame from a truncated one. What it
    # makes of one piece has no bound, so the pieces are small (4 bytes may stand for 128 KiB), and
    # what comes of them is gathered.
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    inside = False
    gathered: list[bytes] = []
    held = 0
    while data := file.read(_ZSTD_PIECE):
        while data:
            try:
                piece = decompressor.decompress(data)
            except zstandard.ZstdError as error:
                yield b"".join(gathered)
                raise DamagedStreamError(str(error)) from None
            inside = not decompressor.eof
            data = decompressor.unused_data if decompressor.eof else b""
            if decompressor.eof:
                decompressor = zstandard.ZstdDecompressor().decompressobj()
            gathered.append(piece)
            held += len(piece)
            if held >= _PIECE:
                yield b"".join(gathered)
                gathered, held = [], 0
    yield b"".join(gathered)
    if inside:
        raise DamagedStreamError("the last zstd frame is incomplete")


def _bounded_pieces(
    file: IO[bytes], start: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """bz2 or xz: streams one behind another, decompressed by at most `_PIECE` bytes a step."""
    decompressor = start()
    inside = False
    data = b""
    while True:
        if not data and (not inside or decompressor.needs_input):
            data = file.read(_PIECE)
            if not data:
                break
        if not inside and not data.strip(b"\0"):
            # Between and behind xz streams there may be padding of NULs.
            data = b""
            continue
        try:
            piece = decompressor.decompress(data, _PIECE)
        except (OSError, lzma.LZMAError, ValueError) as error:
            raise DamagedStreamError(str(error)) from None
        inside = not decompressor.eof
        data = decompressor.unused_data if decompressor.eof else b""
        if decompressor.eof:
            decompressor = start()
        if piece:
            yield piece
    if inside:
        raise DamagedStreamError("compressed data ends before its end-of-stream marker")


class TooLong(bytes):
    """The first bytes of a line that is longer than the limit; the rest was skipped.

    Attributes:
        length: Bytes of the whole line.
    """

    length: int = 0

    @classmethod
    def of(cls, parts: list[bytes], length: int) -> TooLong:
        """The beginning of a line of so many bytes."""
        line = cls(b"".join(parts)[:200])
        line.length = length
        return line


def split_lines(stream: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Lines without their line feed, split on line feeds only; a byte-order mark is dropped.

    A line of more than `limit` bytes comes as `TooLong`, and its rest is never held. When the
    stream breaks, the whole lines before are delivered, then the exception passes.
    """
    rest: list[bytes] = []
    held = 0
    first = True
    for piece in stream:
        lines = piece.split(b"\n")
        for index, line in enumerate(lines):
            held += len(line)
            if held <= limit:
                rest.append(line)
            elif held - len(line) <= limit:
                rest = [b"".join([*rest, line[:200]])[:200]]
            if index == len(lines) - 1:
                break
            yield _line(rest, held, limit, first=first)
            rest, held, first = [], 0, False
    if held:
        last = _line(rest, held, limit, first=first)
        if last:
            yield last


def _line(parts: list[bytes], length: int, limit: int, *, first: bool) -> bytes:
    if length > limit:
        return TooLong.of(parts, length)
    whole = b"".join(parts) if len(parts) != 1 else parts[0]
    return whole.removeprefix(_BOM) if first else whole


def read_all(stream: Iterator[bytes], limit: int) -> bytes | TooLong:
    """A whole stream, or `TooLong` when it is longer than `limit`; the rest is not read then."""
    parts: list[bytes] = []
    held = 0
    for piece in stream:
        parts.append(piece)
        held += len(piece)
        if held > limit:
            return TooLong.of(parts, held)
    return b"".join(parts)
