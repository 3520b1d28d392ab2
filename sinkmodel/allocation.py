"""Which blocks a sequence ID owns: the rule that gives them, and the stored sink map.

The block space has two regions:

    [0, pool_blocks)         the pool: blocks drawn by a keyed hash, shared by many `pooled` IDs
    [pool_blocks, …)         private blocks: each has one owner, for ever

A block that has been given is never given to another ID, also after its owner was forgotten: new
private blocks always lie beyond the highest index in use.

No torch here: maps are read and changed where no model is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import CheckpointError
from manifests.files import atomic_write
from manifests.sequence_id import NO_SEQUENCE, format_id
from sinkmodel.forgotten import FORGOTTEN_FILE, encode_forgotten, read_forgotten
from sinkmodel.pool import bad_id, draw_pool

SINK_MAP_FILE = "sink_map.parquet"
POLICIES = ("shared", "pooled", "private", "strict")
ACTIVE, FORGOTTEN = "active", "forgotten"

SCHEMA = pa.schema(
    [
        pa.field("sequence_id", pa.int64(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("blocks", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
    ]
)

IntArray = npt.NDArray[np.int64]
# What is stored: the status is not, because `forgotten.txt` has it.
FILE_SCHEMA = SCHEMA.remove(SCHEMA.get_field_index("status"))
# Small groups, so that the row of one sequence is found by decoding little.
_ROWS_PER_GROUP = 16_384

_DIGEST_DOMAIN = b"memsinks-govern sink map v1\x00"


@dataclass(frozen=True)
class BlockLists:
    """Lists of blocks in compressed form: list k is `blocks[offsets[k]:offsets[k + 1]]`."""

    offsets: IntArray
    blocks: IntArray


class SinkMap:
    """The map from sequence ID to blocks. Immutable.

    `sink_map.parquet` has it without the status, as training left it; `forgotten.txt` beside it
    names the IDs that are forgotten since.

    Args:
        table: Columns `sequence_id` (int64, ascending, positive, unique), `policy`, `status`
            (`active` or `forgotten`), `blocks` (list of int32, in the order of the sequence's
            own block numbers), `n_tokens` (int64).

    Raises:
        CheckpointError: The table breaks one of these rules, or gives a private block twice.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = _checked(table)

    @classmethod
    def empty(cls) -> SinkMap:
        """A map without sequences."""
        return cls(SCHEMA.empty_table())

    @classmethod
    def read(cls, path: Path) -> SinkMap:
        """Read a map, and what is forgotten of it; `save` and then `read` give an equal map.

        Raises:
            CheckpointError: A file is missing, is not Parquet, or breaks a rule of the map.
        """
        try:
            table = pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowInvalid) as error:
            raise CheckpointError(
                str(path),
                expected="the sink map of a run",
                found=str(error).splitlines()[0],
                remedy="give the run directory that `govern train` wrote",
            ) from error
        return cls(with_status(table, read_forgotten(path.with_name(FORGOTTEN_FILE))))

    def to_bytes(self) -> bytes:
        """The Parquet file's bytes; equal maps give equal bytes under one pyarrow version."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            self.table.select(FILE_SCHEMA.names),
            sink,
            row_group_size=_ROWS_PER_GROUP,
            compression="zstd",
            # A dictionary of a million different IDs costs more than all the rest.
            use_dictionary=["policy"],
        )
        return bytes(sink.getvalue())

    def save(self, path: Path) -> None:
        """Replace the file at `path`, and the list of what is forgotten beside it."""
        forgotten = self.sequence_ids[~self.active].tolist()
        atomic_write(path.with_name(FORGOTTEN_FILE), encode_forgotten(forgotten))
        atomic_write(path, self.to_bytes())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SinkMap) and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def sequence_ids(self) -> IntArray:
        """All IDs, ascending."""
        return np.asarray(self.table["sequence_id"].to_numpy())

    @cached_property
    def active(self) -> npt.NDArray[np.bool_]:
        """Per row: not forgotten."""
        return np.asarray(pc.equal(self.table["status"], ACTIVE).to_numpy(), dtype=bool)

    @cached_property
    def policies(self) -> npt.NDArray[np.object_]:
        """Per row: the policy."""
        return np.asarray(self.table["policy"].to_numpy())

    @cached_property
    def lists(self) -> BlockLists:
        """Per row: the blocks, in the sequence's own order."""
        column = self.table["blocks"].combine_chunks()
        lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
        blocks = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
        return BlockLists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), blocks)

    @property
    def num_blocks(self) -> int:
        """One more than the highest block in use."""
        return int(self.lists.blocks.max(initial=-1)) + 1

    def digest(self) -> str:
        """Hex SHA-256 over the content, independent of the Parquet writer."""
        lists = self.lists
        parts = [
            _DIGEST_DOMAIN,
            self.sequence_ids.astype("<i8").tobytes(),
            "\n".join(self.policies).encode(),
            self.active.astype("u1").tobytes(),
            lists.offsets.astype("<i8").tobytes(),
            lists.blocks.astype("<i8").tobytes(),
            np.asarray(self.table["n_tokens"].to_numpy()).astype("<i8").tobytes(),
        ]
        state = hashlib.sha256(len(self).to_bytes(8, "little"))
        for part in parts:
            state.update(len(part).to_bytes(8, "little") + part)
        return state.hexdigest()

    def lookup(self, sequence_ids: IntArray) -> BlockLists:
        """Blocks of each ID; ID 0 (no sequence) and `shared` IDs have none.

        Args:
            sequence_ids: int64 [n].

        Raises:
            CheckpointError: An ID is not in the map, or is forgotten.
        """
        rows = self._rows(sequence_ids)
        owned = rows >= 0
        # Only the rows of these IDs are looked at: a map of a million costs a step no more.
        forgotten = np.zeros(len(rows), dtype=bool)
        forgotten[owned] = ~self.active[rows[owned]]
        if forgotten.any():
            raise CheckpointError(
                f"sequence {format_id(int(sequence_ids[forgotten][0]))}",
                expected="an active sequence ID",
                found="one that has been forgotten",
                remedy="leave it out, or use ID 0 for text without sinks",
            )
        lists = self.lists
        starts, lengths = np.zeros((2, len(rows)), dtype=np.int64)
        starts[owned] = lists.offsets[rows[owned]]
        lengths[owned] = lists.offsets[rows[owned] + 1] - starts[owned]
        return _take(lists.blocks, starts, lengths)

    def blocks_of(self, sequence_id: int) -> list[int]:
        """Blocks of one active ID, in its own order; see `lookup`."""
        return [int(b) for b in self.lookup(np.array([sequence_id], dtype=np.int64)).blocks]

    def forget(self, sequence_ids: Iterable[int]) -> SinkMap:
        """The map with these IDs forgotten; their blocks stay listed, so nobody gets them again.

        Raises:
            CheckpointError: An ID is not in the map.
        """
        wanted = np.fromiter(sequence_ids, dtype=np.int64)
        rows = self._rows(wanted)
        active = self.active.copy()
        active[rows[rows >= 0]] = False
        column = pc.if_else(pa.array(active), ACTIVE, FORGOTTEN)
        return SinkMap(self.table.set_column(2, SCHEMA.field("status"), column))

    def _rows(self, sequence_ids: IntArray) -> IntArray:
        """Row of each ID, -1 for ID 0."""
        known = self.sequence_ids
        rows = np.searchsorted(known, sequence_ids)
        found = np.zeros(len(rows), dtype=bool)
        inside = rows < len(known)
        found[inside] = known[rows[inside]] == sequence_ids[inside]
        unknown = ~found & (sequence_ids != NO_SEQUENCE)
        if unknown.any():
            raise CheckpointError(
                f"sequence {format_id(int(sequence_ids[unknown][0]))}",
                expected="a sequence ID of this run's sink map",
                found="one that the run was not trained with",
                remedy="check the ID, or train a run with a manifest that holds it",
            )
        return np.where(found, rows, -1).astype(np.int64)


