"""Second stage: which records are documents, and which texts are distinct.

Both answers depend on the set of records alone, never on their order. Of several records with one
(source, doc_id) the one with the smallest (SHA-256 of the text, file, row) stays and the others
are rejects. Documents with equal normalised text are exact duplicates and become one *text*; texts
are numbered by the order of their content hashes, so that a smaller number is a smaller hash in
everything that follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.ingest import Ingested
from govern.ids.order import ascending
from govern.ids.readers.record import DUPLICATE_ID
from govern.ids.store import Indices, release
from manifests.schema import CONTEXT_BYTES, REJECTS

NOT_A_DOCUMENT = -1


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Documents and distinct texts.

    Attributes:
        text_of: int64 [records kept by ingest], the text of each document, or NOT_A_DOCUMENT.
        document_of: int64 [texts], the document that stands for each text.
        rejects: Rejects of this stage: later records with a taken (source, doc_id).
    """

    text_of: Indices
    document_of: Indices
    rejects: pa.Table


def settle(ingested: Ingested, known: npt.NDArray[np.bool_] | None = None) -> Settled:
    """Decide duplicate IDs and exact duplicates.

    Args:
        ingested: The records.
        known: Records to leave out, since the manifest has them already; bool [records].
    """
    keys = np.asarray(ingested.keys)
    alive = np.ones(len(keys), dtype=bool) if known is None else ~known
    losers = _duplicate_ids(ingested, keys, np.flatnonzero(alive))
    alive[losers] = False
    documents = np.flatnonzero(alive)
    content = np.asarray(ingested.content)[documents]
    # By content hash, then by key: the first document of each run stands for the text.
    order = ascending(*content.T, *keys[documents].T)
    content = content[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (content[1:] != content[:-1]).any(axis=1)
    text_of = np.full(len(keys), NOT_A_DOCUMENT, dtype=np.int64)
    text_of[documents[order]] = np.cumsum(first) - 1
    release(ingested.keys)
    release(ingested.content)
    return Settled(
        text_of=text_of,
        document_of=documents[order[first]],
        rejects=_reject_rows(ingested, losers),
    )


def _duplicate_ids(ingested: Ingested, keys: npt.NDArray[np.uint64], records: Indices) -> Indices:
    """Records, of the given ones, whose (source, doc_id) belongs to another of them."""
    order = records[ascending(*keys[records].T)]
    ranked = keys[order]
    same = (ranked[1:] == ranked[:-1]).all(axis=1)
    if not same.any():
        return np.zeros(0, dtype=np.int64)
    involved = np.zeros(len(order), dtype=bool)
    involved[1:] |= same
    involved[:-1] |= same
    members = order[involved]
    rows = ingested.documents.take(members, ["source", "doc_id", "sha256", "uri", "row"])
    best: dict[tuple[str, str], tuple[tuple[bytes, str, int], int]] = {}
    losers = []
    columns = (rows[name].to_pylist() for name in rows.column_names)
    for document, source, doc_id, sha256, uri, row in zip(members.tolist(), *columns, strict=True):
        rank = ((sha256, uri, row), document)
        held = best.get((source, doc_id))
        if held is None or rank < held:
            best[(source, doc_id)] = rank
            rank = held if held is not None else rank
        if held is not None:
            losers.append(rank[1])
    return np.array(sorted(losers), dtype=np.int64)


def _reject_rows(ingested: Ingested, losers: Indices) -> pa.Table:
    rows = ingested.documents.take(losers, ["uri", "row", "source", "doc_id"])
    context = [
        f"{source}\t{doc_id}".encode()[:CONTEXT_BYTES]
        for source, doc_id in zip(
            rows["source"].to_pylist(), rows["doc_id"].to_pylist(), strict=True
        )
    ]
    return pa.table(
        {
            "uri": rows["uri"],
            "row": rows["row"],
            "reason": pa.array([DUPLICATE_ID] * len(losers), pa.string()),
            "context": pa.array(context, pa.binary()),
        }
    ).cast(REJECTS)
