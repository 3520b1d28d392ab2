"""Records: what is written is read again, and nothing else is."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rfc8785
from audit_world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.audit.measured import MetricRow
from govern.audit.published import schemas
from govern.audit.records import canonical, parse_canonical
from govern.audit.report_file import Report
from govern.audit.statement import Request, SequenceBlocks, Statement
from manifests.errors import IntegrityError

DOCS = Path(__file__).parents[3] / "docs" / "schemas"

EXCHANGES: list[Any] = [
    None, True, 0, -1, 1.5, 2**60, "", "x", "ab" * 32, "sq-00000000000000ff", [], {}, "PASSED",
    "open", "2026-11-23T12:00:00Z", [0], ["x"], {"sha256": "ab" * 32},
]  # fmt: skip
finite = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    MetricRow,
    metric=st.text(),
    group=st.text(),
    phase=st.sampled_from(["before", "after", "placebo", "reference", "backbone"]),
    n=st.integers(0, 2**53 - 1),
    value=finite,
    low=st.none() | finite,
    high=st.none() | finite,
    seed=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
    probe_sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    note=st.text(),
)


@given(rows)
def test_a_row_survives_the_way_to_json_and_back(row: MetricRow) -> None:
    again = MetricRow.from_dict(parse_canonical(row.canonical(), "row"))
    assert again == row
    assert again.canonical() == row.canonical()


def test_a_report_survives_the_way_to_json_and_back(pristine: World) -> None:
    data = pristine.report_path.read_bytes()
    report = Report.from_dict(parse_canonical(data, "report"))
    assert report == pristine.report
    assert report.canonical() == data
    assert report.statement() == pristine.statement


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("reference", 7, "int"),
        ("reference", None, "NoneType"),
        ("received_at", "2026-11-23T12:00:00+01:00", "'2026-11-23T12:00:00+01:00'"),
        ("received_at", "2026-11-23T12:00:00Z\n", "'2026-11-23T12:00:00Z\\n'"),
        ("received_at", "2026-13-01T12:00:00Z", "'2026-13-01T12:00:00Z'"),
        ("received_at", "2026-11-23T24:00:00Z", "'2026-11-23T24:00:00Z'"),
        ("requester", "ABCD", "'ABCD'"),
        ("reason", "\ud800", "a lone surrogate"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any, found: str) -> None:
    good = {
        "reference": "r", "reason": "x", "requester": None,
        "received_at": "2026-11-23T12:00:00Z", "executed_at": "2026-11-23T12:00:00Z",
    }  # fmt: skip
    assert Request.from_dict(good).to_dict() == good
    with pytest.raises(IntegrityError) as caught:
        Request.from_dict({**good, field: value})
    assert caught.value.what.endswith(f".{field}")
    assert caught.value.found == found


def test_an_unknown_and_a_missing_field_are_named(pristine: World) -> None:
    value = pristine.statement.to_dict()
    extra = copy.deepcopy(value)
    extra["predicate"]["selection"]["surprise"] = 1
    with pytest.raises(IntegrityError, match=r"Statement\.predicate\.selection.*'surprise'"):
        Statement.from_dict(extra)
    del value["predicate"]["verdict"]["result"]
    with pytest.raises(IntegrityError, match=r"Statement\.predicate\.verdict\.result"):
        Statement.from_dict(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), True, "1", None])
def test_a_measured_value_is_a_finite_number(number: Any) -> None:
    with pytest.raises(IntegrityError, match=r"MetricRow\.value"):
        MetricRow(metric="loss", group="kept", phase="after", n=1, value=number)


@pytest.mark.parametrize("block", [-1, 2**53, 1.5, True, "3"])
def test_a_block_is_a_whole_number_that_json_carries(block: Any) -> None:
    with pytest.raises(IntegrityError, match=r"SequenceBlocks\.exclusive\[0\]"):
        SequenceBlocks(sequence_id="sq-0000000000000001", exclusive=(block,))


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1}\n', b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":NaN}',
        b'{"a":1', b"\xff", b'{"a":"\\u0041"}', b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e400}', b'\xef\xbb\xbf{"a":1}', b'{"a":-0}', b'{"a":"\\ud800"}',
    ],
)  # fmt: skip
def test_any_other_bytes_than_the_canonical_ones_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_canonical(data, "value")


@given(finite)
def test_every_finite_double_is_read_back(value: float) -> None:
    assert parse_canonical(rfc8785.dumps([value]), "number") == [value]


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | finite | st.integers(-(2**53) + 1, 2**53 - 1),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_canonical_json_is_read_back(value: Any) -> None:
    assert canonical(parse_canonical(canonical(value), "value")) == canonical(value)


@pytest.mark.parametrize("name", sorted(schemas()))
def test_shipped_and_published_schemas_are_those_of_the_records(name: str) -> None:
    expected = json.dumps(schemas()[name], indent=2, ensure_ascii=False) + "\n"
    assert (files("govern.audit") / "schemas" / name).read_text("utf-8") == expected
    assert (DOCS / name).read_text("utf-8") == expected
    jsonschema.Draft202012Validator.check_schema(schemas()[name])


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for key, item in inner:
        nested = isinstance(item, (dict, list))
        found += _paths(item, (*path, key)) if nested else [(*path, key)]
    return found


@settings(max_examples=300)
@given(st.data())
def test_schema_and_reader_accept_the_same(pristine: World, data: st.DataObject) -> None:
    """Any one value of a real report is exchanged; the schema and the reader must agree."""
    schema = schemas()["forget-v1.schema.json"]
    value = pristine.statement.to_dict()
    *parents, last = data.draw(st.sampled_from(_paths(value)))
    place: Any = value
    for key in parents:
        place = place[key]
    place[last] = data.draw(st.sampled_from(EXCHANGES))
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    try:
        Statement.from_dict(value)
        read = True
    except IntegrityError:
        read = False
    assert read == valid, (parents, last, place[last])
