"""Readers: every record is a document or a reject, whatever the file does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from govern.ids.corpus import ReadOptions, kept_type, read_corpus
from govern.ids.inputs import find_files
from govern.ids.readers.streams import TooLong, split_lines
from manifests.errors import InputError


def read(path: Path | str, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    documents, rejects = [], []
    for batch in read_corpus([path], ReadOptions(**options)):
        documents += batch.documents.to_pylist()
        rejects += batch.rejects.to_pylist()
    return documents, rejects


def test_jsonl_with_every_fault(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": "ok", "text": "fine\\u0000 text"}',
        b"not json",
        b"[1, 2]",
        b'{"id": "no text"}',
        b'{"text": null}',
        b'{"text": 17}',
        b'{"text": "  \\n "}',
        b'{"text": "bad \xff byte"}',
        b'{"text": "lone \\ud800 surrogate"}',
        b'{"id": ["x"], "text": "id of a wrong type"}',
        b'{"id": 7, "text": "number as ID"}',
        b'{"id": null, "text": "line\xe2\x80\xa8separator"}',
        b"",
        b"   ",
        b'{"text": "' + b"x" * 300 + b'"}',
        b"[" * 100_000,
        b'{"text": "last, no line feed"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    documents, rejects = read(path, max_record_bytes=200)
    assert [(d["doc_id"], d["row"]) for d in documents] == [
        ("ok", 0),
        ("7", 10),
        (f"{path}#11", 11),
        (f"{path}#14", 14),
    ]
    assert [(r["row"], r["reason"]) for r in rejects] == [
        (1, "invalid_json"),
        (2, "not_an_object"),
        (3, "missing_text"),
        (4, "null_text"),
        (5, "text_not_string"),
        (6, "empty_text"),
        (7, "invalid_utf8"),
        (8, "invalid_utf8"),
        (9, "bad_id"),
        (12, "too_long"),
        (13, "too_long"),
    ]
    assert documents[0]["text"] == "fine\x00 text"
    assert documents[0]["end"] == 10
    assert documents[2]["text"] == "line\u2028separator"
    assert all(len(r["context"]) <= 200 for r in rejects)
    assert rejects[0]["context"] == b"not json"


def test_deeply_nested_json_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[" * 100_000 + b"\n")
    assert [r["reason"] for r in read(path)[1]] == ["invalid_json"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_compression_keeps_what_was_read(tmp_path: Path, suffix: str) -> None:
    # Incompressible text, so that cutting the file cuts records.
    import random

    random.seed(1)
    lines = [json.dumps({"id": str(i), "text": random.randbytes(300).hex()}) for i in range(3000)]
    whole = "\n".join(lines).encode()
    packed = gzip.compress(whole) if suffix == ".gz" else zstandard.compress(whole)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed)
    documents, rejects = read(path)
    assert (len(documents), rejects) == (3000, [])
    path.write_bytes(packed[: len(packed) * 3 // 5])
    documents, rejects = read(path)
    assert 100 < len(documents) < 3000
    assert [d["doc_id"] for d in documents] == [str(i) for i in range(len(documents))]
    assert [(r["reason"], r["row"]) for r in rejects] == [("truncated_file", len(documents))]


def test_a_disk_that_fails_in_the_middle() -> None:
    import io

    from govern.ids.readers import Fields, Source
    from govern.ids.readers.jsonl import read_jsonl

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            piece = super().read(16 if size else 0)
            if not piece:
                raise OSError(5, "Input/output error")
            return piece

    file = Failing(b'{"text": "one"}\n{"text": "two"}\n{"text": "th')
    items = list(
        read_jsonl(
            Source(
                uri="a",
                file=file,
                compression=None,
                fields=Fields("text", "id", ()),
                limit=1000,
            )
        )
    )
    assert [item.text for item in items[:2]] == ["one", "two"]  # type: ignore[union-attr]
    assert items[2:] == [(2, "truncated_file", b"[Errno 5] Input/output error")]


def test_two_zstd_frames_and_gzip_members(tmp_path: Path) -> None:
    first, second = b'{"text": "one"}\n', b'{"text": "two"}\n'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(first) + zstandard.compress(second))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    documents, rejects = read(tmp_path)
    assert [d["text"] for d in documents] == ["one", "two", "one", "two"]
    assert rejects == []


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'id,text,owner\n1,"two\nlines, one field",acme\n2,short\n'
        b"3,bad \xff byte,x\n4,,y\n\n5,ok,\n"
    )
    documents, rejects = read(path, keep=("owner",))
    assert [(d["doc_id"], d["text"], d["owner"]) for d in documents] == [
        ("1", "two\nlines, one field", "acme"),
        ("5", "ok", ""),
    ]
    assert [r["reason"] for r in rejects] == ["wrong_columns", "invalid_utf8", "empty_text"]
    with pytest.raises(InputError, match="expected a column 'body', found columns id, text, owner"):
        read(path, text_field="body")


def test_text_folder(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "two.txt").write_text("second letter")
    (folder / "one.txt").write_bytes(b"\xef\xbb\xbffirst letter")
    (folder / "broken.txt").write_bytes(b"\xff\xfa")
    (folder / ".hidden.txt").write_text("not read")
    (folder / "image.png").write_bytes(b"not read")
    documents, rejects = read(folder)
    assert [(d["source"], d["doc_id"], d["text"]) for d in documents] == [
        ("letters", f"{folder}/b/two.txt", "second letter"),
        ("letters", f"{folder}/one.txt", "first letter"),
    ]
    assert [(r["uri"], r["reason"]) for r in rejects] == [(f"{folder}/broken.txt", "invalid_utf8")]


def test_tables(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1, 2, None]),
            "text": pa.array(["one", None, "three"]),
            "year": [1999, 2000, 2001],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "b.arrow"), table.schema) as stream:
        stream.write_table(table)
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        documents, rejects = read(tmp_path / name, keep=("year",))
        assert [(d["doc_id"], d["text"], d["year"]) for d in documents] == [
            ("1", "one", "1999"),
            (f"{tmp_path}/{name}#2", "three", "2001"),
        ]
        assert [(r["row"], r["reason"]) for r in rejects] == [(1, "null_text")]


def test_parquet_strings_that_are_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"bad \xff", None], pa.binary())
    # Parquet does not check that strings are UTF-8, and other writers write what they have.
    strings = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    documents, rejects = read(tmp_path / "a.parquet")
    assert [d["text"] for d in documents] == ["good"]
    assert [(r["row"], r["reason"]) for r in rejects] == [(1, "invalid_utf8"), (2, "null_text")]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_damaged_table_file_is_one_reject(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 this is none")
    documents, rejects = read(tmp_path / name)
    assert documents == []
    assert [r["reason"] for r in rejects] == ["damaged_file"]


def test_kept_columns_keep_their_type() -> None:
    assert kept_type({"int"}) == pa.int64()
    assert kept_type({"int", "float"}) == pa.float64()
    assert kept_type({"bool"}) == pa.bool_()
    assert kept_type({"bool", "int"}) == pa.string()
    assert kept_type(()) == pa.string()


def test_a_file_is_read_once_and_files_come_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    found = find_files([tmp_path / "b.jsonl", f"{tmp_path}/*.jsonl", tmp_path], None)
    assert [file.uri for file in found] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]


def test_fsspec_url() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.jsonl", b'{"text": "remote"}\n')
    documents, _ = read("memory://corpus/a.jsonl")
    assert [d["text"] for d in documents] == ["remote"]
    documents, _ = read("memory://corpus")
    assert [(d["text"], d["source"]) for d in documents] == [("remote", "corpus")]
    with pytest.raises(InputError, match="nothing there"):
        read("memory://nowhere/*.jsonl")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
@example([b"\xef\xbb\xbf"], 1)
@example([b"\xef\xbb\xbfa", b"\xef\xbb\xbfb"], 2)
def test_lines_do_not_depend_on_pieces(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    expected = data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if data else []
    if expected and not expected[-1]:
        expected.pop()
    assert list(split_lines(iter(pieces), 1000)) == expected


def test_long_lines_are_never_held() -> None:
    def stream() -> Any:
        yield b"short\n"
        for _ in range(1000):
            yield b"x" * 1000
        yield b"\nafter"

    lines = list(split_lines(stream(), 5000))
    assert [len(line) for line in lines] == [5, 200, 5]
    assert isinstance(lines[1], TooLong)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.dictionaries(
                st.sampled_from(["id", "text", "x"]),
                st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.none())),
            ).map(lambda d: json.dumps(d).encode()),
        ),
        max_size=20,
    )
)
def test_no_record_is_lost(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "fuzz.jsonl"
    data = b"\n".join(lines)
    path.write_bytes(data)
    documents, rejects = read(path)
    stripped = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert len(documents) + len(rejects) == sum(1 for line in stripped if line.strip())
    assert sorted(r["row"] for r in documents + rejects) == list(range(len(documents + rejects)))