def with_status(rows: pa.Table, forgotten: IntArray) -> pa.Table:
    """Stored rows in the form of `SinkMap`: `active`, or `forgotten` if the ID is among those.

    Args:
        rows: Columns of `FILE_SCHEMA`.
        forgotten: int64 [n], ascending.

    Raises:
        CheckpointError: Other columns, or a forgotten ID that has no row.
    """
    if rows.column_names != FILE_SCHEMA.names:
        raise _broken("sink map", f"columns {FILE_SCHEMA.names}", f"{rows.column_names}")
    gone = pc.is_in(rows["sequence_id"], value_set=pa.array(forgotten))
    if pc.sum(gone, min_count=0).as_py() != len(forgotten):
        raise _broken(FORGOTTEN_FILE, "IDs of the sink map", "others")
    return rows.add_column(2, SCHEMA.field("status"), pc.if_else(gone, FORGOTTEN, ACTIVE))


def allocate(
    sequences: pa.Table,
    *,
    block_size: int,
    neurons_per_kilotoken: float,
    pool_blocks: int,
    pool_draws: int,
    seed: int,
    pool_parts: int = 1,
    existing: SinkMap | None = None,
) -> SinkMap:
    """Give every sequence its blocks. The result does not depend on the order of the rows.

    Args:
        sequences: Columns `sequence_id` (int64), `policy`, `n_tokens` (int64).
        block_size: Neurons of one block in one layer.
        neurons_per_kilotoken: A private or strict ID gets so many sink neurons per 1,000 tokens
            of its text, rounded up to whole blocks, at least one block.
        pool_blocks: Size of the pool. 0 where no sequence is `pooled`.
        pool_draws: Blocks of the pool that every `pooled` ID uses.
        seed: Keys the hash that draws from the pool.
        pool_parts: See `sinkmodel.pool.draw_pool`.
        existing: A map to extend: its rows are kept as they are, forgotten ones too, and new
            private blocks lie beyond its highest block.

    Returns:
        The map of old and new sequences. A model needs `sink_map.num_blocks` blocks.

    Raises:
        CheckpointError: ID 0 or a repeated ID, an unknown policy, a pool too small for its
            draws, or a sequence of `existing` that now has another policy.
    """
    old = existing or SinkMap.empty()
    new = _new_sequences(sequences, old)
    ids = np.asarray(new["sequence_id"].to_numpy(), dtype=np.int64)
    policies = np.asarray(new["policy"].to_numpy(zero_copy_only=False), dtype=object)
    tokens = np.asarray(new["n_tokens"].to_numpy(), dtype=np.int64)
    pooled, own = policies == "pooled", np.isin(policies, ["private", "strict"])

    neurons = np.ceil(tokens * neurons_per_kilotoken / 1000)
    counts = np.where(own, np.maximum(1, np.ceil(neurons / block_size)), 0).astype(np.int64)
    first_private = max(pool_blocks, old.num_blocks)
    starts = first_private + np.cumsum(counts) - counts
    counts[pooled] = pool_draws
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    blocks = np.repeat(starts, counts) + within
    pool = {"pool_blocks": pool_blocks, "draws": pool_draws, "parts": pool_parts}
    blocks[np.repeat(pooled, counts)] = draw_pool(ids[pooled], seed=seed, **pool).reshape(-1)
    columns = [
        pa.array(ids),
        pa.array(policies, pa.string()),
        pa.array([ACTIVE] * len(ids), pa.string()),
        pa.ListArray.from_arrays(offsets.astype(np.int32), blocks.astype(np.int32)),
        pa.array(tokens),
    ]
    table = pa.concat_tables([old.table, pa.Table.from_arrays(columns, schema=SCHEMA)])
    return SinkMap(table.sort_by("sequence_id").combine_chunks())


