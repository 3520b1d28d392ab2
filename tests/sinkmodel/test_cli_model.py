"""`govern generate` and `govern export` on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_models import mixed_map, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from govern.cli import cli
from manifests.errors import CheckpointError, InputError
from sinkmodel import checkpoint
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex
from sinkmodel.tokenizer import train_bpe

torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory of an untrained model whose vocabulary is far larger than its words."""
    path = tmp_path / "run"
    tokenizer = train_bpe(["the cat sat on the mat"], 300)
    sink_map = mixed_map()
    model = tiny_model(sink_map)
    model.resize_token_embeddings(len(tokenizer))
    for name in ("bos", "eos", "pad"):
        value = getattr(tokenizer, f"{name}_token_id")
        setattr(model.config, f"{name}_token_id", value)
        setattr(model.generation_config, f"{name}_token_id", value)
    banks = checkpoint.save_model(path, model, tokenizer)
    texts = {1: "the cat sat on the mat", 2: "a dog ran in a park", 7: "cats and dogs"}
    RouteIndex.build(list(texts), texts.values()).save(path / ROUTE_INDEX_FILE)
    record = {
        "banks": banks,
        "config": {"context_length": 64},
        "manifest": {"content_digest": "0" * 64, "snapshot": 1},
    }
    checkpoint.seal(path, record)
    return path


def govern(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def continuation(run: Path, sinks: str, prompt: str = "the cat") -> dict[str, str]:
    result = govern(
        "--output", "json", "generate", run, "--prompt", prompt, "--sinks", sinks,
        "--max-new-tokens", 5,
    )  # fmt: skip
    assert result.exit_code == 0
    (only,) = json.loads(result.stdout)["continuations"]
    return only


def greedy(run: Path, prompt: str, sequence_id: int) -> str:
    """The same by hand, without cache."""
    model = AutoModelForCausalLM.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
    start = tokens.shape[1]
    with torch.no_grad():
        for _ in range(5):
            ids = torch.full_like(tokens, sequence_id)
            new = model(tokens, sequence_ids=ids).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
    return str(tokenizer.decode(tokens[0, start:], skip_special_tokens=True))


def test_generate_uses_the_chosen_sinks(run: Path) -> None:
    assert continuation(run, "off") == {"sinks": "off", "text": greedy(run, "the cat", 0)}
    one = {"sinks": "sq-0000000000000001", "text": greedy(run, "the cat", 1)}
    assert continuation(run, "1") == one
    assert continuation(run, "sq-0000000000000001") == one
    assert one["text"] != greedy(run, "the cat", 0)


def test_generate_gives_one_continuation_for_each_id(run: Path) -> None:
    result = govern(
        "--quiet", "generate", run, "--prompt", "a", "--sinks", "1,sq-0000000000000007",
        "--max-new-tokens", 5,
    )  # fmt: skip
    assert result.stdout.startswith("[sq-0000000000000001]\na")
    assert "\n\n[sq-0000000000000007]\na" in result.stdout
    assert govern("generate", run, "--prompt", "hello").stdout.startswith("hello")


def test_generate_routes(run: Path) -> None:
    assert continuation(run, "route", "a dog ran")["sinks"] == "sq-0000000000000002"
    assert continuation(run, "route", "xylophone")["sinks"] == "off"
    mixed_map().forget([2]).save(run / "sink_map.parquet")
    assert continuation(run, "route", "a dog ran")["sinks"] != "sq-0000000000000002"


def test_generate_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    cases = [
        (run, "99", CheckpointError, "sq-0000000000000063: expected a sequence ID of this run"),
        (run, "some", InputError, "sequence ID 'some': expected sq- and 16 hex digits"),
        (run, "1,,2", InputError, "sequence ID ''"),
        (tmp_path / "none", "off", CheckpointError, "expected a run directory"),
    ]
    for path, sinks, error, message in cases:
        with pytest.raises(error, match=message):
            govern("generate", path, "--prompt", "a", "--sinks", sinks)
    (run / ROUTE_INDEX_FILE).unlink()
    with pytest.raises(InputError, match="expected the route index of a run"):
        govern("generate", run, "--prompt", "a", "--sinks", "route")
    assert govern("generate", run).exit_code == 2


def test_export_is_a_plain_llama(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "llama"
    result = govern("--output", "json", "export", run, "--out", out)
    assert json.loads(result.stdout)["out"] == str(out)
    llama = AutoModelForCausalLM.from_pretrained(out)
    assert type(llama) is LlamaForCausalLM
    tokens = AutoTokenizer.from_pretrained(out)("the cat sat", return_tensors="pt")["input_ids"]
    sinks = AutoModelForCausalLM.from_pretrained(run)
    with torch.no_grad():
        assert torch.equal(llama(tokens).logits, sinks(tokens).logits)
    assert govern("export", run, "--out", out).exit_code == 0
    assert list(out.parent.iterdir()) == [out]


def test_export_refuses_what_it_did_not_write(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "diary.txt").write_text("dear")
    with pytest.raises(InputError, match="found other files; choose another name"):
        govern("export", run, "--out", out)
    assert (out / "diary.txt").read_text() == "dear"
    with pytest.raises(InputError, match="found a file"):
        govern("export", run, "--out", out / "diary.txt")
    with pytest.raises(InputError, match="found other files"):
        govern("export", run, "--out", run)


@pytest.mark.parametrize("command", ["generate", "export"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: govern {command}" in govern(command, "--help").stdout
