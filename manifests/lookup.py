"""Look rows of a large manifest up by key: no SQL, and no file read that cannot hold one.

Equal to the same question in SQL by law (a test holds it). The least and greatest key of every file
are read once for an open manifest; `sequences` and the documents of a build are sorted by sequence
ID, so that one of ten million rows costs one row group of one file.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from manifests.errors import ManifestError
from manifests.row_groups import key_range, rows_with

if TYPE_CHECKING:
    import pyarrow as pa

    from manifests.reader import Manifest


def rows_of(
    manifest: Manifest,
    table: str,
    wanted: Iterable[Any],
    columns: Sequence[str] | None = None,
    key: str = "sequence_id",
) -> pa.Table:
    """The rows of a table with these keys, in row order.

    Args:
        manifest: The manifest.
        table: One of `schema.TABLES`.
        wanted: Keys, in any order.
        columns: What is wanted of the rows; by default everything.
        key: A column of integers or of text.

    Raises:
        ManifestError: A file of the table is gone, or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = sorted(set(wanted))
    ranges = _ranges(manifest, table, key)
    parts: list[pa.Table] = []
    for number, name in enumerate(manifest.files(table)):
        if number and not _can_hold(ranges[number], keys):
            continue  # the first file is always opened, for the columns' types
        try:
            with pq.ParquetFile(name) as file:
                parts.append(rows_with(file, key, keys, columns or file.schema_arrow.names))
        except (OSError, pa.ArrowInvalid) as error:
            raise _gone(manifest, name, error) from None
    return pa.concat_tables(parts).combine_chunks()


def _can_hold(ends: tuple[Any, Any] | None, keys: Sequence[Any]) -> bool:
    return ends is None or bisect_left(keys, ends[0]) < bisect_right(keys, ends[1])


def _ranges(manifest: Manifest, table: str, key: str) -> list[tuple[Any, Any] | None]:
    """Least and greatest key of each file, None where it is not known; every file must be there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest.require_files(table)
    known = manifest.ranges.get((table, key))
    if known is None:
        known = []
        for name in manifest.files(table):
            try:
                known.append(key_range(pq.read_metadata(name), key))
            except (OSError, pa.ArrowInvalid) as error:
                raise _gone(manifest, name, error) from None
        manifest.ranges[table, key] = known
    return known


def _gone(manifest: Manifest, name: str, error: Exception) -> ManifestError:
    return ManifestError(
        f"manifest {manifest.path}",
        expected=f"its file {name.rsplit('/', 1)[-1]}",
        found=str(error).splitlines()[0],
        remedy="somebody else may have changed the manifest meanwhile; run it again",
    )
