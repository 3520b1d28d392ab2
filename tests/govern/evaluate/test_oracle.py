"""`govern evaluate --oracle`: the run that never saw the chosen documents, trained on the spot."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from evaluate_world import STRICT, EvaluateWorld

from govern.cli import cli
from govern.evaluate.evaluating import EvaluateRequest
from govern.evaluate.oracle import plan_oracle, train_oracle
from manifests.errors import InputError, ManifestError, SelectionError, TrainingError
from manifests.files import sha256_file
from manifests.writer import set_policy
from sinkmodel.allocation import SINK_MAP_FILE, SinkMap
from sinkmodel.recipes import TrainConfig, configure
from sinkmodel.train import Progress

WHERE = "doc_id LIKE 'strict-%'"


def request(world: EvaluateWorld, where: str = WHERE) -> EvaluateRequest:
    return EvaluateRequest(run=world.run, manifest=world.base / "manifest", where=where)


@pytest.fixture(scope="module")
def evaluated(world: EvaluateWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with an oracle, by the command line."""
    out = tmp_path_factory.mktemp("oracle") / "out"
    evaluate(world, out)
    return out


def evaluate(world: EvaluateWorld, out: Path) -> str:
    """What the command says on stderr."""
    arguments = ("evaluate", world.run, "--manifest", world.base / "manifest", "--out", out)
    result = CliRunner().invoke(cli, [*map(str, arguments), "--where", WHERE, "--oracle"])
    assert result.exit_code == 0, result.output
    return result.stderr


def oracle_of(out: Path) -> Path:
    (path,) = out.glob("oracle-*")
    return path


def test_erasing_strict_texts_is_the_oracle_to_the_bit(evaluated: Path) -> None:
    """The strongest thing that an evaluation can say, and only an oracle can say it."""
    rows = pq.read_table(evaluated / "documents.parquet").to_pylist()
    losses = {
        phase: {
            r["doc_id"]: r["loss"] for r in rows if (r["group"], r["phase"]) == ("chosen", phase)
        }
        for phase in ("before", "erased", "reference")
    }
    assert set(losses["erased"]) == set(STRICT)
    assert losses["erased"] == losses["reference"]
    assert all(losses["before"][name] < losses["erased"][name] - 1 for name in STRICT)
    metrics = pq.read_table(evaluated / "metrics.parquet").to_pylist()
    (gap,) = [r for r in metrics if r["metric"] == "loss_gap_closed"]
    assert (gap["value"], gap["note"]) == (1.0, "reference: a run that never saw these documents")


def test_it_is_the_recipe_of_the_run_without_what_was_chosen(
    world: EvaluateWorld, evaluated: Path
) -> None:
    runs = world.run, oracle_of(evaluated)
    run, oracle = (json.loads((path / "training.json").read_bytes()) for path in runs)
    assert TrainConfig.from_json(oracle["config"]) == replace(
        TrainConfig.from_json(run["config"]), tokenizer=str(world.run.resolve())
    )
    assert oracle["recipe"] == run["recipe"]
    # Nothing of theirs is in it, and everything else.
    ids = {world.sequence(name) for name in STRICT}
    known, left = (set(SinkMap.read(p / SINK_MAP_FILE).sequence_ids.tolist()) for p in runs)
    assert (known - left, left - known) == (ids, set())


def test_it_is_trained_once(world: EvaluateWorld, evaluated: Path) -> None:
    before = sha256_file(oracle_of(evaluated) / "model-shared.safetensors")
    told = evaluate(world, evaluated)
    assert "the oracle is there: " in told
    assert "training the oracle" not in told
    assert sha256_file(oracle_of(evaluated) / "model-shared.safetensors") == before
    # Other documents want another one.
    assert plan_oracle(request(world), evaluated).path == oracle_of(evaluated)
    assert not plan_oracle(request(world, "doc_id = 'strict-0'"), evaluated).trained


def test_an_interrupted_training_goes_on(
    world: EvaluateWorld, evaluated: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 40:
            raise KeyboardInterrupt

    plan = plan_oracle(request(world), tmp_path)
    with pytest.raises(TrainingError) as stopped:
        train_oracle(request(world), plan, report=interrupt)
    assert str(stopped.value).startswith(f"the oracle {plan.path}: expected ")
    assert str(stopped.value).endswith(
        "found a stop after 40, whose state is saved; run the same command again to go on"
    )
    assert not plan_oracle(request(world), tmp_path).trained
    steps: list[int] = []
    train_oracle(request(world), plan, report=lambda progress: steps.append(progress.done))
    assert steps[0] == 41
    weights = [p / "model-shared.safetensors" for p in (plan.path, oracle_of(evaluated))]
    assert sha256_file(weights[0]) == sha256_file(weights[1])


def test_a_manifest_that_is_no_longer_what_was_trained_on_is_refused(
    world: EvaluateWorld, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest"
    shutil.copytree(world.base / "manifest", manifest)
    asked = replace(request(world), manifest=manifest)
    # The chosen ones may change as they like: the oracle never sees them.
    set_policy(manifest, WHERE, "private")
    assert plan_oracle(asked, tmp_path).without == plan_oracle(request(world), tmp_path).without
    set_policy(manifest, "doc_id LIKE 'poem-%'", "strict")
    with pytest.raises(ManifestError) as refused:
        plan_oracle(asked, tmp_path)
    assert str(refused.value) == (
        f"manifest {manifest}: expected what the run was trained on, so that an oracle can be "
        "trained beside it, found 1 other sequences that were added, forgotten or given another "
        "policy; give a manifest of that state, or a reference of your own with --reference"
    )


def test_an_oracle_needs_something_to_learn(world: EvaluateWorld, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="found none: every document is chosen; choose fewer"):
        plan_oracle(request(world, "TRUE"), tmp_path)


def test_a_broken_question_costs_no_training(world: EvaluateWorld, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("{")
    asked = replace(request(world), questions=tmp_path / "q.jsonl")
    with pytest.raises(InputError, match="line 1: expected JSON"):
        plan_oracle(asked, tmp_path)


def test_only_one_reference_is_asked_for(world: EvaluateWorld, tmp_path: Path) -> None:
    arguments = ("evaluate", world.run, "--manifest", world.base / "manifest", "--out", tmp_path)
    result = CliRunner().invoke(
        cli, [*map(str, arguments), "--oracle", "--reference", str(world.reference)]
    )
    assert result.exit_code == 2
    assert "--oracle trains the reference that --reference names: give one" in result.output


def test_a_configuration_is_what_its_record_says() -> None:
    config = configure("demo", overrides=["backbone_exposures=inf", "base=somewhere"])
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert np.isinf(config.backbone_exposures)
