"""Look sequences up in a stored sink map by reading little of it.

The map is sorted by sequence ID and written in small row groups, each with its least and greatest
ID. So the rows of a few IDs are found by decoding a few groups, whatever the size of the map. That
this tells the truth rests on the map's digest, which `training.json` pins: `require_pinned` hashes
the file (some ten bytes for each sequence) without decoding it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import CheckpointError
from manifests.files import sha256_file
from manifests.row_groups import rows_with
from sinkmodel.allocation import FILE_SCHEMA, SINK_MAP_FILE, SinkMap, with_status
from sinkmodel.forgotten import FORGOTTEN_FILE, read_forgotten

_POLICY = FILE_SCHEMA.get_field_index("policy")


def find(run: Path, sequence_ids: Iterable[int]) -> SinkMap:
    """What a plan for these IDs needs of the run's sink map.

    Args:
        run: The run directory.
        sequence_ids: Any IDs; those that the run does not know have no row.

    Returns:
        The rows of these IDs. If one of them is pooled, also every other pooled row: no other
        sequence can own one of their blocks, since a private block has one owner.

    Raises:
        CheckpointError: The map or the list of what is forgotten cannot be read.
    """
    with _opened(run) as file:
        rows = rows_with(file, "sequence_id", sorted(set(sequence_ids)), FILE_SCHEMA.names)
        pooled = rows.filter(pc.equal(rows["policy"], "pooled")).num_rows > 0
        if pooled:
            rows = pa.concat_tables(
                [rows.filter(pc.not_equal(rows["policy"], "pooled")), _pooled_rows(file)]
            ).sort_by("sequence_id")
    forgotten = read_forgotten(run / FORGOTTEN_FILE)
    inside = forgotten[np.isin(forgotten, rows["sequence_id"].to_numpy())]
    return SinkMap(with_status(rows, inside))


def known(run: Path, sequence_ids: Iterable[int]) -> set[int]:
    """Those of the IDs that the run was trained with.

    Raises:
        CheckpointError: The map cannot be read.
    """
    with _opened(run) as file:
        rows = rows_with(file, "sequence_id", sorted(set(sequence_ids)), ["sequence_id"])
    return set(rows["sequence_id"].to_pylist())


def require_pinned(run: Path, record: Mapping[str, Any]) -> None:
    """Refuse a sink map that is not the one of training.

    Args:
        run: The run directory.
        record: Its `training.json`.

    Raises:
        CheckpointError: Another digest than the record pins, or no map.
    """
    path = run / SINK_MAP_FILE
    pinned = dict(record.get("files") or {}).get(SINK_MAP_FILE)
    found = sha256_file(path) if path.is_file() else "no such file"
    if found != pinned:
        raise CheckpointError(
            str(path),
            expected=f"the sink map of training, sha256 {pinned}",
            found=found,
            remedy="restore the file from the training run or a backup",
        )


def _opened(run: Path) -> pq.ParquetFile:
    path = run / SINK_MAP_FILE
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error
    if not file.schema_arrow.equals(FILE_SCHEMA):
        file.close()
        raise _unreadable(path, f"columns {file.schema_arrow.names}")
    return file


def _pooled_rows(file: pq.ParquetFile) -> pa.Table:
    parts = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(_POLICY).statistics
        if statistics is None or statistics.min <= "pooled" <= statistics.max:
            rows = file.read_row_group(group)
            parts.append(rows.filter(pc.equal(rows["policy"], "pooled")))
    return pa.concat_tables(parts)


def _unreadable(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        expected="the sink map of a run",
        found=found,
        remedy="give the run directory that `govern train` wrote",
    )
