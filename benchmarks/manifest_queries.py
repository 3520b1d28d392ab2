"""How long a manifest takes to answer, beside plain DuckDB over the same rows unsorted.

    python benchmarks/manifest_queries.py --documents 10000000 --work DIR

Its tables are drawn and written by the manifest's own writer. "All copies of a document", by its
ID, its sequence ID and its text, "all documents of an owner with their IDs", and near-duplicates of
a text, from a warm process: median and 95th percentile of wall time, median CPU time. The peer is
DuckDB over one Parquet file with the same columns in another order, written by DuckDB with its
defaults; for near-duplicates every signature, decoded by pyarrow and compared by NumPy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from planted import owners_of

from govern.ids.lsh import band_halves
from govern.ids.pipeline import BuildConfig, parameters
from govern.ids.search import find_text, sketch_for
from manifests import Manifest, open_manifest, queries, schema
from manifests.files import writer_lock
from manifests.index import InputFile, Snapshot
from manifests.names import NamesBy
from manifests.writer import WORK_NAME, TableWriter, commit, make_index

RUNS, PEER_RUNS = 20, 3
PART = 1 << 17
SHARE = 0.69  # of documents that have a sequence of their own
CONFIG = BuildConfig()
TEXT = "".join(f"word{i} " for i in range(300))

Answer = Callable[[Any], int]


def fixed(rows: np.ndarray) -> pa.Array:
    """A column of fixed-size binary."""
    width = rows.dtype.itemsize * rows.shape[1]
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows)])


def named(prefix: str, numbers: np.ndarray) -> pa.Array:
    """The prefix with each number behind it."""
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def document_rows(ids: np.ndarray, first: np.ndarray, numbers: np.ndarray, owners: int) -> pa.Table:
    """Rows of `documents` with these sequence IDs; the first of each represents it."""
    count, random = len(ids), np.random.default_rng(int(numbers[0]))
    n_bytes = random.integers(100, 9000, count)
    columns: dict[str, Any] = {
        "source": pa.array(["web"]).take(pa.array(np.zeros(count, int))),
        "doc_id": named("d", numbers),
        "uri": named("corpus-", numbers % 100),
        "row": numbers // 100,
        "start": np.zeros(count, np.int64),
        "end": n_bytes,
        "n_bytes": n_bytes,
        "n_words": random.integers(20, 1500, count),
        "sha256": fixed(random.integers(0, 2**32, (count, 8), np.uint32)),
        "sequence_id": ids,
        "is_representative": first,
        "similarity": np.where(first, 1, random.random(count)).astype(np.float32),
        "snapshot": np.ones(count, np.int32),
        "owner": named("owner-", (random.random(count) ** 2 * owners).astype(int)),
    }
    kept = schema.DOCUMENTS.append(pa.field("owner", pa.string()))
    return pa.table({name: columns[name] for name in kept.names}, schema=kept)


def sequence_rows(rows: pa.Table) -> pa.Table:
    """Rows of `sequences` for these documents; only their number and IDs are as they should be."""
    rows = rows.filter(rows["is_representative"])
    count = len(rows)
    columns = {
        "sequence_id": rows["sequence_id"],
        "representative_source": rows["source"],
        "representative_doc_id": rows["doc_id"],
        **{name: np.ones(count, np.int64) for name in ("n_docs", "n_sources", "n_bytes")},
        "policy": ["private"] * count,
        "status": ["active"] * count,
        "first_snapshot": np.ones(count, np.int32),
        "reserved": np.zeros(count, np.bool_),
    }
    return pa.table(columns, schema=schema.SEQUENCES)


def parts(documents: int) -> Iterator[dict[str, pa.Table]]:
    """Tables `documents`, `signatures` and `sequences`, piece by piece, sorted by sequence ID."""
    random, own = np.random.default_rng(7), int(documents * SHARE)
    ids = np.sort(random.integers(1, 2**63 - 1, own))
    ids = np.sort(np.concatenate([ids, ids[random.integers(0, own, documents - own)]]))
    first = np.append(True, ids[1:] != ids[:-1])
    numbers = random.permutation(documents)
    for begin in range(0, documents, PART):
        part = slice(begin, begin + PART)
        rows = document_rows(ids[part], first[part], numbers[part], owners_of(documents))
        signatures = random.integers(0, 2**32, (len(rows), CONFIG.num_perm), np.uint32)
        yield {
            "documents": rows,
            "signatures": rows.select(["source", "doc_id"])
            .append_column("signature", fixed(signatures))
            .append_column("bands", fixed(band_halves(signatures, CONFIG.banding))),
            "sequences": sequence_rows(rows),
        }


def make_manifest(path: Path, documents: int) -> Manifest:
    """A manifest of drawn values; no links, no shingle sets."""
    path.mkdir(parents=True, exist_ok=True)
    known = parameters(CONFIG)
    with writer_lock(path):
        (path / WORK_NAME).mkdir(exist_ok=True)
        writers: dict[str, TableWriter] = {}
        for pieces in parts(documents):
            for table, rows in pieces.items():
                writers.setdefault(table, TableWriter(path, table, rows.schema)).write(rows)
        for table in set(schema.TABLES) - set(writers):
            empty = schema.table_schema(table, num_perm=known["num_perm"], bands=known["bands"])
            writers[table] = TableWriter(path, table, empty)
        snapshot = Snapshot(
            snapshot=1, inputs=(InputFile(uri="drawn", bytes=0),), records=documents,
            documents=documents, rejects=0, content_digest="",
        )  # fmt: skip
        tables = {table: writer.close() for table, writer in writers.items()}
        commit(path, make_index(parameters=known, earlier=(), snapshot=snapshot, tables=tables))
    return open_manifest(path)


def measured(ask: Answer, values: list[Any]) -> tuple[float, str]:
    """Median CPU milliseconds of an answer, and that with wall time; the first value warms up."""
    ask(values[0])
    taken, worked = [], []
    for value in values[1:]:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        assert ask(value), f"nothing found for {value}"
        taken.append((time.perf_counter() - begin) * 1e3)
        worked.append((time.process_time() - begin_cpu) * 1e3)
    cpu = float(np.median(worked))
    wall = f"{np.percentile(taken, 50):7.1f} / {np.percentile(taken, 95):7.1f} ms"
    return cpu, f"{wall} (CPU {cpu:7.1f})"


def unsorted_peer(manifest: Manifest, work: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB over the documents in another order."""
    file = work / f"unsorted-{manifest.rows('documents')}.parquet"
    peer = duckdb.connect()
    if not file.exists():
        peer.sql(
            f"COPY (SELECT * FROM read_parquet({manifest.files('documents')}) "
            f"ORDER BY sha256) TO '{file}' (FORMAT parquet)"
        )
    peer.sql(f"CREATE VIEW documents AS SELECT * FROM read_parquet('{file}')")
    return peer


