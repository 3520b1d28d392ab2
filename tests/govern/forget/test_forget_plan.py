"""Planning: blocks, collateral against a naive count, refusals, the text a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import POOLED, PRIVATE, MapRow, RunShape, write_run, write_sink_map

from govern.forget.plan import Plan, make_plan, require_executable
from govern.forget.plan_text import plan_text
from govern.forget.request import ForgetRequest
from govern.forget.run_view import RunView, read_run
from govern.forget.selection import CoveredDocument, Selection
from manifests import Manifest
from manifests.errors import CollateralError, InputError, SelectionError
from manifests.sequence_id import format_id
from sinkmodel import erase
from sinkmodel.bank_format import open_banks

MANIFEST = cast(Manifest, SimpleNamespace(digest="d" * 64))


def selection_of(ids: Sequence[int], aliases: Sequence[tuple[int, int]] = ()) -> Selection:
    documents = tuple(
        CoveredDocument(
            source="s",
            doc_id=f"d{i}",
            uri="s.jsonl",
            sequence_id=i,
            similarity=1.0,
            how="requested",
            n_bytes=9,
        )
        for i in ids
    )
    return Selection(
        request=ForgetRequest(kind="sequence-id", values=("11",), reference="R", reason="r"),
        matched_rows=len(ids),
        documents=documents,
        sequence_ids=tuple(sorted(ids)),
        aliases=tuple(aliases),
    )


def view(run: Path, rows: Sequence[MapRow]) -> RunView:
    write_sink_map(run / "sink_map.parquet", rows)
    return RunView(
        path=run,
        content_digest="c" * 64,
        snapshot=1,
        sink_map="m" * 64,
        allocation=("splitmix64-v1", 0),
        layers=2,
        block_size=2,
        block_bytes=192,
    )


def plan(path: Path, rows: Sequence[MapRow], ids: Sequence[int], limit: float = 0.0) -> Plan:
    return make_plan(MANIFEST, selection_of(ids), view(path, rows), max_collateral=limit)


def test_private_ids_cost_nobody_anything(tmp_path: Path) -> None:
    made = plan(tmp_path, PRIVATE, [11, 33])
    assert made.ids == (11, 33)
    assert made.blocks == (0, 1, 7, 8, 9)
    assert [s.exclusive for s in made.sequences] == [(0, 1), (7, 8, 9)]
    assert made.collateral.affected == ()
    assert not made.collateral.override
    require_executable(made)


def test_pooled_collateral_is_counted(tmp_path: Path) -> None:
    made = plan(tmp_path, POOLED, [11])
    (sequence,) = made.sequences
    assert (sequence.exclusive, sequence.shared) == ((0, 1), (2, 3))
    shares = {a.sequence_id: a.share_lost for a in made.collateral.affected}
    assert shares == {format_id(22): 0.5, format_id(33): 0.25}
    assert [(b.low, b.count) for b in made.collateral.histogram] == [(0.2, 1), (0.5, 1)]
    assert made.worst_share == 0.5


def test_what_was_zero_before_is_not_lost_again(tmp_path: Path) -> None:
    rows = (*POOLED[:1], MapRow(22, "pooled", (2, 3, 4, 5), "forgotten"), *POOLED[2:])
    made = plan(tmp_path, rows, [11])
    # Block 3 is the only one that 33 shares with 11, and 22's erase has zeroed it.
    assert made.collateral.affected == ()
    assert made.sequences[0].shared == (3,)


def test_collateral_above_the_limit_is_refused_with_the_worst_case(tmp_path: Path) -> None:
    with pytest.raises(CollateralError) as caught:
        require_executable(plan(tmp_path, POOLED, [11], 0.49))
    assert str(caught.value) == (
        "plan for 1 sequence IDs: expected kept IDs that lose at most 0.49 of their sinks, "
        "found 2 kept IDs that lose some, sq-0000000000000016 0.5 of them; "
        "look at it with --plan; --max-collateral allows more and is recorded"
    )


def test_allowed_collateral_is_an_override(tmp_path: Path) -> None:
    made = plan(tmp_path, POOLED, [11], 0.5)
    require_executable(made)
    assert made.collateral.override


def test_shared_forgotten_and_unknown_ids_are_said_plainly(tmp_path: Path) -> None:
    rows = (*PRIVATE[:1], MapRow(22, "private", (2,), "forgotten"), *PRIVATE[2:])
    made = plan(tmp_path, rows, [22, 44, 99])
    assert made.sequences == ()
    assert made.without_sinks == (format_id(44),)
    assert made.already_forgotten == (format_id(22),)
    assert made.not_trained == (format_id(99),)
    with pytest.raises(SelectionError) as caught:
        require_executable(made)
    assert (
        "found IDs 1 of policy shared, which own no sinks: nothing can be forgotten, "
        "1 forgotten before, 1 that the run was not trained on"
    ) in str(caught.value)
    shown = plan_text(made)
    assert "1 selected IDs have policy shared: they own no sinks" in shown
    assert "1 selected IDs were forgotten already" in shown


def test_an_alias_that_the_run_never_knew_is_no_loss(tmp_path: Path) -> None:
    selection = selection_of([11, 99], [(99, 11)])
    made = make_plan(MANIFEST, selection, view(tmp_path, PRIVATE), max_collateral=0)
    assert (made.ids, made.not_trained) == ((11,), ())


def test_a_plan_travels_as_json(tmp_path: Path) -> None:
    made = plan(tmp_path, POOLED, [11, 33], 0.5)
    assert Plan.from_dict(made.to_dict()) == made


def test_the_text_shows_hostile_names_and_does_not_obey_them(tmp_path: Path) -> None:
    made = make_plan(
        MANIFEST,
        Selection(
            request=ForgetRequest(
                kind="doc-id", values=("a\x1b[2Jb\nc",), reference="R", reason="r"
            ),
            matched_rows=1,
            documents=(
                CoveredDocument(
                    source="s",
                    doc_id="x\x1b[31m\n" + "y" * 10_000,
                    uri="s.jsonl",
                    sequence_id=11,
                    similarity=1.0,
                    how="requested",
                    n_bytes=1,
                ),
            ),
            sequence_ids=(11,),
            aliases=(),
        ),
        view(tmp_path, PRIVATE),
        max_collateral=0,
    )
    shown = plan_text(made)
    assert "\x1b" not in shown
    assert r"x\x1b[31m\ny" in shown
    assert max(map(len, shown.splitlines())) < 130


def test_the_text_has_histogram_and_warning(tmp_path: Path) -> None:
    shown = plan_text(plan(tmp_path, POOLED, [11]))
    assert "Collateral 2 kept IDs lose sinks, at worst 50.0% (sq-0000000000000016)" in shown
    assert "This is more than allowed: executing the plan would be refused." in shown
    assert "20%-30%  ######################## 1" in shown


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[MapRow], set[int]]:
    ids = draw(st.lists(st.integers(1, 60), min_size=2, max_size=12, unique=True))
    lists = st.lists(st.integers(0, 13), min_size=1, max_size=5, unique=True)
    status = st.sampled_from(["active", "active", "forgotten"])
    rows = [MapRow(i, "pooled", tuple(draw(lists)), draw(status)) for i in sorted(ids)]
    return rows, draw(st.sets(st.sampled_from(ids), min_size=1))


@settings(max_examples=40, deadline=None)
@given(case=pools())
def test_law_collateral_is_what_the_erased_bytes_show(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[MapRow], set[int]]
) -> None:
    """Plan on a real run, erase it, and count zero blocks of every kept ID in the files."""
    rows, chosen = case
    base = tmp_path_factory.mktemp("pool")
    run = write_run(base / "run", rows, RunShape(blocks=14, state=False))
    forgotten = [r for r in rows if r.status == "forgotten"]
    if forgotten:  # the run as it is after earlier requests: their blocks are zero
        blocks = sorted({b for r in forgotten for b in r.blocks})
        erase.erase_blocks(run, blocks, [r.sequence_id for r in forgotten])
    before = zero_blocks(run)
    made = make_plan(MANIFEST, selection_of(sorted(chosen)), read_run(run), max_collateral=1)
    active = {r.sequence_id: r for r in rows if r.status == "active"}
    assert set(made.ids) == chosen & set(active)
    if made.ids:
        erase.erase_blocks(run, made.blocks, made.ids)
    lost = zero_blocks(run) - before
    measured: dict[str, Any] = {}
    for sequence_id, row in active.items():
        share = sum(b in lost for b in row.blocks) / len(row.blocks)
        if sequence_id not in chosen and share:
            measured[format_id(sequence_id)] = share
    assert {a.sequence_id: a.share_lost for a in made.collateral.affected} == measured
    assert sum(b.count for b in made.collateral.histogram) == len(measured)


def zero_blocks(run: Path) -> set[int]:
    found, first = set(), 0
    for bank in open_banks(run):
        found |= {first + r for r in range(bank.blocks) if not any(bank.read_block(r))}
        first += bank.blocks
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "where", "values": ("a", "b")}, "selection where: expected 1 values, found 2"),
        ({"kind": "doc-id", "values": ()}, "selection doc-id: expected at least one value"),
        ({"kind": "all-sinks", "values": ("x",)}, "selection all-sinks: expected 0 values"),
        ({"kind": "doc-id", "values": ("\udcff",)}, "text in Unicode"),
        ({"kind": "doc-id", "values": ("a",), "reference": " "}, "--request: expected some text"),
        ({"kind": "doc-id", "values": ("a",), "reason": ""}, "--reason: expected some text"),
        ({"kind": "doc-id", "values": ("a",), "reason": "x" * 10_001}, "at most 10000 characters"),
        ({"kind": "everything"}, "expected one of doc-id, sequence-id, where, text-file"),
    ],
)
def test_requests_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ForgetRequest(**{"reference": "R", "reason": "r", **fields})
    assert message in str(caught.value)
