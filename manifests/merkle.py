"""Merkle trees as Certificate Transparency hashes them (RFC 6962, section 2.1).

One implementation for both uses: the sink blocks of a bank, and the entries of a ledger. Leaves and
inner nodes are hashed with different prefixes, so that neither can pose as the other. A tree over n
leaves splits at the largest power of two below n; the tree over no leaves is SHA-256 of nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

HASH_BYTES = 32


def leaf_hash(*data: bytes | memoryview) -> bytes:
    """SHA-256(0x00 || data), RFC 6962 section 2.1, of parts that follow one another."""
    digest = hashlib.sha256(b"\x00")
    for part in data:
        digest.update(part)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_levels(leaves: Iterable[bytes]) -> list[list[bytes]]:
    """All levels from the leaves up to the root; a last odd node rises unchanged.

    Rising unchanged is the same tree as RFC 6962's recursive split: a subtree is complete except
    along the right edge.
    """
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes (each already `leaf_hash`ed)."""
    top = tree_levels(leaves)[-1]
    return top[0] if top else hashlib.sha256(b"").digest()


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of one leaf, lowest sibling first (RFC 6962 section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree of {len(leaves)}")
    path = []
    for level in tree_levels(leaves)[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index >>= 1
    return path


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the audit path proves (RFC 9162 section 2.1.3.2), or None if it cannot fit."""
    if not 0 <= index < size:
        return None
    node, position, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            return None
        if position % 2 or position == last:
            node = node_hash(sibling, node)
            while position % 2 == 0 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return node if last == 0 else None


def consistency_path(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the first `old_size` leaves were kept (RFC 6962 section 2.1.2)."""
    if not 0 < old_size <= len(leaves):
        raise IndexError(f"old size {old_size} of a tree of {len(leaves)}")

    def prove(first: int, end: int, kept: int, whole: bool) -> list[bytes]:
        if kept == end - first:
            return [] if whole else [tree_root(leaves[first:end])]
        split = 1 << (end - first - 1).bit_length() - 1
        if kept <= split:
            return [
                *prove(first, first + split, kept, whole),
                tree_root(leaves[first + split : end]),
            ]
        right = prove(first + split, end, kept - split, False)
        return [*right, tree_root(leaves[first : first + split])]

    return prove(0, len(leaves), old_size, True)


def consistency_holds(
    old_root: bytes, old_size: int, new_root: bytes, new_size: int, path: Sequence[bytes]
) -> bool:
    """Whether the path proves that the old tree is a prefix of the new (RFC 9162 §2.1.4.2)."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    nodes = list(path)
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        return False
    position, last = old_size - 1, new_size - 1
    while position % 2:
        position >>= 1
        last >>= 1
    old_node = new_node = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            return False
        if position % 2 or position == last:
            old_node = node_hash(sibling, old_node)
            new_node = node_hash(sibling, new_node)
            while position % 2 == 0 and position:
                position >>= 1
                last >>= 1
        else:
            new_node = node_hash(new_node, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and old_node == old_root and new_node == new_root
