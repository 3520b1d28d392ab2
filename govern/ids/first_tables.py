"""Every table of a first snapshot, from what the stages of a build decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from govern.ids.sequences import Sums, default_policies, sequence_rows, sum_documents
from govern.ids.store import Indices, release
from govern.ids.tables import (
    Assigned,
    Files,
    LinkRows,
    Stream,
    copy_links,
    copy_parts,
    document_streams,
    documents_schema,
    link_stream,
    parts_of,
    sorted_rejects,
    write_streams,
)
from govern.ids.verify import Links
from manifests import schema
from manifests.writer import write_table


def write_tables(
    directory: Path,
    assigned: Assigned,
    links: Links,
    *,
    reserve: float,
    tombstones: pa.Table,
    pool: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> dict[str, Files]:
    """Write every table of a first snapshot.

    Args:
        directory: The manifest's directory.
        assigned: The documents; their texts are numbered as links are.
        links: Verified pairs of texts.
        reserve: Fraction of sequences that are set aside.
        tombstones: Tombstones of sequences whose text was forgotten elsewhere.
        pool: Threads, each of which writes one table at a time.
        advance: Called with the number of documents that are written.
    """
    ingested = assigned.ingested
    forgotten = tombstones["sequence_id"].to_numpy()
    streams = {
        "links": link_stream(_link_parts(assigned, links), assigned.names),
        **document_streams(assigned, documents_schema(ingested), advance),
        "sequences": Stream(schema.SEQUENCES, _sequences(assigned, reserve, forgotten)),
    }
    rejects = sorted_rejects([ingested.rejects, assigned.settled.rejects])
    return {
        **write_streams(directory, streams, pool),
        "aliases": write_table(directory, "aliases", schema.ALIASES.empty_table()),
        "rejects": write_table(directory, "rejects", rejects),
        "tombstones": write_table(directory, "tombstones", tombstones.sort_by("sequence_id")),
    }


def _sequences(assigned: Assigned, reserve: float, forgotten: Indices) -> Iterator[pa.Table]:
    settled = assigned.settled
    documents = np.flatnonzero(settled.text_of >= 0)
    n_bytes = [np.array(part) for (part,) in assigned.ingested.documents.once("n_bytes")]
    sums = sum_documents(
        assigned.sequence_ids[settled.text_of[documents]],
        assigned.ingested.names.codes[documents],
        np.concatenate(n_bytes)[documents],
    )
    # Ascending by ID, as the sums are.
    founders = np.flatnonzero(assigned.represents)
    representatives = settled.document_of[founders[np.argsort(assigned.sequence_ids[founders])]]
    for part in parts_of(len(sums.ids)):
        some = Sums(**{name: values[part] for name, values in vars(sums).items()})
        yield sequence_rows(
            some,
            assigned.names(representatives[part]),
            policies=default_policies(some.n_docs),
            forgotten=np.isin(some.ids, forgotten),
            first_snapshots=np.full(len(some.ids), assigned.snapshot, dtype=np.int32),
            reserve=reserve,
        )


def _link_parts(assigned: Assigned, links: Links) -> Iterator[LinkRows]:
    """Verified pairs by (text_a, text_b), as links are; then the copies."""
    settled = assigned.settled
    for part in parts_of(len(links.a)):
        a, b = np.asarray(links.a[part]), np.asarray(links.b[part])
        yield LinkRows(
            a=settled.document_of[a],
            b=settled.document_of[b],
            jaccard=np.asarray(links.jaccard[part]),
            text_a=a,
            text_b=b,
        )
        for values in (links.a, links.b, links.jaccard):
            release(values[part])
    copies, stands = copy_links(assigned)
    keys = np.asarray(assigned.ingested.keys)[copies]
    release(assigned.ingested.keys)
    yield from copy_parts(stands, copies, settled.text_of[copies], keys)
