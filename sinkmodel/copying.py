"""Copy a large file as fast as the disk writes.

A copy through the page cache moves each byte in memory and leaves the disk's work to whoever syncs
the file. Here the pages of the source are mapped and go to the disk as they are (`O_DIRECT`): no
byte is moved in memory, nothing else is driven out of the cache, and a sync has nothing to write.
Where the platform or the file system cannot do that, the bytes go the ordinary way.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from pathlib import Path

from sinkmodel.bank_format import open_regular

# What direct writes are aligned to: no disk has larger blocks than a page.
_PAGE = mmap.PAGESIZE
# Mapped at a time, since mapped pages count as memory of the process.
_WINDOW = 8192 * _PAGE
_DIRECT = getattr(os, "O_DIRECT", None)


def copy_bytes(source: Path, copy: Path) -> None:
    """Give `copy` the bytes of `source`; the caller syncs.

    Args:
        source: A regular file that nobody writes to meanwhile.
        copy: Is made or overwritten.

    Raises:
        CheckpointError: The source is a link or no regular file.
        OSError: The disk is full, for instance.
    """
    with (
        open_regular(source) as descriptor,
        open(descriptor, "rb", closefd=False) as reader,
        copy.open("wb") as writer,
    ):
        done = _copy_whole_pages(descriptor, copy)
        reader.seek(done)
        writer.seek(done)
        shutil.copyfileobj(reader, writer)


def _copy_whole_pages(source: int, copy: Path) -> int:
    """Copy all whole pages past the page cache; how many bytes these are, 0 where it cannot be."""
    size = os.fstat(source).st_size
    whole = size - size % _PAGE
    if _DIRECT is None or not whole:
        return 0
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CLOEXEC | _DIRECT)
        try:
            for begin in range(0, whole, _WINDOW):
                _copy_window(source, target, begin, min(_WINDOW, whole - begin))
        finally:
            os.close(target)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return 0  # The file system knows no direct writes, or aligns them otherwise.
        raise
    return whole


def _copy_window(source: int, target: int, begin: int, length: int) -> None:
    """Only the kernel reads the mapping: if the source shrinks, `pwrite` fails, and nobody dies."""
    with mmap.mmap(source, length, offset=begin, prot=mmap.PROT_READ) as pages:
        done = 0
        while done < length:
            with memoryview(pages) as view, view[done:] as rest:
                done += os.pwrite(target, rest, begin + done)
