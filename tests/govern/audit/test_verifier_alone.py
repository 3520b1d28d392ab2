"""The verifier alone: its imports, and a fresh environment with only what it needs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from audit_world import World

ROOT = Path(__file__).resolve().parents[3]
# What erases and what verifies may both use: the bytes of a bank, Merkle hashing, the manifest.
SHARED_WITH_THE_ERASER = {"sinkmodel", "sinkmodel.bank_format"}


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere, functions included, type checking not."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    checked_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in checked_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if module_file(name)}


def reached_from(name: str) -> set[str]:
    """Every module of ours that importing this one can lead to."""
    reached, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            path = module_file(name)
            assert path is not None
            waiting += imports_of(path)
    return reached


def test_the_verifier_shares_no_code_with_the_eraser() -> None:
    reached = reached_from("govern.audit.verify")
    assert "govern.audit.verify_checkpoint" in reached
    assert {name for name in reached if name.startswith("sinkmodel")} <= SHARED_WITH_THE_ERASER
    others = {name for name in reached if name.startswith("govern.")}
    assert {name for name in others if not name.startswith("govern.audit")} == set()


def test_the_walk_over_imports_sees_the_eraser() -> None:
    """Otherwise the test above would hold whatever the verifier imports."""
    assert "sinkmodel.erase_predict" in reached_from("govern.forget.execute")


def test_nothing_heavy_is_loaded(pristine: World) -> None:
    code = (
        "import sys\n"
        "from govern.audit.verify import verify_report\n"
        f"found = verify_report({str(pristine.report_path)!r}, model={str(pristine.run)!r},\n"
        f"    manifest={str(pristine.manifest)!r}, ledger={str(pristine.ledger)!r})\n"
        "assert not found.failed, found.failed\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "govern.audit.verify" in loaded
    heavy = {"torch", "transformers", "numba", "sklearn", "scipy", "safetensors", "tokenizers"}
    assert loaded & heavy == set()
    assert {
        name for name in loaded if name.startswith(("sinkmodel.erase", "govern.forget"))
    } == set()


def documented_install() -> list[list[str]]:
    """The `pip` commands that docs/verify.md gives to somebody who only verifies."""
    text = (ROOT / "docs" / "verify.md").read_text()
    commands = re.findall(r"^    pip (install .*)$", text, flags=re.MULTILINE)
    assert len(commands) == 2, commands
    return [command.split() for command in commands]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The clone that somebody installs from: building there leaves files."""
    clone = tmp_path / "clone"
    for package in ("manifests", "sinkmodel", "govern", "docs"):
        shutil.copytree(ROOT / package, clone / package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    return clone


@pytest.mark.slow
def test_a_fresh_environment_without_torch_verifies(
    pristine: World, source: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "environment", with_pip=True)
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tmp_path / "environment" / "bin" / "python"), *map(str, arguments)],
            capture_output=True, text=True, check=False, cwd=source, env=outside,
        )  # fmt: skip

    for command in documented_install():
        done = run("-m", "pip", *command)
        if "No matching distribution" in done.stderr or "Connection" in done.stderr:
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
    assert run("-I", "-c", "import torch").returncode == 1
    govern, report = ("-I", "-m", "govern"), pristine.report_path
    done = run(
        *govern, "--output", "json", "audit", "verify", report, "--model", pristine.run,
        "--manifest", pristine.manifest, "--ledger", pristine.ledger,
        "--public-key", pristine.public_key,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [check["outcome"] for check in json.loads(done.stdout)["checks"]]
    assert outcomes == ["passed"] * 17
    page = tmp_path / "page.html"
    assert run(*govern, "audit", "render", report, "--out", page).returncode == 0
    assert run(*govern, "audit", "log", "--ledger", pristine.ledger).returncode == 0
    alone = run("-I", "docs/independent_check.py", report, pristine.run, pristine.public_key)
    assert alone.returncode == 0, alone.stdout + alone.stderr
