"""The HTML page of a report: one file that needs no network, no script and no other file.

Whoever reads it may be hostile to the operator, and what is in it may be hostile to the reader:
document ids and reasons are other people's text. So everything is escaped by the template engine,
control and direction-changing characters are shown as escapes, long text is elided with its length,
and a content security policy forbids every kind of loading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import jinja2

from govern.audit import charts
from govern.audit.ledger import TreeHead, parse_head
from govern.audit.measured import MetricRow, Phase, Threshold
from govern.audit.report_file import Report
from govern.audit.statement import Predicate, SelectedDocument
from govern.audit.verdict import compare

MAX_ROWS = 100
_PHASES: dict[Phase, str] = {
    "before": "Before",
    "after": "After",
    "placebo": "Placebo",
    "reference": "Never trained",
    "backbone": "All sinks off",
}
_MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
_POLICIES = {
    "strict": "The shared neurons never learned from it; only its own blocks did.",
    "private": "The shared neurons learned from its first exposures; a small residual may remain.",
    "pooled": "Its blocks come from a common pool; the shared neurons learned from every exposure.",
    "shared": "It owns no blocks. Nothing was erased, and nothing is claimed for it.",
}


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """One line of the metrics table: a metric, a cell for each phase measured."""

    metric: str
    cells: tuple[MetricRow | None, ...]
    footnote: str
    wanted: str
    met: bool | None


@dataclass(frozen=True, kw_only=True)
class MetricGroup:
    """The lines of one group of documents, and what they have in common."""

    group: str
    footnote: str
    lines: tuple[MetricLine, ...]


@dataclass(frozen=True, kw_only=True)
class DocumentLine:
    """One covered document, named if the disclosure names it."""

    name: str
    named: bool
    sequence_id: str
    similarity: float
    how: str


def render_report(report: Report) -> str:
    """The page, as text.

    Args:
        report: As `read_report` gave it. Rendering does not verify; the page says how to.

    Raises:
        IntegrityError: The envelope does not hold a statement.
    """
    statement = report.statement()
    predicate = statement.predicate
    names = _names(report)
    losses = predicate.verification.per_document
    head: TreeHead = parse_head(report.ledger.tree_head, "report tree head")
    phases = _phases(predicate.verification.metrics)
    page: str = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            statement=statement,
            p=predicate,
            style=(files("govern.audit") / "templates" / "report.css").read_text("utf-8"),
            summary=summary(predicate),
            documents=[_document_line(d, names) for d in predicate.selection.documents[:MAX_ROWS]],
            max_rows=MAX_ROWS,
            policies=_POLICIES,
            policy_of={x.sequence_id: x.policy for x in predicate.mechanism.policies},
            loss_chart=charts.loss_chart(
                losses,
                [elide(names.get(d.document_hmac, short(d.document_hmac)), 22) for d in losses],
            ),
            change_chart=charts.change_chart(predicate.verification.kept),
            phases=[_PHASES[phase] for phase in phases],
            metrics=_metric_groups(predicate, phases),
            head=head,
        )
    )
    return page


def summary(predicate: Predicate) -> str:
    """The report in one paragraph: what was done, what changed, what was measured."""
    selection = predicate.selection
    copies = sum(1 for d in selection.documents if d.how == "duplicate")
    total = sum(bank.blocks for bank in predicate.integrity.banks)
    planned = {b for s in predicate.blocks.sequences for b in (*s.exclusive, *s.shared)}
    sentences = [
        f"On {date(predicate.request.executed_at)}, {show(predicate.operator.name, 120)} erased "
        f"{count(len(selection.sequence_ids), 'training sequence')} covering "
        f"{count(len(selection.documents), 'document')}, "
        f"{copies or 'none'} of them {'a copy' if copies == 1 else 'copies'} found by comparison.",
        f"{len(planned)} of the model's {total} sink blocks are now zero, "
        "and no other block changed."
        if planned
        else "No sink block was erased.",
    ]
    losses = predicate.verification.per_document
    if losses:
        before = sum(d.before for d in losses) / len(losses)
        after = sum(d.after for d in losses) / len(losses)
        sentence = (
            f"The model's mean loss on the forgotten text went from {charts.plain(before)} to "
            f"{charts.plain(after)} nats per token"
        )
        known = [d.reference for d in losses if d.reference is not None]
        if known:
            mean = charts.plain(sum(known) / len(known))
            sentence += f"; text that it was never trained on has {mean}"
        sentences.append(sentence + ".")
    if predicate.verification.kept:
        worst = max((k.loss_change for k in predicate.verification.kept), key=abs)
        number = len(predicate.verification.kept)
        sentences.append(
            f"None of the {number} kept sequences that were measured changed."
            if worst == 0
            else f"Of the {number} kept sequences that were measured, none changed by more than "
            f"{charts.plain(abs(worst))} nats per token."
        )
    return " ".join(sentences)


def show(text: str, limit: int = 200) -> str:
    """Other people's text on one line: control characters as escapes, long text elided."""
    head = text[: limit + 1]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    if len(text) <= limit:
        return safe
    return f"{safe[:limit]}… ({len(text):,} characters)"