def questions(manifest: Manifest) -> Iterator[tuple[str, str, Answer, str]]:
    """Name, the column that is asked by, our answer, the peer's SQL."""

    def copies(find: Callable[..., pa.Table]) -> Answer:
        return lambda value: (
            queries.documents_of(
                manifest, find(manifest, value)["sequence_id"].to_pylist()
            ).num_rows
        )

    by = "SELECT * FROM documents WHERE sequence_id IN (SELECT sequence_id FROM documents WHERE {})"
    yield "copies, by document ID", "doc_id", copies(queries.find_document), by.format("doc_id = ?")
    yield "copies, by SHA-256", "sha256", copies(queries.find_sha256), by.format("sha256 = ?")
    yield (
        "copies, by sequence ID", "sequence_id",
        lambda value: queries.documents_of(manifest, [value]).num_rows,
        "SELECT * FROM documents WHERE sequence_id = ?",
    )  # fmt: skip
    owned = "SELECT source, doc_id, sequence_id FROM documents WHERE owner = "
    yield (
        "owner, names and IDs in SQL", "owner",
        lambda owner: queries.run_sql(manifest, f"{owned}'{owner}'").num_rows, f"{owned}?",
    )  # fmt: skip
    yield (
        "owner, all columns", "owner",
        lambda owner: queries.documents_where(manifest, f"owner = '{owner}'").num_rows,
        "SELECT * FROM documents WHERE owner = ?",
    )  # fmt: skip
    begin = time.perf_counter()
    names = NamesBy(manifest, "owner")
    print(f"  names by owner: read and sorted in {time.perf_counter() - begin:.1f} s", flush=True)
    yield "owner, from memory", "owner", lambda owner: names.find(owner).num_rows, f"{owned}?"


def compare_search(manifest: Manifest) -> None:
    """Near-duplicates of a text: by its bands, and by every signature."""
    wanted = sketch_for(manifest, TEXT).signatures[0]

    def every(_: int) -> int:
        for name in manifest.files("signatures"):
            file = pq.ParquetFile(name)
            for batch in file.iter_batches(columns=["signature"]):
                values = np.frombuffer(batch["signature"].buffers()[1], "<u4")
                (values.reshape(-1, len(wanted)) == wanted).mean(axis=1)
        return 1

    # Drawn signatures resemble no text, so that nothing is found.
    ours, said = measured(lambda _: not find_text(manifest, TEXT.encode()), [0] * 6)
    theirs, full = measured(every, [0] * 2)
    print(f"  near-duplicates of a text      {said}   all signatures {full}  {theirs / ours:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    path = options.work / f"drawn-{options.documents}"
    made = (path / "manifest.json").exists()
    manifest = open_manifest(path) if made else make_manifest(path, options.documents)
    peer = unsorted_peer(manifest, options.work)
    some = peer.sql(
        "SELECT doc_id, sequence_id, owner, sha256 FROM documents "
        f"USING SAMPLE reservoir({RUNS + 1} ROWS) REPEATABLE (7)"
    ).to_arrow_table()
    print(f"{manifest.rows('documents')} documents; median / 95th percentile of {RUNS}")
    for name, column, ours, sql in questions(manifest):
        values = some[column].to_pylist()
        cpu, said = measured(ours, values)
        theirs, plain = measured(
            lambda value, sql=sql: peer.sql(sql, params=[value]).to_arrow_table().num_rows,
            values[: PEER_RUNS + 1],
        )
        print(f"  {name:30} {said}   unsorted {plain}  {theirs / cpu:.1f} x", flush=True)
    compare_search(manifest)


if __name__ == "__main__":
    main()
