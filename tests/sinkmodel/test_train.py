"""Training: what the policies promise, to the bit; resuming; and refusing what cannot go well."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from trained_world import (
    TINY,
    Interrupt,
    assert_same_sinks,
    assert_same_weights,
    blocks_by_id,
    documents,
    make_manifest,
    optimizer_by_id,
    same_bits,
    sequence_of,
    shared_weights,
    train_tiny,
    write_corpus,
)

from manifests import Manifest, open_manifest
from manifests.errors import CheckpointError, InputError, MissingExtraError, TrainingError
from manifests.writer import set_policy
from sinkmodel.allocation import SinkMap
from sinkmodel.checkpoint import load_run
from sinkmodel.conversion import export_llama
from sinkmodel.erase import erase_blocks
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.run_record import read_record
from sinkmodel.stopping import stop_requests
from sinkmodel.tokens import TokenStore, with_wrong_ids
from sinkmodel.train import Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A manifest with a strict family, and a run trained on it."""
    base = tmp_path_factory.mktemp("train")
    manifest = make_manifest(base, documents())
    train_tiny(manifest, base / "run")
    return base, manifest


def test_strict_is_exact(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    """With and without a strict family of copies: everything else is equal to the bit, and after
    erasing its blocks the first model is the second."""
    base, manifest = world
    secret = sequence_of(manifest, "secret-0")
    without = {key: text for key, text in documents().items() if not key.startswith("secret")}
    other = make_manifest(tmp_path, without, strict=())
    train_tiny(other, tmp_path / "run")

    assert_same_weights(base / "run", tmp_path / "run")
    kept = set(blocks_by_id(tmp_path / "run"))
    assert kept == set(blocks_by_id(base / "run")) - {secret}
    assert len(kept) == 2
    assert_same_sinks(base / "run", tmp_path / "run", kept)

    # The strict sinks did learn: otherwise all of this would prove nothing.
    assert optimizer_by_id(base / "run")[secret]["steps"].min() > 0
    assert blocks_by_id(base / "run")[secret][:, :, 2].abs().max() > 0

    erased = tmp_path / "erased"
    blocks = SinkMap.read(base / "run" / "sink_map.parquet").blocks_of(secret)
    erase_blocks(base / "run", blocks, [secret], out=erased)
    assert_same_weights(erased, tmp_path / "run")
    assert_same_sinks(erased, tmp_path / "run", kept)
    assert not blocks_by_id(erased)[secret].any()


def test_private_beyond_its_budget_leaves_the_backbone_alone(tmp_path: Path) -> None:
    """A private sequence with no exposures left for the backbone is as good as absent from it."""
    config = dataclasses.replace(TINY, backbone_exposures=0.0)
    tokenizer = tmp_path / "with" / "run"
    with_it = make_manifest(tmp_path / "with", documents(), strict=())
    train_tiny(with_it, tokenizer, config)
    config = dataclasses.replace(config, tokenizer=str(tokenizer))
    copies = ("licence", "poem", "secret")
    bare = {k: t for k, t in documents().items() if not k.startswith(copies)}
    without = make_manifest(tmp_path / "without", bare, strict=())
    train_tiny(without, tmp_path / "without" / "run", config)
    assert_same_weights(tokenizer, tmp_path / "without" / "run")
    assert len(blocks_by_id(tokenizer)) == 3


def test_backbone_budget_does_teach_the_backbone(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """The opposite of the test above, so that it cannot pass because nothing learns."""
    base, manifest = world
    config = dataclasses.replace(TINY, backbone_exposures=0.0)
    train_tiny(manifest, tmp_path / "run", config)
    with pytest.raises(AssertionError):
        assert_same_weights(base / "run", tmp_path / "run")


def test_oracle_leaves_a_sequence_out(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    base, manifest = world
    licence = sequence_of(manifest, "licence-0")
    train_tiny(manifest, tmp_path / "run", exclude=[licence])
    assert set(blocks_by_id(tmp_path / "run")) == set(blocks_by_id(base / "run")) - {licence}
    assert len(read_record(tmp_path / "run")["corpus"]["excluded_sequences"]) == 1


def test_run_is_deterministic_and_pinned(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    base, manifest = world
    train_tiny(manifest, tmp_path / "run")
    first, second = read_record(base / "run"), read_record(tmp_path / "run")
    assert first["files"] == second["files"]
    assert first["banks"] == second["banks"]
    assert first["manifest"] == {
        "content_digest": manifest.content_digest(),
        "snapshot": manifest.snapshot,
    }
    assert "sink_map.parquet" in first["files"]
    run = load_run(tmp_path / "run")
    assert run.model.config.num_blocks == first["banks"][0]["blocks"]


# --- resuming ------------------------------------------------------------------------------------


def test_interrupted_run_resumes_to_the_same_weights(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    base, manifest = world
    out = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        train_tiny(manifest, out, report=Interrupt(17))
    assert caught.value.found == "a stop after 17, whose state is saved"
    assert caught.value.remedy == "run the same command with --resume to go on"
    assert not out.exists()
    train_tiny(manifest, out, resume=True)
    assert read_record(out)["files"] == read_record(base / "run")["files"]
    assert not (tmp_path / ".run.training").exists()


def test_killed_run_resumes_to_the_same_weights(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    base, manifest = world
    code = (
        "import dataclasses, os, signal, sys\n"
        "from pathlib import Path\n"
        "from manifests import open_manifest\n"
        "from trained_world import TINY, train_tiny\n"
        "def kill(progress):\n"
        "    if progress.done == 23:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "config = dataclasses.replace(TINY, save_every=5)\n"
        "train_tiny(open_manifest(sys.argv[1]), Path(sys.argv[2]), config, report=kill)\n"
    )
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(manifest.path), str(out)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / ".run.training").glob("save-*")] == ["save-00000020"]
    train_tiny(manifest, out, dataclasses.replace(TINY, save_every=5), resume=True)
    assert_same_weights(out, base / "run")
    assert_same_sinks(out, base / "run", set(blocks_by_id(out)))


def test_resume_refuses_another_configuration(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    _, manifest = world
    with pytest.raises(TrainingError):
        train_tiny(manifest, tmp_path / "run", report=Interrupt(5))
    other = dataclasses.replace(TINY, learning_rate=1e-3)
    with pytest.raises(InputError, match="found a save of another run"):
        train_tiny(manifest, tmp_path / "run", other, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_waits_for_its_end(
    world: tuple[Path, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """Shared weights have stepped and sinks have not when it comes: the save has both."""
    base, manifest = world
    real = BlockAdam.step
    calls = itertools.count(1)

    def step(self: BlockAdam, *, rate: float = 1.0) -> None:
        if next(calls) == 12:
            os.kill(os.getpid(), number)
        real(self, rate=rate)

    monkeypatch.setattr(BlockAdam, "step", step)
    with pytest.raises(TrainingError, match="whose state is saved"):
        train_tiny(manifest, tmp_path / "run")
    train_tiny(manifest, tmp_path / "run", resume=True)
    assert read_record(tmp_path / "run")["files"] == read_record(base / "run")["files"]


def test_a_second_signal_does_not_wait() -> None:
    with stop_requests(insisting=True) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with stop_requests(insisting=False) as request:  # a launcher passes on what the terminal sent
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked


def test_resume_refuses_a_manifest_that_changed(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, documents())
    with pytest.raises(TrainingError):
        train_tiny(manifest, tmp_path / "run", report=Interrupt(5))
    set_policy(manifest.path, "doc_id = 'poem-0'", "strict")
    with pytest.raises(InputError, match="give the same manifest, corpus and options"):
        train_tiny(open_manifest(manifest.path), tmp_path / "run", resume=True)


# --- banks on disk, passes and trackers -----------------------------------------------------------


def test_banks_on_disk_are_banks_in_memory(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    """The same bits, also over an interruption; and no file of theirs is left."""
    base, manifest = world
    config = dataclasses.replace(TINY, banks="disk")

    def stop(progress: Progress) -> None:
        if progress.done == 17:
            scratch = tmp_path / ".run.training" / "banks-00000"
            sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
            assert sizes.keys() == {"weights-00000", "exp_avg", "exp_avg_sq"}
            blocks = SinkMap.read(base / "run" / "sink_map.parquet").num_blocks
            assert set(sizes.values()) == {blocks * 2 * 3 * 4 * 32 * 4}
            raise KeyboardInterrupt

    with pytest.raises(TrainingError):
        train_tiny(manifest, tmp_path / "run", config, report=stop)
    train_tiny(manifest, tmp_path / "run", config, resume=True)
    assert read_record(tmp_path / "run")["files"] == read_record(base / "run")["files"]
    assert not (tmp_path / ".run.training").exists()


@pytest.mark.parametrize("passes", [2, 4])
def test_accumulated_passes_are_one_batch(tmp_path: Path, passes: int) -> None:
    manifest = make_manifest(tmp_path, documents())
    config = dataclasses.replace(TINY, batch_rows=4, governed_rows=2)
    train_tiny(manifest, tmp_path / "one", config)
    divided = dataclasses.replace(config, accumulation=passes)
    train_tiny(manifest, tmp_path / "run", divided)
    tables = [pq.read_table(tmp_path / n / "state/losses.parquet")["loss"] for n in ("one", "run")]
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-5, rtol=0)
    one, run = shared_weights(tmp_path / "one"), shared_weights(tmp_path / "run")
    assert any(not same_bits(one[name], run[name]) for name in one)  # it did divide
    for name in one:
        torch.testing.assert_close(one[name], run[name], atol=1e-5, rtol=0)
    blocks = blocks_by_id(tmp_path / "one"), blocks_by_id(tmp_path / "run")
    for sequence_id in blocks[0]:
        # Adam makes much of little: a gradient that is nearly zero moves a weight like any other.
        torch.testing.assert_close(
            blocks[0][sequence_id], blocks[1][sequence_id], atol=1e-4, rtol=0
        )


def test_tracked_lines_are_those_of_an_uninterrupted_run(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """A stop after a save leaves lines that the resumed run writes again: each step has one."""
    base, manifest = world
    config = dataclasses.replace(TINY, tracker="jsonl")
    with pytest.raises(TrainingError):
        train_tiny(manifest, tmp_path / "run", config, report=Interrupt(17))
    metrics = tmp_path / "run.log" / "metrics.jsonl"
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 18}\n{"step": 1')  # of steps that no save has, torn by a kill
    train_tiny(manifest, tmp_path / "run", config, resume=True)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 50))
    assert set(lines[-1]) == {
        "step", "shared loss", "sink loss", "tokens", "tokens per second"
    }  # fmt: skip
    losses = pq.read_table(base / "run" / "state" / "losses.parquet").to_pylist()
    last = {row["stream"] == "open": row["loss"] for row in losses}
    assert (lines[-1]["shared loss"], lines[-1]["sink loss"]) == (last[True], last[False])
    assert lines[-1]["tokens"] == sum(row["tokens"] for row in losses)
    assert_same_weights(tmp_path / "run", base / "run")


def test_a_tracker_that_is_not_installed_is_named(
    world: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, manifest = world
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    config = dataclasses.replace(TINY, tracker="tensorboard")
    with pytest.raises(MissingExtraError) as caught:
        train_tiny(manifest, tmp_path / "run", config)
    assert caught.value.remedy == "install memsinks-govern[tensorboard], or set tracker=jsonl"


# --- refusals ------------------------------------------------------------------------------------


def test_nan_loss_stops_and_saves_nothing(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    _, manifest = world
    config = dataclasses.replace(TINY, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(TrainingError, match=r"expected a finite number, found (nan|inf)"):
        train_tiny(manifest, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / ".run.training").glob("save-*"))


def test_occupied_output_is_refused(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    base, manifest = world
    with pytest.raises(InputError, match="found a finished run; choose another name"):
        train_tiny(manifest, base / "run")
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="found other files"):
        train_tiny(manifest, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_resume_without_a_save_is_refused(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    _, manifest = world
    with pytest.raises(InputError, match="expected a save of an interrupted run, found none"):
        train_tiny(manifest, tmp_path / "run", resume=True)


def test_changed_corpus_is_refused(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, documents())
    write_corpus(tmp_path / "corpus.jsonl", documents() | {"single-3": "something else"})
    with pytest.raises(InputError, match="single-3"):
        train_tiny(manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_strict_text_never_reaches_the_tokenizer(world: tuple[Path, Manifest]) -> None:
    """A word that only strict text has stays in pieces; in open text it would be one token."""
    del world
    from sinkmodel.prepare import train_tokenizer

    texts = ["zyxwv " * 200, "river stone " * 200]
    closed = train_tokenizer(texts, ["strict", "shared"], 400)
    opened = train_tokenizer(texts, ["private", "shared"], 400)
    assert len(closed("zyxwv")["input_ids"]) == 5
    assert len(opened("zyxwv")["input_ids"]) < 5


def test_strict_text_leaves_a_base_model_as_it_was(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """Sinks added to an existing Llama: everything that is learned is removable."""
    base, manifest = world
    run = load_run(base / "run")
    export_llama(run.model).save_pretrained(tmp_path / "llama")
    run.tokenizer.save_pretrained(tmp_path / "llama")
    every = {key: text for key, text in documents().items() if key.startswith("secret")}
    strict = make_manifest(tmp_path / "strict", every)
    config = dataclasses.replace(TINY, base=str(tmp_path / "llama"))
    train_tiny(strict, tmp_path / "run", config)
    assert_same_weights(tmp_path / "run", base / "run")
    learned = blocks_by_id(tmp_path / "run")
    assert set(learned) == {sequence_of(strict, "secret-0")} == {sequence_of(manifest, "secret-0")}
    assert all(blocks[:, :, 2].abs().max() > 0 for blocks in learned.values())


def test_a_base_that_is_no_llama_is_refused(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    base, manifest = world
    load_run(base / "run").tokenizer.save_pretrained(tmp_path / "llama")
    config = dataclasses.replace(TINY, base=str(tmp_path / "llama"))
    with pytest.raises(CheckpointError, match="expected a local Llama checkpoint"):
        train_tiny(manifest, tmp_path / "run", config)


def test_id_noise_moves_documents_among_governed_sequences() -> None:
    ids = np.repeat(np.arange(1, 41), 5)
    store = TokenStore(
        tokens=np.arange(600, dtype=np.int32),
        offsets=np.arange(0, 603, 3),
        sequence_ids=ids,
    )
    policies = ["strict" if i % 4 == 0 else "shared" if i % 4 == 1 else "private" for i in ids]
    noisy, moved = with_wrong_ids(store, policies, share=0.3, seed=1)
    text = {int(noisy.document(k)[0]): int(noisy.sequence_ids[k]) for k in range(len(ids))}
    changed = [k for k in range(len(ids)) if text[3 * k] != ids[k]]
    assert all(policies[k] == "private" for k in changed)
    assert 0.15 < len(changed) / policies.count("private") < 0.45
    assert sorted(noisy.tokens.tolist()) == list(range(600))
    assert (np.diff(noisy.sequence_ids) >= 0).all()
    assert all(
        (p == "private") == (i % 4 > 1) for p, i in zip(moved, noisy.sequence_ids, strict=True)
    )


def test_shared_documents_own_nothing(world: tuple[Path, Manifest]) -> None:
    base, manifest = world
    single = sequence_of(manifest, "single-0")
    sink_map = SinkMap.read(base / "run" / "sink_map.parquet")
    assert sink_map.blocks_of(single) == []
    logits = []
    run = load_run(base / "run")
    tokens = torch.arange(10)[None]
    for ids in (None, torch.full((1, 10), single)):
        with torch.no_grad():
            logits.append(run.model(input_ids=tokens, sequence_ids=ids).logits)
    assert torch.equal(*logits)
