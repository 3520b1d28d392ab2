"""The page: complete, closed to the outside, and unmoved by hostile text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_world import World
from hypothesis import example, given, settings
from hypothesis import strategies as st

from govern.audit import charts, report
from govern.audit.disclosure import Disclosure
from govern.audit.measured import DocumentLoss, KeptChange
from govern.audit.report import render_report
from govern.audit.report_file import Report
from govern.audit.signing import new_private_key, sign
from govern.audit.statement import PAYLOAD_TYPE, Statement

VOID = {"meta", "circle", "rect", "line", "path", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title><svg onload=alert(1)>",
    "line one\nline two\r\n\tthree",
    "\u202egnp.exe\u2066",
    "{{ 7 * 7 }}{% raw %}",
    "../../etc/passwd",
    "'; DROP TABLE documents; --",
    "x" * 10_240,
    "\x00\x1b[31mred",
]


class Page(HTMLParser):
    """Collects tags and text, and fails on anything unbalanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def with_statement(base: Report, statement: Statement) -> Report:
    """A report of another statement; rendering does not verify."""
    envelope = sign(statement.canonical(), PAYLOAD_TYPE, [new_private_key()])
    return replace(base, envelope=envelope)


def hostile_report(world: World, text: str) -> Report:
    base, p = world.report, world.statement.predicate
    assert base.disclosure is not None
    disclosure = Disclosure(
        key=base.disclosure.key,
        query=text,
        requester=text,
        documents=tuple(replace(d, doc_id=text) for d in base.disclosure.documents),
    )
    predicate = replace(
        p,
        request=replace(p.request, reference=text, reason=text),
        operator=replace(p.operator, name=text, tool_version=text),
        verification=replace(
            p.verification,
            metrics=tuple(replace(m, metric=text, note=text) for m in p.verification.metrics),
        ),
        limitations=(text,),
        outstanding=tuple(replace(o, item=text, location=text) for o in p.outstanding),
        verdict=replace(p.verdict, result="FAILED", reasons=(text,)),
        integrity=replace(p.integrity, not_examined=(text,)),
    )
    changed = with_statement(base, replace(world.statement, predicate=predicate))
    return replace(changed, disclosure=disclosure)


def assert_closed(page: Page, text: str) -> None:
    """No script, no handler, no address that would load or lead anywhere."""
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "form", "a", "base"}
    for _, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on") or a in ("src", "href", "action")]
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_tells_the_story_in_order(pristine: World) -> None:
    text = render_report(pristine.report)
    titles = [
        "Passed", "The request", "What was selected, and its copies", "What was changed",
        "What was measured", "Limitations", "What remains to be done",
        "How to verify this record", "Signature and ledger",
    ]  # fmt: skip
    found = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert found == titles
    for value in (
        "REQ-2026-117", "doc-22-0", "sq-0000000000000016", "GDPR article 17",
        "govern audit verify REPORT.json", pristine.statement.canonical_sha256(),
        pristine.key.public.key_id, "loss gap closed", "never trained", "run-before",
        "4 of the model's 14 sink blocks are now zero",
    ):  # fmt: skip
        assert value in text.replace("&#39;", "'"), value


