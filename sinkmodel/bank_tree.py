"""The Merkle tree of a block file, stored beside it: `sinks-NNNNN.leaves`.

    level 0     the leaf hash of every block, in order, 32 bytes each
    level 1     the node hash of each pair; a last odd node rises unchanged
    …
    the root    the last 32 bytes

It is RFC 6962's tree (`manifests.merkle`). With the inner nodes stored, zeroing k blocks of n gives
the new root, and a proof of the old one, in O(k log n) hashes and small reads: no other block is
read. Whoever trusts nothing hashes the blocks again and compares (`govern audit verify`).

An update needs no journal of its own: it writes only nodes above the changed leaves, and computes
them from the new leaves and from nodes that no update of these leaves writes. So a repeated update
ends in the same bytes wherever an earlier one was cut off.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests import merkle
from manifests.errors import CheckpointError
from manifests.files import atomic_write
from sinkmodel.bank_format import (
    STATE_PREFIX,
    BlockFile,
    bank_digest,
    header_bytes,
    leaves_name,
    open_banks,
    open_regular,
    open_state,
    read_exactly,
)

_CHUNK_BYTES = 4 << 20
# Where one in so many nodes of a level is wanted, one read of the level beats many small ones.
_DENSE = 128
Nodes = dict[int, bytes]


# --- all leaves, from the blocks -----------------------------------------------------------------


def block_leaves(bank: BlockFile) -> Iterator[bytes]:
    """The leaf hash of every block of a file, in order, in bounded memory.

    Reads pieces on several threads: hashlib lets go of the interpreter lock on large buffers.
    """
    step = max(1, _CHUNK_BYTES // bank.block_bytes)
    workers = min(os.cpu_count() or 1, 16)
    starts = list(range(0, bank.blocks, step))
    with open_regular(bank.path) as descriptor, ThreadPoolExecutor(workers) as pool:
        # A window of submitted pieces bounds the memory to a few pieces per thread.
        for window in range(0, len(starts), 2 * workers):
            futures = [
                pool.submit(_chunk_leaves, descriptor, bank, first, min(step, bank.blocks - first))
                for first in starts[window : window + 2 * workers]
            ]
            for future in futures:
                yield from future.result()


def _chunk_leaves(descriptor: int, bank: BlockFile, first: int, count: int) -> list[bytes]:
    return [merkle.leaf_hash(*parts) for parts in bank.read_rows(descriptor, first, count)]


# --- the file ------------------------------------------------------------------------------------


def leaves_path(bank_path: Path) -> Path:
    """Where the tree of a block file lies: `sinks-NNNNN.leaves` beside it."""
    return bank_path.with_name(leaves_name(bank_path.name))


def files_with_trees(run: Path) -> dict[str, BlockFile]:
    """By name every bank of a run, and every optimizer state with a tree.

    State without a tree is that of no block at all, or was written before there were such trees; it
    is a file like any other.

    Raises:
        CheckpointError: Banks or state are not what they must be.
    """
    states = sorted(path for path in run.glob(f"{STATE_PREFIX}*.safetensors"))
    names = [path.relative_to(run).as_posix() for path in states if leaves_path(path).exists()]
    return {bank.path.name: bank for bank in open_banks(run)} | {
        name: open_state(run / name) for name in names
    }


def level_sizes(blocks: int) -> tuple[int, ...]:
    """Nodes of each level of a tree over `blocks` leaves, from the leaves to the root."""
    sizes = [blocks]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return tuple(sizes)


def tree_bytes(levels: list[list[bytes]]) -> bytes:
    """The content of the file for a tree as `merkle.tree_levels` gives it."""
    return b"".join(b"".join(level) for level in levels)


def write_leaves(bank: BlockFile) -> bytes:
    """Hash every block of a file, write its tree (atomically), return the Merkle root.

    Args:
        bank: Holds one block at least.

    Returns:
        The RFC 6962 root over the leaves, 32 bytes; of a bank `training.json` holds its hex form.
    """
    levels = merkle.tree_levels(block_leaves(bank))
    atomic_write(leaves_path(bank.path), tree_bytes(levels))
    return levels[-1][0]


def stored_digests(bank: BlockFile) -> tuple[str, str]:
    """Digest of a block file (`bank_format.bank_digest`) and of its tree, by the stored root.

    Raises:
        CheckpointError: The tree is missing or is not one of so many blocks.
    """
    with open_tree(bank) as tree:
        root = tree.root
    return bank_digest(header_bytes(bank), root), root.hex()


def read_leaves(bank: BlockFile) -> list[bytes]:
    """The stored leaves of a block file, in order.

    Raises:
        CheckpointError: The file is missing or is not the tree of so many blocks.
    """
    with open_tree(bank) as tree:
        return list(tree.read(0, range(bank.blocks)).values())


@dataclass(frozen=True, kw_only=True)
class StoredTree:
    """The tree of a block file, open for reading.

    Attributes:
        path: The file.
        descriptor: Open on it.
        sizes: Nodes of each level.
    """

    path: Path
    descriptor: int
    sizes: tuple[int, ...]

    def offset(self, level: int) -> int:
        """Where a level begins in the file, in bytes."""
        return sum(self.sizes[:level]) * merkle.HASH_BYTES

    def read(self, level: int, indices: Collection[int]) -> Nodes:
        """Stored nodes of one level, by index, in the order given."""
        step, start = merkle.HASH_BYTES, self.offset(level)
        if len(indices) * _DENSE < self.sizes[level]:
            return {
                i: read_exactly(self.descriptor, self.path, start + i * step, step) for i in indices
            }
        whole = read_exactly(self.descriptor, self.path, start, self.sizes[level] * step)
        return {i: whole[i * step : (i + 1) * step] for i in indices}

    @property
    def root(self) -> bytes:
        """The stored root."""
        return self.read(len(self.sizes) - 1, [0])[0]

    def with_leaves(self, leaves: Mapping[int, bytes]) -> list[Nodes]:
        """Every node on the way from the given leaves to the root, level by level.

        Siblings come from the file. The last level holds the root alone, so that of the leaves as
        they are this proves the stored root, and of other leaves it gives the new one.

        Args:
            leaves: Row -> leaf hash; at least one.
        """
        levels = [dict(leaves)]
        for level, size in enumerate(self.sizes[:-1]):
            current = levels[-1]
            siblings = {index ^ 1 for index in current} - current.keys()
            nodes = current | self.read(level, sorted(i for i in siblings if i < size))
            above: Nodes = {}
            for parent in {index // 2 for index in current}:
                left, right = nodes[2 * parent], nodes.get(2 * parent + 1)
                above[parent] = left if right is None else merkle.node_hash(left, right)
            levels.append(above)
        return levels

    def root_with(self, leaves: Mapping[int, bytes]) -> bytes:
        """The root of the tree with these leaves in place of the stored ones."""
        return self.with_leaves(leaves)[-1][0]


@contextmanager
def open_tree(bank: BlockFile) -> Iterator[StoredTree]:
    """The stored tree of a block file.

    Raises:
        CheckpointError: The file is missing or is not the tree of so many blocks.
    """
    path, sizes = leaves_path(bank.path), level_sizes(bank.blocks)
    with open_regular(path) as descriptor:
        size, wanted = os.fstat(descriptor).st_size, sum(sizes) * merkle.HASH_BYTES
        if size != wanted:
            raise CheckpointError(
                f"Merkle tree {path.name}",
                expected=f"the {sum(sizes)} nodes over {bank.blocks} blocks, {wanted} bytes",
                found=f"{size} bytes",
                remedy="restore the file from the training run or a backup",
            )
        yield StoredTree(path=path, descriptor=descriptor, sizes=sizes)


def update_tree(bank: BlockFile, leaves: Mapping[int, bytes]) -> None:
    """Put leaves into the stored tree with every node above them, durably; may be repeated.

    The caller sees to it that no other run shares the file by a hard link.
    """
    if not leaves:
        return
    with open_tree(bank) as tree:
        levels = tree.with_leaves(leaves)
        starts = [tree.offset(level) for level in range(len(levels))]
    with open_regular(leaves_path(bank.path), os.O_RDWR) as descriptor:
        for start, nodes in zip(starts, levels, strict=True):
            for index, node in nodes.items():
                os.pwrite(descriptor, node, start + index * merkle.HASH_BYTES)
        os.fsync(descriptor)