def _take(blocks: IntArray, starts: IntArray, lengths: IntArray) -> BlockLists:
    """Gather lists by start and length."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return BlockLists(offsets, blocks[index])


def _new_sequences(sequences: pa.Table, old: SinkMap) -> pa.Table:
    """The rows that `old` lacks, ascending by ID; refuse what cannot be allocated."""
    table = sequences.select(["sequence_id", "policy", "n_tokens"]).sort_by("sequence_id")
    ids = np.asarray(table["sequence_id"].to_numpy(), dtype=np.int64)
    if len(ids) and ids[0] <= 0:
        raise bad_id(int(ids[0]))
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        raise _broken(f"sequence {format_id(int(repeated[0]))}", "one row", "several")
    for policy in table["policy"].unique().to_pylist():
        if policy not in POLICIES:
            raise _broken("sink allocation", f"a policy of {', '.join(POLICIES)}", repr(policy))
    known = dict(zip(old.sequence_ids.tolist(), old.policies.tolist(), strict=True))
    for sequence_id, policy in zip(ids.tolist(), table["policy"].to_pylist(), strict=True):
        if known.get(sequence_id, policy) != policy:
            raise CheckpointError(
                f"sequence {format_id(sequence_id)}",
                expected=f"the policy {known[sequence_id]} that it was trained with",
                found=f"the policy {policy}",
                remedy="train a new run: what the weights hold cannot change its policy",
            )
    return table.filter(pa.array(~np.isin(ids, old.sequence_ids)))


def _checked(table: pa.Table) -> pa.Table:
    """The table in the map's schema, or the rule that it breaks."""
    if set(table.column_names) != set(SCHEMA.names):
        raise _broken("sink map", f"columns {SCHEMA.names}", f"{table.column_names}")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    except (pa.ArrowInvalid, ValueError) as error:
        raise _broken("sink map", "the sink map's column types", str(error)) from error
    ids = table["sequence_id"].to_numpy()
    if len(ids) and (ids[0] <= 0 or (np.diff(ids) <= 0).any()):
        raise _broken("sink map", "positive, ascending, unique IDs", "other IDs or another order")
    for column, allowed in (("policy", POLICIES), ("status", (ACTIVE, FORGOTTEN))):
        found = set(table[column].unique().to_pylist()) - set(allowed)
        if found:
            raise _broken("sink map", f"a {column} of {', '.join(allowed)}", repr(min(found)))
    _check_owners(table)
    return table


def _check_owners(table: pa.Table) -> None:
    """A private or strict block has one owner, and the pool never lends it."""
    column = table["blocks"].combine_chunks()
    blocks = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    owners = pc.is_in(table["policy"], pa.array(["private", "strict"])).to_numpy()
    own = np.repeat(owners, lengths)
    if len(blocks) and blocks.min() < 0:
        raise _broken("sink map", "block numbers from 0", str(blocks.min()))
    uses = np.bincount(blocks) if len(blocks) else blocks
    twice = blocks[own & (uses[blocks] > 1)]
    if len(twice):
        raise _broken("sink map", f"one owner of private block {twice[0]}", "several")


def _broken(what: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        what,
        expected=expected,
        found=found,
        remedy="use a map that `govern train` or `govern forget` wrote",
    )
