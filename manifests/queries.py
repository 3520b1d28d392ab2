"""One function per question to a manifest; each answers with an Arrow table.

SQL that people wrote passes through one function alone: one SELECT, over the manifest's own views,
that ends within a time and a memory limit and writes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.database import SEQUENCE_COLUMNS
from manifests.errors import InputError, ManifestError
from manifests.lookup import rows_of
from manifests.reader import Manifest

if TYPE_CHECKING:
    import duckdb

# A query over ten million documents takes seconds; what takes longer was not meant.
LIMIT_SECONDS = 120.0
_BY_ID = "sequence_id, source, doc_id"
_ORDER = [(name, "ascending") for name in ("sequence_id", "source", "doc_id")]


def run_sql(manifest: Manifest, sql: str) -> pa.Table:
    """Answer one SELECT over the views documents, sequences, links, aliases, rejects, tombstones.

    Raises:
        InputError: It is not one SELECT statement, or DuckDB refuses it.
    """
    return _run_select(manifest, [sql], shown=sql)


def _run_select(manifest: Manifest, candidates: Sequence[str], *, shown: str) -> pa.Table:
    """Run SQL that holds what a person wrote, which is `shown` if it is refused.

    Args:
        manifest: The manifest.
        candidates: One statement, or several that mean the same: the first is run whose names
            are all known.
        shown: What the person wrote.
    """
    import duckdb

    connection = manifest.connect(bounded=True)
    clock = threading.Timer(LIMIT_SECONDS, connection.interrupt)
    clock.daemon = True
    clock.start()
    try:
        for sql in candidates[:-1]:
            try:
                return _select(connection, sql, shown)
            except duckdb.BinderException:
                continue
        return _select(connection, candidates[-1], shown)
    except duckdb.InterruptException:
        raise _refused(shown, f"no answer within {LIMIT_SECONDS:g} seconds") from None
    except duckdb.Error as error:
        raise _refused(shown, str(error).split("\n")[0]) from None
    finally:
        clock.cancel()
        connection.close()


def _select(connection: duckdb.DuckDBPyConnection, sql: str, shown: str) -> pa.Table:
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements)
        raise _refused(shown, kinds or "nothing")
    return _fetch(connection, sql, [])


def documents_where(manifest: Manifest, condition: str) -> pa.Table:
    """Documents for which a SQL condition holds, with all their columns.

    Args:
        manifest: The manifest.
        condition: Over `document_sequences`: columns of `documents`, and `n_docs, n_sources,
            policy, status, first_snapshot, reserved` of the document's sequence.

    Raises:
        InputError: The condition is not one that DuckDB accepts.
    """
    return _where(
        manifest,
        condition,
        lambda without: f"SELECT *{without}",
        f"ORDER BY {_BY_ID}",
    )


def sequence_ids_where(manifest: Manifest, condition: str) -> pa.Array:
    """IDs, ascending, of the sequences that have a document for which the condition holds."""
    found = _where(manifest, condition, lambda _: "SELECT DISTINCT sequence_id", "ORDER BY 1")
    return found["sequence_id"].combine_chunks().cast(pa.int64())


def _where(
    manifest: Manifest, condition: str, select: Callable[[str], str], order: str
) -> pa.Table:
    """A query over documents for which a condition holds.

    Joining ten million documents with their sequences takes a second, and few conditions need it:
    first the condition is tried over `documents` alone, which does not bind if it does.

    Args:
        manifest: The manifest.
        condition: What a person wrote.
        select: The beginning of the statement, given what leaves out the sequences' columns.
        order: Its end.
    """
    _check_condition(condition)
    sources = (
        ("", "documents AS document_sequences"),
        (f" EXCLUDE ({', '.join(SEQUENCE_COLUMNS)})", "document_sequences"),
    )
    candidates = [
        f"{select(without)} FROM {source} WHERE (\n{condition}\n) {order}"
        for without, source in sources
    ]
    return _run_select(manifest, candidates, shown=condition)


def resolve(manifest: Manifest, sequence_ids: Iterable[int]) -> dict[int, int]:
    """Each ID as it is today: an alias gives the sequence it points to, followed to the end.

    Only `merged` aliases move a whole ID; `reassigned` rows concern single documents. Unknown IDs
    are left out of the answer.
    """
    wanted = list(dict.fromkeys(int(i) for i in sequence_ids))
    moved = _merged(manifest)
    goals = {_follow(moved, i) for i in wanted}
    known = set(rows_of(manifest, "sequences", goals, ["sequence_id"])["sequence_id"].to_pylist())
    return {i: _follow(moved, i) for i in wanted if _follow(moved, i) in known}


def documents_of(manifest: Manifest, sequence_ids: Iterable[int]) -> pa.Table:
    """All documents of these sequences, closed over aliases: every copy of a text.

    An ID that was merged away gives the documents of the sequence it became; a document that was
    reassigned from one of the IDs is found too.
    """
    wanted = [int(i) for i in sequence_ids]
    moved = _merged(manifest)
    current = {_follow(moved, i) for i in wanted}
    found = rows_of(manifest, "documents", current)
    if manifest.rows("aliases"):
        left = _simple(
            manifest,
            "SELECT * FROM documents WHERE (source, doc_id) IN (SELECT (source, doc_id) "
            "FROM aliases WHERE reason = 'reassigned' AND alias_id IN (SELECT unnest(?))) "
            "AND sequence_id NOT IN (SELECT unnest(?))",
            [wanted, sorted(current)],
        )
        found = pa.concat_tables([found, left.cast(found.schema)])
    return found.sort_by(_ORDER)


def find_document(manifest: Manifest, doc_id: str, source: str | None = None) -> pa.Table:
    """The documents with this ID: one row per source that has it, or the one of `source`."""
    sql = "SELECT * FROM documents WHERE doc_id = ?"
    parameters = [doc_id]
    if source is not None:
        sql += " AND source = ?"
        parameters.append(source)
    return _simple(manifest, f"{sql} ORDER BY {_BY_ID}", parameters)


def find_sha256(manifest: Manifest, sha256: bytes) -> pa.Table:
    """The documents whose raw text has this SHA-256."""
    return _simple(
        manifest, f"SELECT * FROM documents WHERE sha256 = ? ORDER BY {_BY_ID}", [sha256]
    )


def sequences_of(manifest: Manifest, sequence_ids: Iterable[int]) -> pa.Table:
    """The rows of `sequences` with these IDs (aliases resolved)."""
    wanted = resolve(manifest, sequence_ids).values()
    return rows_of(manifest, "sequences", wanted).sort_by("sequence_id")


def largest_sequences(manifest: Manifest, limit: int = 10) -> pa.Table:
    """The sequences with the most documents, largest first; ties by ID."""
    return _simple(
        manifest, "SELECT * FROM sequences ORDER BY n_docs DESC, sequence_id LIMIT ?", [limit]
    )


def counts(manifest: Manifest) -> dict[str, int]:
    """Rows of every table, and documents that share their ID with another."""
    shared = _simple(
        manifest,
        "SELECT count(*) AS clusters, coalesce(sum(n_docs), 0)::BIGINT AS documents "
        "FROM sequences WHERE n_docs > 1",
        [],
    )
    return {
        **{table: manifest.rows(table) for table in manifest.index.tables},
        "families": shared["clusters"][0].as_py(),
        "documents_in_families": shared["documents"][0].as_py(),
    }


def sequence_counts(manifest: Manifest, column: str) -> pa.Table:
    """How many sequences and documents have each value of `policy`, `status` or `reserved`."""
    if column not in ("policy", "status", "reserved"):
        raise ValueError(column)
    return _simple(
        manifest,
        f"SELECT {column}, count(*) AS sequences, sum(n_docs)::BIGINT AS documents "
        "FROM sequences GROUP BY 1 ORDER BY 1",
        [],
    )


def reject_reasons(manifest: Manifest) -> dict[str, int]:
    """How many records were rejected for each reason."""
    rows = _simple(manifest, "SELECT reason, count(*) AS n FROM rejects GROUP BY 1 ORDER BY 1", [])
    return dict(zip(rows["reason"].to_pylist(), rows["n"].to_pylist(), strict=True))


def sequences_of_documents(
    manifest: Manifest, sources: Sequence[str], doc_ids: Sequence[str]
) -> list[int]:
    """The sequence ID of each of these documents, in order.

    Raises:
        ManifestError: One of them is not in the manifest.
    """
    rows = _simple(
        manifest,
        "SELECT w.i, d.sequence_id FROM (SELECT unnest(?) AS source, unnest(?) AS doc_id, "
        "unnest(range(?)) AS i) w JOIN documents d USING (source, doc_id) ORDER BY w.i",
        [list(sources), list(doc_ids), len(doc_ids)],
    )
    if rows["i"].to_pylist() != list(range(len(doc_ids))):
        raise ManifestError(
            f"manifest {manifest.path}",
            expected="every document that was asked for",
            found=f"{rows.num_rows} of {len(doc_ids)}",
            remedy="run `govern manifest check` on it",
        )
    found: list[int] = rows["sequence_id"].to_pylist()
    return found


def _simple(manifest: Manifest, sql: str, parameters: Sequence[Any]) -> pa.Table:
    """A query of our own, where a failure is the manifest's fault."""
    import duckdb

    with manifest.connect() as connection:
        try:
            return _fetch(connection, sql, parameters)
        except duckdb.Error as error:
            raise ManifestError(
                f"manifest {manifest.path}",
                expected="tables that answer a query",
                found=str(error).split("\n")[0],
                remedy="run `govern manifest check` on it",
            ) from None


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any]) -> pa.Table:
    relation = connection.sql(sql, params=list(parameters))
    table: pa.Table = relation.to_arrow_table()
    return table


