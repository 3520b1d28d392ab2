"""The checks of a report against a run directory. No torch, and no code of the eraser.

The argument runs over the bytes on disk only:

    1. Every file has the digest that the statement lists, and no other file is there. The digest
       of a bank, and of its optimizer state, is made of its header and its root, hashed afresh; its
       tree file holds that tree.
    2. The leaf of every block, hashed afresh, gives the bank's root after.
    3. With the old leaves put back at the changed blocks, the same leaves give the root before.
       SHA-256 trees have one set of leaves, so *only* the changed blocks changed.
    4. The root before is the one that the record of training pins, or follows from it through
       earlier statements of the ledger.
    5. The planned blocks, and the optimizer state of the same blocks, are zero bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from govern.audit.checkpoint_files import BANK_NAME, ScannedRun
from govern.audit.findings import Check, NotCheckableError, run_check
from govern.audit.records import malformed
from govern.audit.statement import BankIntegrity, Predicate, Statement
from govern.audit.verify_map import FORGOTTEN, SINK_MAP, read_owners
from manifests import merkle
from manifests.errors import IntegrityError
from manifests.files import canonical_json
from sinkmodel.bank_format import STATE_NAME, open_regular, open_state, read_exactly

_RECORD = "training.json"
_SWAPPED = (FORGOTTEN, "route_index.safetensors")


@dataclass(frozen=True, kw_only=True)
class CheckpointChecks:
    """The checks of one statement against one scanned run.

    Attributes:
        statement: What is claimed.
        run: What is there.
        earlier: Statements that precede this one in the ledger, newest first; empty without one.
    """

    statement: Statement
    run: ScannedRun
    earlier: Sequence[Statement] = field(default=())

    @property
    def predicate(self) -> Predicate:
        """The predicate of the statement."""
        return self.statement.predicate

    def all(self) -> list[Check]:
        """Every check, in the order of the argument."""
        questions = {
            "checkpoint files": self._files,
            "sink banks": self._banks,
            "erased blocks are zero": self._zero_blocks,
            "record of training": self._training_record,
            "optimizer state": self._optimizer_state,
            "sink map": self._sink_map,
        }
        return [run_check(name, question) for name, question in questions.items()]

    # --- 1: files --------------------------------------------------------------------------------

    def _files(self) -> str | list[str]:
        listed = {subject.name: subject.digest for subject in self.statement.subject}
        found = self.run.digests
        faults = [f"{name} is missing" for name in sorted(set(listed) - set(found))]
        faults += [f"{name} has other bytes" for name in sorted(listed)
                   if name in found and found[name] != listed[name]]  # fmt: skip
        faults += [f"{name} is not in the statement" for name in sorted(set(found) - set(listed))]
        return faults or f"{len(found)} files, every digest as stated"

    # --- 2 and 3: banks --------------------------------------------------------------------------

    def _banks(self) -> str | list[str]:
        stated = {bank.file: bank for bank in self.predicate.integrity.banks}
        faults = [f"{name} is missing" for name in sorted(set(stated) - set(self.run.trees))]
        faults += [
            f"{name} is not in the statement" for name in sorted(set(self.run.trees) - set(stated))
        ]
        for name in sorted(set(stated) & set(self.run.trees)):
            faults += self._bank(stated[name], self.run.trees[name])
        changed = sum(len(bank.changed) for bank in stated.values())
        total = sum(len(levels[0]) for levels in self.run.trees.values())
        return faults or f"{changed} of {total} blocks changed, and no other"

    def _bank(self, bank: BankIntegrity, levels: list[list[bytes]]) -> list[str]:
        leaves = levels[0]
        if bank.blocks != len(leaves):
            return [f"{bank.file} holds {len(leaves)} blocks, the statement says {bank.blocks}"]
        rows = [change.row for change in bank.changed]
        if len(set(rows)) != len(rows) or any(row >= len(leaves) for row in rows):
            return [f"the statement lists impossible rows of {bank.file}"]
        faults = [
            f"block {change.block} in {bank.file} has other bytes than stated"
            for change in bank.changed
            if leaves[change.row].hex() != change.leaf_after
        ]
        if levels[-1][0].hex() != bank.root_after:
            faults.append(f"{bank.file} does not have the stated root")
        old = {change.row: bytes.fromhex(change.leaf_before) for change in bank.changed}
        if root_with(levels, old).hex() != bank.root_before:
            faults.append(f"blocks of {bank.file} beside the stated ones changed")
        return faults + self._stored_tree(bank.file)

    def _stored_tree(self, bank_file: str) -> list[str]:
        name = bank_file.replace(".safetensors", ".leaves")
        if name not in self.run.digests:
            return [f"{name} is missing"]
        holds = self.run.digests[name].merkle_root is not None
        return [] if holds else [f"{name} does not hold the Merkle tree of the blocks"]

    # --- 4: the record of training ---------------------------------------------------------------

    def _training_record(self) -> str | list[str]:
        record = self._record()
        pin, stated = record.get("manifest"), self.predicate.selection.manifest
        faults = []
        if pin != {"content_digest": stated.content_digest, "snapshot": stated.snapshot}:
            faults.append(f"{_RECORD} pins another manifest than the statement")
        trained = {bank["file"]: (bank["blocks"], bank["root"]) for bank in record["banks"]}
        banks = {b.file: (b.blocks, b.root_before) for b in self.predicate.integrity.banks}
        if sorted(trained) != sorted(banks):
            return [*faults, f"{_RECORD} lists other banks than the statement"]
        faults += self._headers(trained, record["files"])
        differ = [name for name in sorted(banks) if banks[name] != trained[name]]
        faults += self._untouchable(record["files"], first_erase=not differ)
        if faults or not differ:
            return (
                faults or f"roots before are those of training, manifest snapshot {stated.snapshot}"
            )
        links = max(self._links(name, trained[name][1]) for name in differ)
        return f"roots before follow from training through {links} earlier statements"

    def _headers(self, trained: dict[str, tuple[int, str]], files: dict[str, Any]) -> list[str]:
        """Banks whose header is not the one of training; an erase changes the root alone."""
        return [
            f"{name} has another header than {_RECORD} pins"
            for name, (_, root) in sorted(trained.items())
            if hashlib.sha256(self.run.headers.get(name, b"") + _unhex(root)).hexdigest()
            != files.get(name)
        ]

    def _links(self, bank_file: str, trained_root: str) -> int:
        """How many earlier statements lead from the root of training to this root before."""
        root = next(b.root_before for b in self.predicate.integrity.banks if b.file == bank_file)
        links = 0
        for statement in self.earlier:
            for bank in statement.predicate.integrity.banks:
                if bank.file == bank_file and bank.root_after == root != trained_root:
                    root = bank.root_before
                    links += 1
        if root == trained_root:
            return links
        if self.earlier:
            raise IntegrityError(
                bank_file,
                expected="a root before that training or an earlier statement left",
                found=f"root {root[:16]}…",
                remedy="find out who changed the bank between training and this erase",
            )
        raise NotCheckableError(
            f"{bank_file} was changed before this erase; --ledger shows whether by a recorded one"
        )

    def _untouchable(self, trained: dict[str, Any], *, first_erase: bool) -> list[str]:
        """Files whose digest before is not the one of training."""
        faults = []
        for file in self.predicate.integrity.files:
            erasable = file.name.startswith(("sinks-", "state/")) or file.name in _SWAPPED
            known = trained.get(file.name)
            if known and known != file.digest_before and (first_erase or not erasable):
                faults.append(f"{file.name} was not as training left it")
        return faults

    def _record(self) -> dict[str, Any]:
        if _RECORD not in self.run.digests:
            raise malformed(_RECORD, "the record of training", "no such file")
        data = self._read(_RECORD)
        try:
            record = json.loads(data)
            whole = canonical_json(record) == data
        except (ValueError, RecursionError):
            whole = False
        if not whole or not isinstance(record, dict):
            raise malformed(_RECORD, "canonical JSON", "other bytes")
        banks, files = record.get("banks"), record.get("files")
        if (
            not isinstance(files, dict)
            or not isinstance(banks, list)
            or not all(map(_is_bank, banks))
        ):
            raise malformed(_RECORD, "banks with file, blocks and root; files", "another form")
        return record

    # --- 5: zero bytes ---------------------------------------------------------------------------

    def _planned(self) -> list[int]:
        return sorted(
            {b for s in self.predicate.blocks.sequences for b in (*s.exclusive, *s.shared)}
        )

    def _zero_blocks(self) -> str | list[str]:
        names = sorted(name for name in self.run.trees if BANK_NAME.fullmatch(name))
        planned = self._planned()
        if planned and not names:
            return ["the run has no sink banks"]
        faults = []
        for block in planned:
            each = len(self.run.leaves(names[0]))
            index, row = divmod(block, each)
            if index >= len(names) or row >= len(self.run.leaves(names[index])):
                faults.append(f"block {block} lies in no bank")
            elif self.run.leaves(names[index])[row] != self.run.zero_leaf[names[index]]:
                faults.append(f"block {block} in {names[index]} is not zero")
        return faults or f"{len(planned)} blocks"

    def _optimizer_state(self) -> str | list[str]:
        names = [name for name in self.run.digests if STATE_NAME.fullmatch(name)]
        stated = self.predicate.integrity.optimizer_state
        if stated.present != bool(names):
            return [f"the statement says {'some' if stated.present else 'none'}, the run differs"]
        planned = set(self._planned())
        faults, zeroed = [], 0
        for name in sorted(names):
            remaining, rows = self._state_rows(name, planned)
            faults += remaining
            zeroed += rows
        if zeroed != stated.blocks_zeroed:
            faults.append(f"{zeroed} blocks have state, the statement says {stated.blocks_zeroed}")
        return faults or (f"{zeroed} blocks zero" if names else "the run keeps none")

    def _state_rows(self, name: str, planned: set[int]) -> tuple[list[str], int]:
        """Faults of one state file, and how many of its rows belong to planned blocks."""
        state = open_state(self.run.path / name)
        rows = {row: block for row, block in enumerate(state.held) if block in planned}
        parts = [
            (tensor.name, block, self._read(name, *tensor.row_range(row)))
            for tensor in state.tensors
            for row, block in rows.items()
        ]
        faults = [
            f"{tensor} of block {block} in {name} is not zero"
            for tensor, block, data in parts
            if data.count(0) != len(data)
        ]
        return faults, len(rows)

    # --- the sink map ----------------------------------------------------------------------------

    def _sink_map(self) -> str | list[str]:
        for name in (SINK_MAP, FORGOTTEN):
            if name not in self.run.digests:
                return [f"{name} is missing"]
        faults = []
        if self.run.digests[SINK_MAP].sha256 != self.predicate.mechanism.allocation.sink_map_sha256:
            faults.append(f"{SINK_MAP} has another digest than the allocation states")
        selected = self.predicate.selection.sequence_ids
        owners = read_owners(self._read(SINK_MAP), self._read(FORGOTTEN))
        faults += owners.faults(selected, self.predicate.blocks.sequences)
        return faults or f"{len(selected)} IDs listed as forgotten"

    def _read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        path = self.run.path / name
        with open_regular(path) as descriptor:
            end = path.stat().st_size if end is None else end
            return read_exactly(descriptor, path, begin, end - begin)


def _unhex(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""


def _is_bank(value: object) -> bool:
    form = {"file": str, "blocks": int, "root": str}
    return isinstance(value, dict) and all(type(value.get(k)) is t for k, t in form.items())


def root_with(levels: list[list[bytes]], replaced: dict[int, bytes]) -> bytes:
    """The root of a tree after some leaves are replaced; costs log n hashes for each of them.

    Args:
        levels: `merkle.tree_levels` of the tree as it is.
        replaced: Leaf index -> other leaf hash.
    """
    current = replaced
    for below in levels[:-1]:
        above = {}
        for parent in {index // 2 for index in current}:
            left = current.get(2 * parent, below[2 * parent])
            if 2 * parent + 1 < len(below):
                right = current.get(2 * parent + 1, below[2 * parent + 1])
                above[parent] = merkle.node_hash(left, right)
            else:
                above[parent] = left
        current = above
    return current.get(0, levels[-1][0])
