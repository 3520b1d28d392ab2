"""Training on two ranks: one process's losses, exactness, faults, and what is sent."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rank_world import Ended, Job, run_ranks
from trained_world import (
    TINY,
    Interrupt,
    assert_same_sinks,
    assert_same_weights,
    blocks_by_id,
    documents,
    make_manifest,
    optimizer_by_id,
    sequence_of,
    shared_weights,
    train_tiny,
    write_corpus,
)

from govern.cli import main
from manifests import Manifest, open_manifest
from manifests.errors import InputError, TrainingError
from manifests.writer import set_policy
from sinkmodel.allocation import SinkMap
from sinkmodel.checkpoint import load_run
from sinkmodel.erase import erase_blocks
from sinkmodel.ownership import owners
from sinkmodel.recipes import TrainConfig
from sinkmodel.run_files import list_files
from sinkmodel.run_record import read_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A manifest with a strict family, and runs on it: `one` process, `two` ranks."""
    base = tmp_path_factory.mktemp("ranks")
    manifest = make_manifest(base, documents())
    train_tiny(manifest, base / "one")
    train_on_two(manifest, base / "two")
    return base, manifest


def train_on_two(
    manifest: Manifest, out: Path, config: TrainConfig = TINY, *, resume: bool = False
) -> list[Ended]:
    ended = run_ranks(Job(manifest=manifest.path, out=out, config=config, resume=resume))
    assert [rank.error for rank in ended] == [None, None]
    return ended


def losses(run: Path) -> np.ndarray:
    return pq.read_table(run / "state" / "losses.parquet")["loss"].to_numpy()


def assert_same_losses(a: Path, b: Path) -> None:
    np.testing.assert_allclose(losses(a), losses(b), atol=1e-4, rtol=0)


def files_of(run: Path) -> list[str]:
    return list(list_files(run))


def test_both_ranks_own_sinks(world: tuple[Path, Manifest]) -> None:
    """Otherwise all of this would prove little."""
    base, _ = world
    ids = np.array(sorted(blocks_by_id(base / "two")))
    assert set(owners(ids, ["private"] * len(ids), world=2)) == {0, 1}


def test_two_ranks_are_one_process_but_for_the_order_of_sums(
    world: tuple[Path, Manifest],
) -> None:
    base, _ = world
    tables = [pq.read_table(base / run / "state" / "losses.parquet") for run in ("one", "two")]
    for name in ("micro_batch", "stream", "time", "tokens"):
        assert tables[0][name] == tables[1][name]
    assert_same_losses(base / "two", base / "one")
    one, two = shared_weights(base / "one"), shared_weights(base / "two")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)
    first, second = blocks_by_id(base / "one"), blocks_by_id(base / "two")
    steps = optimizer_by_id(base / "one"), optimizer_by_id(base / "two")
    for sequence_id in first:
        np.testing.assert_allclose(first[sequence_id], second[sequence_id], atol=1e-4)
        assert steps[0][sequence_id]["steps"].equal(steps[1][sequence_id]["steps"])


@pytest.mark.slow
def test_two_hundred_steps(tmp_path: Path) -> None:
    """Losses equal one process's within 1e-4 over 200 steps of the shared weights."""
    some = {k: v for k, v in documents().items() if not k.startswith("single-1")}
    manifest = make_manifest(tmp_path, some)
    config = dataclasses.replace(TINY, epochs=36, governed_exposures=40)
    train_tiny(manifest, tmp_path / "one", config)
    train_on_two(manifest, tmp_path / "two", config)
    assert read_record(tmp_path / "two")["micro_batches"]["open"] >= 200
    np.testing.assert_allclose(
        losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-4, rtol=0
    )


