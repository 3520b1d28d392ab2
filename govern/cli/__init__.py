"""The command line: one module per command group, imported only when its command runs.

`main` is the only place where errors become text: a `GovernError` prints as one line on stderr and
exits with its own code; `--debug` shows the traceback.

Commands follow one pattern: parse, call one function, render the result with `render.emit`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from importlib.metadata import version
from typing import Any

import click

from govern.cli.render import Settings
from manifests.errors import GovernError

# Command name -> (module, attribute, short help). The help stands here so that `govern --help`
# imports nothing.
_COMMANDS = {
    "demo": ("govern.cli.demo", "demo", "The whole story on an embedded corpus, in minutes."),
    "ids": ("govern.cli.ids", "ids", "Give every document of a raw corpus a sequence ID."),
    "manifest": ("govern.cli.manifest", "manifest", "Query, check and change a manifest."),
    "train": ("govern.cli.train", "train", "Train a sink model on a manifest and its corpus."),
    "generate": ("govern.cli.model", "generate", "Continue a prompt with a trained run."),
    "export": ("govern.cli.model", "export", "Write the shared model as a plain Llama checkpoint."),
    "evaluate": ("govern.cli.evaluate", "evaluate", "Measure what a run remembers of documents."),
    "forget": ("govern.cli.forget", "forget", "Zero the sinks of chosen documents and prove it."),
    "audit": ("govern.cli.audit", "audit", "Keys, verification and rendering of audit reports."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: govern ids build corpus.jsonl.gz --out manifest",
)
@click.version_option(version("memsinks-govern"), prog_name="govern")
@click.option("--quiet", is_flag=True, help="Print results and errors only.")
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="json prints exactly one JSON object on stdout.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, output: str, debug: bool) -> None:
    """Sequence IDs, memorization sinks and verifiable forgetting for training data."""
    ctx.obj = Settings(quiet=quiet, json=output == "json", debug=debug)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `govern` command: the one error adapter."""
    # Threads that spin while they wait take the core that the others need: with both cores busy,
    # evaluating a small model took 52 s of processor time, and 16 s with threads that sleep. Read
    # when OpenMP is loaded, so it is set before torch can be; a user's own choice stands.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(args=arguments, prog_name="govern", standalone_mode=True)
    except (GovernError, OSError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        fault = _in_our_form(error)
        for line in str(fault).splitlines():
            click.echo(f"govern: {line}", err=True)
        sys.exit(fault.exit_code)


def _in_our_form(error: GovernError | OSError | MemoryError) -> GovernError:
    """What the operating system refused, in our form: a full disk is no reason for a traceback."""
    if isinstance(error, GovernError):
        return error
    if isinstance(error, MemoryError):
        return GovernError(
            "memory",
            expected="enough of it",
            found=str(error) or "none left",
            remedy="free some, or ask for less of it (fewer --workers), and run the command again",
        )
    remedies = {
        errno.ENOSPC: "free some space and run the command again",
        errno.EACCES: "correct the permissions, or choose another path",
        errno.EROFS: "choose a path that can be written",
        errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    }
    return GovernError(
        str(error.filename or "operating system"),
        expected="reading and writing to work",
        found=error.strerror or type(error).__name__,
        remedy=remedies.get(error.errno or 0, "mend it and run the command again"),
    )
