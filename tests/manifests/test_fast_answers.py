"""Every short cut gives the answer of plain SQL, also to several threads, and sees lost files."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_manifest import Tables, write_manifest

from manifests import Manifest, open_manifest, queries
from manifests.errors import InputError, ManifestError
from manifests.lookup import rows_of
from manifests.names import NamesBy
from manifests.writer import write_table

ORDER = "ORDER BY sequence_id, source, doc_id"
OWNERS = st.sampled_from(["acme", "bolt", "", "é😀", None])


def plain(manifest: Manifest, sql: str) -> list[dict[str, object]]:
    """The answer of DuckDB by itself, without our views and settings."""
    with duckdb.connect() as connection:
        for table in ("documents", "sequences", "aliases"):
            files = manifest.files(table)
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files})")
        rows: list[dict[str, object]] = connection.sql(sql).to_arrow_table().to_pylist()
        return rows


@settings(max_examples=8, deadline=None)
@given(owners=st.lists(OWNERS, min_size=7, max_size=7), order=st.permutations(range(7)))
def test_law_fast_answers_are_those_of_sql(
    tmp_path_factory: pytest.TempPathFactory, owners: list[str | None], order: list[int]
) -> None:
    def change(tables: Tables) -> None:
        rows = tables["documents"].take(order)
        position = rows.schema.get_field_index("owner")
        tables["documents"] = rows.set_column(
            position, rows.schema.field(position), pa.array(owners, pa.string())
        )

    manifest = write_manifest(tmp_path_factory.mktemp("m") / "m", change)
    names = NamesBy(manifest, "owner")
    for owner in ("acme", "bolt", "", "é😀", "nobody"):
        of_owner = plain(manifest, f"SELECT * FROM documents WHERE owner = '{owner}' {ORDER}")
        assert queries.documents_where(manifest, f"owner = '{owner}'").to_pylist() == of_owner
        assert names.find(owner).to_pylist() == [
            {name: row[name] for name in ("sequence_id", "source", "doc_id")} for row in of_owner
        ]
    for wanted in ([11], [33, 4], [22, 999, 11], []):
        current = [{5: 11, 4: 11}.get(i, i) for i in wanted] or [-1]
        list_ = f"({', '.join(map(str, current))})"
        sql = f"SELECT * FROM sequences WHERE sequence_id IN {list_} ORDER BY 1"
        assert queries.sequences_of(manifest, wanted).to_pylist() == plain(manifest, sql)
        moved = " OR doc_id = 'b2'" if 33 in wanted else ""
        sql = f"SELECT * FROM documents WHERE sequence_id IN {list_}{moved} {ORDER}"
        assert queries.documents_of(manifest, wanted).to_pylist() == plain(manifest, sql)


def test_a_condition_may_need_sequences_or_not(manifest: Manifest) -> None:
    for condition in (
        "owner = 'acme'",
        "document_sequences.owner = 'acme'",
        "n_docs > 1",
        "owner = 'acme' OR policy = 'shared'",
        "EXISTS (SELECT 1 FROM links WHERE doc_id_a = doc_id AND n_docs > 2)",
        "sequence_id IN (SELECT sequence_id FROM sequences WHERE n_docs = 1)",
    ):
        sql = f"SELECT doc_id FROM document_sequences WHERE {condition} {ORDER}"
        expected = queries.run_sql(manifest, sql)["doc_id"].to_pylist()
        assert expected
        found = queries.documents_where(manifest, condition)
        assert found["doc_id"].to_pylist() == expected
        assert "n_docs" not in found.column_names


def test_only_files_that_can_hold_a_key_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path / "m")
    rows = manifest.table("documents").sort_by("sequence_id")
    entries = [
        e for i in range(7) for e in write_table(tmp_path / "m", "documents", rows[i : i + 1])
    ]
    manifest = Manifest(
        manifest.path,
        type(manifest.index)(**{
            **vars(manifest.index),
            "tables": {**manifest.index.tables, "documents": tuple(entries)},
        }),
    )  # fmt: skip
    assert rows_of(manifest, "documents", [22])["doc_id"].to_pylist() == ["b1", "b2"]
    opened: list[str] = []
    original = pa.parquet.ParquetFile

    def spy(name: str) -> object:
        opened.append(name)
        return original(name)

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", spy)
    assert rows_of(manifest, "documents", [22])["doc_id"].to_pylist() == ["b1", "b2"]
    files = manifest.files("documents")
    assert opened == [files[0], files[3], files[4]]


def test_threads_query_one_manifest_at_once(manifest: Manifest) -> None:
    def ask(number: int) -> int:
        owner = ("acme", "bolt")[number % 2]
        sql = f"SELECT count(*) AS n FROM documents, range(10000) WHERE owner = '{owner}'"
        return int(queries.run_sql(manifest, sql)["n"][0].as_py())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(20))) == [30000, 20000] * 10


def test_a_query_that_is_stopped_stops_no_other(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LIMIT_SECONDS", 0.3)
    endless = "SELECT count(*) FROM range(1000000000000) a WHERE a.range * a.range % 7 = 3"
    with manifest.connect(bounded=True) as other, ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(queries.run_sql, manifest, endless)
        slow = other.execute(
            "SELECT count(*), sleep_ms(900) FROM (SELECT count(*) FROM documents)"
        ).fetchone()
        assert slow is not None
        assert slow[0] == 1
        with pytest.raises(InputError, match="no answer within"):
            stopped.result()
    assert queries.run_sql(manifest, "SELECT 1 AS one")["one"].to_pylist() == [1]


def test_every_connection_is_locked(manifest: Manifest) -> None:
    documents_here = pa.table({"x": [1]})
    for bounded in (False, True):
        for _ in range(2):
            with manifest.connect(bounded=bounded) as connection:
                zone = connection.execute("SELECT current_setting('TimeZone')").fetchone()
                assert zone == ("UTC",)
                for sql in (
                    "SELECT * FROM documents_here",
                    "SET GLOBAL enable_external_access = true",
                    "SET TimeZone = 'Asia/Tokyo'",
                    "ATTACH 'other.db'",
                    "SELECT * FROM read_text('/etc/hostname')",
                    "SELECT * FROM enable_logging('QueryLog')",
                ):
                    with pytest.raises(duckdb.Error):
                        connection.execute(sql)
    assert documents_here.num_rows == 1


@pytest.mark.parametrize("how", ["gone", "longer"])
def test_files_that_changed_are_an_error(manifest: Manifest, how: str) -> None:
    """Also after answers, when views and key ranges are known."""
    names = NamesBy(manifest, "owner")

    def ask() -> list[int]:
        return [
            queries.documents_of(manifest, [11]).num_rows,
            queries.find_document(manifest, "a1").num_rows,
            queries.run_sql(manifest, "SELECT * FROM documents").num_rows,
            queries.documents_where(manifest, "owner = 'acme'").num_rows,
            names.find("acme").num_rows,
        ]

    assert ask() == [3, 1, 7, 3, 3]
    file = Path(manifest.files("documents")[0])
    if how == "gone":
        file.unlink()
    else:
        with file.open("ab") as stream:
            stream.write(b"x")
    questions: list[Callable[[], object]] = [
        lambda: queries.documents_of(manifest, [11]),
        lambda: queries.find_document(manifest, "a1"),
        lambda: queries.run_sql(manifest, "SELECT * FROM documents"),
        lambda: queries.documents_where(manifest, "owner = 'acme'"),
        lambda: names.find("acme"),
    ]
    for question in questions:
        with pytest.raises(ManifestError, match="expected files that can be read"):
            question()


def test_columns_that_have_no_names_by(manifest: Manifest) -> None:
    for column, found in (("nope", "no such column"), ("sha256", "fixed_size_binary")):
        with pytest.raises(InputError, match=f"column '{column}': .*found {found}"):
            NamesBy(manifest, column)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    write_manifest(tmp_path / "m")
    return open_manifest(os.fspath(tmp_path / "m"))
