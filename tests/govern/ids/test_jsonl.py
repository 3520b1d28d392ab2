"""JSON lines: orjson and Python's own parser give one result, whatever the line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from govern.ids.readers import jsonl
from govern.ids.readers.record import Broken, Fields, Record

FIELDS = Fields("text", "id,meta.id", ("owner", "meta.size"))
NUMBERS = [
    *("0", "-0", "-0.0", "1e5", "1E+5", "0.1e-7", "5e-324", "2.2250738585072011e-308", "1e400"),
    *("-1e400", "9223372036854775807", "9223372036854775808", "18446744073709551615"),
    *("18446744073709551616", "-9223372036854775808", "-9223372036854775809", "9" * 400),
    *("9" * 4300, "9" * 4301, "1" * 40 + ".5", "0." + "3" * 5000, "NaN", "Infinity", "-Infinity"),
    *("01", "1.", ".5", "+1", "1e", "-", "0x1"),
]
STRINGS = [
    *('"plain"', '""', r'"\ud83d\ude00"', r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', r'"\/"'),
    *('"\t"', '"\x7f"', '"\u2028"', r'"\x41"', r'"\u12"', '"', "'a'", '"\U0010ffff"'),
]
scalars = st.one_of(
    st.sampled_from([*NUMBERS, *STRINGS, "null", "true", "false", "nul"]),
    st.floats().map(json.dumps),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.integers().map(str),
    st.text().map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs"])).map(
        lambda t: json.dumps(t, ensure_ascii=False)
    ),
)
spaces = st.sampled_from(["", " ", "\t", "\r", "\x0b", "\u00a0", "\ufeff"])
names = st.sampled_from(
    [
        '"text"',
        '"id"',
        '"owner"',
        '"meta"',
        '"size"',
        '"meta.id"',
        r'"\u0074ext"',
        '"other"',
        "text",
    ]
)


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.lists(inner, max_size=3).map(lambda v: f"[{','.join(v)}]"), objects(inner))


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(names, spaces, values), max_size=5)
    return pairs.map(lambda p: "{" + ",".join(f"{n}{s}:{v}" for n, s, v in p) + "}")


LINES = st.tuples(spaces, objects(st.recursive(scalars, containers, max_leaves=6)), spaces).map(
    "".join
)


def told(result: Record | Broken) -> Any:
    """A result that can be compared: with types, and NaN equal to itself."""
    return [type(result).__name__, *map(repr, result)]


def agree(line: bytes) -> Any:
    found = told(jsonl._record(7, line, FIELDS))
    assert found == told(jsonl._record_by_python(7, line, FIELDS))
    return found[0]


@settings(max_examples=600, deadline=None)
@given(LINES)
@example('{"text": "a", "text": 7, "text": "b", "id": 1, "id": 18446744073709551616}')
@example('{"text": "a", "meta": {"id": 18446744073709551616, "size": [18446744073709551616]}}')
@example('{"text": 18446744073709551616}')
@example('{"text": "a", "owner": {"b": 1, "a": 2, "b": 3}}')
def test_both_parsers_agree(line: str) -> None:
    agree(line.encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(LINES, st.integers(0, 400), st.binary(max_size=3))
def test_both_parsers_agree_on_bytes_that_are_no_text(line: str, at: int, noise: bytes) -> None:
    data = line.encode("utf-8", "surrogatepass")
    agree(data[:at] + noise + data[at:])


@pytest.mark.parametrize("value", [*NUMBERS, *STRINGS])
@pytest.mark.parametrize("name", ["text", "id", "owner", "other", "meta.size"])
def test_both_parsers_agree_on_every_odd_value(name: str, value: str) -> None:
    agree(f'{{"text": "t", "{name}": {value}}}'.encode())
    agree(value.encode())


@pytest.mark.parametrize("name", ["text", "id", "owner", "other"])
@pytest.mark.parametrize(("depth", "kind"), [(500, "Record"), (100_000, "Broken")])
def test_both_parsers_agree_on_deep_nesting(name: str, depth: int, kind: str) -> None:
    # Python's own limit depends on its release and on who calls, orjson's is 1,024.
    assert agree(f'{{"text": "t", "{name}": {"[" * depth}{"]" * depth}}}'.encode()) == kind


def test_odd_values_are_kept_as_python_has_them() -> None:
    line = b'{"text": "t", "id": 18446744073709551616, "owner": Infinity}'
    record = jsonl._record(0, line, FIELDS)
    assert isinstance(record, Record)
    assert (record.doc_id, record.kept[0]) == (2**64, math.inf)
