"""Small valid files of every format that readers know, made by code, with the texts they hold."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXTS = (
    "The ferry left the northern harbour before sunrise, and nobody waved from the quay.",
    "In spring the miller counts his sacks; in autumn he counts what the mice have left him.",
    "Une vieille carte montre la rivière là où passe aujourd'hui le chemin de fer.",
    "Three lamps were burning in the observatory while the comet crossed the meridian.",
)
OWNERS = ("ada", "ben", "ada", "cleo")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def jsonl(texts: Sequence[str] = TEXTS) -> bytes:
    records = zip(texts, OWNERS, strict=False)
    lines = [
        json.dumps({"id": f"d{i}", "text": text, "owner": owner, "meta": {"url": f"u{i}"}})
        for i, (text, owner) in enumerate(records)
    ]
    return "\n".join(lines).encode()


def delimited(dialect: str = "excel") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, dialect)
    writer.writerow(["id", "text", "owner"])
    for i, (text, owner) in enumerate(zip(TEXTS, OWNERS, strict=True)):
        writer.writerow([f"d{i}", text, owner])
    return out.getvalue().encode()


def table() -> pa.Table:
    return pa.table(
        {
            "id": [f"d{i}" for i in range(len(TEXTS))],
            "text": list(TEXTS),
            "owner": list(OWNERS),
            "meta": [{"url": f"u{i}"} for i in range(len(TEXTS))],
        }
    )


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(table(), out, row_group_size=2)
    return out.getvalue()


def arrow_stream() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table().schema) as writer:
        for batch in table().to_batches(max_chunksize=2):
            writer.write_batch(batch)
    return out.getvalue()


def arrow_file() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return out.getvalue()


def html(text: str = TEXTS[0], charset: str | None = "utf-8") -> bytes:
    meta = f'<meta charset="{charset}">' if charset else ""
    page = (
        f"<!DOCTYPE html><html><head>{meta}<title>A page</title></head><body><nav>Home</nav>"
        f"<article><h1>A page</h1><p>{text}</p><p>{text[::-1]}</p></article></body></html>"
    )
    return page.encode(charset or "utf-8")


def pdf(pages: Sequence[str] = TEXTS[:2]) -> bytes:
    """A PDF of one line of Helvetica a page (ISO 32000-1, 7.5)."""
    n = len(pages)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(n))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {n} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, text in enumerate(pages):
        shown = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        stream = zlib.compress(f"BT /F1 9 Tf 20 700 Td ({shown}) Tj ET".encode("cp1252"))
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        head = f"<< /Length {len(stream)} /Filter /FlateDecode >>".encode()
        objects.append(head + b"\nstream\n" + stream + b"\nendstream")
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        start,
    )
    return bytes(out)


def warc_record(kind: str, content_type: str, block: bytes, number: int) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Target-URI: http://example.org/{number}\r\n"
        f"WARC-Date: 2024-05-0{number + 1}T00:00:00Z\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def http(body: bytes, content_type: str = "text/html; charset=utf-8", extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode() + body


def wet() -> bytes:
    records = [warc_record("warcinfo", "application/warc-fields", b"software: none\r\n", 9)]
    records += [
        warc_record("conversion", "text/plain", text.encode(), i) for i, text in enumerate(TEXTS)
    ]
    return b"".join(records)


def warc() -> bytes:
    response = "application/http; msgtype=response"
    return b"".join(
        [
            warc_record(
                "request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n", 9
            ),
            *(warc_record("response", response, http(html(t)), i) for i, t in enumerate(TEXTS)),
        ]
    )


def message(text: str = TEXTS[0], number: int = 0) -> bytes:
    head = (
        f"From: Ada <ada@example.org>\nSubject: =?utf-8?q?caf=C3=A9?= {number}\n"
        f"Message-ID: <m{number}@example.org>\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    )
    return (head + text + "\n").encode()


def mbox() -> bytes:
    return b"\n".join(
        b"From ada@example.org Thu Jan  1 00:00:00 2024\n" + message(text, i)
        for i, text in enumerate(TEXTS)
    )


# Suffix -> (bytes, number of documents).
SAMPLES: dict[str, tuple[bytes, int]] = {
    ".jsonl": (jsonl(), 4),
    ".csv": (delimited(), 4),
    ".tsv": (delimited("excel-tab"), 4),
    ".txt": (TEXTS[0].encode(), 1),
    ".parquet": (parquet(), 4),
    ".arrow": (arrow_stream(), 4),
    ".feather": (arrow_file(), 4),
    ".wet": (wet(), 4),
    ".warc": (warc(), 4),
    ".html": (html(), 1),
    ".pdf": (pdf(), 1),
    ".mbox": (mbox(), 4),
    ".eml": (message(), 1),
}
