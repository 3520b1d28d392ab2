"""The page over a ledger: what it tells, what it finds beside the ledger, hostile text as text."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from audit_world import World, forget
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_report_html import HOSTILE, Page, assert_closed

from govern.audit.ledger import Ledger, append, read_ledger
from govern.audit.log import LogEntry
from govern.audit.portfolio import loose_ends, render_portfolio, time_chart
from govern.audit.signing import sign
from govern.audit.statement import PAYLOAD_TYPE, Outstanding, Predicate
from govern.cli import cli


def added(world: World, change: Callable[[Predicate], Predicate]) -> Ledger:
    """The ledger after one more entry."""
    statement = replace(world.statement, predicate=change(world.statement.predicate))
    envelope = sign(statement.canonical(), PAYLOAD_TYPE, [world.key])
    append(world.ledger, envelope, key=world.key, time="2027-01-01T00:00:00Z")
    return read_ledger(world.ledger)


def failing(predicate: Predicate) -> Predicate:
    verdict = replace(predicate.verdict, result="FAILED", reasons=("the loss stayed low",))
    return replace(predicate, verdict=verdict)


def words(text: str) -> str:
    return " ".join(" ".join(Page(text).text).split())


def test_a_ledger_in_which_nothing_failed(pristine: World) -> None:
    text = words(render_portfolio(read_ledger(pristine.ledger)))
    for expected in (
        "1 request ", "All passed", "1 item outstanding", "REQ-2026-117", "source checkpoint",
        "run-before", "2026-11-23", "Tree size", pristine.key.public.key_id,
    ):  # fmt: skip
        assert expected in text


def test_a_failed_request_comes_first(world: World) -> None:
    text = words(render_portfolio(added(world, failing)))
    assert text.index("1 request failed") < text.index("the loss stayed low")
    assert "All passed" not in text


def test_what_a_later_entry_closed_is_not_outstanding(world: World) -> None:
    def closing(predicate: Predicate) -> Predicate:
        done = Outstanding(
            item="source checkpoint", location="run-before", state="closed", closed_by="ab" * 32
        )
        return replace(predicate, outstanding=(done,))

    text = words(render_portfolio(added(world, closing)))
    assert "0 items outstanding" in text
    assert "run-before" not in text


def test_loose_ends_are_found(world: World) -> None:
    ledger = read_ledger(world.ledger)
    assert loose_ends(ledger, [world.base]) == ()
    elsewhere = world.base / "reports"
    for name in ("lost", "broken", "begun/.pending"):
        (elsewhere / name).mkdir(parents=True)
    (elsewhere / "begun/.pending/job.json").write_text("{}")
    (elsewhere / "broken/REPORT.json").write_text("{}")
    forget(world.base, [55], "run-before", "run-other", world.key, "OTHER")
    (world.base / "OTHER.json").rename(elsewhere / "lost/REPORT.json")
    found = {Path(loose.path).relative_to(elsewhere).parts[0]: loose.what for loose in
             loose_ends(ledger, [elsewhere])}  # fmt: skip
    assert found == {
        "lost": "a report that the ledger lacks",
        "broken": "not a report in its canonical form",
        "begun": "a forget that began and was not finished; run its command once more",
    }
    assert "3 loose ends beside the ledger" in words(render_portfolio(ledger, [elsewhere]))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str, world: World) -> None:
    def hostile(predicate: Predicate) -> Predicate:
        return replace(
            predicate,
            request=replace(predicate.request, reference=text),
            verdict=replace(predicate.verdict, result="FAILED", reasons=(text,)),
            outstanding=(Outstanding(item=text, location=text),),
        )

    page = render_portfolio(added(world, hostile))
    assert_closed(Page(page), page)
    assert len(page) < 40_000


def test_the_command_writes_the_page(world: World, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = ["audit", "log", "--ledger", str(world.ledger), "--html", str(page)]
    result = CliRunner().invoke(cli, [*command, "--reports", str(world.base)])
    assert result.exit_code == 0, result.output
    assert f"wrote {page}" in result.output
    assert page.read_text() == render_portfolio(read_ledger(world.ledger), [world.base])
    alone = CliRunner().invoke(cli, [*command[:4], "--reports", str(world.base)])
    assert alone.exit_code == 2


# --- the chart -----------------------------------------------------------------------------------


def entry(day: str, verdict: str = "PASSED") -> LogEntry:
    return LogEntry(
        index=0, reference="R", received_at=f"{day}T00:00:00Z", executed_at=f"{day}T00:00:00Z",
        operator="o", signed_by=(), verdict=verdict, reasons=(), sequence_ids=1, documents=1,
        outstanding=0, statement_sha256="ab" * 32,
    )  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.dates(min_value=datetime.date(1990, 1, 1)).map(str),
            st.sampled_from(("PASSED", "WARNED", "FAILED")),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_request_is_in_one_bar(cases: list[tuple[str, str]]) -> None:
    chart = time_chart([entry(day, verdict) for day, verdict in cases])
    assert chart is not None
    assert sum(period.count for period in chart.periods) == len(cases)
    assert len(chart.periods) <= 24
    for period in chart.periods:
        assert 40 <= period.x - period.width / 2 < period.x + period.width / 2 <= 708
        assert 48 <= period.top <= 198
        heights = sum(piece.height for piece in period.pieces)
        assert abs(198 - period.top - heights) < 0.1


@pytest.mark.parametrize(
    ("last", "unit"), [("2026-01-05", "day"), ("2026-09-01", "month"), ("2031-01-01", "year")]
)
def test_the_unit_fits_the_span(last: str, unit: str) -> None:
    chart = time_chart([entry("2026-01-01"), entry(last, "FAILED")])
    assert chart is not None
    assert chart.unit == unit
    assert "1, 1 failed" in chart.spoken
    assert time_chart([]) is None
