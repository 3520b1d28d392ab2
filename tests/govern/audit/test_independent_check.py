"""The checker in docs/ was written from docs/verify.md alone; it must agree with ours."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_world import World, forget

from govern.audit.records import canonical
from govern.audit.signing import new_private_key

CHECKER = Path(__file__).parents[3] / "docs" / "independent_check.py"


def run(world: World) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", CHECKER, world.report_path, world.run, world.public_key]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_it_needs_nothing_of_ours() -> None:
    imported = set()
    for node in ast.walk(ast.parse(CHECKER.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"cryptography"}


def test_it_is_short() -> None:
    """Lines of code: neither blank, nor a comment, nor part of a docstring."""
    text = CHECKER.read_text()
    documented = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node)
    ]
    prose = {n for d in documented for n in range(d.lineno, (d.end_lineno or 0) + 1)}
    lines = [line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in prose]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 115


def test_it_accepts_an_honest_world(pristine: World) -> None:
    done = run(pristine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("passed") >= 25


def test_it_follows_an_audit_path(world: World) -> None:
    later = world
    for number, ids in enumerate(([11], [55], [22])):
        later = forget(world.base, ids, "run-before", f"run-{number}", world.key)
    command = [world.report_path, world.base / "run-2", world.public_key]
    assert len(later.report.ledger.inclusion_path) == 2
    done = subprocess.run(
        [sys.executable, "-I", str(CHECKER), *map(str, command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _exchange(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def _link(world: World) -> None:
    """The bytes are as they were, but lie elsewhere."""
    path = world.run / "config.json"
    path.rename(world.base / "elsewhere.json")
    path.symlink_to(world.base / "elsewhere.json")


def _other_signature(world: World) -> None:
    report = json.loads(world.report_path.read_bytes())
    report["envelope"]["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    world.report_path.write_bytes(canonical(report))


CASES: dict[str, tuple[Callable[[World], object], str]] = {
    "erased block": (
        lambda w: _flip(w.run / "sinks-00001.safetensors", 150),
        "FAILED erased blocks are zero [8]",
    ),
    "kept block": (
        lambda w: _flip(w.run / "sinks-00001.safetensors", -1),
        "FAILED root before sinks-00001.safetensors",
    ),
    "shared weights": (
        lambda w: _flip(w.run / "model-shared.safetensors", -1),
        "FAILED digest model-shared.safetensors",
    ),
    "extra file": (lambda w: (w.run / "x").write_text("x"), "FAILED digest x"),
    "missing file": (lambda w: (w.run / "config.json").unlink(), "FAILED digest config.json"),
    "link": (_link, "FAILED no links"),
    "forgotten list": (
        lambda w: _exchange(w.run / "forgotten.txt", b"sq-", b"sQ-"),
        "FAILED selected IDs are forgotten",
    ),
    "signature": (_other_signature, "FAILED readable evidence InvalidSignature()"),
    "no canonical form": (
        lambda w: _exchange(w.report_path, b'{"disclosure"', b'{ "disclosure"'),
        "FAILED canonical form",
    ),
    "no JSON": (lambda w: w.report_path.write_text("{"), "FAILED readable evidence"),
    "another key": (
        lambda w: w.public_key.write_text(new_private_key().public.pem),
        "FAILED signed by the trusted key",
    ),
    "document name": (
        lambda w: _exchange(w.report_path, b"doc-22-1", b"doc-22-9"),
        "FAILED document 'doc-22-9'",
    ),
    "receipt": (
        lambda w: _exchange(w.report_path, b'"entry_index":0', b'"entry_index":1'),
        "FAILED ledger inclusion",
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_finds_what_was_altered(name: str, world: World) -> None:
    alter, line = CASES[name]
    alter(world)
    done = run(world)
    assert done.returncode == 3, done.stdout + done.stderr
    assert line in done.stdout
