"""Keyed hashes in the statement, and the disclosure that ties them to names.

A plain hash of a document id can be guessed; a keyed hash cannot without the key. Every report
has a random key of its own, which lies only in the disclosure, so two reports cannot be joined on
their hashes either. Whoever withholds the disclosure withholds the names; whoever shows it later
can prove it, because the statement pins its SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from govern.audit.records import Record, Sha256
from govern.audit.statement import Predicate

_DOMAIN = b"memsinks-govern keyed hash v1"


@dataclass(frozen=True, kw_only=True)
class DisclosedDocument(Record):
    """The name behind one document hash of the statement."""

    document_hmac: Sha256
    source: str
    doc_id: str


@dataclass(frozen=True, kw_only=True)
class Disclosure(Record):
    """The literal query, the names, and the key (32 bytes, hex) that ties them to the hashes."""

    key: Sha256
    query: str
    requester: str | None = None
    documents: tuple[DisclosedDocument, ...]


def new_key() -> bytes:
    """A fresh random key for one report, 32 bytes."""
    return secrets.token_bytes(32)


def keyed_hash(key: bytes, label: str, *parts: str) -> str:
    """Hex HMAC-SHA256 (RFC 2104) over domain, label and parts, each preceded by its length.

    The length (8 bytes, big-endian) keeps ("ab", "c") and ("a", "bc") apart.
    """
    message = b"".join(
        len(piece).to_bytes(8, "big") + piece
        for piece in (_DOMAIN, label.encode(), *(part.encode() for part in parts))
    )
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def document_hmac(key: bytes, source: str, doc_id: str) -> str:
    """The keyed hash that stands for a document in the statement."""
    return keyed_hash(key, "document", source, doc_id)


def query_hmac(key: bytes, query: str) -> str:
    """The keyed hash that stands for the literal query."""
    return keyed_hash(key, "query", query)


def requester_hmac(key: bytes, requester: str) -> str:
    """The keyed hash that stands for the person who asked."""
    return keyed_hash(key, "requester", requester)


def disclosure_faults(disclosure: Disclosure, predicate: Predicate) -> list[str]:
    """Every way in which the disclosure does not fit the statement; empty when it fits."""
    key = bytes.fromhex(disclosure.key)
    faults = []
    if disclosure.canonical_sha256() != predicate.disclosure_sha256:
        faults.append("its digest is not the one that the statement pins")
    if query_hmac(key, disclosure.query) != predicate.selection.query_hmac:
        faults.append("the query does not give the statement's keyed hash")
    requester = disclosure.requester
    hashed = None if requester is None else requester_hmac(key, requester)
    if hashed != predicate.request.requester:
        faults.append("the requester does not give the statement's keyed hash")
    for document in disclosure.documents:
        if document_hmac(key, document.source, document.doc_id) != document.document_hmac:
            faults.append(f"document {document.document_hmac[:16]}… has another name")
    named = {document.document_hmac for document in disclosure.documents}
    selected = {document.document_hmac for document in predicate.selection.documents}
    if missing := selected - named:
        faults.append(f"{len(missing)} documents of the statement are not named")
    return faults
