"""The page over a ledger: every request in time, its state, and what is still to be done.

Same rules as a report's page (`report.py`): one file, no script, no network, other people's text
escaped and elided. What is not in the ledger can only be seen where reports are at hand: a report
that the ledger lacks, or a forget that began and was never finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

from govern.audit.charts import WIDTH, Tick, nice_ticks
from govern.audit.ledger import Ledger
from govern.audit.log import LogEntry, log_entries, newest_head, outstanding_of
from govern.audit.report import MAX_ROWS, environment
from govern.audit.report_file import read_report
from manifests.errors import GovernError

_RESULTS = ("FAILED", "WARNED", "PASSED")
_BINS = 24
_LEFT, _RIGHT, _TOP, _BASE = 40.0, 12.0, 48.0, 198.0


@dataclass(frozen=True, kw_only=True)
class Loose:
    """Something that lies beside the ledger and is not in it: where, and what it is."""

    path: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a bar: the requests of one verdict."""

    result: str
    y: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Period:
    """One bar: a day, month or year, its requests by verdict."""

    label: str
    x: float
    width: float
    top: float
    count: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class TimeChart:
    """Requests over time; `spoken` says the same in words."""

    unit: str
    periods: tuple[Period, ...]
    ticks: tuple[Tick, ...]
    spoken: str
    height: float = _BASE + 34


def render_portfolio(ledger: Ledger, reports: Sequence[Path] = ()) -> str:
    """The page, as text.

    Args:
        ledger: As `read_ledger` found it whole.
        reports: Directories to look through for reports that the ledger lacks.

    Raises:
        IntegrityError: An entry holds no statement.
    """
    entries = log_entries(ledger)
    counts = Counter(entry.verdict for entry in entries)
    page: str = (
        environment()
        .get_template("portfolio.html.j2")
        .render(
            style=(files("govern.audit") / "templates" / "report.css").read_text("utf-8"),
            entries=entries[::-1],
            counts=counts,
            worst=next((result for result in _RESULTS if counts[result]), "PASSED"),
            attention=[e for e in entries if e.verdict != "PASSED"][::-1],
            outstanding=outstanding_of(ledger),
            loose=loose_ends(ledger, reports),
            looked=bool(reports),
            chart=time_chart(entries),
            days={entry.index: _days(entry) for entry in entries},
            head=newest_head(ledger),
            signed_by=[s.keyid for s in ledger.heads[-1].signatures] if ledger.heads else [],
            pending=ledger.pending is not None,
            max_rows=MAX_ROWS,
        )
    )
    return page


def loose_ends(ledger: Ledger, directories: Iterable[Path]) -> tuple[Loose, ...]:
    """Reports below the directories that are not in the ledger, and forgets left unfinished."""
    known, found = set(ledger.entries), []
    for directory in directories:
        for path in sorted(directory.rglob("REPORT.json")):
            try:
                if read_report(path).envelope.canonical() not in known:
                    found.append(Loose(path=str(path), what="a report that the ledger lacks"))
            except GovernError:
                found.append(Loose(path=str(path), what="not a report in its canonical form"))
        for path in sorted(directory.rglob(".pending/job.json")):
            what = "a forget that began and was not finished; run its command once more"
            found.append(Loose(path=str(path.parent.parent), what=what))
    return tuple(found)


def time_chart(entries: Sequence[LogEntry]) -> TimeChart | None:
    """Requests by the day, month or year of their execution: the finest unit that fits."""
    if not entries:
        return None
    days = [date.fromisoformat(entry.executed_at[:10]) for entry in entries]
    unit, bins = _bins(min(days), max(days))
    length = {"day": 10, "month": 7, "year": 4}[unit]
    by_bin: dict[str, Counter[str]] = {label: Counter() for label in bins}
    for entry, day in zip(entries, days, strict=True):
        label = day.isoformat()[:length]
        by_bin[label if label in by_bin else bins[0]][entry.verdict] += 1
    most = max(counts.total() for counts in by_bin.values())
    marks = [m for m in nice_ticks(0.0, float(most), wanted=4) if m == int(m)]
    scale = (_BASE - _TOP) / marks[-1]
    step = (WIDTH - _LEFT - _RIGHT) / len(bins)
    return TimeChart(
        unit=unit,
        periods=tuple(
            _period(label, by_bin[label], _LEFT + step * place, step, scale)
            for place, label in enumerate(bins)
        ),
        ticks=tuple(Tick(at=_BASE - m * scale, text=f"{m:,.0f}") for m in marks),
        spoken="; ".join(
            f"{label}: {counts.total()}"
            + (f", {counts['FAILED']} failed" if counts["FAILED"] else "")
            for label, counts in by_bin.items()
            if counts
        ),
    )


def _period(label: str, counts: Counter[str], x: float, step: float, scale: float) -> Period:
    top, pieces = _BASE, []
    for result in reversed(_RESULTS):
        if counts[result]:
            height = counts[result] * scale
            top -= height
            pieces.append(Piece(result=result, y=round(top, 2), height=round(height, 2)))
    return Period(
        label=label,
        x=round(x + step / 2, 2),
        width=round(min(step * 0.7, 48.0), 2),
        top=round(top, 2),
        count=counts.total(),
        pieces=tuple(pieces),
    )


def _bins(first: date, last: date) -> tuple[str, list[str]]:
    """The unit, and every label from the first to the last; of many years the newest."""
    if (last - first).days < 14:
        labels = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        return "day", [day.isoformat() for day in labels]
    months = [(y, m) for y in range(first.year, last.year + 1) for m in range(1, 13)]
    within = [(y, m) for y, m in months if (first.year, first.month) <= (y, m)]
    within = [pair for pair in within if pair <= (last.year, last.month)]
    if len(within) <= _BINS:
        return "month", [f"{y:04d}-{m:02d}" for y, m in within]
    return "year", [f"{y:04d}" for y in range(first.year, last.year + 1)][-_BINS:]


def _days(entry: LogEntry) -> int:
    """Whole days from the request to its execution."""
    received, executed = (
        date.fromisoformat(t[:10]) for t in (entry.received_at, entry.executed_at)
    )
    return (executed - received).days
