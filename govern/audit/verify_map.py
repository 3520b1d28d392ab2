"""The sink map and the list of what is forgotten, read by somebody who trusts neither.

`sink_map.parquet` says who owns which block and is never written after training; `forgotten.txt`
names the sequences that are forgotten. Columns stay Arrow: a map may have millions of rows.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from govern.audit.records import malformed
from govern.audit.statement import SequenceBlocks
from manifests.sequence_id import format_id, parse_id

SINK_MAP = "sink_map.parquet"
FORGOTTEN = "forgotten.txt"
_FORM = {"sequence_id": pa.int64(), "blocks": pa.list_(pa.int32())}
_LINES = re.compile(rb"(sq-[0-7][0-9a-f]{15}\n)*")


@dataclass(frozen=True, kw_only=True)
class StoredOwners:
    """Who owns which block, and who is forgotten.

    Attributes:
        table: Columns `sequence_id` (int64, unique) and `blocks` (list of int32).
        forgotten: IDs as printed.
    """

    table: pa.Table
    forgotten: frozenset[str]

    def faults(self, selected: tuple[str, ...], stated: tuple[SequenceBlocks, ...]) -> list[str]:
        """What contradicts a statement.

        Args:
            selected: IDs that the statement says are forgotten.
            stated: The blocks that it says each of them owned.
        """
        faults = [f"{i} is not listed in {FORGOTTEN}" for i in selected if i not in self.forgotten]
        rows = self._rows_of([parse_id(item.sequence_id) for item in stated])
        owned = dict(zip(rows["sequence_id"].to_pylist(), rows["blocks"].to_pylist(), strict=True))
        faults += [
            f"{item.sequence_id} owns other blocks in {SINK_MAP}"
            for item in stated
            if set(owned.get(parse_id(item.sequence_id), ())) != {*item.exclusive, *item.shared}
        ]
        users = self._active_users({block for item in stated for block in item.exclusive})
        faults += [
            f"block {block} is called exclusive, {user} uses it"
            for item in stated
            for block in item.exclusive
            if (user := users.get(block)) is not None
        ]
        return faults

    def _rows_of(self, sequence_ids: list[int]) -> pa.Table:
        return self.table.filter(
            pc.is_in(self.table["sequence_id"], value_set=pa.array(sequence_ids, pa.int64()))
        )

    def _active_users(self, blocks: set[int]) -> dict[int, str]:
        """One sequence that is not forgotten for each of the blocks that has such a user."""
        column = self.table["blocks"].combine_chunks()
        used = pc.list_flatten(column)
        hit = pc.is_in(used, value_set=pa.array(sorted(blocks), pa.int32()))
        owners = self.table["sequence_id"].take(pc.list_parent_indices(column).filter(hit))
        found = zip(used.filter(hit).to_pylist(), owners.to_pylist(), strict=True)
        return {
            block: printed
            for block, owner in found
            if (printed := _printed(owner)) not in self.forgotten
        }


def read_owners(sink_map: bytes, forgotten: bytes) -> StoredOwners:
    """Parse both files.

    Raises:
        IntegrityError: One of them has another form: an error, never a crash.
    """
    if not _LINES.fullmatch(forgotten):
        raise malformed(FORGOTTEN, "one sequence ID a line", "other lines")
    lines = forgotten.decode().split("\n")[:-1]
    if any(second <= first for first, second in pairwise(lines)):
        raise malformed(FORGOTTEN, "ascending sequence IDs", "another order, or one twice")
    try:
        table = pq.read_table(io.BytesIO(sink_map), columns=list(_FORM)).combine_chunks()
        types = {name: table.schema.field(name).type for name in _FORM}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        found = (str(error).splitlines() or ["an unreadable file"])[0]
        raise malformed(SINK_MAP, "a Parquet file of sequences and blocks", found) from None
    if (
        types != _FORM
        or any(table[name].null_count for name in _FORM)
        or pc.list_flatten(table["blocks"]).null_count
        or pc.count_distinct(table["sequence_id"]).as_py() < table.num_rows
    ):
        found = "other types, nulls or an ID twice"
        raise malformed(SINK_MAP, "one row for each sequence: ID and blocks", found)
    return StoredOwners(table=table, forgotten=frozenset(lines))


def _printed(sequence_id: int) -> str:
    # A hostile map may hold IDs that are none; they are nobody's.
    return format_id(sequence_id) if sequence_id > 0 else f"ID {sequence_id}"
