"""The ledger: an append-only directory of envelopes under a signed Merkle tree.

    LEDGER/
      entries/00000000.json   DSSE envelope of a statement, canonical JSON
      heads/00000001.json     signed tree head over the first 1 entries
      keys/<key id>.pem       public keys of whoever signed a head or an entry

An entry's leaf is `merkle.leaf_hash` of its bytes, the tree is RFC 6962's. There is a head for
every size, so any two states of the ledger can be compared, and an entry's receipt never changes.

An append is two atomic renames, the entry and then its head. The head is the commit: a kill between
the two leaves a *pending* entry, which the next append completes first. Nothing is ever rewritten,
so a torn ledger cannot come about, and one that does not hold together was altered.

What a ledger alone cannot show is that its newest entries were cut off together with their heads:
only somebody who kept a later head can, and every report carries one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from govern.audit.records import Count, Record, Sha256, Utc, malformed, parse_canonical
from govern.audit.signing import Envelope, PrivateKey, PublicKey, parse_public_key, sign, signers
from manifests import merkle
from manifests.errors import InputError, IntegrityError
from manifests.files import atomic_write, writer_lock

HEAD_TYPE = "application/vnd.memsinks-govern.tree-head+json"
_ENTRY_NAME = re.compile(r"([0-9]{8})\.json")
_KEY_NAME = re.compile(r"([0-9a-f]{64})\.pem")
_LEFTOVER = re.compile(r"\..*\.tmp")


@dataclass(frozen=True, kw_only=True)
class TreeHead(Record):
    """The state of a ledger: how many entries, their Merkle root (hex), when it was signed."""

    tree_size: Count
    root: Sha256
    time: Utc


@dataclass(frozen=True, kw_only=True)
class LedgerProof(Record):
    """An entry's receipt: its place, its audit path (lowest sibling first), the signed head."""

    entry_index: Count
    entry_sha256: Sha256
    tree_size: Count
    inclusion_path: tuple[Sha256, ...]
    tree_head: Envelope


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A ledger as read and found whole.

    Attributes:
        path: Its directory.
        entries: Bytes of every committed entry, in order.
        heads: The signed tree head of every size from 1 on.
        keys: Key id -> public key, as the ledger itself stores them (trusted by nobody yet).
        pending: Bytes of an entry whose head was never written, or None.
    """

    path: Path
    entries: tuple[bytes, ...]
    heads: tuple[Envelope, ...]
    keys: dict[str, PublicKey]
    pending: bytes | None = None

    def leaves(self) -> list[bytes]:
        """Leaf hash of every committed entry."""
        return [merkle.leaf_hash(entry) for entry in self.entries]

    def proof(self, index: int) -> LedgerProof:
        """The receipt of an entry against the head that was signed when it was appended."""
        path = merkle.inclusion_path(self.leaves()[: index + 1], index)
        return LedgerProof(
            entry_index=index,
            entry_sha256=hashlib.sha256(self.entries[index]).hexdigest(),
            tree_size=index + 1,
            inclusion_path=tuple(sibling.hex() for sibling in path),
            tree_head=self.heads[index],
        )

    def consistency(self, old_size: int) -> list[bytes]:
        """The proof that the tree of `old_size` entries is a prefix of this one."""
        return merkle.consistency_path(self.leaves(), old_size)


def parse_head(envelope: Envelope, what: str) -> TreeHead:
    """The tree head inside an envelope; its signature is a separate question.

    Raises:
        IntegrityError: Another payload type, or not a tree head in canonical JSON.
    """
    if envelope.payloadType != HEAD_TYPE:
        raise malformed(what, f"payload type {HEAD_TYPE}", repr(envelope.payloadType))
    return TreeHead.from_dict(parse_canonical(envelope.payload_bytes(what), what), what)


def append(
    directory: Path,
    envelope: Envelope,
    *,
    key: PrivateKey,
    time: str,
    public_keys: Iterable[PublicKey] = (),
) -> LedgerProof:
    """Append an envelope, or find it there already.

    Law: appending the same envelope again gives the same receipt and changes nothing, also after a
    kill at any moment of the first attempt.

    Args:
        directory: The ledger, made if missing.
        envelope: The signed statement.
        key: Signs the tree head.
        time: UTC time of the new tree head, `YYYY-MM-DDTHH:MM:SSZ`.
        public_keys: Keys of others who signed the envelope, stored beside it.

    Raises:
        IntegrityError: The ledger does not hold together.
        LockedError: Another process appends at this moment.
    """
    for folder in ("entries", "heads", "keys"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    entry = envelope.canonical()
    with writer_lock(directory):
        _sweep(directory)
        ledger = read_ledger(directory, every_signature=False)
        signing = {public.key_id: public for public in (key.public, *public_keys)}
        for public in signing.values():
            if public.key_id not in ledger.keys:
                atomic_write(directory / "keys" / f"{public.key_id}.pem", public.pem.encode())
        if ledger.pending is not None:
            # Its writer died between the two renames; the entry was signed, so it stays.
            ledger = _commit(ledger, ledger.pending, key, time)
        if entry not in ledger.entries:
            atomic_write(directory / "entries" / f"{len(ledger.entries):08d}.json", entry)
            ledger = _commit(ledger, entry, key, time)
        return ledger.proof(ledger.entries.index(entry))


def read_ledger(directory: Path, *, every_signature: bool = True) -> Ledger:
    """Read a ledger and check that it holds together: names, canonical form, roots, signatures.

    Args:
        directory: The ledger.
        every_signature: Check the signatures of all entries and heads; otherwise only those of the
            newest head, which covers all entries, and of a pending entry (for an append).

    Raises:
        InputError: There is no ledger.
        IntegrityError: An entry or head was altered, dropped, added or reordered; names which.
    """
    if not (directory / "entries").is_dir() or not (directory / "heads").is_dir():
        raise InputError(
            str(directory),
            expected="a ledger directory with entries/ and heads/",
            found="none" if directory.exists() else "no such directory",
            remedy="give the --ledger of `govern forget`",
        )
    keys = _read_keys(directory)
    # Heads first: an append between the two listings then shows as a pending entry, never as a
    # head without its entry.
    heads = _read_numbered(directory / "heads", first=1)
    entries = _read_numbered(directory / "entries", first=0)
    if not len(heads) <= len(entries) <= len(heads) + 1:
        raise _broken(directory, f"{len(heads)} entries for {len(heads)} heads", f"{len(entries)}")
    # The signed root binds the bytes of committed entries; reading them all costs an append much.
    for number in range(0 if every_signature else len(heads), len(entries)):
        name = f"ledger entries/{number:08d}.json"
        envelope = Envelope.from_dict(parse_canonical(entries[number], name), name)
        signers(envelope, keys, name)
    envelopes = tuple(_check_heads(heads, entries, keys, every_signature=every_signature))
    return Ledger(
        path=directory,
        entries=tuple(entries[: len(heads)]),
        heads=envelopes,
        keys=keys,
        pending=entries[-1] if len(entries) > len(heads) else None,
    )


def _check_heads(
    heads: Sequence[bytes],
    entries: Sequence[bytes],
    keys: dict[str, PublicKey],
    *,
    every_signature: bool,
) -> Iterable[Envelope]:
    """Each head is signed and has the root of exactly the entries before it."""
    peaks: list[tuple[int, bytes]] = []
    for size, (data, entry) in enumerate(zip(heads, entries, strict=False), start=1):
        name = f"ledger heads/{size:08d}.json"
        envelope = Envelope.from_dict(parse_canonical(data, name), name)
        if every_signature or size == len(heads):
            signers(envelope, keys, name)
        head = parse_head(envelope, name)
        _push(peaks, merkle.leaf_hash(entry))
        if head.tree_size != size:
            raise malformed(name, f"a head over {size} entries", f"one over {head.tree_size}")
        if bytes.fromhex(head.root) != _fold(peaks):
            raise malformed(
                f"ledger entries/{size - 1:08d}.json",
                f"the entry under the signed root {head.root[:16]}…",
                "another entry",
            )
        yield envelope


def _push(peaks: list[tuple[int, bytes]], leaf: bytes) -> None:
    """Add a leaf to the roots of the complete subtrees (height, root), largest first.

    With them, the root of every prefix costs log n hashes instead of n.
    """
    height = 0
    while peaks and peaks[-1][0] == height:
        leaf = merkle.node_hash(peaks.pop()[1], leaf)
        height += 1
    peaks.append((height, leaf))


def _fold(peaks: Sequence[tuple[int, bytes]]) -> bytes:
    root = peaks[-1][1]
    for _, peak in reversed(peaks[:-1]):
        root = merkle.node_hash(peak, root)
    return root


def _commit(ledger: Ledger, entry: bytes, key: PrivateKey, time: str) -> Ledger:
    """Sign and write the head that makes an entry part of the ledger."""
    leaves = [*ledger.leaves(), merkle.leaf_hash(entry)]
    head = TreeHead(tree_size=len(leaves), root=merkle.tree_root(leaves).hex(), time=time)
    envelope = sign(head.canonical(), HEAD_TYPE, [key])
    atomic_write(ledger.path / "heads" / f"{len(leaves):08d}.json", envelope.canonical())
    entries, heads = (*ledger.entries, entry), (*ledger.heads, envelope)
    return replace(ledger, entries=entries, heads=heads, pending=None)


def _read_numbered(folder: Path, *, first: int) -> list[bytes]:
    """Files `first`, `first + 1`, … of a folder that holds nothing else."""
    names = [path.name for path in folder.iterdir() if not _LEFTOVER.fullmatch(path.name)]
    wanted = [f"{number:08d}.json" for number in range(first, first + len(names))]
    for name in sorted(names):
        if not _ENTRY_NAME.fullmatch(name):
            raise _broken(folder.parent, f"numbered files in {folder.name}/", repr(name))
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise _broken(folder.parent, f"{folder.name}/{missing[0]}", "no such file")
    return [_read_file(folder / name) for name in wanted]


def _read_keys(directory: Path) -> dict[str, PublicKey]:
    keys = {}
    for path in sorted((directory / "keys").glob("*")):
        if _LEFTOVER.fullmatch(path.name):
            continue
        what = f"ledger keys/{path.name}"
        match = _KEY_NAME.fullmatch(path.name)
        if match is None:
            raise _broken(directory, "key files named by their id in keys/", repr(path.name))
        try:
            public = parse_public_key(_read_file(path).decode("ascii"), what)
        except UnicodeDecodeError:
            raise malformed(what, "a PEM file", "other bytes") from None
        if public.key_id != match[1]:
            raise malformed(what, "the key of that id", f"key {public.key_id[:16]}…")
        keys[public.key_id] = public
    return keys


def _read_file(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise _broken(path.parent.parent, f"a regular file {path.parent.name}/{path.name}", "none")
    return path.read_bytes()


def _sweep(directory: Path) -> None:
    """Remove temporary files of a killed writer; only the holder of the lock does."""
    for folder in ("entries", "heads", "keys"):
        for path in (directory / folder).iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink()


def _broken(directory: Path, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        f"ledger {directory}",
        expected=expected,
        found=found,
        remedy="restore the ledger from a copy that still verifies",
    )
