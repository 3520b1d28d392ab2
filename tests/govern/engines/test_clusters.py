"""Ray and Spark as engines: results in order, faults at once, dying workers, stalling stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_tasks import WORK, Work, dies_once, fails_as_user, first_fails, sleeps, squares
from engine_world import PACKAGES, a_cluster

from manifests.errors import EngineError, InputError


@pytest.fixture(scope="module", params=PACKAGES)
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    with a_cluster(request.param) as engine:
        yield engine


def test_tasks_that_workers_cannot_load(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were not installed there."""
    nowhere = ModuleType("nowhere")
    monkeypatch.setitem(sys.modules, "nowhere", nowhere)
    nowhere.Work = type("Work", (), {"__module__": "nowhere"})  # type: ignore[attr-defined]
    with pytest.raises(EngineError) as stop:
        cluster.run("s", squares, [nowhere.Work()], lambda _: None)
    assert str(stop.value) == (
        "stage s: expected workers that can load its tasks, found ModuleNotFoundError: No module "
        "named 'nowhere'; install the same environment on every machine"
    )


def test_results_come_in_order(cluster: Any) -> None:
    ended: list[int] = []
    assert cluster.run("s", squares, WORK, ended.append) == [0, 1, 4, 9, 16]
    assert sum(ended) == 5
    assert cluster.run("s", squares, [], ended.append) == []


def test_the_fault_of_a_task_comes_back(cluster: Any) -> None:
    with pytest.raises(InputError, match="corpus file 0: expected a, found b; do c") as stop:
        cluster.run("s", fails_as_user, WORK[:1], lambda _: None)
    assert "fails_as_user" in str(stop.value.__cause__)


def test_a_fault_is_not_waited_for(cluster: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match="corpus file 0"):
        cluster.run("s", first_fails, [Work(0), Work(1)], lambda _: None)
    assert time.monotonic() - begin < 30
    assert cluster.run("s", squares, WORK, lambda _: None) == [0, 1, 4, 9, 16]


def test_tasks_whose_worker_dies_are_run_again(cluster: Any, tmp_path: Path) -> None:
    work = [Work(number, str(tmp_path)) for number in range(5)]
    assert cluster.run("s", dies_once, work, lambda _: None) == list(range(5))


def test_a_stage_that_stands_still_ends(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_stalled_after", 2.0)
    with pytest.raises(EngineError, match=r"stage s: expected a task that ends within 2 s, found"):
        cluster.run("s", sleeps, WORK[:1], lambda _: None)
