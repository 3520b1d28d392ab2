"""A manifest of seven documents, written by hand: no corpus, no kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from manifests import Manifest, open_manifest, schema
from manifests.files import writer_lock
from manifests.index import Snapshot
from manifests.writer import commit, make_index, write_table

# doc_id -> (sequence_id, representative, similarity, owner)
DOCUMENTS = {
    "a1": (11, True, 1.0, "acme"),
    "a2": (11, False, 1.0, "acme"),
    "a3": (11, False, 0.75, "bolt"),
    "b1": (22, True, 1.0, "bolt"),
    "b2": (22, False, 0.9, None),
    "c1": (33, True, 1.0, "acme"),
    "d1": (44, True, 1.0, None),
}
ALIASES = [(5, 11, "merged", None), (4, 5, "merged", None), (33, 22, "reassigned", "b2")]

Tables = dict[str, pa.Table]


def tables() -> Tables:
    names = list(DOCUMENTS)
    count = len(names)
    documents = pa.table(
        {
            "source": ["s"] * count,
            "doc_id": names,
            "uri": ["a.jsonl"] * count,
            "row": range(count),
            "start": [0] * count,
            "end": [10] * count,
            "n_bytes": [10] * count,
            "n_words": [2] * count,
            "sha256": [hashlib.sha256(n.encode()).digest() for n in names],
            "sequence_id": [DOCUMENTS[n][0] for n in names],
            "is_representative": [DOCUMENTS[n][1] for n in names],
            "similarity": [DOCUMENTS[n][2] for n in names],
            "snapshot": [1] * count,
            "owner": [DOCUMENTS[n][3] for n in names],
        },
        schema=schema.DOCUMENTS.append(pa.field("owner", pa.string())),
    )
    ids = sorted({row[0] for row in DOCUMENTS.values()})
    members = {i: [n for n in names if DOCUMENTS[n][0] == i] for i in ids}
    sequences = pa.table(
        {
            "sequence_id": ids,
            "representative_source": ["s"] * len(ids),
            "representative_doc_id": [members[i][0] for i in ids],
            "n_docs": [len(members[i]) for i in ids],
            "n_sources": [1] * len(ids),
            "n_bytes": [10 * len(members[i]) for i in ids],
            "policy": ["private" if len(members[i]) > 1 else "shared" for i in ids],
            "status": ["active"] * len(ids),
            "first_snapshot": [1] * len(ids),
            "reserved": [False] * len(ids),
        },
        schema=schema.SEQUENCES,
    )
    links = pa.table(
        {
            "source_a": ["s"] * 3,
            "doc_id_a": ["a1", "a1", "b1"],
            "source_b": ["s"] * 3,
            "doc_id_b": ["a2", "a3", "b2"],
            "jaccard": [1.0, 0.75, 0.9],
            "text_a": [None, 0, 2],
            "text_b": [None, 1, 3],
        },
        schema=schema.LINKS,
    )
    aliases = pa.Table.from_pylist(
        [
            {"alias_id": a, "sequence_id": b, "snapshot": 1, "reason": reason,
             "source": "s" if doc_id else None, "doc_id": doc_id}
            for a, b, reason, doc_id in ALIASES
        ],
        schema=schema.ALIASES,
    )  # fmt: skip
    rejects = pa.table(
        {"uri": ["a.jsonl"], "row": [99], "reason": ["empty_text"], "context": [b""]},
        schema=schema.REJECTS,
    )
    signatures = pa.table(
        {
            "source": ["s"] * count,
            "doc_id": names,
            "signature": [b"\0" * 64] * count,
            "bands": [b"\0" * 16] * count,
        },
        schema=schema.signatures_schema(16, 4),
    )
    texts = [0, 0, 1, 2, 3, 4, 5]  # a2 is a copy of a1
    shingles = pa.table(
        {
            "source": ["s"] * count,
            "doc_id": names,
            "text": texts,
            "content": [hashlib.sha256(b"%d" % text).digest() for text in texts],
            "n_shingles": [int(n != "a2") for n in names],
            "shingles": [None if n == "a2" else b"\0" * 8 for n in names],
        },
        schema=schema.SHINGLES,
    )
    return {
        "documents": documents, "sequences": sequences, "links": links, "aliases": aliases,
        "rejects": rejects, "tombstones": schema.TOMBSTONES.empty_table(), "signatures": signatures,
        "shingles": shingles,
    }  # fmt: skip


def write_manifest(
    path: Path, change: Callable[[Tables], None] | None = None, *, records: int = 8
) -> Manifest:
    """Write the tables, changed as the test likes, with digests that fit them."""
    content = tables()
    if change is not None:
        change(content)
    (path / ".work").mkdir(parents=True)
    with writer_lock(path):
        files = {name: write_table(path, name, rows) for name, rows in content.items()}
        index = make_index(
            parameters={"threshold": 0.7, "num_perm": 16, "bands": 4},
            earlier=(),
            snapshot=Snapshot(
                snapshot=1, inputs=(), records=records, documents=7, rejects=1, content_digest=""
            ),
            tables=files,
        )
        commit(path, index)
    return open_manifest(path)
