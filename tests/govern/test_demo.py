"""`govern demo`: what it must show, on whatever is installed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from govern.audit.report_file import read_report
from govern.cli import main
from govern.demo.embedded import write_embedded_corpus


def test_embedded_corpus_has_enough(tmp_path: Path) -> None:
    corpus = write_embedded_corpus(tmp_path)
    counts = dict(corpus.counts)
    assert set(counts) == {"licenses", "descriptions", "topics", "docstrings"}
    assert sum(counts.values()) >= 300
    rows = [json.loads(line) for f in corpus.files for line in f.read_text().splitlines()]
    assert len(rows) == sum(counts.values())
    assert len({row["id"] for row in rows}) == len(rows)


def test_foreign_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        f"govern: --out {tmp_path}: expected a directory that is new, empty, or of a former demo, "
        "found other files; choose another name with --out\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_demo_shows_what_it_must(tmp_path: Path) -> None:
    """As people run it: here more packages are found, whose licences would be trained on too."""
    out = tmp_path / "demo"
    govern = Path(sys.executable).with_name("govern")
    for _ in range(2):  # running it again is fine
        done = subprocess.run(
            [govern, "--output", "json", "demo", "--out", out],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        result = json.loads(done.stdout)
    assert result["verdict"] == "PASSED"
    assert set(result["checks"]) == {"passed"}
    licence, strict, neighbour = result["recitations"]
    assert licence["verbatim_before"] >= 50
    assert licence["verbatim_after"] < 10
    assert strict["verbatim_before"] >= 50
    assert strict["verbatim_after"] < 10
    assert neighbour["verbatim_after"] == neighbour["verbatim_before"]

    rows = read_report(out / "report" / "REPORT.json").statement().predicate.verification.metrics
    value = {(row.metric, row.group, row.phase): row.value for row in rows}
    assert value["loss_gap_closed", "forgotten:private", "after"] >= 0.9
    assert value["loss_gap_closed", "forgotten:strict", "after"] >= 0.99
    assert value["extraction_strength_excess", "forgotten:private", "after"] <= 0.05
    assert value["extraction_strength_excess", "forgotten:strict", "after"] <= 0.05
    assert value["identical_losses", "kept", "after"] == 1.0
