"""What the isolation study could get wrong: what an arm is compared with, how much is closed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("isolation_table")
    finally:
        sys.path.remove(str(BENCHMARKS))


def row(arm: str, seed: int = 0, **values: Any) -> dict[str, Any]:
    known = {"validation": 4.0, "own_loss": 1.0, "own_memorization": 0.9, "after": 1.0}
    known |= {"after_memorization": 0.3, "kept_before": 0.5, "kept_after": 0.5}
    return {"arm": arm, "size": "2m", "seed": seed, "set": [], "open": 50, **known, **values}


def test_gaps_by_hand(table: ModuleType) -> None:
    # Another seed's standard training must not be what this one is compared with.
    rows = [row("standard"), row("oracle", after=3.0), row("standard", 1, own_loss=2.0)]
    rows += [private := row("private-2", after=2.0, validation=3.5), row("private-2", 1, after=3.0)]
    base = table.baselines(rows)
    assert base["2m", 0].gaps(private) == (0.5, 0.5)  # (2 - 1) / (3 - 1); 1 - (3.5 - 2) / (4 - 1)
    assert base["2m", 1].gaps(rows[-1]) == (None, 0.5)  # no oracle; 1 - (4 - 3) / (4 - 2)


def test_a_line_by_hand(table: ModuleType) -> None:
    rows = [row("standard"), row("standard", 1, validation=4.2)]
    some = [row("published-0.3", validation=3.9, kept_after=2.5), row("published-0.3", 1)]
    cells = dict(zip(table.COLUMNS[1:], table.cells(some, table.baselines(rows)), strict=True))
    assert cells["seeds"] == "2"
    assert cells["beside standard's"] == "-0.150 ± 0.071"
    assert cells["gap closed, oracle"] == "–"
    assert cells["change"] == "2.000"


def test_measuring_again_replaces_and_other_settings_stand_apart(
    table: ModuleType, tmp_path: Path
) -> None:
    lines = [row("private-2", after=1.5), row("private-2"), row("private-2", set=["id_noise=0.1"])]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "results.jsonl").write_text(text, encoding="utf-8")
    found = {table.label(line): line["after"] for line in table.results(tmp_path)}
    assert found == {"private-2": 1.0, "private-2, id_noise=0.1": 1.0}


def test_another_step_size_is_another_study(table: ModuleType) -> None:
    """Its arms are compared with its own standard training, which has no sinks to change."""
    large = ["neurons_per_kilotoken=256", "batch_rows=4", "batch_rows=8"]
    rows = [
        row("standard", validation=5.0),
        row("standard", set=["batch_rows=8", "neurons_per_kilotoken=512"], validation=4.5),
        sinks := row("private-2", set=[*large, "neurons_per_kilotoken=512"], validation=4.4),
        row("private-2", set=large),
    ]
    assert [table.study(r) for r in rows] == ["2m", *["2m, 8 rows a step"] * 3]
    assert [table.label(r) for r in rows[1:]] == [
        "standard",
        "private-2, neurons_per_kilotoken=512",
        "private-2",
    ]
    assert table.cells([sinks], table.baselines(rows))[2] == "-0.100"
