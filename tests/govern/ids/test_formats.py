"""Formats whose text is extracted or nested, with the faults that each of them has."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_files
import zstandard
from raw_files import TEXTS

from govern.ids.corpus import ReadOptions, read_corpus


def read(path: Path | str, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    documents, rejects = [], []
    for batch in read_corpus([path], ReadOptions(**options)):
        documents += batch.documents.to_pylist()
        rejects += batch.rejects.to_pylist()
    return documents, rejects


def reasons(rejects: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(r["row"], r["reason"]) for r in rejects]


def test_dolma_c4_and_redpajama_in_one_build(tmp_path: Path) -> None:
    dolma = {"id": "d1", "text": "one", "source": "s", "metadata": {"license": {"name": "by"}}}
    c4 = {"text": "two", "timestamp": "2019", "url": "http://c4"}
    redpajama = {"text": "three", "meta": {"url": "http://rp", "language": "en"}}
    lines = [dolma, c4, redpajama, {"text": "four", "id": None, "meta": 7}]
    (tmp_path / "a.json.gz").write_bytes(
        gzip.compress("\n".join(json.dumps(line) for line in lines).encode())
    )
    documents, rejects = read(
        tmp_path / "a.json.gz", id_field="id,url,meta.url", keep=("metadata.license.name",)
    )
    assert [d["doc_id"] for d in documents] == [
        "d1",
        "http://c4",
        "http://rp",
        f"{tmp_path}/a.json.gz#3",
    ]
    assert [d["metadata.license.name"] for d in documents] == ["by", None, None, None]
    assert rejects == []


def test_a_field_with_a_dot_in_its_name_comes_before_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a.b": "name", "a": {"b": "path"}}\n{"a": {"b": "path"}}\n{"a": {"b": 1}}\n')
    documents, rejects = read(path, text_field="a.b")
    assert [d["text"] for d in documents] == ["name", "path"]
    assert reasons(rejects) == [(2, "text_not_string")]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_paths_into_structs(tmp_path: Path, name: str) -> None:
    table = pa.table(
        {"doc": [{"body": "one", "n": 1}, None, {"body": None, "n": 3}], "x": ["a", "b", "c"]}
    )
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_stream(str(tmp_path / name), table.schema) as stream:
            stream.write_table(table)
    documents, rejects = read(tmp_path / name, text_field="text,doc.body", id_field="id,x")
    assert [(d["text"], d["doc_id"]) for d in documents] == [("one", "a")]
    assert reasons(rejects) == [(1, "null_text"), (2, "null_text")]


def test_an_arrow_stream_that_was_cut_between_batches(tmp_path: Path) -> None:
    whole = raw_files.arrow_stream()
    path = tmp_path / "a.arrow"
    path.write_bytes(whole[:-8])
    documents, rejects = read(path)
    assert len(documents) == 4
    assert reasons(rejects) == [(4, "truncated_file")]
    path.write_bytes(whole[: len(whole) * 3 // 4])
    documents, rejects = read(path)
    assert len(documents) == 2
    assert [r["row"] for r in rejects] == [2]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'id\ttext\n1\t"open quote\n2\tplain\r\n3\ttoo\tmany\n')
    documents, rejects = read(path)
    assert [(d["doc_id"], d["text"]) for d in documents] == [("1", '"open quote'), ("2", "plain")]
    assert reasons(rejects) == [(2, "wrong_columns")]


def test_a_long_csv_line_is_a_reject_and_not_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n1," + b"x" * 5000 + b'\n2,fine\n3,"stray" quote\n4,last\n')
    documents, rejects = read(path, max_record_bytes=1000)
    assert [(d["doc_id"], d["text"]) for d in documents] == [("2", "fine"), ("4", "last")]
    assert reasons(rejects) == [(0, "too_long"), (2, "invalid_csv")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    (tmp_path / "a.jsonl").write_bytes((mark + '{"text": "été"}\r\n{"text": "2"}').encode(encoding))
    (tmp_path / "b.csv").write_bytes((mark + "text,id\r\nété,1\r\n").encode(encoding))
    (tmp_path / "c.txt").write_bytes((mark + "été\r\n").encode(encoding))
    documents, rejects = read(tmp_path)
    assert [d["text"] for d in documents] == ["été", "2", "été", "été\r\n"]
    assert rejects == []


def test_utf16_faults_stay_with_their_record(tmp_path: Path) -> None:
    good, bad = '{"text": "a"}\n'.encode("utf-16-le"), '{"text": "'.encode("utf-16-le")
    path = tmp_path / "a.jsonl"
    lone = bad + b"\x00\xd8" + '"}\n'.encode("utf-16-le")
    path.write_bytes(b"\xff\xfe" + good + lone + good + b"x")
    documents, rejects = read(path)
    assert [d["row"] for d in documents] == [0, 2]
    assert reasons(rejects) == [(1, "invalid_utf8"), (3, "truncated_file")]


@pytest.mark.parametrize(
    ("suffix", "megabytes", "most"),
    [
        (".gz", 80, 50),
        *(
            pytest.param(suffix, 200, 150, marks=pytest.mark.slow)
            for suffix in ("", ".gz", ".zst", ".bz2", ".xz")
        ),
    ],
)
def test_a_line_of_200_mb_is_never_held(
    tmp_path: Path, suffix: str, megabytes: int, most: int
) -> None:
    """Compressed it is small, so only the decompressed size may count. Measured in a child."""
    piece = b"x" * (1 << 20)
    parts = [b'{"text": "before"}\n{"text": "', *[piece] * megabytes, b'"}\n{"text": "after"}\n']
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(raw_files.COMPRESS[suffix](b"".join(parts)))
    del parts
    code = (
        "import resource, sys\n"
        "from govern.ids.corpus import ReadOptions, read_corpus\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "rows = [(b.documents['row'].to_pylist(), b.rejects['reason'].to_pylist())"
        " for b in read_corpus([sys.argv[1]], ReadOptions(max_record_bytes=8 << 20))]\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base\n"
        "print(rows, grown // 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    rows, _, grown = done.stdout.rpartition(" ")
    assert rows == "[([0, 2], ['too_long'])]"
    assert int(grown) < most


def test_wet_and_warc(tmp_path: Path) -> None:
    (tmp_path / "a.warc.wet.gz").write_bytes(gzip.compress(raw_files.wet()))
    documents, rejects = read(tmp_path / "a.warc.wet.gz", id_field="url", keep=("date",))
    assert [d["text"] for d in documents] == list(TEXTS)
    assert documents[1]["doc_id"] == "http://example.org/1"
    assert documents[1]["date"] == "2024-05-02T00:00:00Z"
    assert rejects == []
    whole = raw_files.wet()
    for one in documents:
        assert whole[one["start"] : one["end"]].startswith(b"WARC/1.0\r\nWARC-Type: conversion")
        assert whole[one["start"] : one["end"]].endswith(one["text"].encode())
    (tmp_path / "b.warc").write_bytes(raw_files.warc())
    documents, rejects = read(tmp_path / "b.warc")
    assert [d["doc_id"] for d in documents] == [f"<urn:uuid:{i}>" for i in range(4)]
    assert [t for t, d in zip(TEXTS, documents, strict=True) if t not in d["text"]] == []
    assert not any("Home" in d["text"] for d in documents)
    assert rejects == []


def test_warc_records_that_hold_no_text(tmp_path: Path) -> None:
    kind = "application/http; msgtype=response"
    page = raw_files.html()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    zipped = raw_files.http(gzip.compress(page), extra="Content-Encoding: gzip\r\n")
    blocks = [
        raw_files.http(b"\x89PNG", "image/png"),
        raw_files.http(page).replace(b"200 OK", b"404 Not Found"),
        raw_files.http(chunked, extra="Transfer-Encoding: chunked\r\n"),
        zipped,
        zipped[:-20],
        raw_files.http(page, "text/html; charset=no-such"),
        raw_files.http("Grüße".encode("latin-1"), "text/plain; charset=iso-8859-1"),
        raw_files.http("Grüße".encode("latin-1"), "text/plain"),
        raw_files.http(b"", "text/html"),
        raw_files.http(b"x" * 3000, "text/plain"),
    ]
    records = [raw_files.warc_record("response", kind, b, i) for i, b in enumerate(blocks)]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    documents, rejects = read(path, max_record_bytes=2000)
    assert [d["row"] for d in documents] == [2, 3, 6]
    assert documents[2]["text"] == "Grüße"
    assert reasons(rejects) == [
        (0, "not_text"),
        (1, "http_status"),
        (4, "extraction_failed"),
        (5, "wrong_encoding"),
        (7, "invalid_utf8"),
        (8, "empty_text"),
        (9, "too_long"),
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_warc_keeps_what_was_whole(tmp_path: Path, compressed: bool) -> None:
    data = raw_files.wet()
    third = data.index(TEXTS[2].encode()) + 5
    path = tmp_path / ("a.warc.wet.zst" if compressed else "a.warc.wet")
    path.write_bytes(zstandard.compress(data)[:-9] if compressed else data[:third])
    documents, rejects = read(path)
    assert [d["text"] for d in documents] == list(TEXTS[: len(documents)])
    assert reasons(rejects) == [(len(documents), "truncated_file")]
    assert compressed or len(documents) == 2
    path.with_name("b.wet").write_bytes(data + b"no WARC record\r\n")
    documents, rejects = read(path.with_name("b.wet"))
    assert (len(documents), reasons(rejects)) == (4, [(4, "damaged_file")])


def test_html(tmp_path: Path) -> None:
    for name, charset in (("a", "utf-8"), ("b", "windows-1251"), ("c", None)):
        text = "Поезд вышел со станции рано утром, и никто не махал ему вслед."
        (tmp_path / f"{name}.html").write_bytes(raw_files.html(text, charset))
    (tmp_path / "d.htm").write_bytes(b"<html><body><script>x</script></body></html>")
    (tmp_path / "e.html").write_bytes(b"")
    (tmp_path / "f.html").write_bytes(b"<html><body>\xff</body></html>")
    documents, rejects = read(tmp_path)
    assert [Path(d["doc_id"]).name for d in documents] == ["a.html", "b.html", "c.html"]
    assert all("никто не махал" in d["text"] and "Home" not in d["text"] for d in documents)
    assert documents[0]["end"] == (tmp_path / "a.html").stat().st_size
    assert [r["reason"] for r in rejects] == ["no_text", "empty_text", "invalid_utf8"]


def test_pdf(tmp_path: Path) -> None:
    import pypdf

    whole = raw_files.pdf()
    (tmp_path / "a.pdf").write_bytes(whole)
    (tmp_path / "b.pdf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.pdf").write_bytes(raw_files.pdf(["", " "]))
    for name, password in (("d.pdf", "secret"), ("e.pdf", "")):
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(whole))
        writer.encrypt(password, owner_password="owner", algorithm="AES-256")
        writer.write(tmp_path / name)
    (tmp_path / "f.pdf").write_bytes(b"")
    (tmp_path / "g.pdf").write_bytes(b"no PDF at all %%EOF")
    (tmp_path / "h.pdf.gz").write_bytes(gzip.compress(whole))
    documents, rejects = read(tmp_path)
    assert [(Path(d["uri"]).name, d["text"]) for d in documents] == [
        (name, f"{TEXTS[0]}\n\n{TEXTS[1]}") for name in ("a.pdf", "e.pdf", "h.pdf.gz")
    ]
    assert documents[0]["end"] == len(whole)
    assert [(Path(r["uri"]).name, r["reason"]) for r in rejects] == [
        ("b.pdf", "truncated_file"),
        ("c.pdf", "no_text"),
        ("d.pdf", "encrypted"),
        ("f.pdf", "truncated_file"),
        ("g.pdf", "extraction_failed"),
    ]


def test_mbox(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    data = raw_files.mbox()
    path.write_bytes(data)
    documents, rejects = read(path, keep=("subject", "from"))
    assert [d["text"].strip() for d in documents] == list(TEXTS)
    assert [d["doc_id"] for d in documents] == [f"<m{i}@example.org>" for i in range(4)]
    assert [d["subject"] for d in documents] == [f"café {i}" for i in range(4)]
    assert documents[0]["from"] == "Ada <ada@example.org>"
    assert rejects == []
    for one in documents:
        assert data[one["start"] : one["end"]].startswith(b"From ada@example.org")
    assert documents[-1]["end"] == len(data)


def test_mail_without_plain_text(tmp_path: Path) -> None:
    head = b"MIME-Version: 1.0\nContent-Type: "
    both = (
        head + b"multipart/alternative; boundary=B\n\n--B\nContent-Type: text/plain\n\nplain\n--B\n"
        b"Content-Type: text/html\n\n<p>page</p>\n--B--\n"
    )
    attached = head + b"text/plain\nContent-Disposition: attachment\n\nnot the message\n"
    mails = {
        "a": both,
        "b": head + b"text/html\n\n<p>only a page</p>\n",
        "c": attached,
        "d": head + b"text/plain; charset=unicode_escape\n\ntext\n",
        "e": b"Subject: nothing\n\n",
        "f": head + b"text/plain; charset=utf-8\n\nbad \xff\n",
        "g": b"Subject: long\n\n" + b"x" * 2000,
    }
    for name, data in mails.items():
        (tmp_path / f"{name}.eml").write_bytes(data)
    documents, rejects = read(tmp_path, max_record_bytes=1000)
    assert [(d["doc_id"], d["text"].strip()) for d in documents] == [
        (f"{tmp_path}/a.eml#0", "plain")
    ]
    assert [r["reason"] for r in rejects] == [
        "no_text",
        "no_text",
        "wrong_encoding",
        "empty_text",
        "invalid_utf8",
        "too_long",
    ]


def test_a_long_message_of_an_mbox_is_rejected_alone(tmp_path: Path) -> None:
    long = raw_files.message(("y" * 50 + "\n") * 100, 7)
    path = tmp_path / "a.mbox"
    path.write_bytes(raw_files.mbox() + b"\nFrom x\n" + long + b"\nFrom x\n" + raw_files.message())
    documents, rejects = read(path, max_record_bytes=1000)
    assert [d["row"] for d in documents] == [0, 1, 2, 3, 5]
    assert reasons(rejects) == [(4, "too_long")]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_empty_files(tmp_path: Path, compression: str) -> None:
    found = {}
    for suffix in raw_files.SAMPLES:
        path = tmp_path / f"a{suffix}{compression}"
        path.write_bytes(raw_files.COMPRESS[compression](b"") if compression else b"")
        documents, rejects = read(path)
        assert documents == []
        found[suffix] = [r["reason"] for r in rejects]
    # A file of records may have none; one that is a document, or has a structure, must have it.
    assert found == {
        ".jsonl": [], ".csv": [], ".tsv": [], ".wet": [], ".warc": [], ".mbox": [],
        ".txt": ["empty_text"], ".html": ["empty_text"], ".eml": ["empty_text"],
        ".parquet": ["damaged_file"], ".arrow": ["damaged_file"], ".feather": ["damaged_file"],
        ".pdf": ["truncated_file"],
    }  # fmt: skip