def test_the_page_is_one_closed_well_formed_file(pristine: World) -> None:
    text = render_report(pristine.report)
    page = Page(text)
    assert_closed(page, text)
    policy = next(a["content"] for n, a in page.tags if n == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_is_accessible_in_structure(pristine: World) -> None:
    text = render_report(pristine.report)
    page = Page(text)
    assert next(a for n, a in page.tags if n == "html")["lang"] == "en"
    assert [n for n, _ in page.tags if n in ("main", "header", "footer")] == [
        "header", "main", "footer",
    ]  # fmt: skip
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for name, attributes in page.tags:
        for key in ("aria-labelledby",):
            for target in (attributes.get(key) or "").split():
                assert target in ids, (name, target)
        if name == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
        if name == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        if "scroll" in (attributes.get("class") or ""):
            assert attributes["tabindex"] == "0", "a region that scrolls is reached by keyboard"


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_colours_have_the_contrast_of_wcag_aa() -> None:
    css = (Path(report.__file__).parent / "templates" / "report.css").read_text()
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", css))
    backgrounds = [
        colours["paper"],
        colours["soft"],
        *re.findall(r"background: (#[0-9a-f]{6})", css),
    ]
    for name in ("ink", "muted", "accent", "pass", "warn", "fail", "reference"):
        for background in backgrounds:
            light, dark = sorted((_luminance(background), _luminance(colours[name])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, background)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(text: str, pristine: World) -> None:
    page_text = render_report(hostile_report(pristine, text))
    assert_closed(Page(page_text), page_text)
    assert len(page_text) < 80_000, "long text is elided"
    for character in ("\u202e", "\u2066", "\x00", "\x1b"):
        assert character not in page_text


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_leaves_the_page_well_formed(pristine: World, text: str) -> None:
    page_text = render_report(hostile_report(pristine, text))
    assert_closed(Page(page_text), page_text)


def test_withheld_names_are_not_on_the_page(pristine: World) -> None:
    text = render_report(replace(pristine.report, disclosure=None))
    assert "doc-22" not in text
    assert "names of the documents are withheld" in text


@pytest.mark.parametrize("result", ["PASSED", "WARNED", "FAILED"])
def test_the_verdict_is_a_word_and_a_shape_not_a_colour_alone(result: str, pristine: World) -> None:
    verdict = replace(pristine.statement.predicate.verdict, result=result, reasons=("a reason",))
    statement = replace(
        pristine.statement, predicate=replace(pristine.statement.predicate, verdict=verdict)
    )
    text = render_report(with_statement(pristine.report, statement))
    word = {"PASSED": "Passed", "WARNED": "Passed with warnings", "FAILED": "Failed"}[result]
    assert f'<h2 id="verdict">{word}</h2>' in text
    assert "a reason" in text
    assert f'class="verdict {result.lower()}"' in text


def test_a_report_that_measured_nothing_still_renders(pristine: World) -> None:
    p = pristine.statement.predicate
    verification = replace(p.verification, metrics=(), per_document=(), kept=())
    predicate = replace(
        p, verification=verification, outstanding=(), limitations=(),
        selection=replace(p.selection, documents=()), blocks=replace(p.blocks, sequences=()),
    )  # fmt: skip
    text = render_report(
        with_statement(pristine.report, replace(pristine.statement, predicate=predicate))
    )
    Page(text)
    assert "Nothing is outstanding." in text
    assert "No sink block was erased." in text


# --- charts --------------------------------------------------------------------------------------

losses = st.builds(
    DocumentLoss,
    document_hmac=st.just("ab" * 32),
    before=st.floats(0, 20) | st.just(1e308),
    after=st.floats(0, 20) | st.just(-1e308),
    reference=st.none() | st.floats(0, 20),
)


@given(st.lists(losses, min_size=1, max_size=80))
def test_marks_lie_on_the_axis_in_the_order_of_their_values(documents: list[DocumentLoss]) -> None:
    chart = charts.loss_chart(documents, [str(i) for i in range(len(documents))])
    assert chart is not None
    assert len(chart.rows) == min(len(documents), charts.MAX_DOCUMENTS)
    assert chart.total == len(documents)
    by_label = {str(i): d for i, d in enumerate(documents)}
    for row in chart.rows:
        document = by_label[row.label]
        places = [row.before, row.after]
        values = [document.before, document.after]
        if document.reference is not None:
            assert row.reference is not None
            places.append(row.reference)
            values.append(document.reference)
        assert all(chart.left <= x <= chart.right for x in places)
        for v, x in zip(values, places, strict=True):
            for w, y in zip(values, places, strict=True):
                assert v >= w or x <= y


@given(st.lists(st.floats(-5, 5) | st.just(1e308), min_size=1, max_size=200))
def test_every_kept_sequence_is_in_one_bar(changes: list[float]) -> None:
    kept = [
        KeptChange(sequence_id="sq-0000000000000001", loss_change=c, share_lost=0.0)
        for c in changes
    ]
    chart = charts.change_chart(kept)
    assert chart is not None
    assert sum(bar.count for bar in chart.bars) == len(changes)
    assert all(chart.left <= bar.x and bar.x + bar.width <= chart.right for bar in chart.bars)
    assert abs(chart.worst) == max(map(abs, changes))


@given(st.floats(-100, 100), st.floats(-100, 100))
@example(-31.0, 1e-8)
def test_ticks_are_round_and_enclose_the_values(a: float, b: float) -> None:
    low, high = sorted((a, b))
    ticks = charts.nice_ticks(low, high)
    # A billionth of a step is nothing on the page, and no reason for a tick more.
    allowed = 2e-9 * max(1.0, ticks[1] - ticks[0])
    assert ticks[0] <= low + allowed
    assert ticks[-1] >= high - allowed
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))


def test_dates_and_numbers_read_well() -> None:
    assert report.date("2026-11-03T09:05:00Z") == "3 November 2026, 09:05 UTC"
    assert charts.plain(-0.00567) == "−0.00567"
    assert charts.plain(0.0) == "0"
    assert report.elide("a" * 500 + "end", 12) == "aaaaa…aaaend"
    assert report.show("a\nb") == "a\\nb"
    assert report.show("x" * 300, 10) == "xxxxxxxxxx… (300 characters)"
