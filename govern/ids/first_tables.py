"""Every table of a first snapshot, from what the stages of a build decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    copy_parts,
    documents_schema,
    parts_of,
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
        "links": write_links(directory, _link_parts(assigned, links), assigned.names),
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
    copies, stands = copy_links(assigned)
    keys = np.asarray(assigned.ingested.keys)[copies]
    yield from copy_parts(stands, copies, settled.text_of[copies], keys)
