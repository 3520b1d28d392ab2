"""Rows of `sequences`: sums over documents, and the defaults of a new sequence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.assign import reserved
from govern.ids.names import encode
from manifests import schema

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Per sequence, ascending by ID: all int64 [sequences]."""

    ids: Indices
    n_docs: Indices
    n_sources: Indices
    n_bytes: Indices


def sum_documents(ids: Indices, sources: npt.NDArray[np.int32], n_bytes: Indices) -> Sums:
    """Count documents, distinct sources and bytes of each sequence.

    Args:
        ids: int64 [documents], sequence ID of each document.
        sources: int32 [documents], a number for each source.
        n_bytes: int64 [documents].
    """
    order = np.lexsort((sources, ids))
    ids, sources, n_bytes = ids[order], sources[order], n_bytes[order]
    new_id = np.ones(len(ids), dtype=bool)
    new_id[1:] = ids[1:] != ids[:-1]
    new_source = new_id.copy()
    new_source[1:] |= sources[1:] != sources[:-1]
    begins = np.flatnonzero(new_id)
    empty = np.zeros(0, dtype=np.int64)
    return Sums(
        ids=ids[begins],
        n_docs=np.diff(np.append(begins, len(ids))),
        n_sources=np.add.reduceat(new_source.astype(np.int64), begins) if len(ids) else empty,
        n_bytes=np.add.reduceat(n_bytes, begins) if len(ids) else empty,
    )


def source_codes(columns: Iterable[pa.Array]) -> npt.NDArray[np.int32]:
    """A number for each row's source; which number depends on the order, equality does not."""
    codes: dict[str, int] = {}
    parts = [encode(column, codes) for column in columns]
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts])


def default_policies(n_docs: Indices) -> npt.NDArray[np.str_]:
    """The policy of new sequences. One text that occurs once earns no sinks: nothing repeats it."""
    return np.where(n_docs >= 2, "private", "shared")


def sequence_rows(
    sums: Sums,
    representatives: pa.Table,
    *,
    policies: npt.NDArray[np.str_],
    forgotten: npt.NDArray[np.bool_],
    first_snapshots: npt.NDArray[np.int32],
    reserve: float,
) -> pa.Table:
    """Rows of `sequences`, ascending by ID.

    Args:
        sums: IDs and sums.
        representatives: Columns source and doc_id of each sequence's representative.
        policies: The policy of each.
        forgotten: Whether its status is `forgotten`.
        first_snapshots: int32 [sequences].
        reserve: Fraction of sequences that are set aside.
    """
    return pa.table(
        {
            "sequence_id": pa.array(sums.ids),
            "representative_source": representatives["source"],
            "representative_doc_id": representatives["doc_id"],
            "n_docs": pa.array(sums.n_docs),
            "n_sources": pa.array(sums.n_sources),
            "n_bytes": pa.array(sums.n_bytes),
            "policy": pa.array(policies, pa.string()),
            "status": pa.array(np.where(forgotten, "forgotten", "active"), pa.string()),
            "first_snapshot": pa.array(first_snapshots),
            "reserved": pa.array(reserved(sums.ids, reserve)),
        }
    ).cast(schema.SEQUENCES)
