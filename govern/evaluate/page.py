"""The page and the summary of an evaluation, rendered from its tables alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from govern.audit import charts as report_charts
from govern.audit.measured import DocumentLoss, KeptChange
from govern.audit.report import elide, short, show
from govern.evaluate.attacking import MARGIN, NOT_JUDGED, Verdict, verdicts
from govern.evaluate.charts import extraction_chart
from govern.evaluate.evaluating import Evaluation
from govern.evaluate.figures import PHASES, blocks, comparisons, heads, requests
from govern.evaluate.probing import COPIES_OF_CHOSEN
from govern.evaluate.relearning_chart import relearning_charts
from govern.evaluate.tables import MINE, OTHERS
from manifests.sequence_id import format_id

_CURVES = {"before": "before", "erased": "erased in memory", "reference": "never trained"}
_TITLES = {
    "kept": "Kept documents",
    "held-out": "Reserved documents, which no training saw",
    "chosen": "Chosen against reserved documents",
    MINE: "Questions about chosen documents",
    OTHERS: "All other questions",
}
_FINDINGS = (
    ("loss", "before", "mean loss under their own sinks {}, nats per token"),
    ("loss", "backbone", "mean loss with all sinks off {}"),
    ("exact_memorization", "before", "tokens predicted right {}"),
    ("exact_memorization", "erased", "tokens predicted right once erased {}"),
    ("extraction_50_50", "before", "recited exactly, 50 tokens after 50: {}"),
    ("extraction_50_50", "erased", "recited exactly once erased: {}"),
    ("loss_gap_closed", "erased", "erasing them would close {} of the loss gap"),
    ("kept_copy_share", "erased", "worst document: a kept sequence gives back {} of its recall"),
)
_FINDINGS_OF_QUESTIONS = (
    ("answer_recall", "before", "tokens of the answers predicted right {}"),
    ("answer_recall", "erased", "tokens of the answers predicted right once erased {}"),
    ("truth_ratio", "erased", "truth ratio once erased {}"),
    ("forget_quality", "erased", "forget quality once erased {}"),
)


def render_page(evaluation: Evaluation) -> str:
    """One HTML file: no script, no network, printable; all of other people's text is escaped."""
    page: str = (
        _environment()
        .get_template("evaluation.html.j2")
        .render(
            run=evaluation.request.run.name,
            where=evaluation.request.where,
            chosen=evaluation.chosen,
            copies=COPIES_OF_CHOSEN,
            style=(files("govern.audit") / "templates" / "report.css").read_text("utf-8"),
            gaps=gaps(evaluation),
            phases=PHASES,
            titles=_TITLES,
            heads=heads(evaluation.metrics),
            blocks=blocks(evaluation.metrics),
            comparisons=comparisons(evaluation.metrics),
            loss_chart=_loss_chart(evaluation.documents),
            extraction=extraction_chart(_strengths(evaluation.documents)),
            change_chart=_change_chart(evaluation.documents),
            requests=[] if evaluation.attacks is None else requests(evaluation.attacks),
            attacks=_verdicts(evaluation),
            margin=MARGIN,
            relearning=[] if evaluation.attacks is None else relearning_charts(evaluation.attacks),
            checkpoint=evaluation.checkpoint,
            probes=evaluation.probes,
        )
    )
    return page


def findings(evaluation: Evaluation) -> list[str]:
    """The figures that a reader asks for first, a line each."""
    rows = evaluation.metrics.to_pylist()
    found = []
    groups = {row["group"] for row in rows}
    told = [(group, _FINDINGS) for group in sorted(groups) if group.startswith("chosen:")]
    for group, wanted in [*told, (MINE, _FINDINGS_OF_QUESTIONS)]:
        by_name = {(r["metric"], r["phase"]): r for r in rows if r["group"] == group}
        name = group.removeprefix("chosen:")
        found += [
            f"{name}: {text.format(_value(by_name[metric, phase]))}; "
            f"n = {by_name[metric, phase]['n']}"
            for metric, phase, text in wanted
            if (metric, phase) in by_name
        ]
    found += gaps(evaluation)
    found += [
        f"{verdict.attack} ({verdict.budget}): {_judgement(verdict)}"
        for verdict in _verdicts(evaluation)
        if not verdict.lacking
    ]
    return found


def gaps(evaluation: Evaluation) -> list[str]:
    """What could not be measured or judged, and why; nothing of it may look like a good result."""
    found = []
    for row in evaluation.metrics.to_pylist():
        if row["metric"] == "metrics_not_measured" and row["value"]:
            found.append(f"Not measured: {row['note']}")
        if row["metric"] == "interval_missing" and row["value"]:
            found.append(f"No interval for {row['group']}: {row['note']}")
    tried = _verdicts(evaluation)
    found += [f"{verdict.attack}: {verdict.text}" for verdict in tried if verdict.lacking]
    if any(verdict.text == NOT_JUDGED for verdict in tried):
        found.append("Attacks have no verdict: there is no reference run to judge them by")
    return list(dict.fromkeys(found))


