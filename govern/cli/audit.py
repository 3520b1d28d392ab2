"""`govern audit`: keys, verification, rendering and the ledger."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit

if TYPE_CHECKING:
    from govern.audit.findings import Verification
    from govern.audit.ledger import Ledger

_MARKS = {"passed": "passed       ", "failed": "FAILED       ", "not checkable": "not checkable"}
_EXIT_INTEGRITY = 3
_PATH = LocalPath()


@click.group(
    epilog="Example: govern audit verify REPORT.json --model run-after --public-key pub.pem"
)
def audit() -> None:
    """Keys, verification and rendering of audit reports."""


@audit.command(epilog="Example: govern audit keygen --out keys --passphrase-env GOVERN_PASSPHRASE")
@click.option("--out", required=True, type=_PATH, help="Directory for the two PEM files.")
@click.option(
    "--passphrase-env",
    metavar="NAME",
    help="Encrypt the private key with the passphrase in this environment variable.",
)
@click.pass_obj
def keygen(settings: Settings, out: Path, passphrase_env: str | None) -> None:
    """Make an Ed25519 key pair. An existing key is never overwritten."""
    from govern.audit.signing import generate_keys
    from govern.cli.keys import passphrase_of

    passphrase = None if passphrase_env is None else passphrase_of(passphrase_env)
    keys = generate_keys(out, passphrase=passphrase)
    result = {"key_id": keys.key_id, "private": str(keys.private), "public": str(keys.public)}
    emit(
        settings,
        result,
        lambda: (
            f"key id   {keys.key_id}\n"
            f"private  {keys.private}  (keep it secret; pass it to `govern forget --key`)\n"
            f"public   {keys.public}  (give it to whoever verifies)"
        ),
    )


@audit.command(epilog="Example: govern audit verify REPORT.json --model run-after --ledger ledger")
@click.argument("report", type=_PATH)
@click.option("--model", required=True, type=_PATH, help="The run directory after the erase.")
@click.option("--manifest", type=_PATH, help="The manifest, with its tombstones.")
@click.option(
    "--public-key", type=_PATH, multiple=True, help="A trusted key (PEM); may be repeated."
)
@click.option("--ledger", type=_PATH, help="The ledger directory as it is now.")
@click.pass_obj
def verify(
    settings: Settings,
    report: Path,
    model: Path,
    manifest: Path | None,
    public_key: tuple[Path, ...],
    ledger: Path | None,
) -> None:
    """Check a report offline against the files that it speaks about.

    Prints each check as passed, failed or not checkable, and exits 3 if any failed.
    """
    from govern.audit.verify import verify_report

    found = verify_report(
        report, model=model, manifest=manifest, public_key=public_key, ledger=ledger
    )
    result = {
        "report": str(report),
        "failed": len(found.failed),
        "checks": [
            {"name": check.name, "outcome": check.outcome, "detail": check.detail}
            for check in found.checks
        ],
    }
    emit(settings, result, lambda: _verification_text(found))
    if found.failed:
        sys.exit(_EXIT_INTEGRITY)


@audit.command(epilog="Example: govern audit render REPORT.json --out REPORT.html")
@click.argument("report", type=_PATH)
@click.option("--out", required=True, type=_PATH, help="The HTML file to write.")
@click.pass_obj
def render(settings: Settings, report: Path, out: Path) -> None:
    """Write the page that a person reads: one HTML file, no scripts, no network."""
    from govern.audit.report import render_report
    from govern.audit.report_file import read_report
    from manifests.files import atomic_write

    page = render_report(read_report(report))
    atomic_write(out, page.encode())
    emit(settings, {"out": str(out), "bytes": len(page.encode())}, lambda: f"wrote {out}")


@audit.command(epilog="Example: govern audit log --ledger ledger --proof 3 --since 2")
@click.option("--ledger", required=True, type=_PATH, help="The ledger directory.")
@click.option(
    "--proof", type=int, metavar="ENTRY", help="Also prove that this entry is in the newest tree."
)
@click.option(
    "--since",
    type=int,
    metavar="SIZE",
    help="Also prove that the tree of this size is a beginning of the newest.",
)
@click.option("--html", type=_PATH, metavar="PAGE", help="Also write the page over the ledger.")
@click.option(
    "--reports",
    type=_PATH,
    multiple=True,
    metavar="DIR",
    help="With --html: look there for reports that the ledger lacks and forgets left unfinished.",
)
@click.pass_context
def log(
    ctx: click.Context,
    /,
    ledger: Path,
    proof: int | None,
    since: int | None,
    html: Path | None,
    reports: tuple[Path, ...],
) -> None:
    """List the entries of a ledger and its signed tree head; exits 3 if it was altered."""
    from govern.audit.ledger import read_ledger
    from govern.audit.log import prove_consistency, prove_inclusion

    settings: Settings = ctx.obj
    if reports and html is None:
        raise click.UsageError("--reports goes with --html.", ctx)
    opened = read_ledger(ledger)
    result = _log_result(opened)
    if html is not None:
        _write_page(opened, html, reports)
        result["html"] = str(html)
    if proof is not None:
        result["inclusion"] = prove_inclusion(opened, proof).to_dict()
    if since is not None:
        result["consistency"] = prove_consistency(opened, since).to_dict()
    emit(settings, result, lambda: _log_text(result))


def _verification_text(found: Verification) -> str:
    width = max(len(check.name) for check in found.checks)
    lines = [
        f"{_MARKS[check.outcome]}  {check.name:<{width}}  {_one_line(check.detail)}".rstrip()
        for check in found.checks
    ]
    passed = sum(check.outcome == "passed" for check in found.checks)
    open_questions = len(found.checks) - passed - len(found.failed)
    summary = f"{passed} passed, {len(found.failed)} failed, {open_questions} not checkable"
    return "\n".join([*lines, "", summary])


def _log_result(ledger: Ledger) -> dict[str, Any]:
    from govern.audit.log import log_entries, newest_head

    newest, head = newest_head(ledger), None
    if newest is not None:
        signed = [signature.keyid for signature in ledger.heads[-1].signatures]
        head = {**newest.to_dict(), "signed_by": signed}
    entries = [entry.to_dict() for entry in log_entries(ledger)]
    return {"entries": entries, "tree_head": head, "pending": ledger.pending is not None}


def _write_page(ledger: Ledger, page: Path, reports: tuple[Path, ...]) -> None:
    from govern.audit.portfolio import render_portfolio
    from manifests.errors import InputError
    from manifests.files import atomic_write

    for directory in reports:
        if not directory.is_dir():
            raise InputError(
                f"--reports {directory}",
                expected="a directory",
                found="a file" if directory.exists() else "nothing",
                remedy="check the path",
            )
    atomic_write(page, render_portfolio(ledger, reports).encode())


def _log_text(result: dict[str, Any]) -> str:
    lines = [
        f"{e['index']:>5}  {e['executed_at']}  {e['verdict']:<6}  {e['sequence_ids']:>5} IDs  "
        f"{e['outstanding']:>3} outstanding  {_one_line(e['reference'])}"
        for e in result["entries"]
    ] or ["no entries"]
    head = result["tree_head"]
    if head:
        signed = ", ".join(key[:16] + "…" for key in head["signed_by"])
        lines += [
            "",
            f"tree head: {head['tree_size']} entries, root {head['root']}",
            f"           signed {head['time']} by {signed}",
        ]
    if result["pending"]:
        lines.append("one entry is pending: its writer was interrupted; the next append commits it")
    if "html" in result:
        lines += ["", f"wrote {result['html']}"]
    lines += _proof_text(result)
    return "\n".join(lines)


def _proof_text(result: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if proof := result.get("inclusion"):
        lines += [
            "",
            f"inclusion of entry {proof['entry_index']} in the tree of {proof['tree_size']}",
            f"           leaf {proof['leaf']}",
            *(f"           path {node}" for node in proof["path"]),
            f"           root {proof['root']}",
        ]
    if proof := result.get("consistency"):
        lines += [
            "",
            f"consistency of the tree of {proof['old_size']} with that of {proof['tree_size']}",
            f"           from {proof['old_root']}",
            *(f"           path {node}" for node in proof["path"]),
            f"           root {proof['root']}",
        ]
    return lines


def _one_line(text: str, limit: int = 300) -> str:
    """Text from a report on a terminal: control characters shown, not obeyed; long text elided."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= limit else shown[:limit] + "…"
