"""The whole job through the command line, on a tiny corpus; then three mistakes and four flips."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trained_world import TINY, documents, write_corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

from govern.cli import main

Govern = Callable[..., tuple[int, str, str]]


def changed_fields() -> list[str]:
    """TINY as `--set` options over the demo recipe."""
    values = {field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)}
    return [f"--set={name}={value}" for name, value in values.items() if value is not None]


@pytest.fixture
def govern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Govern:
    """Run `govern …` in a directory of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def succeed(govern: Govern, *arguments: str) -> str:
    code, out, err = govern(*arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a tiny model was trained and a strict text forgotten."""
    base = tmp_path_factory.mktemp("end-to-end")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        torch.set_num_threads(1)
        _train_and_forget(_call)
    return base


@pytest.fixture
def forgotten(govern: Govern, done: Path, tmp_path: Path) -> Govern:
    """`govern` in a copy of that directory."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return govern


def _call(*arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0), "", ""


def _train_and_forget(govern: Govern) -> None:
    write_corpus(Path("corpus.jsonl"), documents())
    succeed(govern, "ids", "build", "corpus.jsonl", "--out", "manifest", "--workers", "1")
    succeed(
        govern,
        "manifest",
        "policy",
        "manifest",
        "--where",
        "doc_id = 'secret-0'",
        "--set",
        "strict",
    )
    succeed(govern, "train", "manifest", "--out", "run", *changed_fields())
    succeed(govern, "audit", "keygen", "--out", "keys")
    code, _, err = govern(
        *("forget", "run", "--manifest", "manifest", "--doc-id", "secret-0", "--out", "after"),
        *("--request", "R-1", "--reason", "test", "--key", "keys/govern-private.pem"),
        *("--report", "report", "--ledger", "ledger"),
    )
    # So small a model forgets a few nats at most: the verdict may fail, the erase may not.
    assert code in (0, 3), err


VERIFY = (
    *("audit", "verify", "report/REPORT.json", "--model", "after", "--manifest", "manifest"),
    *("--public-key", "keys/govern-public.pem", "--ledger", "ledger"),
)


def test_whole_job(forgotten: Govern) -> None:
    govern = forgotten
    verified = json.loads(succeed(govern, "--output", "json", *VERIFY))
    assert {check["outcome"] for check in verified["checks"]} == {"passed"}
    page = Path("report/REPORT.html").read_text(encoding="utf-8")
    assert "R-1" in page

    succeed(govern, "manifest", "check", "manifest")
    found = succeed(
        govern, "--output", "json", "manifest", "find", "manifest", "--doc-id", "secret-1"
    )
    assert "secret-0" in found
    info = succeed(govern, "--output", "json", "manifest", "info", "manifest")
    assert json.loads(info)

    code, _, err = govern("train", "manifest", "--out", "again", *changed_fields())
    assert code == 0, err
    assert "secret" not in Path("again/training.json").read_text()
    record = json.loads(Path("again/training.json").read_bytes())
    assert record["corpus"]["documents"] == len(documents()) - 2


def test_export_and_generate(forgotten: Govern) -> None:
    govern = forgotten
    text = succeed(govern, "generate", "after", "--prompt", "river stone", "--max-new-tokens", "8")
    assert text.strip()
    routed = succeed(
        govern,
        *("generate", "run", "--prompt", documents()["licence-0"][:40]),
        *("--sinks", "route", "--max-new-tokens", "4"),
    )
    assert routed.strip()
    succeed(govern, "export", "after", "--out", "plain", "--sinks", "off")
    plain = AutoModelForCausalLM.from_pretrained("plain")
    assert type(plain).__name__ == "LlamaForCausalLM"
    from sinkmodel.checkpoint import load_run

    ours = load_run("after").model
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(plain(tokens).logits, ours(tokens).logits, atol=1e-6)
    assert AutoTokenizer.from_pretrained("plain").eos_token_id is not None


@pytest.mark.parametrize(
    ("victim", "names"),
    [
        ("report/REPORT.json", "report"),
        ("after/sinks-00000.safetensors", "sinks-00000.safetensors"),
        ("ledger", "ledger"),
        ("manifest", "manifest"),
    ],
)
def test_one_flipped_byte_is_named(forgotten: Govern, victim: str, names: str) -> None:
    path = Path(victim)
    if path.is_dir():
        folder = {"ledger": "entries", "manifest": "documents"}[victim]
        path = next(p for p in sorted((path / folder).iterdir()) if p.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, out, err = forgotten(*VERIFY)
    assert code == 3
    failed = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert any(names in line for line in failed), out + err


# --- three mistakes ------------------------------------------------------------------------------


def test_wrong_path(govern: Govern) -> None:
    code, out, err = govern("ids", "build", "corpsu.jsonl", "--out", "manifest")
    assert (code, out) == (1, "")
    assert err == (
        "govern: input corpsu.jsonl: expected a corpus file, a folder of them, or a glob pattern "
        "that matches some, found nothing there; correct the path\n"
    )
    assert not Path("manifest").exists()


def test_broken_lines_are_accounted_for(govern: Govern) -> None:
    lines = ['{"id": "a", "text": "one two three"}', '{"id": "b", "text": ', '{"id": "c"}', "[]"]
    Path("corpus.jsonl").write_text("\n".join(lines) + "\n")
    result = json.loads(
        succeed(govern, "--output", "json", "ids", "build", "corpus.jsonl", "--out", "manifest")
    )
    assert (result["records"], result["documents"], result["rejects"]) == (4, 1, 3)
    rejects = succeed(
        govern,
        "manifest",
        "query",
        "manifest",
        "SELECT row, reason FROM rejects",
        "--format",
        "csv",
    )
    assert len(rejects.strip().splitlines()) == 4


def test_unknown_document_changes_nothing(forgotten: Govern, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, out, err = forgotten(
        *("forget", "after", "--manifest", "manifest", "--doc-id", "nobody", "--out", "more"),
        *("--request", "R-2", "--reason", "test", "--key", "keys/govern-private.pem"),
    )
    assert (code, out) == (1, "")
    assert "nobody" in err
    assert err.splitlines()[-1].startswith("govern: ")
    assert "Traceback" not in err
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == {p: data for p, data in before.items() if p.name != ".lock"}
