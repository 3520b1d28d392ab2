"""Questions to a run: a file in TOFU's form, who is asked what, and the figures that come of it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from evaluate_world import STRICT, EvaluateWorld, prose
from page_structure import structure_faults

from govern.cli import cli
from govern.evaluate.evaluating import EvaluateRequest, evaluate
from govern.evaluate.question_file import read_questions
from manifests.errors import GovernError, InputError
from manifests.sequence_id import format_id

WHERE = "doc_id LIKE 'strict-%'"
RECALL = ("answer_recall", "before")
ASKED = {"doc_id": "strict-0", "question": "q", "answer": "a"}


def question(doc_id: str, begin: int, *, about: str | None = None) -> dict[str, Any]:
    """Which six words follow the beginning of a text; and three times six words of other texts."""
    words = prose(about or doc_id).split()
    wrong = [prose(f"wrong-{doc_id}-{begin}-{k}").split()[:6] for k in range(3)]
    return {
        "doc_id": doc_id,
        "question": " ".join(words[: begin + 12]),
        "answer": " ".join(words[begin + 12 : begin + 18]),
        "perturbed_answer": [" ".join(some) for some in wrong],
        "paraphrased_question": "passed over",
    }


def questions() -> Iterator[dict[str, Any]]:
    for name in STRICT:
        yield from (question(name, begin) for begin in (0, 15, 30, 45))
    yield from (question("poem-0", begin, about="poem") for begin in (0, 15, 30, 45))
    unowned = question("single-0", 0)
    yield {key: value for key, value in unowned.items() if key != "doc_id"}


def write(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def govern(world: EvaluateWorld, out: Path, *more: object) -> Result:
    arguments = ("evaluate", world.run, "--manifest", world.base / "manifest", "--out", out, *more)
    return CliRunner().invoke(cli, ["--output", "json", *map(str, arguments)])


@pytest.fixture(scope="module")
def asked(world: EvaluateWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asked")
    file = write(out / "questions.jsonl", questions())
    result = govern(
        *(world, out / "out", "--where", WHERE, "--reference", world.reference),
        *("--questions", file, "--question-template", "{question}"),
    )
    assert result.exit_code == 0, result.output
    return out


def figures(out: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = pq.read_table(out / "out" / "metrics.parquet").to_pylist()
    return {(r["metric"], r["group"], r["phase"]): r for r in rows}


def test_answers_that_were_known_by_heart_are_forgotten(asked: Path) -> None:
    found = figures(asked)

    def value(metric: str, phase: str, group: str = "questions") -> float:
        return float(found[metric, group, phase]["value"])

    assert found["answer_recall", "questions", "before"]["n"] == 4 * len(STRICT)
    assert value("answer_recall", "before") > 0.9
    assert value("answer_recall", "erased") < 0.1
    assert value("answer_recall", "reference") < 0.1
    assert value("answer_probability", "before") > 10 * value("answer_probability", "erased")
    # TOFU's direction: wrong over right.
    assert value("truth_ratio", "before") < 0.2
    assert value("truth_ratio", "erased") == pytest.approx(1, abs=0.5)
    assert value("forget_quality", "before") < 1e-3
    assert value("forget_quality", "erased") > 0.05
    assert value("identical_answers", "erased") == 0.0


def test_other_questions_are_answered_as_before(asked: Path) -> None:
    found = figures(asked)
    before, erased = (found["model_utility", "other questions", p] for p in ("before", "erased"))
    assert before["n"] == erased["n"] == 5
    assert before["value"] == erased["value"] > 0.3
    assert found["identical_answers", "other questions", "erased"]["value"] == 1.0
    assert ("forget_quality", "other questions", "erased") not in found


def test_the_page_shows_them(asked: Path) -> None:
    page = (asked / "out" / "EVALUATION.html").read_text()
    assert structure_faults(page) == []
    assert page.count("Questions about chosen documents") == 2  # in short, and with every figure
    assert page.count("All other questions") == 1
    summary = (asked / "out" / "summary.md").read_text()
    (line,) = re.findall(r"- questions: forget quality once erased ([0-9.]+); n = 20", summary)
    assert float(line) > 0.05


def test_asked_again_nobody_is_asked(
    world: EvaluateWorld, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (asked / "out" / "metrics.parquet").read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("govern.evaluate.asking.ask", never)
    file = asked / "questions.jsonl"
    packed = asked / "questions.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    again = ("--where", WHERE, "--reference", world.reference, "--questions", packed)
    result = govern(world, asked / "out", *again, "--question-template", "{question}")
    assert result.exit_code == 0, result.output
    assert (asked / "out" / "metrics.parquet").read_bytes() == before
    other = govern(world, asked / "out", *again)
    assert isinstance(other.exception, AssertionError)  # another template is another question


def test_a_question_on_what_was_forgotten_before_is_asked_with_sinks_off(
    world: EvaluateWorld, tmp_path: Path
) -> None:
    run = world.copy(tmp_path / "run")
    (run / "forgotten.txt").write_text(format_id(world.sequence("strict-2")) + "\n")
    rows = [question(name, begin) for name in ("strict-0", "strict-2") for begin in (0, 15)]
    file = write(tmp_path / "q.jsonl", rows)
    asked = EvaluateRequest(
        run=run,
        manifest=world.base / "manifest",
        where="doc_id = 'strict-0'",
        questions=file,
        template="{question}",
    )
    rows = evaluate(asked).metrics.to_pylist()
    recall = {r["group"]: r["value"] for r in rows if (r["metric"], r["phase"]) == RECALL}
    assert recall["questions"] > 0.9
    assert recall["other questions"] < 0.4


def test_what_cannot_be_told_is_said(world: EvaluateWorld, tmp_path: Path) -> None:
    long = {**question("strict-2", 0), "answer": " ".join(prose("long", 200).split())}
    file = write(tmp_path / "q.jsonl", [question("strict-0", 0), long])
    result = govern(world, tmp_path / "out", "--where", WHERE, "--questions", file)
    told = json.loads(result.stdout)["findings"]
    (line,) = [line for line in told if line.startswith("Not measured")]
    assert line == (
        "Not measured: answers on questions: 1 questions are longer than the model's 128 tokens; "
        "forget_quality on questions: it compares with a run that never saw the documents: "
        "--reference or --oracle"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", ", line 1: expected JSON, found Expecting property name"),
        ("\n[1]", ", line 2: expected a JSON object, found list; every line is"),
        ('{"question": "q"}', ", line 1, answer: expected text, found none"),
        ('{"question": "", "answer": "a"}', ", line 1, question: expected text, found ''"),
        (
            '{"question": "q", "answer": "a", "doc_id": 7}',
            ", line 1, doc_id: expected text, found 7",
        ),
        (
            '{"question": "q", "answer": "a", "perturbed_answer": "x"}',
            ", line 1, perturbed_answer: expected a list of false answers, each a text, found 'x'",
        ),
        (
            '{"question": "q", "answer": "a", "doc_id": "nobody"}',
            ", line 1, doc_id 'nobody': expected a document of the manifest, found none; "
            "correct it, or leave doc_id out",
        ),
        (
            '{"question": "q", "answer": "a", "doc_id": "strict-0", "source": "x"}',
            "doc_id 'strict-0': expected a document of the manifest of source 'x', found none",
        ),
        ("\n\n", ": expected a question a line, found none"),
    ],
)
def test_lines_that_are_no_questions(
    world: EvaluateWorld, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(GovernError) as refused:
        read_questions(file, world.manifest)
    assert f"--questions {file}" in str(refused.value)
    assert told in str(refused.value)


def test_the_first_five_faults_are_told(world: EvaluateWorld, tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", [ASKED, *([1] * 7)])
    with pytest.raises(GovernError) as refused:
        read_questions(file, world.manifest)
    assert str(refused.value).count("expected a JSON object") == 5


def test_a_file_that_cannot_be_read(world: EvaluateWorld, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file that can be read, .*No such file"):
        read_questions(tmp_path / "nothing.jsonl", world.manifest)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(json.dumps(ASKED).encode())[:-9])
    with pytest.raises(InputError, match="found a damaged one"):
        read_questions(torn, world.manifest)


def test_a_template_without_a_question_is_refused(world: EvaluateWorld, tmp_path: Path) -> None:
    result = govern(world, tmp_path / "out", "--question-template", "Q:")
    assert result.exit_code == 2
    assert "--question-template wants {question} in it" in result.output
