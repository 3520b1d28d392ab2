"""What was measured, as the tables of an evaluation.

Nothing was forgotten here: `after` is what erasing in memory leaves, so it is called `erased`, and
the documents to forget are the `chosen` ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sinkmodel.evaluate.probes import Probe, Probes

if TYPE_CHECKING:
    from sinkmodel.evaluate.measure import Measurement
    from sinkmodel.evaluate.rows import Before, Measured, Scored

MINE, OTHERS = "questions", "other questions"  # groups: those about chosen documents, and others
METRICS = pa.schema(
    [
        *((name, pa.string()) for name in ("metric", "group", "phase")),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        ("seed", pa.int64()),
        ("probe_sha256", pa.string()),
        ("note", pa.string()),
    ]
)
_PER_DOCUMENT = (
    *("loss", "extraction_strength", "exact_memorization"),
    *("verbatim_tokens", "extraction_50_50", "rouge_l_50_50"),
)
DOCUMENTS = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "doc_id")),
        ("sequence_id", pa.int64()),
        *((name, pa.string()) for name in ("policy", "group", "phase")),
        ("n_tokens", pa.int64()),
        *((name, pa.float64()) for name in _PER_DOCUMENT),
    ]
)


def metrics_table(rows: Iterable[Measured]) -> pa.Table:
    """One row for each figure."""
    return pa.Table.from_pylist([_metric(row) for row in rows], schema=METRICS)


def _metric(row: Measured) -> dict[str, object]:
    return {
        "metric": row.metric,
        "group": _group(row.group),
        "phase": _phase(row.phase),
        "n": row.estimate.n,
        "value": row.estimate.value,
        "low": row.estimate.low,
        "high": row.estimate.high,
        "seed": row.seed,
        "probe_sha256": row.probe_sha256,
        "note": _group(row.note),
    }


def _group(name: str) -> str:
    return name.replace("forgotten", "chosen")


def _phase(name: str) -> str:
    """Nothing was forgotten here: `after` is what erasing in memory leaves."""
    return "erased" if name == "after" else name


def documents_table(probes: Probes, before: Before, measured: Measurement) -> pa.Table:
    """One row for each measured document and phase, with its metrics."""
    after = measured.after
    chosen: dict[str, Scored | None] = {
        "before": before.own,
        "erased": after.own,
        "backbone": before.backbone,
        "placebo": before.placebo,
        "wrong": before.wrong,
        "routed": after.routed,
        "reference": before.reference,
    }
    others = {
        "kept": (probes.kept, {"before": before.kept, "erased": after.kept}),
        "held-out": (probes.held_out, {"before": before.held_out}),
    }
    rows = list(_rows("chosen", probes.forgotten, probes.policies, chosen))
    for group, (some, phases) in others.items():
        rows += _rows(group, some, {}, phases)
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)


def _rows(
    group: str,
    probes: Sequence[Probe],
    policies: Mapping[int, str],
    phases: Mapping[str, Scored | None],
) -> Iterator[dict[str, object]]:
    from sinkmodel.evaluate.rows import values_of

    for phase, scored in phases.items():
        for index, probe in enumerate(probes if scored is not None else ()):
            assert scored is not None
            metrics = values_of(scored, [index])
            yield {
                "source": probe.key[0],
                "doc_id": probe.key[1],
                "sequence_id": probe.sequence_id,
                "policy": policies.get(probe.sequence_id),
                "group": group,
                "phase": phase,
                "n_tokens": len(probe.tokens),
                **{name: values[0] if values else None for name, values in metrics.items()},
            }
