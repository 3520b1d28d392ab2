"""The embedded corpus: text that every Python installation has, so the demo downloads nothing.

    licenses       licence files of the installed distributions (dozens of copies of a few texts)
    descriptions   their long descriptions, as their metadata holds them
    topics         the interpreter's documentation topics (`help("TOPICS")`)
    docstrings     docstrings of the standard library, read from source without importing it

Licence files above `MAX_LICENSE_BYTES` are bundles that quote many licences whole; a document that
quotes another is a different sequence, and what it quotes cannot be forgotten with the other. They
are left out, and counted, so that the demo can show forgetting of a text that stands nowhere else.
"""

from __future__ import annotations

import ast
import email
import importlib.metadata
import json
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from manifests.errors import InputError
from manifests.files import atomic_write

MAX_LICENSE_BYTES = 16_000
MIN_DOCUMENTS = 300
MIN_OF_EACH = 10
_LICENSE_NAME = re.compile(r"(?i)^(licen[cs]e|copying|notice)")
_MIN_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class EmbeddedDocument:
    """One document: its source (the corpus name in the manifest), its id there, and its text."""

    source: str
    doc_id: str
    text: str
    owner: str


@dataclass(frozen=True, kw_only=True)
class EmbeddedCorpus:
    """Where the corpus was written, and what was left out of it.

    Args:
        files: One JSONL file for each source, named after it.
        counts: Documents by source.
        bundles: Licence files left out because they are above `MAX_LICENSE_BYTES`.
    """

    files: tuple[Path, ...]
    counts: tuple[tuple[str, int], ...]
    bundles: int


def _licenses() -> Iterator[EmbeddedDocument]:
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            inside = ".dist-info/" in str(file)
            if not (inside and _LICENSE_NAME.match(file.name)) or file.suffix == ".py":
                continue
            path = Path(str(file.locate()))
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                yield EmbeddedDocument(source="licenses", doc_id=str(file), text=text, owner=name)


def _descriptions() -> Iterator[EmbeddedDocument]:
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        message = email.message_from_string(distribution.read_text("METADATA") or "")
        text = message.get_payload()
        if isinstance(text, str):
            yield EmbeddedDocument(source="descriptions", doc_id=name, text=text, owner=name)


def _topics() -> Iterator[EmbeddedDocument]:
    from pydoc_data.topics import topics

    for name, text in topics.items():
        yield EmbeddedDocument(source="topics", doc_id=name, text=text, owner="python")


def _docstrings() -> Iterator[EmbeddedDocument]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        named = [
            node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)
        ]
        parts = [ast.get_docstring(node) for node in (tree, *named)]
        text = "\n\n".join(part for part in parts if part)
        yield EmbeddedDocument(source="docstrings", doc_id=path.stem, text=text, owner="python")


def _unique_names(documents: Iterator[EmbeddedDocument]) -> Iterator[EmbeddedDocument]:
    # A distribution seen twice on sys.path (editable installs) is one distribution.
    seen: set[tuple[str, str]] = set()
    for document in documents:
        key = (document.source, document.doc_id)
        if key not in seen:
            seen.add(key)
            yield document


def write_embedded_corpus(directory: Path) -> EmbeddedCorpus:
    """Write the corpus as JSONL with the fields id, owner, text; a file for each source.

    Raises:
        InputError: This installation has too little text; the message says of what.
    """
    lines: dict[str, list[str]] = {name: [] for name in _SOURCES}
    bundles = 0
    for document in _unique_names(chain.from_iterable(read() for read in _SOURCES.values())):
        if len(document.text) < _MIN_CHARACTERS:
            continue
        if document.source == "licenses" and len(document.text) > MAX_LICENSE_BYTES:
            bundles += 1
            continue
        row = {
            "id": f"{document.source}/{document.doc_id}",
            "owner": document.owner,
            "text": document.text,
        }
        lines[document.source].append(json.dumps(row, ensure_ascii=False) + "\n")
    counts = tuple((name, len(rows)) for name, rows in lines.items())
    _require_enough(counts)
    for name, rows in lines.items():
        atomic_write(directory / f"{name}.jsonl", "".join(rows).encode("utf-8", "replace"))
    return EmbeddedCorpus(
        files=tuple(directory / f"{name}.jsonl" for name in lines), counts=counts, bundles=bundles
    )


def _require_enough(counts: tuple[tuple[str, int], ...]) -> None:
    total = sum(count for _, count in counts)
    short = [name for name, count in counts if count < MIN_OF_EACH]
    if short or total < MIN_DOCUMENTS:
        raise InputError(
            "the text of this Python installation",
            expected=f"at least {MIN_DOCUMENTS} documents, {MIN_OF_EACH} or more of each source",
            found=f"{total}, too few of: {', '.join(short) or 'all together'}",
            remedy="install the project with its dependencies into a full Python",
        )


_SOURCES: Mapping[str, Callable[[], Iterator[EmbeddedDocument]]] = {
    "licenses": _licenses,
    "descriptions": _descriptions,
    "topics": _topics,
    "docstrings": _docstrings,
}
