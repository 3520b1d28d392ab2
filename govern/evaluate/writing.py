"""An evaluation as files: tables, page, summary and model card, each replaced atomically."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from govern.evaluate.card import model_card
from govern.evaluate.evaluating import Evaluation
from govern.evaluate.page import render_page, render_summary
from manifests import Manifest
from manifests.errors import InputError
from manifests.files import atomic_write, canonical_json

MARKER, CACHE = ".govern-evaluation", "scores"
RECORD = "evaluation.json"
METRICS, DOCUMENTS, ATTACKS = "metrics", "documents", "attacks"  # tables, as Parquet and CSV


def claim(out: Path, run: Path) -> Path:
    """Make `out` a directory for evaluations, and return where its scores are kept.

    Raises:
        InputError: It holds other files, or lies inside the run.
    """
    inside = out.resolve().is_relative_to(run.resolve())
    foreign = (
        out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir()))
    )
    if inside or foreign:
        raise InputError(
            f"--out {out}",
            expected="a directory that is new, empty, or of an earlier evaluation",
            found="one inside the run" if inside else "other files",
            remedy="choose another name with --out",
        )
    (out / CACHE).mkdir(parents=True, exist_ok=True)
    atomic_write(out / MARKER, b"Written by `govern evaluate`.\n")
    return out / CACHE


def write_evaluation(evaluation: Evaluation, manifest: Manifest, out: Path) -> dict[str, Path]:
    """Write every file; the record comes last, so it stands for a complete set.

    Returns:
        Name -> path.
    """
    tables = {METRICS: evaluation.metrics, DOCUMENTS: evaluation.documents}
    if evaluation.attacks is not None:
        tables[ATTACKS] = evaluation.attacks
    contents = {
        **{f"{name}.parquet": _parquet(table) for name, table in tables.items()},
        **{f"{name}.csv": _csv(table) for name, table in tables.items()},
        "summary.md": render_summary(evaluation).encode(),
        "EVALUATION.html": render_page(evaluation).encode(),
        "README.md": model_card(evaluation, manifest).encode(),
        RECORD: canonical_json(
            {
                "format": "memsinks-govern evaluation",
                "format_version": 1,
                "checkpoint": evaluation.checkpoint,
                "probes": evaluation.probes,
                "where": evaluation.request.where,
                "seed": evaluation.request.seed,
                "chosen": dict(evaluation.chosen),
            }
        ),
    }
    if ATTACKS not in tables:  # an earlier, full evaluation may have left some
        for suffix in ("parquet", "csv"):
            (out / f"{ATTACKS}.{suffix}").unlink(missing_ok=True)
    for name, data in contents.items():
        atomic_write(out / name, data)
    return {name: out / name for name in contents}


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _csv(table: pa.Table) -> bytes:
    """The table for those without a reader of Parquet; lists, which CSV has not, as JSON."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = pa.array([json.dumps(value) for value in table[field.name].to_pylist()])
            table = table.set_column(place, field.name, texts)
    sink = pa.BufferOutputStream()
    pc.write_csv(table, sink)
    return bytes(sink.getvalue())
