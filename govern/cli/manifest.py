"""`govern manifest`: ask a manifest, check it, change policies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit
from manifests.errors import InputError, IntegrityError, SelectionError
from manifests.sequence_id import format_id, parse_id

if TYPE_CHECKING:
    import pyarrow as pa

_PATH = LocalPath()
_SHOWN_ROWS = 100


@click.group(epilog="Example: govern manifest info manifest")
def manifest() -> None:
    """Query, check and change a manifest."""


@manifest.command(epilog="Example: govern manifest info manifest")
@click.argument("path", metavar="MANIFEST", type=_PATH)
@click.option("--largest", default=5, show_default=True, help="How many of the largest sequences.")
@click.pass_obj
def info(settings: Settings, path: Path, largest: int) -> None:
    """Counts, snapshots, parameters and the largest families of near-duplicates."""
    from manifests import queries
    from manifests.reader import open_manifest

    opened = open_manifest(path)
    result = {
        "path": str(path),
        "digest": opened.digest,
        "content_digest": opened.content_digest(),
        "counts": queries.counts(opened),
        "policies": _counted(queries.sequence_counts(opened, "policy"), "policy"),
        "status": _counted(queries.sequence_counts(opened, "status"), "status"),
        "reserved": _counted(queries.sequence_counts(opened, "reserved"), "reserved"),
        "reject_reasons": queries.reject_reasons(opened),
        "snapshots": [
            {"snapshot": s.snapshot, "files": len(s.inputs), "records": s.records,
             "documents": s.documents, "rejects": s.rejects, "already_there": s.already_there,
             "extractors": list(s.extractors), "content_digest": s.content_digest}
            for s in opened.snapshots
        ],
        "parameters": dict(opened.parameters),
        "largest": [
            _with_printed_id(row) for row in queries.largest_sequences(opened, largest).to_pylist()
        ],
    }  # fmt: skip
    emit(settings, result, lambda: _info_text(result))


@manifest.command(
    epilog="Example: govern manifest query manifest "
    '"SELECT policy, count(*) FROM sequences GROUP BY 1"'
)
@click.argument("path", metavar="MANIFEST", type=_PATH)
@click.argument("sql", metavar="SQL")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "json", "csv", "parquet"]),
    help="How to print the rows.  [default: table, or json with --output json]",
)
@click.option("--out", type=_PATH, help="Write to this file instead of stdout.")
@click.pass_obj
def query(settings: Settings, path: Path, sql: str, kind: str | None, out: Path | None) -> None:
    """Answer a SELECT over documents, sequences, links, aliases, rejects, tombstones, signatures.

    The view document_sequences joins every document with its sequence.
    """
    from manifests.queries import run_sql
    from manifests.reader import open_manifest

    rows = run_sql(open_manifest(path), sql)
    kind = kind or ("json" if settings.json else "table")
    if kind == "parquet" and out is None:
        raise InputError(
            "--format parquet",
            expected="a file to write to",
            found="no --out",
            remedy="add --out FILE",
        )
    data = _serialise(rows, kind)
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    from manifests.files import atomic_write

    if not out.absolute().parent.is_dir():
        raise InputError(
            f"--out {out}",
            expected="a file in an existing directory",
            found="no such directory",
            remedy="make it first",
        )
    atomic_write(out, data)
    emit(
        settings,
        {"path": str(out), "rows": rows.num_rows},
        lambda: f"{rows.num_rows} rows in {out}",
    )


@manifest.command(epilog="Example: govern manifest find manifest --doc-id LICENSE")
@click.argument("path", metavar="MANIFEST", type=_PATH)
@click.option("--doc-id", help="A document's ID.")
@click.option("--source", help="The source of --doc-id, where several have that ID.")
@click.option("--sequence-id", help="A sequence ID, sq-... or decimal; aliases are followed.")
@click.option(
    "--text-file",
    type=LocalPath(exists=True, dir_okay=False),
    help="A UTF-8 file with the text to look for.",
)
@click.pass_obj
def find(
    settings: Settings,
    path: Path,
    doc_id: str | None,
    source: str | None,
    sequence_id: str | None,
    text_file: Path | None,
) -> None:
    """All copies of a text, with their similarity to the representative."""
    from manifests import queries
    from manifests.reader import open_manifest

    if sum(value is not None for value in (doc_id, sequence_id, text_file)) != 1:
        raise click.UsageError("give exactly one of --doc-id, --sequence-id and --text-file")
    opened = open_manifest(path)
    matches: list[dict[str, Any]] = []
    if doc_id is not None:
        wanted = queries.find_document(opened, doc_id, source)["sequence_id"].to_pylist()
        asked = f"document {doc_id}" + (f" of source {source}" if source else "")
    elif sequence_id is not None:
        wanted = [parse_id(sequence_id)]
        asked = f"sequence ID {sequence_id}"
    else:
        assert text_file is not None
        matches = _find_text(opened, text_file)
        wanted = [match["sequence_id"] for match in matches]
        asked = f"text of {text_file}"
    documents = queries.documents_of(opened, dict.fromkeys(wanted))
    if not documents.num_rows:
        raise SelectionError(
            asked,
            expected=f"a document of manifest {path}",
            found="none",
            remedy="check the spelling, or look with `govern manifest query`",
        )
    rows = [_with_printed_id(_printable(row)) for row in documents.to_pylist()]
    sequences = queries.sequences_of(opened, dict.fromkeys(wanted)).to_pylist()
    result = {
        "asked": asked,
        "sequences": [_with_printed_id(row) for row in sequences],
        "documents": rows,
        "matches": matches,
    }
    emit(settings, result, lambda: _find_text_lines(result))


@manifest.command(epilog="Example: govern manifest check manifest")
@click.argument("path", metavar="MANIFEST", type=_PATH)
@click.pass_obj
def check(settings: Settings, path: Path) -> None:
    """Digests, sums and invariants; exit code 3 on any breach."""
    from manifests.checks import check_manifest

    checks = check_manifest(path)
    failed = [one for one in checks if not one.passed]
    result = {
        "path": str(path),
        "passed": not failed,
        "checks": [dict(vars(one)) for one in checks],
    }
    emit(
        settings,
        result,
        lambda: "\n".join(
            f"{'ok  ' if one.passed else 'FAIL'}  {one.name}: {one.detail}" for one in checks
        ),
    )
    if failed:
        raise IntegrityError(
            f"manifest {path}",
            expected=f"{len(checks)} checks that pass",
            found=f"{len(failed)} that fail, first: {failed[0].name} ({failed[0].detail})",
            remedy="restore it from a backup, or rebuild it",
        )


@manifest.command(
    epilog="Example: govern manifest policy manifest --where \"owner = 'acme'\" --set strict"
)
@click.argument("path", metavar="MANIFEST", type=_PATH)
@click.option("--where", required=True, help="A SQL condition over document_sequences.")
@click.option(
    "--set",
    "policy",
    required=True,
    type=click.Choice(["shared", "pooled", "private", "strict"]),
    help="The sink policy.",
)
@click.pass_obj
def policy(settings: Settings, path: Path, where: str, policy: str) -> None:
    """Set the sink policy of the sequences that have a matching document."""
    from manifests.writer import set_policy

    changed = set_policy(path, where, policy)
    result = {"path": str(path), "policy": policy, "changed": changed}
    emit(settings, result, lambda: f"{changed:,} sequences set to {policy}")


def _find_text(opened: Any, text_file: Path) -> list[dict[str, Any]]:
    from govern.ids.search import find_text

    return [
        {"sequence_id": found.sequence_id, "similarity": found.similarity, "exact": found.exact}
        for found in find_text(opened, text_file.read_bytes(), what=str(text_file))
    ]


def _counted(rows: pa.Table, column: str) -> dict[str, dict[str, int]]:
    return {
        str(row[column]).lower(): {"sequences": row["sequences"], "documents": row["documents"]}
        for row in rows.to_pylist()
    }


def _printable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()}


def _with_printed_id(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "sequence": format_id(row["sequence_id"])}


def _serialise(rows: pa.Table, kind: str) -> bytes:
    import io
    import json

    if kind == "parquet":
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(rows, sink)
        return sink.getvalue()
    if kind == "csv":
        import csv

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.column_names)
        writer.writerows(_printable(row).values() for row in rows.to_pylist())
        return text.getvalue().encode()
    if kind == "json":
        found = [_printable(row) for row in rows.to_pylist()]
        body = {"rows": found, "columns": rows.column_names}
        return (json.dumps(body, ensure_ascii=False, default=str) + "\n").encode()
    return _table_text(rows).encode()


def _table_text(rows: pa.Table) -> str:
    """Aligned columns, plain; long results are cut with a line that says so."""
    shown = [_printable(row) for row in rows.slice(0, _SHOWN_ROWS).to_pylist()]
    cells = [[_cell(row[name]) for name in rows.column_names] for row in shown]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(rows.column_names)
    ]
    lines = [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in [rows.column_names, *cells]
    ]
    if rows.num_rows > _SHOWN_ROWS:
        lines.append(
            f"... {rows.num_rows - _SHOWN_ROWS:,} more rows; use --format json|csv|parquet"
        )
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 80 else text[:77] + "..."


def _info_text(result: dict[str, Any]) -> str:
    counts = result["counts"]
    lines = [
        f"manifest   {result['path']}",
        f"documents  {counts['documents']:,}",
        f"sequences  {counts['sequences']:,}, of which {counts['families']:,} families with "
        f"{counts['documents_in_families']:,} documents",
        f"links      {counts['links']:,}",
        f"aliases    {counts['aliases']:,}",
        f"rejects    {counts['rejects']:,}"
        + "".join(f"; {reason} {n:,}" for reason, n in result["reject_reasons"].items()),
        f"forgotten  {counts['tombstones']:,}",
        "policies   "
        + ", ".join(f"{name} {n['sequences']:,}" for name, n in result["policies"].items()),
    ]
    reserved = result["reserved"].get("true")
    if reserved:
        lines.append(f"reserved   {reserved['sequences']:,} sequences")
    for one in result["snapshots"]:
        lines.append(
            f"snapshot   {one['snapshot']}: {one['records']:,} records from {one['files']:,} "
            f"files, content {one['content_digest'][:16]}"
            + (f", extracted by {', '.join(one['extractors'])}" if one["extractors"] else "")
        )
    shaped = {k: v for k, v in result["parameters"].items() if v not in (None, [], "")}
    lines.append("parameters " + ", ".join(f"{name}={value}" for name, value in shaped.items()))
    lines.append(f"digest     {result['digest']}")
    if result["largest"]:
        lines.append("largest")
    for one in result["largest"]:
        lines.append(
            f"  {one['sequence']}  {one['n_docs']:,} documents, {one['n_sources']:,} sources, "
            f"{one['policy']}: {_cell(one['representative_doc_id'])}"
        )
    return "\n".join(lines)


def _find_text_lines(result: dict[str, Any]) -> str:
    lines = []
    for match in result["matches"]:
        how = (
            "the same text" if match["exact"] else f"estimated similarity {match['similarity']:.2f}"
        )
        lines.append(f"{format_id(match['sequence_id'])}: {how}")
    for sequence in result["sequences"]:
        lines.append(
            f"{sequence['sequence']}  {sequence['n_docs']:,} documents, "
            f"policy {sequence['policy']}, {sequence['status']}"
        )
        lines.extend(
            f"  {row['similarity']:.4f}  {_cell(row['source'])}  {_cell(row['doc_id'])}"
            + ("  (representative)" if row["is_representative"] else "")
            for row in result["documents"]
            if row["sequence_id"] == sequence["sequence_id"]
        )
    return "\n".join(lines)
