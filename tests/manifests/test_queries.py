"""Questions to a manifest, and SQL from strangers."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from tiny_manifest import write_manifest

from manifests import Manifest, open_manifest, queries, schema
from manifests.checks import check_manifest
from manifests.errors import InputError, LockedError, ManifestError
from manifests.files import writer_lock
from manifests.tombstones import add_tombstones
from manifests.writer import set_policy


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_manifest(tmp_path / "m")


def names(rows: pa.Table) -> list[str]:
    found: list[str] = rows["doc_id"].to_pylist()
    return found


def test_documents_where_sees_documents_and_their_sequences(manifest: Manifest) -> None:
    found = queries.documents_where(manifest, "owner = 'acme' AND n_docs > 1")
    assert names(found) == ["a1", "a2"]
    assert found.column_names == [*schema.DOCUMENTS.names, "owner"]
    assert names(queries.documents_where(manifest, "policy = 'shared' -- alone")) == ["c1", "d1"]
    assert queries.sequence_ids_where(manifest, "owner = 'bolt'").to_pylist() == [11, 22]


def test_documents_of_is_closed_over_aliases(manifest: Manifest) -> None:
    assert names(queries.documents_of(manifest, [11])) == ["a1", "a2", "a3"]
    # 4 became 5, and 5 became 11.
    assert names(queries.documents_of(manifest, [4])) == ["a1", "a2", "a3"]
    # b2 was of sequence 33 before it was reassigned.
    assert names(queries.documents_of(manifest, [33])) == ["b2", "c1"]
    assert names(queries.documents_of(manifest, [999])) == []
    assert queries.resolve(manifest, [4, 11, 999]) == {4: 11, 11: 11}


def test_lookups(manifest: Manifest) -> None:
    assert names(queries.find_document(manifest, "a3")) == ["a3"]
    assert names(queries.find_document(manifest, "a3", "elsewhere")) == []
    largest = queries.largest_sequences(manifest, 2)
    assert largest["sequence_id"].to_pylist() == [11, 22]
    assert queries.sequences_of(manifest, [4, 22])["sequence_id"].to_pylist() == [11, 22]
    assert queries.sequences_of_documents(manifest, ["s", "s"], ["b1", "a1"]) == [22, 11]
    with pytest.raises(ManifestError, match="found 1 of 2"):
        queries.sequences_of_documents(manifest, ["s", "s"], ["b1", "zz"])
    counted = queries.counts(manifest)
    assert (counted["documents"], counted["families"], counted["documents_in_families"]) == (
        7,
        2,
        5,
    )
    assert queries.reject_reasons(manifest) == {"empty_text": 1}


@pytest.mark.parametrize(
    "sql",
    [
        "COPY documents TO 'stolen.csv'",
        "COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
        "CREATE TABLE x AS SELECT 1",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('secret.txt')",
        "SELECT * FROM 'secret.txt'",
        "SELECT * FROM read_text('secret.txt')",
        "SELECT * FROM glob('*')",
        "SELECT * FROM manifest",
        "",
        "UPDATE documents SET doc_id = 'x'",
        "DROP VIEW documents",
        "WITH x AS (DELETE FROM documents) SELECT 1",
        "EXPORT DATABASE 'stolen'",
        "IMPORT DATABASE 'stolen'",
        "LOAD json",
        "CALL enable_logging()",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "SELECT * FROM query('COPY documents TO ''stolen.csv''')",
        "SELECT * FROM query('SELECT * FROM read_text(''secret.txt'')')",
        "SELECT * FROM read_blob('secret.txt')",
        "SELECT * FROM read_json('secret.txt')",
        "SELECT * FROM read_parquet('secret.txt')",
        "SELECT * FROM read_duckdb('secret.txt')",
        "SELECT * FROM sniff_csv('secret.txt')",
        "SELECT * FROM parquet_metadata('secret.txt')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = 'log')",
        "SELECT * FROM enable_profiling(save_location = 'profile.json')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT getenv('HOME')",
        "SELECT * FROM arrow_scan(1, 2, 3)",
    ],
)
def test_sql_reads_the_manifest_and_nothing_else(
    manifest: Manifest, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("a,b\n1,2\n")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        queries.run_sql(manifest, sql.format(file=manifest.files("links")[0]))
    assert "\n" not in str(caught.value)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    assert all(check.passed for check in check_manifest(manifest.path))


def test_a_connection_is_locked(manifest: Manifest) -> None:
    with manifest.connect() as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (7,)
        for sql in (
            "SET enable_external_access = true",
            "SELECT * FROM read_text('/etc/hostname')",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sleep_ms(1000000)",
        "SELECT count(*) FROM range(1000000000000) a, range(1000000) b WHERE a.range * b.range = 7",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    ],
)
def test_sql_cannot_run_for_ever(
    manifest: Manifest, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LIMIT_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"found no answer within 0\.2 seconds"):
        queries.run_sql(manifest, sql)
    with pytest.raises(InputError, match=r"found no answer within 0\.2 seconds"):
        queries.documents_where(manifest, f"({sql}) IS NOT NULL")


def test_sql_cannot_fill_memory_or_disk(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sort that does not fit is refused; without the limits it would spill beside the caller."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manifests.database.MEMORY_LIMIT", "40MB")
    with pytest.raises(InputError, match="Out of Memory"):
        queries.run_sql(manifest, "SELECT i, random() r FROM range(9000000) t(i) ORDER BY r")
    assert not (tmp_path / ".tmp").exists()


@pytest.mark.parametrize("condition", ["nope = 1", "owner = ", "1=1; DROP VIEW documents", ""])
def test_conditions_that_cannot_be(manifest: Manifest, condition: str) -> None:
    with pytest.raises(InputError) as caught:
        queries.documents_where(manifest, condition)
    assert str(caught.value).startswith(f"SQL {condition!r}: ")


def tombstones(ids: list[int], day: int = 1) -> pa.Table:
    return pa.table(
        {
            "sequence_id": ids,
            "signature": [b"\0" * 64] * len(ids),
            "forgotten_at": [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)] * len(ids),
            "request": [f"request of day {day}"] * len(ids),
            "statement_sha256": [b"\1" * 32] * len(ids),
        },
        schema=schema.TOMBSTONES,
    )


def test_tombstones_mark_sequences_once(manifest: Manifest) -> None:
    content = manifest.content_digest()
    assert add_tombstones(manifest.path, tombstones([22, 11])) == 2
    once = open_manifest(manifest.path)
    assert add_tombstones(manifest.path, tombstones([11, 33], day=2)) == 1
    assert add_tombstones(manifest.path, tombstones([33, 11], day=3)) == 0
    again = open_manifest(manifest.path)
    rows = again.table("tombstones")
    assert rows["sequence_id"].to_pylist() == [11, 22, 33]
    assert rows["request"].to_pylist() == ["request of day 1"] * 2 + ["request of day 2"]
    status = again.table("sequences").select(["sequence_id", "status"]).to_pylist()
    assert [r["sequence_id"] for r in status if r["status"] == "forgotten"] == [11, 22, 33]
    assert once.content_digest() == again.content_digest() == content
    assert len({manifest.digest, once.digest, again.digest}) == 3
    assert all(check.passed for check in check_manifest(manifest.path))


def test_a_tombstone_of_an_unknown_sequence_changes_nothing(manifest: Manifest) -> None:
    with pytest.raises(ManifestError, match="tombstone of sequence 77"):
        add_tombstones(manifest.path, tombstones([11, 77]))
    assert open_manifest(manifest.path).digest == manifest.digest


def test_set_policy(manifest: Manifest) -> None:
    assert set_policy(manifest.path, "owner = 'acme'", "strict") == 2
    assert set_policy(manifest.path, "owner = 'acme'", "strict") == 0
    rows = open_manifest(manifest.path).table("sequences")
    assert rows["policy"].to_pylist() == ["strict", "private", "strict", "shared"]
    with pytest.raises(InputError, match="policy 'loud'"):
        set_policy(manifest.path, "1 = 1", "loud")
    with writer_lock(manifest.path), pytest.raises(LockedError):
        set_policy(manifest.path, "1 = 1", "pooled")
    # Files of the state before are swept, and nothing else.
    files = set(manifest.path.rglob("*.parquet"))
    opened = open_manifest(manifest.path)
    assert files == {Path(f) for table in schema.TABLES for f in opened.files(table)}