def _merged(manifest: Manifest) -> dict[int, int]:
    if not manifest.rows("aliases"):
        return {}
    rows = manifest.table("aliases").sort_by([("snapshot", "ascending")])
    return {
        row["alias_id"]: row["sequence_id"] for row in rows.to_pylist() if row["reason"] == "merged"
    }


def _follow(moved: dict[int, int], sequence_id: int) -> int:
    seen = {sequence_id}
    while sequence_id in moved:
        sequence_id = moved[sequence_id]
        if sequence_id in seen:
            raise ManifestError(
                f"alias {sequence_id}",
                expected="aliases that end at a sequence",
                found="a cycle",
                remedy="run `govern manifest check`",
            )
        seen.add(sequence_id)
    return sequence_id


def _check_condition(condition: str) -> None:
    """Refuse what would close our parenthesis and go on: the condition must stand by itself."""
    import duckdb

    try:
        duckdb.SQLExpression(f"(\n{condition}\n)")
    except duckdb.Error as error:
        raise _refused(condition, str(error).split("\n")[0]) from None


def _refused(sql: str, found: str) -> InputError:
    shown = sql if len(sql) <= 80 else sql[:77] + "..."
    return InputError(
        f"SQL {shown!r}",
        expected="one SELECT over documents, sequences, links, aliases, rejects, tombstones, "
        "or a condition over their columns",
        found=found,
        remedy='correct it; `govern manifest query MANIFEST "DESCRIBE documents"` lists columns',
    )
