"""Values of a Parquet column where they lie in its mapped file, without decoding a row group.

For columns that are written plain and uncompressed (`writer._INCOMPRESSIBLE`): their pages are the
values as they are, each page behind a short header (Parquet format, `PageHeader`, in Thrift's
compact protocol). So one row of a million costs one page of memory, and a pass over all of them
copies nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import ManifestError
from manifests.reader import Manifest

# Fields of PageHeader and, within it, of DataPageHeader; what a page must say.
_TYPE, _COMPRESSED_SIZE, _DATA_PAGE = 1, 3, 5
_NUM_VALUES, _ENCODING = 1, 2
_DATA_PAGE_V1 = _PLAIN = 0
# Types of the compact protocol.
_STOP, _TRUE, _FALSE, _I8, _I16, _I32, _I64, _STRUCT = 0, 1, 2, 3, 4, 5, 6, 12
_DEEPEST = 4


@dataclass(frozen=True)
class Page:
    """Rows `first` up to `end` of a table: the bytes of their values, uint8, read-only."""

    first: int
    end: int
    values: npt.NDArray[np.uint8]


def pages_of(manifest: Manifest, table: str, column: str) -> Iterator[Page]:
    """The pages of a column that is stored plain and uncompressed, in row order.

    A page of a nullable column holds the values of its rows that have one.

    Raises:
        ManifestError: A file is gone, or does not hold such pages.
    """
    first = 0
    for name in manifest.files(table):
        try:
            metadata = pq.read_metadata(name)
            data = _mapped(Path(name)) if metadata.num_rows else None
            for group in range(metadata.num_row_groups):
                for rows, values in _pages(data, metadata, group, column):
                    yield Page(first=first, end=first + rows, values=values)
                    first += rows
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise ManifestError(
                f"column {column} of {name}",
                expected="plain, uncompressed pages",
                found=(str(error) or type(error).__name__).splitlines()[0],
                remedy="rebuild the manifest with `govern ids build`, or restore it from a backup",
            ) from None


def fixed_rows(page: Page, dtype: Any) -> npt.NDArray[Any]:
    """The rows of a page of fixed-size binary, [rows, values of `dtype` in a row], not copied."""
    width = len(page.values) // max(1, page.end - page.first)
    return page.values.reshape(-1, width).view(dtype)


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def _pages(
    data: Any, metadata: pq.FileMetaData, group: int, column: str
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The rows and the values of each page of a row group."""
    number = metadata.schema.names.index(column)
    described = metadata.schema.column(number)
    chunk = metadata.row_group(group).column(number)
    if chunk.compression != "UNCOMPRESSED" or described.max_repetition_level:
        raise ValueError(f"{chunk.compression} pages")
    missing = metadata.row_group(group).num_rows
    at = chunk.data_page_offset
    while missing:
        header, at = _struct(data, at)
        page = header[_DATA_PAGE]
        size, rows = header[_COMPRESSED_SIZE], page[_NUM_VALUES]
        if (header[_TYPE], page[_ENCODING]) != (_DATA_PAGE_V1, _PLAIN):
            raise ValueError("pages of another encoding")
        if not (0 < rows <= missing and 0 <= size <= len(data) - at):
            raise ValueError("a page that ends outside the file")
        begin, end = at, at + size
        if described.max_definition_level:
            # Which rows have a value: a length of four bytes, and so many bytes.
            begin += 4 + int.from_bytes(data[begin : begin + 4].tobytes(), "little")
        if begin > end or (described.length > 0 and end - begin != rows * described.length):
            raise ValueError("a page of another size")
        yield rows, data[begin:end]
        missing -= rows
        at = end


def _struct(data: npt.NDArray[np.uint8], at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Fields of a Thrift struct of integers, truth values and such structs, and where it ends."""
    if depth > _DEEPEST:
        raise ValueError("a header of another shape")
    fields: dict[int, Any] = {}
    field = 0
    while (head := int(data[at])) & 0x0F != _STOP:
        delta, kind = head >> 4, head & 0x0F
        at += 1
        if delta:
            field += delta
        else:
            field, at = _integer(data, at)
        if kind == _STRUCT:
            fields[field], at = _struct(data, at, depth + 1)
        elif kind in (_TRUE, _FALSE):
            fields[field] = kind == _TRUE
        elif kind == _I8:
            fields[field], at = int(data[at]), at + 1
        elif kind in (_I16, _I32, _I64):
            fields[field], at = _integer(data, at)
        else:
            raise ValueError("a header of another shape")
    return fields, at + 1


def _integer(data: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """A zigzag variable-length integer, and where it ends."""
    value = shift = 0
    while True:
        byte = int(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        if shift > 63:
            raise ValueError("a number that does not end")
