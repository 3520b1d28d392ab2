"""Every table of a first snapshot, from what the stages of a build decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from govern.ids.sequences import (
    Sums,
    default_policies,
    sequence_rows,
    source_codes,
    sum_documents,
)
from govern.ids.tables import (
    Assigned,
    Files,
    Indices,
    LinkRows,
    copy_links,
    documents_schema,
    sorted_rejects,
    write_documents,
    write_links,
)
from govern.ids.verify import Links
from manifests import schema
from manifests.writer import TableWriter, write_table

_PART = 1 << 18


def write_tables(
    directory: Path,
    assigned: Assigned,
    links: Links,
    *,
    reserve: float,
    tombstones: pa.Table,
    advance: Callable[[int], None],
) -> dict[str, Files]:
    """Write every table of a first snapshot.

    Args:
        directory: The manifest's directory.
        assigned: The documents; their texts are numbered as links are.
        links: Verified pairs of texts.
        reserve: Fraction of sequences that are set aside.
        tombstones: Tombstones of sequences whose text was forgotten elsewhere.
        advance: Called with the number of documents that are written.
    """
    ingested = assigned.ingested
    rejects = sorted_rejects([ingested.rejects, assigned.settled.rejects])
    return {
        **write_documents(directory, assigned, documents_schema(ingested), advance),
        "sequences": _write_sequences(
            directory, assigned, reserve, tombstones["sequence_id"].to_numpy()
        ),
        "links": _write_all_links(directory, assigned, links),
        "aliases": write_table(directory, "aliases", schema.ALIASES.empty_table()),
        "rejects": write_table(directory, "rejects", rejects),
        "tombstones": write_table(directory, "tombstones", tombstones.sort_by("sequence_id")),
    }


def _write_sequences(
    directory: Path, assigned: Assigned, reserve: float, forgotten: Indices
) -> Files:
    settled = assigned.settled
    documents = np.flatnonzero(settled.text_of >= 0)
    columns = assigned.ingested.documents
    n_bytes = np.concatenate([part.to_numpy() for part in columns.column("n_bytes")])
    sums = sum_documents(
        assigned.sequence_ids[settled.text_of[documents]],
        source_codes(columns.column("source"))[documents],
        n_bytes[documents],
    )
    # Ascending by ID, as the sums are.
    founders = np.flatnonzero(assigned.represents)
    representatives = settled.document_of[founders[np.argsort(assigned.sequence_ids[founders])]]
    writer = TableWriter(directory, "sequences", schema.SEQUENCES)
    for begin in range(0, len(sums.ids), _PART):
        part = slice(begin, begin + _PART)
        some = Sums(**{name: values[part] for name, values in vars(sums).items()})
        writer.write(
            sequence_rows(
                some,
                assigned.names(representatives[part]),
                policies=default_policies(some.n_docs),
                forgotten=np.isin(some.ids, forgotten),
                first_snapshots=np.full(len(some.ids), assigned.snapshot, dtype=np.int32),
                reserve=reserve,
            )
        )
    return writer.close()


def _write_all_links(directory: Path, assigned: Assigned, links: Links) -> Files:
    settled, keys = assigned.settled, np.asarray(assigned.ingested.keys)
    copies, stands = copy_links(assigned)
    between_copies = np.full(len(copies), -1, dtype=np.int64)
    rows = LinkRows(
        a=np.concatenate([settled.document_of[links.a], stands]),
        b=np.concatenate([settled.document_of[links.b], copies]),
        jaccard=np.concatenate([links.jaccard, np.ones(len(copies))]),
        text_a=np.concatenate([links.a, between_copies]),
        text_b=np.concatenate([links.b, between_copies]),
    )
    order = np.lexsort((keys[rows.b, 1], keys[rows.b, 0], settled.text_of[rows.a]))
    return write_links(directory, rows, order, assigned.names)