def test_strict_is_exact_on_two_ranks(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    """As on one: with and without a strict family of copies all else is equal to the bit."""
    base, manifest = world
    secret = sequence_of(manifest, "secret-0")
    without = {key: text for key, text in documents().items() if not key.startswith("secret")}
    train_on_two(make_manifest(tmp_path, without, strict=()), tmp_path / "run")

    assert_same_weights(base / "two", tmp_path / "run")
    kept = set(blocks_by_id(tmp_path / "run"))
    assert kept == set(blocks_by_id(base / "two")) - {secret}
    assert_same_sinks(base / "two", tmp_path / "run", kept)
    assert blocks_by_id(base / "two")[secret][:, :, 2].abs().max() > 0  # it did learn

    erased = tmp_path / "erased"
    blocks = SinkMap.read(base / "two" / "sink_map.parquet").blocks_of(secret)
    erase_blocks(base / "two", blocks, [secret], out=erased)
    assert_same_weights(erased, tmp_path / "run")
    assert_same_sinks(erased, tmp_path / "run", kept)
    assert not blocks_by_id(erased)[secret].any()


def test_a_run_of_two_ranks_is_a_run(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    """It loads in one process, the command line forgets in it, and the audit finds no fault."""
    base, manifest = world
    assert files_of(base / "two") == files_of(base / "one")
    assert read_record(base / "two")["ranks"] == 2
    assert not (base / ".two.training").exists()
    run = load_run(base / "two")
    assert run.model.config.num_blocks == SinkMap.read(base / "two/sink_map.parquet").num_blocks

    shutil.copytree(manifest.path, tmp_path / "manifest")
    govern("audit", "keygen", "--out", tmp_path / "keys")
    govern("forget", base / "two", "--manifest", tmp_path / "manifest", "--doc-id", "secret-0",
           "--out", tmp_path / "run", "--request", "R-1", "--reason", "test",
           "--key", tmp_path / "keys" / "govern-private.pem", "--report", tmp_path / "report",
           "--ledger", tmp_path / "ledger")  # fmt: skip
    govern("audit", "verify", tmp_path / "report" / "REPORT.json", "--model", tmp_path / "run",
           "--manifest", tmp_path / "manifest", "--ledger", tmp_path / "ledger",
           "--public-key", tmp_path / "keys" / "govern-public.pem")  # fmt: skip
    secret = sequence_of(manifest, "secret-0")
    assert not blocks_by_id(tmp_path / "run")[secret].any()
    assert_same_weights(tmp_path / "run", base / "two")


def govern(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert not stop.value.code


def test_several_banks_and_a_pool_in_parts(tmp_path: Path) -> None:
    """Banks that two ranks fill together, and pooled sequences of both ranks."""
    manifest = make_manifest(tmp_path, documents())
    for i in range(12):
        set_policy(manifest.path, f"doc_id = 'single-{i}'", "pooled")
    manifest = open_manifest(manifest.path)
    config = dataclasses.replace(
        TINY, pool_blocks=8, pool_draws=2, pool_parts=2, bank_bytes=5 * 2 * 3 * 4 * 32 * 4
    )
    train_tiny(manifest, tmp_path / "one", config)
    train_on_two(manifest, tmp_path / "two", config)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    banks = read_record(tmp_path / "two")["banks"]
    assert len(banks) > 2
    assert [bank["blocks"] for bank in banks[:-1]] == [5] * (len(banks) - 1)
    np.testing.assert_allclose(
        losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-4, rtol=0
    )
    one, two = load_run(tmp_path / "one").model, load_run(tmp_path / "two").model
    for first, second in zip(one.sinks.banks, two.sinks.banks, strict=True):
        np.testing.assert_allclose(first.detach(), second.detach(), atol=1e-4)


# --- what is sent --------------------------------------------------------------------------------


def test_bytes_sent_do_not_know_of_sinks(world: tuple[Path, Manifest], tmp_path: Path) -> None:
    """Ten times the sinks: the same messages, of shared gradients and a few numbers."""
    base, manifest = world
    sent, blocks = [], []
    for times in (1, 10):
        out = tmp_path / f"run-{times}"
        neurons = TINY.neurons_per_kilotoken * times
        config = dataclasses.replace(TINY, neurons_per_kilotoken=neurons)
        ended = train_on_two(manifest, out, config)
        assert ended[0].sent == ended[1].sent
        sent.append(ended[0].sent)
        blocks.append(sum(bank["blocks"] for bank in read_record(out)["banks"]))
    assert blocks[1] > 8 * blocks[0]
    assert sent[0] == sent[1]
    gradients = sum(weight.nbytes for weight in shared_weights(base / "two").values())
    opens = read_record(base / "two")["micro_batches"]["open"]
    assert sent[0].count(gradients) == opens
    assert max(size for size in sent[0] if size != gradients) <= 16


# --- stopping and going on -----------------------------------------------------------------------


def test_one_interrupted_rank_stops_all_and_they_resume(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    base, manifest = world
    out = tmp_path / "run"
    job = Job(manifest=manifest.path, out=out, act=(1, 17, "interrupt"))
    ended = run_ranks(job)
    (save,) = (tmp_path / ".run.training").glob("save-*")
    done = json.loads((save / "trainer.json").read_bytes())["done"]
    assert 17 <= done < 17 + 32
    for rank in ended:
        assert rank.error == (
            f"run {out}: expected 49 micro-batches, found a stop after {done}, whose state is "
            "saved; run the same command with --resume to go on"
        )
    assert not out.exists()

    with pytest.raises(InputError) as caught:
        train_tiny(manifest, out, resume=True)
    assert caught.value.expected == "as many ranks as the interrupted run had, 2"
    assert (caught.value.found, caught.value.remedy) == (
        "1", "start 2 processes, or train without --resume"
    )  # fmt: skip

    train_on_two(manifest, out, resume=True)
    assert read_record(out)["files"] == read_record(base / "two")["files"]


def test_two_ranks_do_not_take_up_a_run_of_one(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    _, manifest = world
    with pytest.raises(TrainingError):
        train_tiny(manifest, tmp_path / "run", report=Interrupt(5))
    ended = run_ranks(Job(manifest=manifest.path, out=tmp_path / "run", resume=True))
    for rank in ended:
        assert "as many ranks as the interrupted run had, 1, found 2" in str(rank.error)


def test_a_killed_rank_is_an_error_of_the_other_and_a_rerun_goes_on(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    base, manifest = world
    out = tmp_path / "run"
    config = dataclasses.replace(TINY, save_every=5, rank_timeout=20)
    job = Job(manifest=manifest.path, out=out, config=config, act=(1, 23, "kill"))
    alive, killed = run_ranks(job)  # within the time that `run_ranks` gives them
    assert killed.code == -9
    assert alive.code == 1
    assert str(alive.error).startswith("rank 0 of 2: expected an answer from every rank, found ")
    assert "run the same command with --resume to go on from the last save" in str(alive.error)
    assert [p.name for p in (tmp_path / ".run.training").glob("save-*")] == ["save-00000020"]
    assert not out.exists()

    train_on_two(manifest, out, config, resume=True)
    assert_same_weights(out, base / "two")
    assert_same_sinks(out, base / "two", set(blocks_by_id(out)))
    np.testing.assert_array_equal(losses(out), losses(base / "two"))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 1e30, "clip_norm": 1e30}, {"backbone_exposures": 0.0, "sink_rate": 1e45}],
    ids=["in shared weights", "in sinks that one rank trains"],
)
def test_a_loss_that_is_not_a_number_stops_both(
    world: tuple[Path, Manifest], tmp_path: Path, changes: dict[str, float]
) -> None:
    _, manifest = world
    config = dataclasses.replace(TINY, **changes)
    ended = run_ranks(Job(manifest=manifest.path, out=tmp_path / "run", config=config))
    errors = [str(rank.error) for rank in ended]
    assert any("expected a finite number, found " in error for error in errors)
    assert all("a finite number" in error or "not a number" in error for error in errors)
    assert [rank.code for rank in ended] == [1, 1]
    assert not (tmp_path / "run").exists()


def test_ranks_with_different_text_are_refused(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    _, manifest = world
    other = make_manifest(tmp_path / "other", documents() | {"single-3": "something else"})
    ended = run_ranks(Job(manifest=manifest.path, out=tmp_path / "run", manifests={1: other.path}))
    for rank in ended:
        assert str(rank.error).startswith(
            "what the run is made of: expected the same on all 2 ranks, found "
        )


def test_an_error_of_one_rank_is_an_error_of_all(
    world: tuple[Path, Manifest], tmp_path: Path
) -> None:
    _, manifest = world
    broken = make_manifest(tmp_path / "other", documents())
    write_corpus(tmp_path / "other" / "corpus.jsonl", {"single-0": "all else is gone"})
    ended = run_ranks(Job(manifest=manifest.path, out=tmp_path / "run", manifests={1: broken.path}))
    assert str(ended[0].error) == (
        "rank 0 of 2: expected every rank to go on, found an error on another rank; see its message"
    )
    assert ended[1].error is not None


# --- by the launcher that most people use --------------------------------------------------------

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
CHANGED = [
    f"--set={field.name}={getattr(TINY, field.name)}"
    for field in dataclasses.fields(TINY)
    if getattr(TINY, field.name) is not None
]


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(folder: Path, *arguments: object) -> str:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """The command and the script of the documentation, in one process and in two."""
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents())
    run(tmp_path, "-m", "govern", "ids", "build", corpus, "--out", "manifest")
    run(tmp_path, "-m", "govern", "train", "manifest", "--out", "one", *CHANGED)
    out = run(tmp_path, *TORCHRUN, "-m", "govern", "--output", "json", "train", "manifest",
              "--out", "two", *CHANGED)  # fmt: skip
    assert json.loads(out)["run"] == "two"  # one object: only the first rank speaks
    assert_same_losses(tmp_path / "two", tmp_path / "one")
    run(tmp_path, *TORCHRUN, ROOT / "examples" / "train_ranks.py", "manifest", "three", *CHANGED)
    files = [read_record(tmp_path / name)["files"] for name in ("two", "three")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_saves(tmp_path: Path, number: signal.Signals) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents())
    run(tmp_path, "-m", "govern", "ids", "build", corpus, "--out", "manifest")
    changed = [*CHANGED, "--set=epochs=30", "--set=tracker=jsonl"]
    command = (*TORCHRUN, "-m", "govern", "train", "manifest", "--out", "run", *changed)
    process = start(tmp_path, *command)
    metrics = tmp_path / "run.log" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 20):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode
    stops = re.findall(r"found a stop after (\d+), whose state is saved; run the same command", err)
    assert len(stops) == 2
    assert stops[0] == stops[1]
    run(tmp_path, *command, "--resume")
    assert len(losses(tmp_path / "run")) == sum(
        read_record(tmp_path / "run")["micro_batches"].values()
    )