def elide(text: str, limit: int) -> str:
    """A short label: the beginning and the end of a long name, because names differ at the end."""
    safe = show(text, 4 * limit) if len(text) <= 4 * limit else show(text[: 2 * limit], 2 * limit)
    tail = show(text[-limit:], limit)
    if len(safe) <= limit:
        return safe
    half = limit // 2
    return f"{safe[: limit - half - 1]}…{tail[-half:]}"


def date(utc: str) -> str:
    """`2026-11-23T12:00:00Z` as a person writes it, the same in every locale."""
    day, clock = utc.rstrip("Z").split("T")
    year, month, number = day.split("-")
    return f"{int(number)} {_MONTHS[int(month) - 1]} {year}, {clock[:5]} UTC"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 document`, `2 documents`, `2 entries`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def short(digest: str) -> str:
    """The first 12 digits of a digest, marked as shortened."""
    return digest[:12] + "…"


def _names(report: Report) -> dict[str, str]:
    if report.disclosure is None:
        return {}
    return {d.document_hmac: d.doc_id for d in report.disclosure.documents}


def _document_line(document: SelectedDocument, names: dict[str, str]) -> DocumentLine:
    name = names.get(document.document_hmac)
    return DocumentLine(
        name=short(document.document_hmac) if name is None else name,
        named=name is not None,
        sequence_id=document.sequence_id,
        similarity=document.similarity,
        how=document.how,
    )


def _phases(metrics: Iterable[MetricRow]) -> list[Phase]:
    """The phases that were measured, in the order of the story; empty columns are left out."""
    measured = {row.phase for row in metrics}
    return [phase for phase in _PHASES if phase in measured]


def _metric_groups(predicate: Predicate, phases: list[Phase]) -> list[MetricGroup]:
    grouped: dict[str, dict[str, dict[Phase, MetricRow]]] = {}
    for row in predicate.verification.metrics:
        grouped.setdefault(row.group, {}).setdefault(row.metric, {})[row.phase] = row
    thresholds = predicate.verification.thresholds
    return [
        MetricGroup(
            group=group.replace(":", ", "),
            footnote=_probes([row for rows in metrics.values() for row in rows.values()]),
            lines=tuple(
                _metric_line(metric, group, rows, phases, thresholds)
                for metric, rows in metrics.items()
            ),
        )
        for group, metrics in grouped.items()
    ]


def _metric_line(
    metric: str,
    group: str,
    rows: dict[Phase, MetricRow],
    phases: list[Phase],
    thresholds: Iterable[Threshold],
) -> MetricLine:
    wanted, met = "", None
    for threshold in thresholds:
        row = rows.get(threshold.phase)
        if threshold.metric == metric and threshold.group in (None, group) and row is not None:
            wanted = f"{threshold.comparison} {charts.plain(threshold.bound)}"
            met = compare(threshold, row)
    return MetricLine(
        metric=metric.replace("_", " "),
        cells=tuple(rows.get(phase) for phase in phases),
        footnote=_footnote(list(rows.values())),
        wanted=wanted.replace("<=", "≤").replace(">=", "≥").replace("==", "="),
        met=met,
    )


def _probes(rows: list[MetricRow]) -> str:
    """Seed and probe sets of a group, each once."""
    parts = dict.fromkeys(f"seed {row.seed}" for row in rows if row.seed is not None)
    parts |= dict.fromkeys(f"probes {row.probe_sha256[:8]}" for row in rows if row.probe_sha256)
    return ", ".join(parts)


def _footnote(rows: list[MetricRow]) -> str:
    """Size and notes of a line, each once."""
    parts = ["n = " + " / ".join(dict.fromkeys(f"{row.n:,}" for row in rows))]
    parts += dict.fromkeys(show(row.note, 160) for row in rows if row.note)
    return ", ".join(parts)


@cache
def environment() -> jinja2.Environment:
    """Templates and filters of every page about the audit."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("govern.audit", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        show=show, date=date, num=charts.plain, short=short, count=count, elide=elide
    )
    return environment
