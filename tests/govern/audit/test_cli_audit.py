"""The commands: what they print, in both forms, and how they exit."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from audit_world import World
from click.testing import CliRunner, Result

from govern.cli import cli, main
from manifests.errors import InputError

ROOT = Path(__file__).parents[3]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def test_keygen_says_where_the_keys_are(tmp_path: Path) -> None:
    result = invoke("--output", "json", "audit", "keygen", "--out", tmp_path / "k")
    assert result.exit_code == 0
    value = json.loads(result.output)
    assert set(value) == {"key_id", "private", "public"}
    assert stat.S_IMODE(Path(value["private"]).stat().st_mode) == 0o600
    with pytest.raises(InputError, match="never overwritten"):
        invoke("audit", "keygen", "--out", tmp_path / "k")


def test_keygen_takes_the_passphrase_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "correct horse")
    result = invoke("audit", "keygen", "--out", tmp_path, "--passphrase-env", "SECRET")
    assert "horse" not in result.output
    assert b"ENCRYPTED" in (tmp_path / "govern-private.pem").read_bytes()
    with pytest.raises(InputError, match="no such variable"):
        invoke("audit", "keygen", "--out", tmp_path / "b", "--passphrase-env", "MISSING")


def test_verify_prints_each_check(pristine: World) -> None:
    command = ["audit", "verify", pristine.report_path, "--model", pristine.run]
    result = invoke(*command)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("passed         report form")
    assert any(line.startswith("not checkable  signed by a trusted key") for line in lines)
    assert lines[-1] == "12 passed, 0 failed, 3 not checkable"
    value = json.loads(invoke("--output", "json", *command).output)
    assert value["failed"] == 0
    assert {c["outcome"] for c in value["checks"]} == {"passed", "not checkable"}


def test_verify_exits_3_and_names_the_file(world: World) -> None:
    (world.run / "config.json").write_bytes(b"{}")
    result = invoke("audit", "verify", world.report_path, "--model", world.run)
    assert result.exit_code == 3
    assert "FAILED         checkpoint files" in result.output
    assert "config.json has other bytes" in result.output
    quiet = invoke("--output", "json", "audit", "verify", world.report_path, "--model", world.run)
    assert quiet.exit_code == 3
    assert json.loads(quiet.output)["failed"] == 1


def test_verify_of_nothing_is_one_line_and_exit_1(
    tmp_path: Path, pristine: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["audit", "verify", str(tmp_path / "none"), "--model", str(pristine.run)])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"govern: {tmp_path}/none: expected a REPORT.json, found No such file or directory; "
        "give the REPORT.json that `govern forget` wrote\n"
    )


def test_render_writes_the_page(pristine: World, tmp_path: Path) -> None:
    result = invoke("audit", "render", pristine.report_path, "--out", tmp_path / "page.html")
    assert result.exit_code == 0
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_log_lists_entries_and_the_signed_head(pristine: World) -> None:
    value = json.loads(
        invoke("--output", "json", "audit", "log", "--ledger", pristine.ledger).output
    )
    assert [e["reference"] for e in value["entries"]] == ["REQ-2026-117"]
    assert value["entries"][0]["statement_sha256"] == pristine.statement.canonical_sha256()
    assert value["tree_head"]["tree_size"] == 1
    assert value["tree_head"]["signed_by"] == [pristine.key.public.key_id]
    text = invoke("audit", "log", "--ledger", pristine.ledger).output
    assert "REQ-2026-117" in text
    assert f"root {value['tree_head']['root']}" in text


def test_verify_never_imports_torch(pristine: World) -> None:
    code = (
        "import sys\nfrom govern.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'transformers', 'numba'} & set(sys.modules)\n"
    )
    command = ["audit", "verify", pristine.report_path, "--model", pristine.run,
               "--manifest", pristine.manifest, "--ledger", pristine.ledger]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout


@pytest.mark.parametrize("command", ["keygen", "verify", "render", "log"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: govern audit {command} " in invoke("audit", command, "--help").output
