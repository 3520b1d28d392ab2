"""Docs that a machine can hold: the command reference, and the commands that the README shows."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from govern.cli import cli

ROOT = Path(__file__).resolve().parents[1]


def readme_commands() -> list[str]:
    """Every `govern …` line of the README's code blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("govern ")]


def page_commands() -> list[str]:
    """Every indented `govern …` line of the pages for users."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    return re.findall(r"^ {4}(govern (?!demo$).+)$", text, flags=re.MULTILINE)


def test_command_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == build.reference(), "run `make docs`"


def test_readme_shows_commands() -> None:
    assert len(readme_commands()) >= 9
    assert len(page_commands()) >= 5


@pytest.mark.parametrize("line", sorted({*readme_commands(), *page_commands()}))
def test_shown_commands_parse(line: str) -> None:
    """Names, options and arguments exist; nothing is executed."""
    arguments = shlex.split(line)[1:]
    context = click.Context(cli, info_name="govern")
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_context(command.name or "", arguments, parent=context)


def test_every_command_has_an_example() -> None:
    def walk(command: click.Command, path: str) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, f"{path} {name}")
        assert "Example: govern" in (command.epilog or ""), path

    walk(cli, "govern")
