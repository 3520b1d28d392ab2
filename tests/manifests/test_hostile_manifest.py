"""A `manifest.json` written to harm, with a digest that fits: an error, never a crash or a leak."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_manifest import write_manifest

from manifests import open_manifest
from manifests.errors import GovernError, IntegrityError, ManifestError
from manifests.files import canonical_json

PARAMETERS = {
    "ngram": 5, "num_perm": 16, "seed": 1, "bands": 4, "rows": 4, "bucket_cap": 128, "pivots": 16,
    "max_record_bytes": 1 << 20, "threshold": 0.7, "reserve": 0.0, "scheme": "affine32",
    "tokenizer": "words-v1", "token_hash": "h", "text_field": "text", "code": "c", "keep": ["a"],
}  # fmt: skip
VALUES = (
    None, -1, 0, 2**63, 10**30, 1.5, True, "../../../etc/passwd", "/etc/passwd", "x" * 10_000,
    "\x00", [], {}, [[1]], {"a": 1},
)  # fmt: skip


def write_index(path: Path, value: dict[str, Any]) -> None:
    body = {name: item for name, item in value.items() if name != "digest"}
    digest = hashlib.sha256(canonical_json(body)).hexdigest()
    (path / "manifest.json").write_bytes(canonical_json({**body, "digest": digest}))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    result = copy.deepcopy(value)
    parent = result
    for step in place[:-1]:
        parent = parent[step]
    if new is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = new
    return result


def test_every_value_replaced_by_a_hostile_one(tmp_path: Path) -> None:
    """What is accepted all the same stays inside: every named file lies in its table's folder."""
    path = tmp_path / "manifest"
    write_manifest(path)
    value = json.loads((path / "manifest.json").read_bytes())
    value["parameters"] = PARAMETERS
    value["snapshots"][0]["inputs"] = [{"uri": "a.jsonl", "bytes": 7}]
    write_index(path, value)
    open_manifest(path)
    messages, accepted = [], 0
    for place in places(value):
        for new in (*VALUES, ...):
            write_index(path, changed(value, place, new))
            try:
                opened = open_manifest(path)
            except GovernError as error:
                messages.append(str(error))
            else:
                accepted += 1
                for table in opened.index.tables:
                    assert all(Path(f).parent == path / table for f in opened.files(table))
    assert len(messages) > 5 * accepted > 0
    assert max(map(len, messages)) < 2000


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("tables", "documents", 0, "path"), "../../etc/passwd", "expected a file name documents/"),
        (("tables", "documents", 0, "path"), "/etc/passwd", "expected a file name documents/"),
        (("tables", "documents", 0, "path"), "links/../x.parquet", "expected a file name"),
        (("tables", "documents", 0, "rows"), 2**60, "a count of 1152921504606846976"),
        (("tables", "documents", 0, "rows"), -1, "a count of -1"),
        (("tables", "documents", 0, "bytes"), 2**50, "expected 1125899906842624 bytes"),
        (("parameters", "num_perm"), 10**12, "num_perm 1000000000000"),
        (("parameters", "num_perm"), True, "num_perm True"),
        (("parameters", "threshold"), float("nan"), "threshold nan"),
        (("snapshots",), [], "no snapshot"),
    ],
)
def test_what_is_refused_and_how(
    tmp_path: Path, place: tuple[Any, ...], value: Any, message: str
) -> None:
    path = tmp_path / "manifest"
    write_manifest(path)
    whole = json.loads((path / "manifest.json").read_bytes())
    write_index(path, changed(whole, place, value))
    with pytest.raises(GovernError) as caught:
        open_manifest(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nesting_that_would_exhaust_the_stack(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(ManifestError, match="not JSON"):
        open_manifest(tmp_path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_manifest_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "manifest"
    write_manifest(path)
    victim = next((path / "documents").iterdir()) if what == "file" else path / "documents"
    victim.rename(tmp_path / "elsewhere")
    victim.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="found a symbolic link"):
        open_manifest(path)


def test_a_missing_parameter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    opened = write_manifest(path)
    with pytest.raises(ManifestError, match="expected 'ngram', found none"):
        opened.parameters["ngram"]
