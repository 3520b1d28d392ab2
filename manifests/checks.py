"""Check a manifest: digests, sums and invariants, one named result each.

Every check is one query that finds counter-examples, so a failed check names the first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import GovernError
from manifests.files import sha256_file
from manifests.index import content_digest
from manifests.reader import Manifest, open_manifest
from manifests.schema import ALIAS_REASONS, POLICIES, STATUSES, TABLES, table_schema

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool
    detail: str


# Name -> (what holds, query that gives one row per counter-example). `$t` is the threshold.
_INVARIANTS = {
    "documents are unique": (
        "every (source, doc_id) occurs once",
        "SELECT source, doc_id, count(*) FROM documents GROUP BY 1, 2 HAVING count(*) > 1",
    ),
    "every document has its sequence": (
        "every sequence_id of documents is in sequences",
        "SELECT source, doc_id, sequence_id FROM documents "
        "WHERE sequence_id NOT IN (SELECT sequence_id FROM sequences)",
    ),
    "sequence IDs are valid": (
        "every ID is positive and occurs once",
        "SELECT sequence_id, count(*) FROM sequences GROUP BY 1 "
        "HAVING count(*) > 1 OR sequence_id <= 0",
    ),
    "one representative each": (
        "every sequence has exactly one representative, the one that it names",
        "SELECT s.sequence_id, count(d.doc_id) FROM sequences s LEFT JOIN documents d "
        "ON d.sequence_id = s.sequence_id AND d.is_representative "
        "AND d.source = s.representative_source AND d.doc_id = s.representative_doc_id "
        "GROUP BY 1 HAVING count(d.doc_id) <> 1 "
        "UNION ALL SELECT sequence_id, count(*) FROM documents WHERE is_representative "
        "GROUP BY 1 HAVING count(*) > 1",
    ),
    "members are similar": (
        "every document has at least the threshold to its representative",
        "SELECT source, doc_id, similarity FROM documents "
        "WHERE NOT (similarity BETWEEN $t::FLOAT AND 1)",
    ),
    "links are similar": (
        "every link has at least the threshold",
        "SELECT doc_id_a, doc_id_b, jaccard FROM links WHERE NOT (jaccard BETWEEN $t AND 1)",
    ),
    "links join documents": (
        "both ends of every link are documents, and not the same one",
        "SELECT l.doc_id_a, l.doc_id_b FROM links l "
        "LEFT JOIN documents a ON a.source = l.source_a AND a.doc_id = l.doc_id_a "
        "LEFT JOIN documents b ON b.source = l.source_b AND b.doc_id = l.doc_id_b "
        "WHERE a.doc_id IS NULL OR b.doc_id IS NULL "
        "OR (l.source_a = l.source_b AND l.doc_id_a = l.doc_id_b)",
    ),
    "sequence sums": (
        "n_docs, n_sources and n_bytes are those of the documents",
        "SELECT s.sequence_id, s.n_docs, d.docs FROM sequences s LEFT JOIN (SELECT sequence_id, "
        "count(*) docs, count(DISTINCT source) sources, sum(n_bytes) bytes FROM documents "
        "GROUP BY 1) d USING (sequence_id) WHERE (s.n_docs, s.n_sources, s.n_bytes) "
        "IS DISTINCT FROM (d.docs, d.sources, d.bytes)",
    ),
    "spans fit": (
        "0 <= start <= end, and a text is not empty",
        'SELECT source, doc_id FROM documents WHERE NOT (0 <= start AND start <= "end" '
        "AND n_bytes > 0 AND n_words > 0)",
    ),
    "every document has a signature": (
        "documents and signatures name the same documents",
        "(SELECT source, doc_id FROM documents EXCEPT ALL SELECT source, doc_id FROM signatures) "
        "UNION ALL "
        "(SELECT source, doc_id FROM signatures EXCEPT ALL SELECT source, doc_id FROM documents)",
    ),
    "every text has its shingles": (
        "shingles names every document or none, and has one set for each text",
        "SELECT d.doc_id FROM documents d POSITIONAL JOIN shingles t "
        "WHERE (SELECT count(*) FROM shingles) > 0 "
        "AND (d.source, d.doc_id) IS DISTINCT FROM (t.source, t.doc_id) "
        "UNION ALL SELECT text::VARCHAR FROM shingles GROUP BY text, content "
        "HAVING count(shingles) <> 1 "
        "UNION ALL SELECT text::VARCHAR FROM shingles GROUP BY text "
        "HAVING count(DISTINCT content) > 1",
    ),
    "words are known": (
        "policy, status and alias reason are known words",
        f"SELECT sequence_id, policy, status FROM sequences WHERE policy NOT IN {POLICIES} "
        f"OR status NOT IN {STATUSES} UNION ALL "
        f"SELECT alias_id, reason, '' FROM aliases WHERE reason NOT IN {ALIAS_REASONS}",
    ),
    "tombstones and status agree": (
        "exactly the sequences with a tombstone are forgotten",
        "SELECT sequence_id FROM sequences s LEFT JOIN (SELECT DISTINCT sequence_id, true AS dead "
        "FROM tombstones) t USING (sequence_id) "
        "WHERE (s.status = 'forgotten') <> coalesce(t.dead, false)",
    ),
    "aliases resolve": (
        "every merged alias leads to a sequence, without a cycle",
        "WITH RECURSIVE step(origin, goal, depth) AS (SELECT alias_id, sequence_id, 1 FROM aliases "
        "WHERE reason = 'merged' UNION SELECT origin, a.sequence_id, depth + 1 FROM step "
        "JOIN aliases a ON a.alias_id = step.goal AND a.reason = 'merged' "
        "WHERE depth <= (SELECT count(*) FROM aliases)) "
        "SELECT origin FROM step GROUP BY origin HAVING NOT bool_or(goal IN "
        "(SELECT sequence_id FROM sequences)) OR max(depth) > (SELECT count(*) FROM aliases)",
    ),
}


def check_manifest(path: Path | str) -> list[Check]:
    """Check everything that can be checked without the corpus.

    Args:
        path: The manifest.

    Returns:
        One result per check; an edited or incomplete manifest gives a single failed one.

    Raises:
        ManifestError: There is no manifest at all, or it is of another version.
    """
    manifest = open_manifest(path)
    files = _check_files(manifest)
    if not files.passed:
        return [files]
    checks = [files, _guarded("table schemas", _schemas, manifest)]
    if checks[-1].passed:
        checks.append(_guarded("record sums", _sums, manifest))
        checks.append(_guarded("content digest", _content, manifest))
        checks.extend(_invariants(manifest))
    return checks


def _guarded(name: str, check: Callable[[Manifest], tuple[bool, str]], manifest: Manifest) -> Check:
    try:
        passed, detail = check(manifest)
    except GovernError as error:
        passed, detail = False, str(error)
    return Check(name=name, passed=passed, detail=detail)


def _check_files(manifest: Manifest) -> Check:
    count = 0
    for table in TABLES:
        for entry in manifest.index.tables[table]:
            count += 1
            found = sha256_file(manifest.path / entry.path)
            if found != entry.sha256:
                return Check(
                    name="file digests",
                    passed=False,
                    detail=f"{entry.path}: expected sha256 {entry.sha256}, found {found}",
                )
    return Check(name="file digests", passed=True, detail=f"{count} files")


def _schemas(manifest: Manifest) -> tuple[bool, str]:
    import pyarrow.parquet as pq

    for table in TABLES:
        known = manifest.parameters
        firm = table_schema(table, num_perm=known["num_perm"], bands=known["bands"])
        for entry in manifest.index.tables[table]:
            file = pq.ParquetFile(manifest.path / entry.path)
            found = file.schema_arrow
            head = found.names[: len(firm)]
            if head != firm.names or [found.field(n).type for n in head] != firm.types:
                return False, f"{entry.path}: expected columns {firm.names}, found {found.names}"
            if file.metadata.num_rows != entry.rows:
                return (
                    False,
                    f"{entry.path}: expected {entry.rows} rows, found {file.metadata.num_rows}",
                )
    return True, f"{len(TABLES)} tables"


def _sums(manifest: Manifest) -> tuple[bool, str]:
    for snapshot in manifest.snapshots:
        known = snapshot.already_there
        if snapshot.records != snapshot.documents + snapshot.rejects + known:
            return False, (
                f"snapshot {snapshot.snapshot}: {snapshot.records} records, but "
                f"{snapshot.documents} documents and {snapshot.rejects} rejects"
                + (f", and {known} that were there" if known else "")
            )
    documents = sum(s.documents for s in manifest.snapshots)
    rejects = sum(s.rejects for s in manifest.snapshots)
    if (documents, rejects) != (manifest.rows("documents"), manifest.rows("rejects")):
        return False, (
            f"snapshots say {documents} documents and {rejects} rejects, the tables hold "
            f"{manifest.rows('documents')} and {manifest.rows('rejects')}"
        )
    return True, f"{documents + rejects} records = {documents} documents + {rejects} rejects"


def _content(manifest: Manifest) -> tuple[bool, str]:
    found = content_digest(manifest.index.tables)
    expected = manifest.content_digest()
    return found == expected, found if found == expected else f"expected {expected}, found {found}"


def _invariants(manifest: Manifest) -> list[Check]:
    """Every invariant, over one connection: opening one takes longer than most of the queries."""
    try:
        connection = manifest.connect()
    except GovernError as error:
        return [Check(name="tables can be queried", passed=False, detail=str(error))]
    threshold = float(manifest.parameters["threshold"])
    with connection:
        return [
            _invariant(connection, name, holds, sql, {"t": threshold} if "$t" in sql else None)
            for name, (holds, sql) in _INVARIANTS.items()
        ]


def _invariant(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    holds: str,
    sql: str,
    values: dict[str, float] | None,
) -> Check:
    import duckdb

    try:
        found = connection.execute(f"SELECT * FROM ({sql}) LIMIT 1", values).fetchone()
    except duckdb.Error as error:
        return Check(name=name, passed=False, detail=str(error).split("\n")[0])
    detail = holds if found is None else f"{holds}: not so for {found}"
    return Check(name=name, passed=found is None, detail=detail)
