"""What an engine cannot do is one line: what is missing, where nobody answers, what a task said."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from engine_tasks import (
    WORK,
    Work,
    always_dies,
    dies_once,
    fails_as_code,
    fails_as_disk,
    fails_as_user,
    sleeps,
    squares,
)
from engine_world import write_jsonl

from govern.cli import main
from govern.engines import spark
from govern.engines.base import Call, Outcome, Watch, attempt, release, value_of
from govern.engines.processes import Processes
from manifests.errors import EngineError, GovernError, InputError, IntegrityError, ManyFaultsError


@pytest.fixture
def corpus_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_jsonl(Path("a.jsonl"), [{"id": "1", "text": "one text"}])


def call(*options: str) -> tuple[int, str]:
    """Run `govern ids build`; its exit code, and what it says on stderr."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as stop,
    ):
        main(["ids", "build", "a.jsonl", "--out", "m", *options])
    assert isinstance(stop.value.code, int)
    assert not Path("m").exists()
    return stop.value.code, said.getvalue()


@pytest.mark.usefixtures("corpus_file")
@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("spark", "pyspark")])
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, said = call("--engine", engine)
    assert code == 1
    assert said.startswith(f"govern: --engine {engine}: expected the library {package}, found ")
    assert said.endswith(f"; pip install 'memsinks-govern[{engine}]'\n")
    assert said.count("\n") == 1


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def closed_port() -> int:
    with silent_listener() as port:
        return port


@pytest.mark.usefixtures("corpus_file")
@pytest.mark.parametrize(
    ("engine", "package", "scheme"),
    [("ray", "ray", ""), ("ray", "ray", "ray://"), ("spark", "pyspark", "spark://")],
)
def test_an_address_at_which_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, engine: str, package: str, scheme: str
) -> None:
    if package not in sys.modules:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    address = f"{scheme}127.0.0.1:{closed_port()}"
    begin = time.monotonic()
    code, said = call("--engine", engine, "--engine-address", address)
    assert time.monotonic() - begin < 30
    assert code == 1
    assert said == (
        f"govern: --engine-address {address}: expected a cluster that answers there, found "
        "[Errno 111] Connection refused; correct the address, or begin the cluster\n"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("corpus_file")
@pytest.mark.parametrize(
    ("engine", "package", "scheme"), [("ray", "ray", ""), ("spark", "pyspark", "spark://")]
)
def test_an_address_at_which_somebody_else_listens(engine: str, package: str, scheme: str) -> None:
    """In a process of its own: a thread of Spark's is left waiting."""
    pytest.importorskip(package, reason=f"extra {engine}")
    with silent_listener() as port:
        address = f"{scheme}127.0.0.1:{port}"
        options = ["a.jsonl", "--out", "m", "--engine", engine, "--engine-address", address]
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "govern", "ids", "build", *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert time.monotonic() - begin < 30
    assert done.returncode == 1
    assert done.stderr == (
        f"govern: --engine-address {address}: expected a cluster that answers there, found no "
        "answer within 20 s; correct the address, or begin the cluster\n"
    )
    assert not Path("m").exists()


@pytest.mark.parametrize(("java", "left"), [(0.0, 20.0), (8.0, 12.0), (19.0, 5.0)])
def test_the_time_for_an_answer_holds_the_start_of_java(
    monkeypatch: pytest.MonkeyPatch, java: float, left: float
) -> None:
    waits = []

    def asked(*arguments: Any) -> None:
        waits.append(arguments[-1])
        raise EngineError("stop", expected="a", found="b", remedy="c")

    if "pyspark" not in sys.modules:
        monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))
    clock = iter([100.0, 100.0 + java])
    monkeypatch.setattr(spark, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for name in ("require_listener", "_conf", "_gateway", "_end"):
        monkeypatch.setattr(spark, name, lambda *_: None)
    monkeypatch.setattr(spark, "_context", asked)
    with pytest.raises(EngineError, match="stop"), spark.connect("spark://host:7077", 1):
        pass
    assert waits == [left]


@pytest.mark.usefixtures("corpus_file")
def test_options_that_do_not_fit() -> None:
    code, said = call("--engine-address", "auto")
    assert (code, said.count("\n")) == (1, 1)
    assert "expected an engine that has one (--engine ray or spark), found --engine local" in said
    code, said = call("--engine", "dask")
    assert code == 2


@pytest.mark.usefixtures("corpus_file")
def test_spark_connect_has_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    if "pyspark" not in sys.modules:
        monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))
    code, said = call("--engine", "spark", "--engine-address", "sc://host")
    assert code == 1
    assert "found Spark Connect, which has no tasks; give the master's own address" in said


def test_results_come_in_order(processes: Processes) -> None:
    ended: list[int] = []
    assert processes.run("s", squares, WORK, ended.append) == [0, 1, 4, 9, 16]
    assert sum(ended) == 5


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (fails_as_user, "corpus file 0: expected a, found b; do c"),
        (fails_as_code, "found ZeroDivisionError: "),
        (fails_as_disk, "stage s, /nowhere/0: expected reading and writing to work on "),
    ],
)
def test_the_fault_of_a_task_comes_back(processes: Processes, function: Any, said: str) -> None:
    with pytest.raises(GovernError) as stop:
        processes.run("s", function, WORK[:1], lambda _: None)
    assert said in str(stop.value)
    assert "\n" not in str(stop.value)
    assert function.__name__ in str(stop.value.__cause__)


def test_tasks_whose_worker_dies_are_run_again(processes: Processes, tmp_path: Path) -> None:
    work = [Work(number, str(tmp_path)) for number in range(5)]
    assert processes.run("s", dies_once, work, lambda _: None) == list(range(5))


@pytest.mark.slow
def test_a_task_that_kills_its_worker_ends_the_build() -> None:
    engine = Processes(1)
    with pytest.raises(EngineError, match="found 8 deaths one after another"):
        engine.run("s", always_dies, WORK[:1], lambda _: None)
    assert not engine._pool


def test_a_stage_that_stands_still_ends() -> None:
    engine = Processes(1, stalled_after=0.1)
    with pytest.raises(EngineError, match=r"stage s: expected a task that ends within 0 s, found"):
        engine.run("s", sleeps, WORK[:1], lambda _: None)
    assert not engine._pool


def test_the_watch_looks_at_the_last_end() -> None:
    watch = Watch("s", 0.2)
    for _ in range(4):
        time.sleep(0.1)
        watch.note(1)
    time.sleep(0.3)
    with pytest.raises(EngineError):
        watch.note(0)


def test_a_worker_of_another_release() -> None:
    outcome = attempt(Call("s", squares, WORK[0], "0.0.1"))
    with pytest.raises(EngineError, match=r"expected memsinks-govern 0\.0\.1, as the driver has"):
        value_of(outcome)
    assert attempt(Call("s", squares, WORK[2], release())) == Outcome(value=4)


def test_faults_travel() -> None:
    """Every kind of fault is the same on the other side."""
    import pickle

    parts = {"expected": "a", "found": "b", "remedy": "c"}
    faults: list[GovernError] = [
        InputError("x", **parts),
        IntegrityError("y", **parts),
        ManyFaultsError([InputError("x", **parts), IntegrityError("y", **parts)]),
    ]
    for fault in faults:
        again = pickle.loads(pickle.dumps(fault))
        assert type(again) is type(fault)
        assert (str(again), again.exit_code) == (str(fault), fault.exit_code)
