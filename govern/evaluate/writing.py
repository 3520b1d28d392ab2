"""An evaluation as files: tables, page, summary and model card, each replaced atomically."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from govern.evaluate.card import model_card
from govern.evaluate.evaluating import Evaluation
from govern.evaluate.page import render_page, render_summary
from manifests import Manifest
from manifests.errors import InputError
from manifests.files import atomic_write, canonical_json

MARKER, CACHE = ".govern-evaluation", "scores"
RECORD, ATTACKS = "evaluation.json", "attacks.parquet"


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
    attacks = {} if evaluation.attacks is None else {ATTACKS: _parquet(evaluation.attacks)}
    contents = {
        **attacks,
        "metrics.parquet": _parquet(evaluation.metrics),
        "documents.parquet": _parquet(evaluation.documents),
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
    if not attacks:
        (out / ATTACKS).unlink(missing_ok=True)  # of an earlier, full evaluation
    for name, data in contents.items():
        atomic_write(out / name, data)
    return {name: out / name for name in contents}


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
