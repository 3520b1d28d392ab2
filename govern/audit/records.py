"""Records: frozen dataclasses that are checked when they are made and travel as canonical JSON.

A record's annotations are its whole contract. They say what the constructor accepts, what
`from_dict` reads, and what the JSON Schema publishes, so the three cannot drift apart. Supported
annotations: `str`, `bool`, `int`, `float`, `Literal[...]`, another record, `tuple[X, ...]`,
`X | None`, and `Annotated[str, Pattern(...)]` or `Annotated[int, Least(...)]`.

Canonical JSON is RFC 8785: numbers are IEEE doubles, so integers stay within 2^53 - 1 and floats
are finite. What does not fit (a 63-bit sequence ID) travels as a string.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import rfc8785

from manifests.errors import IntegrityError

MAX_INTEGER = 2**53 - 1
_T = TypeVar("_T")
_Checker = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The regular expression (the common subset of Python and ECMA 262) that a string matches."""

    expression: str


@dataclasses.dataclass(frozen=True)
class Least:
    """The smallest value that an integer may have."""

    value: int


Sha256 = Annotated[str, Pattern("^[0-9a-f]{64}$")]
SequenceId = Annotated[str, Pattern("^sq-[0-9a-f]{16}$")]
_DAY = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)"
Utc = Annotated[str, Pattern(f"^{_DAY}T{_CLOCK}Z$")]
Count = Annotated[int, Least(0)]


class Record:
    """Base of every record; subclasses are `@dataclass(frozen=True, kw_only=True)`.

    Laws: `R.from_dict(r.to_dict()) == r`, and equal records give equal canonical bytes.
    """

    def __post_init__(self) -> None:
        for name, where, check in _checkers(type(self)):
            object.__setattr__(self, name, check(getattr(self, name), where))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values (dict, list, str, int, float, bool, None)."""
        names, omitted = _json_names(type(self)), _omitted(type(self))
        values = {name: getattr(self, name) for name in _hints(type(self))}
        return {
            names[name]: _to_json(value)
            for name, value in values.items()
            if not (value is None and name in omitted)
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "") -> Self:
        """Read a record from JSON values: no unknown, missing or mistyped field is let through.

        Args:
            value: What `json.loads` gave.
            where: The path of the value in its document, for the message.

        Raises:
            IntegrityError: The value does not have the record's form.
        """
        where = where or cls.__name__
        if not isinstance(value, dict):
            raise malformed(where, "an object", type(value).__name__)
        names, hints, omitted = _json_names(cls), _hints(cls), _omitted(cls)
        if unknown := sorted(set(value) - set(names.values())):
            raise malformed(where, f"only the fields {sorted(names.values())}", repr(unknown[0]))
        arguments = {}
        for name, annotation in hints.items():
            if names[name] not in value and name in omitted:
                continue
            if value.get(names[name]) is None and (name in omitted or names[name] not in value):
                raise malformed(f"{where}.{names[name]}", "a value", "nothing")
            arguments[name] = _reader(annotation)(value[names[name]], f"{where}.{names[name]}")
        return cls(**arguments)

    def canonical(self) -> bytes:
        """RFC 8785 canonical JSON of the record."""
        return self._canonical

    @functools.cached_property
    def _canonical(self) -> bytes:
        # Kept: a statement of 10,000 IDs is signed, hashed and written.
        return canonical(self.to_dict())

    def canonical_sha256(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.canonical()).hexdigest()


def malformed(where: str, expected: str, found: str) -> IntegrityError:
    """The error for a value that does not have the published form."""
    return IntegrityError(
        where,
        expected=expected,
        found=found if len(found) <= 200 else found[:200] + "…",
        remedy="obtain an unaltered copy; the form is published in docs/schemas",
    )


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON.

    Raises:
        IntegrityError: A NaN, an infinity, an integer beyond 2^53 - 1 or a lone surrogate.
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise malformed(
            "canonical JSON", "values that RFC 8785 can represent", str(error)
        ) from None


def parse_canonical(data: bytes, what: str) -> Any:
    """Read JSON that must be exactly its own canonical form, so that no byte is free to change.

    Raises:
        IntegrityError: Not JSON, a repeated key, or other bytes than RFC 8785 prescribes.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=functools.partial(_unique_keys, what),
            parse_int=_parse_number,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise malformed(what, "canonical JSON (RFC 8785)", f"{error}") from None
    if canonical(value) != data:
        raise malformed(what, "canonical JSON (RFC 8785)", "other spacing, order or number format")
    return value


