"""The house rules that a machine can hold: import direction, fast start, no torch unless needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

from govern.cli import cli
from govern.cli.paths import LocalPath

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "manifests": {"manifests"},
    "sinkmodel": {"sinkmodel", "manifests"},
    "govern": {"govern", "sinkmodel", "manifests"},
}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        foreign = imported_packages(path) & set(ALLOWED) - ALLOWED[package]
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_manifests_needs_no_model_libraries() -> None:
    for path in (ROOT / "manifests").rglob("*.py"):
        assert not imported_packages(path) & {
            "torch",
            "transformers",
            "numba",
            "datasketch",
            "click",
        }


@pytest.mark.parametrize(
    "arguments", [["--help"], ["manifest", "--help"], ["ids", "--help"], ["audit", "--help"]]
)
def test_light_commands_start_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from govern.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: govern" in done.stdout


def test_help_imports_click_and_nothing_else_of_others() -> None:
    """A fifth of a second, which a shared machine cannot be held to: what it loads can be held."""
    code = (
        "import sys\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "from govern.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules} - before\n"
        "print(sorted(loaded - sys.stdlib_module_names), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "['click', 'govern', 'manifests']\n"


def test_every_path_of_a_command_refuses_a_url() -> None:
    """It would become a folder named `s3:` where the command runs."""
    waiting: list[click.Command] = [cli]
    paths = 0
    while waiting:
        command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            names = command.list_commands(context)
            waiting += filter(None, (command.get_command(context, name) for name in names))
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                assert isinstance(parameter.type, LocalPath), (command.name, parameter.name)
                paths += 1
    assert paths > 30