def _verdicts(evaluation: Evaluation) -> list[Verdict]:
    return [] if evaluation.attacks is None else verdicts(evaluation.attacks)


def _judgement(verdict: Verdict) -> str:
    """What came back, in the words that a verdict may use: under this attack, at this budget."""
    if verdict.lacking:
        return verdict.text
    name, erased = verdict.metric.replace("_", " "), report_charts.plain(verdict.erased)
    text = f"{verdict.text}; {name} {erased}"
    if verdict.step:
        text += f" at step {verdict.step}"
    if verdict.recovered is None:
        return text
    low, high = report_charts.plain(verdict.low), report_charts.plain(verdict.high)
    return f"{text}, reference {low} to {high}"


def render_summary(evaluation: Evaluation) -> str:
    """The same as Markdown: findings, then every figure as a table."""
    chosen = evaluation.chosen
    lines = [
        f"# Evaluation of {_cell(evaluation.request.run.name)}",
        "",
        f"{chosen['measured']} documents measured, of {chosen['trained']} trained on and "
        f"{chosen['matched']} that match. Losses in nats per token; intervals are 95 % bootstrap "
        "over documents.",
        "",
        *(f"- {_cell(line)}" for line in findings(evaluation)),
        "",
        "| metric | group | phase | n | value | 95 % interval | note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in evaluation.metrics.to_pylist():
        plain = report_charts.plain
        interval = "" if row["low"] is None else f"{plain(row['low'])} to {plain(row['high'])}"
        cells = (
            *(row["metric"], row["group"], row["phase"], str(row["n"])),
            *(plain(row["value"]), interval, row["note"]),
        )
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Other people's text inside a Markdown line."""
    return show(text, 400).replace("|", "\\|").replace("<", "&lt;")


def _brief(value: float) -> str:
    """Three digits, for tables whose every digit is in the Parquet files."""
    return report_charts.plain(float(f"{value:.3g}"))


def _value(row: Mapping[str, Any]) -> str:
    text = report_charts.plain(row["value"])
    if row["low"] is None:
        return text
    return f"{text} ({report_charts.plain(row['low'])} to {report_charts.plain(row['high'])})"


def _of(documents: pa.Table, group: str, phase: str) -> list[dict[str, object]]:
    chosen = pc.and_(pc.equal(documents["group"], group), pc.equal(documents["phase"], phase))
    rows: list[dict[str, object]] = documents.filter(chosen).to_pylist()
    return rows


def _losses(documents: pa.Table, group: str, phase: str) -> list[float]:
    return [float(str(row["loss"])) for row in _of(documents, group, phase)]


def _loss_chart(documents: pa.Table) -> report_charts.LossChart | None:
    before, after = _losses(documents, "chosen", "before"), _losses(documents, "chosen", "erased")
    references: list[float | None] = [*_losses(documents, "chosen", "reference")]
    labels = [str(row["doc_id"]) for row in _of(documents, "chosen", "before")]
    rows = zip(labels, before, after, references or [None] * len(before), strict=True)
    drawn = [row for row in rows if all(math.isfinite(loss or 0.0) for loss in row[1:])]
    return report_charts.loss_chart(
        [
            DocumentLoss(
                document_hmac=hashlib.sha256(label.encode()).hexdigest(),
                before=old,
                after=new,
                reference=reference,
            )
            for label, old, new, reference in drawn
        ],
        [elide(label, 22) for label, *_ in drawn],
    )


def _change_chart(documents: pa.Table) -> report_charts.ChangeChart | None:
    """One bar count a kept document: what erasing the chosen ones would change of its loss."""
    old, new = _of(documents, "kept", "before"), _losses(documents, "kept", "erased")
    changes = [
        (row["sequence_id"], b - float(str(row["loss"]))) for row, b in zip(old, new, strict=True)
    ]
    return report_charts.change_chart(
        [
            KeptChange(sequence_id=format_id(int(str(i))), loss_change=change, share_lost=0.0)
            for i, change in changes
            if math.isfinite(change)
        ]
    )


def _strengths(documents: pa.Table) -> dict[str, list[float]]:
    found = {
        name: [float(str(row["extraction_strength"])) for row in _of(documents, "chosen", phase)]
        for phase, name in _CURVES.items()
    }
    reserved = [float(str(r["extraction_strength"])) for r in _of(documents, "held-out", "before")]
    return {**found, "reserved documents": reserved}


@cache
def _environment() -> jinja2.Environment:
    packages = ("govern.evaluate", "govern.audit")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "templates") for name in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        judgement=_judgement,
        brief=_brief,
        show=show,
        num=report_charts.plain,
        short=short,
        elide=elide,
    )
    return environment