def json_schema(record: type[Record], *, identifier: str, title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record, each nested record once under `$defs`."""
    definitions: dict[str, Any] = {}
    body = _object_schema(record, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": identifier,
        "title": title,
        **body,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


# --- what a record's annotations say; kept, because a report holds tens of thousands of records ---


def _kept(function: Callable[[Any], _T]) -> Callable[[Any], _T]:
    """`functools.cache` that takes a class: mypy asks an instance's `__hash__` of it."""
    return functools.cache(function)


@_kept
def _hints(record: Any) -> dict[str, Any]:
    """Field name -> annotation."""
    hints = get_type_hints(record, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


@_kept
def _checkers(record: Any) -> tuple[tuple[str, str, _Checker], ...]:
    """Of each field its name, its path for messages, and what checks it."""
    return tuple(
        (name, f"{record.__name__}.{name}", _checker(annotation))
        for name, annotation in _hints(record).items()
    )


@_kept
def _json_names(record: Any) -> dict[str, str]:
    """Field name -> name in JSON (`type` is `_type` in in-toto)."""
    return {f.name: f.metadata.get("json", f.name) for f in dataclasses.fields(record)}


@_kept
def _omitted(record: Any) -> frozenset[str]:
    """Fields that are left out of the JSON where they are None, instead of being null."""
    return frozenset(f.name for f in dataclasses.fields(record) if f.metadata.get("omit"))


# --- the four walks over an annotation: check, read, write, schema -------------------------------


@functools.cache
def _checker(annotation: Any) -> _Checker:
    """What gives a value in the form that the annotation promises: lists as tuples, floats as
    floats. The second argument is the path of the value, for the message.

    Made once for an annotation, because a statement of many sequences holds tens of thousands of
    values.

    Raises:
        IntegrityError: (the checker) The value does not fit.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if inner := _optional(annotation):
        check_present = _checker(inner)
        return lambda value, where: None if value is None else check_present(value, where)
    if origin is tuple:
        return functools.partial(_check_tuple, _checker(arguments[0]))
    if origin is Literal:
        # By type as well: in Python True and 1.0 equal 1.
        choices = tuple((type(choice), choice) for choice in arguments)
        return functools.partial(_check_choice, choices)
    if origin is Annotated:
        check, constraint = _checker(arguments[0]), arguments[1]
        return lambda value, where: _check_constraint(constraint, check(value, where), where)
    if annotation is str:
        return _check_string
    if annotation in (int, float):
        return functools.partial(_check_number, annotation)
    return functools.partial(_check_instance, annotation)


@functools.cache
def _optional(annotation: Any) -> Any:
    """X of `X | None`, or None for any other annotation."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    present = [a for a in get_args(annotation) if a is not type(None)]
    assert len(present) == 1, f"unsupported annotation {annotation}"
    return present[0]


def _check_tuple(check: _Checker, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise malformed(where, "a list", type(value).__name__)
    return tuple([check(item, f"{where}[{i}]") for i, item in enumerate(value)])


def _check_choice(choices: tuple[tuple[type, Any], ...], value: Any, where: str) -> Any:
    if (type(value), value) not in choices:
        raise malformed(where, " or ".join(repr(choice) for _, choice in choices), repr(value))
    return value


def _check_instance(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        if kind is bool:
            raise malformed(where, "true or false", repr(value))
        raise malformed(where, kind.__name__, type(value).__name__)
    return value


def _check_constraint(constraint: Any, value: Any, where: str) -> Any:
    if isinstance(constraint, Pattern):
        # `fullmatch`, because Python's `$` also matches before a final newline.
        if not re.fullmatch(constraint.expression, value):
            raise malformed(where, f"text matching {constraint.expression}", repr(value))
    elif value < constraint.value:
        raise malformed(where, f"at least {constraint.value}", str(value))
    return value


def _check_string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise malformed(where, "text", type(value).__name__)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise malformed(where, "valid Unicode", "a lone surrogate") from None
    return value


def _check_number(kind: type, value: Any, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise malformed(where, "a number", type(value).__name__)
    if kind is float:
        if not math.isfinite(value):
            raise malformed(where, "a finite number", repr(value))
        return float(value)
    if not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise malformed(where, f"an integer within ±{MAX_INTEGER}", repr(value))
    return int(value)


@functools.cache
def _reader(annotation: Any) -> _Checker:
    """What builds nested records from JSON values, and checks everything else."""
    if inner := _optional(annotation):
        read_present = _reader(inner)
        return lambda value, where: None if value is None else read_present(value, where)
    if get_origin(annotation) is tuple:
        read, check = _reader(get_args(annotation)[0]), _checker(annotation)
        return lambda value, where: (
            _check_tuple(read, value, where) if isinstance(value, list) else check(value, where)
        )
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation.from_dict
    return _checker(annotation)


def _to_json(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _object_schema(record: type[Record], definitions: dict[str, Any]) -> dict[str, Any]:
    names, omitted = _json_names(record), _omitted(record)
    # A record of nothing but such fields is a choice: it holds exactly one of them.
    choice = {"minProperties": 1, "maxProperties": 1} if omitted == names.keys() else {}
    return {
        **choice,
        "description": (record.__doc__ or "").strip().splitlines()[0],
        "type": "object",
        "additionalProperties": False,
        "required": sorted(name for field, name in names.items() if field not in omitted),
        "properties": {
            names[name]: _schema(_optional(hint) if name in omitted else hint, definitions)
            for name, hint in _hints(record).items()
        },
    }


def _schema(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if inner := _optional(annotation):
        return {"anyOf": [_schema(inner, definitions), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is Annotated:
        base = _schema(arguments[0], definitions)
        if isinstance(arguments[1], Pattern):
            return {**base, "pattern": arguments[1].expression}
        return {**base, "minimum": arguments[1].value}
    if annotation is int:
        return {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
    plain = {str: "string", bool: "boolean", float: "number"}
    if annotation in plain:
        return {"type": plain[annotation]}
    if annotation.__name__ not in definitions:
        definitions[annotation.__name__] = {}  # claimed first, so that a cycle would end
        definitions[annotation.__name__] = _object_schema(annotation, definitions)
    return {"$ref": f"#/$defs/{annotation.__name__}"}


def _unique_keys(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise malformed(what, "every key once", "a repeated key")
    return value


def _parse_number(text: str) -> int | float:
    """RFC 8785 prints a double of 2^53 or more without a point: read it back as the double."""
    if len(text) <= 17 and abs(int(text)) <= MAX_INTEGER:
        return int(text)
    return float(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
