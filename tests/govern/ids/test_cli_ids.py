"""`govern ids` and `govern manifest`: results, exact error texts, exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from corpora import planted, prose, tree_bytes, write_jsonl

from govern.cli import main


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_jsonl(Path("corpus.jsonl"), planted())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    code = stop.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def built(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ids", "build", "corpus.jsonl", "--out", "m", "--keep", "owner")
    assert (code, err) == (0, "")


@pytest.mark.usefixtures("corpus")
def test_build_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "--output", "json", "ids", "build", "corpus.jsonl", "--out", "m",
        "--source", "web", "--text-field", "text", "--id-field", "id", "--keep", "owner",
        "--threshold", "0.8", "--ngram", "4", "--reserve", "0.3", "--workers", "1",
        "--memory", "1.5GB",
    )  # fmt: skip
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["documents"] == report["records"] == len(planted())
    code, out, _ = run(capsys, "--output", "json", "manifest", "info", "m")
    info = json.loads(out)
    assert code == 0
    assert info["digest"] == report["digest"]
    shaped = {k: info["parameters"][k] for k in ("threshold", "ngram", "reserve", "source", "keep")}
    assert shaped == {
        "threshold": 0.8, "ngram": 4, "reserve": 0.3, "source": "web", "keep": ["owner"],
    }  # fmt: skip
    assert 0 < info["reserved"]["true"]["sequences"] < report["sequences"]


@pytest.mark.usefixtures("corpus")
def test_query_formats(capsys: pytest.CaptureFixture[str]) -> None:
    built(capsys)
    sql = (
        "SELECT owner, count(*) AS n FROM documents WHERE owner >= 'o3' AND owner < 'o5' GROUP BY 1"
    )
    sql += " ORDER BY 1"
    assert run(capsys, "manifest", "query", "m", sql)[1] == "owner  n\no3     5\no4     6\n"
    assert (
        run(capsys, "manifest", "query", "m", sql, "--format", "csv")[1] == "owner,n\no3,5\no4,6\n"
    )
    out = run(capsys, "--output", "json", "manifest", "query", "m", sql)[1]
    assert json.loads(out)["rows"] == [{"owner": "o3", "n": 5}, {"owner": "o4", "n": 6}]
    code, out, _ = run(
        capsys, "manifest", "query", "m", sql, "--format", "parquet", "--out", "x.parquet"
    )
    assert (code, out) == (0, "2 rows in x.parquet\n")
    import pyarrow.parquet as pq

    assert pq.read_table("x.parquet").num_rows == 2


@pytest.mark.usefixtures("corpus")
def test_find(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    built(capsys)
    code, out, _ = run(capsys, "--output", "json", "manifest", "find", "m", "--doc-id", "f4-0")
    found = json.loads(out)
    assert code == 0
    assert sorted(row["doc_id"] for row in found["documents"]) == [f"f4-{k}" for k in range(6)]
    printed = found["sequences"][0]["sequence"]
    for given in (printed, str(found["sequences"][0]["sequence_id"])):
        out = run(capsys, "--output", "json", "manifest", "find", "m", "--sequence-id", given)[1]
        assert json.loads(out)["documents"] == found["documents"]
    (tmp_path / "t.txt").write_text(prose(4))
    code, out, _ = run(capsys, "manifest", "find", "m", "--text-file", "t.txt")
    assert code == 0
    assert out.startswith(
        f"{printed}: the same text\n{printed}  6 documents, policy private, active\n"
    )
    assert out.count("(representative)") == 1


@pytest.mark.usefixtures("corpus")
def test_policy_changes_sequences_and_not_the_content(capsys: pytest.CaptureFixture[str]) -> None:
    built(capsys)
    before = json.loads(run(capsys, "--output", "json", "manifest", "info", "m")[1])
    arguments = ("manifest", "policy", "m", "--where", "owner = 'o4'", "--set", "strict")
    assert run(capsys, *arguments)[:2] == (0, "1 sequences set to strict\n")
    assert run(capsys, *arguments)[:2] == (0, "0 sequences set to strict\n")
    after = json.loads(run(capsys, "--output", "json", "manifest", "info", "m")[1])
    assert after["policies"]["strict"] == {"sequences": 1, "documents": 6}
    assert after["content_digest"] == before["content_digest"]
    assert after["digest"] != before["digest"]
    assert run(capsys, "manifest", "check", "m")[0] == 0


@pytest.mark.usefixtures("corpus")
def test_check_names_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    built(capsys)
    code, out, _ = run(capsys, "manifest", "check", "m")
    assert code == 0
    assert out.startswith("ok    file digests: 8 files\n")
    victim = next(Path("m/documents").iterdir())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    code, out, err = run(capsys, "manifest", "check", "m")
    assert code == 3
    assert out.startswith(f"FAIL  file digests: documents/{victim.name}: expected sha256 ")
    assert err.startswith(
        "govern: manifest m: expected 1 checks that pass, found 1 that fail, first: file digests ("
    )
    assert err.count("\n") == 1


@pytest.mark.usefixtures("corpus")
def test_add_reports_in_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    built(capsys)
    old, new = planted()[0], {"id": "new", "text": prose(31_000)}
    write_jsonl(Path("corpus2.jsonl"), [old, new, {"id": "copy", "text": prose(1003)}])
    arguments = ["ids", "add", "corpus2.jsonl", "--manifest", "m", "--source", "corpus"]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "manifest   m, snapshot 2"
    assert lines[2:6] == [
        "documents  2 new, 1 already there",
        "sequences  1 new, 1 documents joined old ones, 0 merged, 0 documents reassigned",
        "forgotten  0 documents hold text that was forgotten",
        "rejects    0",
    ]
    code, out, err = run(capsys, "--output", "json", *arguments)
    report = json.loads(out)
    assert (code, err, report["documents"], report["already_there"]) == (0, "", 0, 3)
    assert report["snapshot"] == 2
    snapshots = json.loads(run(capsys, "--output", "json", "manifest", "info", "m")[1])["snapshots"]
    assert [s["documents"] for s in snapshots] == [len(planted()), 2]
    assert run(capsys, "manifest", "check", "m")[0] == 0


ERRORS = [
    (
        ["ids", "add", "corpus.jsonl", "--manifest", "nowhere"],
        1,
        "govern: manifest nowhere: expected a directory with manifest.json, found no such "
        "directory; give the --out directory of `govern ids build`\n",
    ),
    (
        ["ids", "add", "corpus.jsonl", "--manifest", "m", "--workers", "0"],
        1,
        "govern: --workers 0: expected a number from 1 to 1024, found one outside; choose one "
        "within\n",
    ),
    (
        ["ids", "build", "nowhere.jsonl", "--out", "n"],
        1,
        "govern: input nowhere.jsonl: expected a corpus file, a folder of them, or a glob pattern "
        "that matches some, found nothing there; correct the path\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "m"],
        1,
        "govern: --out m: expected a new or empty directory, found a finished manifest; name "
        "another directory, or remove this one first\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "memory://n"],
        1,
        "govern: --out memory://n: expected a path of a file system, found a URL; name a path; "
        "copy whole folders from or to the store with its own tool\n",
    ),
    (
        ["manifest", "info", "s3://bucket/n"],
        1,
        "govern: manifest s3://bucket/n: expected a path of a file system, found a URL; name a "
        "path; copy whole folders from or to the store with its own tool\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "n", "--text-field", "body"],
        1,
        "govern: corpus: expected at least one record with text, found 65 records, none usable "
        "(most often missing_text); check --text-field, and that these are the right files\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "n", "--keep", "source"],
        1,
        "govern: --keep source: expected distinct columns with names of their own, found source, "
        "which the manifest has; leave it out, or rename the field in the corpus\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "n", "--threshold", "7"],
        1,
        "govern: --threshold 7.0: expected a number from 0.1 to 1.0, found one outside; choose one "
        "within\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "n", "--memory", "plenty"],
        1,
        "govern: --memory plenty: expected a size such as 4GB, found something else; give a number "
        "with KB, MB, GB or TB\n",
    ),
    (
        ["ids", "build", "corpus.jsonl", "--out", "n", "--memory", "20MB"],
        1,
        "govern: --memory 20000000: expected a number from 100000000 to 1000000000000000, found "
        "one outside; choose one within\n",
    ),
    (
        ["manifest", "info", "nowhere"],
        1,
        "govern: manifest nowhere: expected a directory with manifest.json, found no such "
        "directory; give the --out directory of `govern ids build`\n",
    ),
    (
        ["manifest", "find", "m", "--doc-id", "nobody"],
        1,
        "govern: document nobody: expected a document of manifest m, found none; check the "
        "spelling, or look with `govern manifest query`\n",
    ),
    (
        ["manifest", "find", "m", "--sequence-id", "sq-zz"],
        1,
        "govern: sequence ID 'sq-zz': expected sq- and 16 hex digits, or a decimal integer below "
        "2^63, found something else; copy the ID from `govern manifest find` or `govern manifest "
        "query`\n",
    ),
    (
        ["manifest", "query", "m", "DROP VIEW documents"],
        1,
        "govern: SQL 'DROP VIEW documents': expected one SELECT over documents, sequences, links, "
        "aliases, rejects, tombstones, or a condition over their columns, found DROP; correct it; "
        '`govern manifest query MANIFEST "DESCRIBE documents"` lists columns\n',
    ),
    (
        ["manifest", "query", "m", "SELECT 1", "--format", "parquet"],
        1,
        "govern: --format parquet: expected a file to write to, found no --out; add --out FILE\n",
    ),
]


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("arguments", "code", "message"), ERRORS, ids=[str(e[0][:5]) for e in ERRORS]
)
def test_mistakes_give_one_line_and_change_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    built(capsys)
    before = tree_bytes(Path())
    found, out, err = run(capsys, *arguments)
    assert (found, out, err) == (code, "", message)
    assert tree_bytes(Path()) == before
    assert not os.path.exists("n")


@pytest.mark.usefixtures("corpus")
def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    built(capsys)
    assert run(capsys, "manifest", "find", "m")[0] == 2
    assert run(capsys, "manifest", "find", "m", "--doc-id", "a", "--sequence-id", "1")[0] == 2
    assert run(capsys, "ids", "build", "--out", "n")[0] == 2
    assert run(capsys, "manifest", "policy", "m", "--where", "1=1", "--set", "loud")[0] == 2
