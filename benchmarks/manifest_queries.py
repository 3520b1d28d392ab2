"""How long a manifest takes to answer, beside plain DuckDB over the same rows unsorted.

    python benchmarks/manifest_queries.py MANIFEST --work DIR

"All copies of a document", by its ID, its sequence ID and its text, and "all documents of an owner
with their IDs", 20 of each from a warm process: median and 95th percentile of wall time, median CPU
time. The peer is DuckDB over one Parquet file with the same columns in another order, written by
DuckDB with its defaults, over one connection.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from manifests import open_manifest, queries
from manifests.names import NamesBy

_RUNS = 20


def milliseconds(ask: Callable[[Any], pa.Table], values: list[Any]) -> str:
    """Median and 95th percentile of wall time of one answer each, and the median of CPU time.

    The first value only warms up.
    """
    ask(values[0])
    taken, worked = [], []
    for value in values:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        rows = ask(value).num_rows
        taken.append((time.perf_counter() - begin) * 1e3)
        worked.append((time.process_time() - begin_cpu) * 1e3)
        assert rows, f"nothing found for {value}"
    wall = f"{np.percentile(taken, 50):7.1f} / {np.percentile(taken, 95):7.1f} ms"
    return f"{wall} (CPU {np.median(worked):6.1f})"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    manifest = open_manifest(options.manifest)
    shuffled = options.work / "unsorted.parquet"
    peer = duckdb.connect()
    if not shuffled.exists():
        peer.sql(
            f"COPY (SELECT * FROM read_parquet({manifest.files('documents')}) ORDER BY row) "
            f"TO '{shuffled}' (FORMAT parquet)"
        )
    peer.sql(f"CREATE VIEW documents AS SELECT * FROM read_parquet('{shuffled}')")
    some = peer.sql(
        "SELECT doc_id, sequence_id, owner, sha256 FROM documents "
        f"USING SAMPLE reservoir({_RUNS} ROWS) REPEATABLE (7)"
    ).to_arrow_table()

    def plain(sql: str) -> Callable[[Any], pa.Table]:
        return lambda value: peer.sql(sql, params=[value]).to_arrow_table()

    begin = time.perf_counter()
    names = NamesBy(manifest, "owner")
    print(f"names by owner: read and sorted in {time.perf_counter() - begin:.1f} s")

    def copies_of_text(sha256: bytes) -> pa.Table:
        found = queries.find_sha256(manifest, sha256)
        return queries.documents_of(manifest, found["sequence_id"].to_pylist())

    def copies(doc_id: str) -> pa.Table:
        found = queries.find_document(manifest, doc_id)
        return queries.documents_of(manifest, found["sequence_id"].to_pylist())

    def owned(owner: str) -> pa.Table:
        return queries.documents_where(manifest, f"owner = '{owner}'")

    def owned_sql(owner: str) -> pa.Table:
        sql = f"SELECT source, doc_id, sequence_id FROM documents WHERE owner = '{owner}'"
        return queries.run_sql(manifest, sql)

    by_id = (
        "SELECT * FROM documents WHERE sequence_id IN "
        "(SELECT sequence_id FROM documents WHERE doc_id = ?)"
    )
    print(f"{manifest.rows('documents')} documents; median / 95th percentile of {_RUNS}")
    for name, column, ours, theirs in (
        ("copies, by document ID", "doc_id", copies, by_id),
        (
            "copies, by sequence ID",
            "sequence_id",
            lambda i: queries.documents_of(manifest, [i]),
            "SELECT * FROM documents WHERE sequence_id = ?",
        ),
        (
            "copies, by SHA-256 of text",
            "sha256",
            copies_of_text,
            by_id.replace("doc_id =", "sha256 ="),
        ),
        (
            "owner, names and IDs in memory",
            "owner",
            names.find,
            "SELECT source, doc_id, sequence_id FROM documents WHERE owner = ?",
        ),
        ("owner, all columns", "owner", owned, "SELECT * FROM documents WHERE owner = ?"),
        (
            "owner, names and IDs in SQL",
            "owner",
            owned_sql,
            "SELECT source, doc_id, sequence_id FROM documents WHERE owner = ?",
        ),
    ):
        values = some[column].to_pylist()
        print(
            f"  {name:30} manifest {milliseconds(ours, values)}"
            f"   unsorted {milliseconds(plain(theirs), values)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
