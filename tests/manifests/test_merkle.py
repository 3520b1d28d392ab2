"""The Merkle tree against RFC 6962's published vectors and its own recursive definition."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import merkle

# Leaves, roots and proofs of the certificate-transparency reference implementation
# (merkletree/merkle_tree_test.cc), which RFC 6962 describes.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
_G = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
INCLUSION = [  # index, size, path
    (0, 1, []),
    (0, 8, [_A, _B, _C]),
    (5, 8, [_D, _E, _G]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], _B, _D]),
]
CONSISTENCY = [  # old size, new size, path
    (1, 1, []),
    (1, 8, [_A, _B, _C]),
    (6, 8, [_F, _E, _G]),
    (2, 5, [_B, _D]),
]

sizes = st.integers(1, 70)


def leaves_of(count: int, salt: int = 0) -> list[bytes]:
    return [merkle.leaf_hash(f"{salt}/{i}".encode()) for i in range(count)]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 defines it, recursively."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = naive_root(leaves[:split]), naive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    leaves = [merkle.leaf_hash(data) for data in INPUTS[:size]]
    assert merkle.tree_root(leaves).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_paths_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    leaves = [merkle.leaf_hash(data) for data in INPUTS[:size]]
    assert [node.hex() for node in merkle.inclusion_path(leaves, index)] == path
    given_path = [bytes.fromhex(node) for node in path]
    root = merkle.root_from_inclusion(leaves[index], index, size, given_path)
    assert root is not None
    assert root.hex() == ROOTS[size]


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_paths_are_the_published_ones(old: int, new: int, path: list[str]) -> None:
    leaves = [merkle.leaf_hash(data) for data in INPUTS[:new]]
    assert [node.hex() for node in merkle.consistency_path(leaves, old)] == path
    roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    assert merkle.consistency_holds(
        roots[0], old, roots[1], new, [bytes.fromhex(node) for node in path]
    )


@given(st.integers(0, 130))
def test_levels_are_the_recursive_definition(size: int) -> None:
    leaves = leaves_of(size)
    assert merkle.tree_root(leaves) == naive_root(leaves)


@given(sizes.flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_every_leaf_is_proven_included(case: tuple[int, int]) -> None:
    size, index = case
    leaves = leaves_of(size)
    path = merkle.inclusion_path(leaves, index)
    assert len(path) <= (size - 1).bit_length()
    assert merkle.root_from_inclusion(leaves[index], index, size, path) == naive_root(leaves)


@given(sizes.flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), st.data())
def test_a_wrong_inclusion_proof_proves_nothing(case: tuple[int, int], data: st.DataObject) -> None:
    size, index = case
    leaves = leaves_of(size)
    path, root = merkle.inclusion_path(leaves, index), merkle.tree_root(leaves)
    foreign = merkle.leaf_hash(b"foreign")
    assert merkle.root_from_inclusion(foreign, index, size, path) != root
    assert merkle.root_from_inclusion(leaves[index], index, size, [*path, foreign]) != root
    if path:
        assert merkle.root_from_inclusion(leaves[index], index, size, path[:-1]) != root
        at = data.draw(st.integers(0, len(path) - 1))
        bent = [foreign if i == at else node for i, node in enumerate(path)]
        assert merkle.root_from_inclusion(leaves[index], index, size, bent) != root
        other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
        assert merkle.root_from_inclusion(leaves[index], other, size, path) != root


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_an_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    assert merkle.root_from_inclusion(b"x" * 32, index, size, []) is None
    with pytest.raises(IndexError):
        merkle.inclusion_path(leaves_of(size), index)


@given(sizes.flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_every_prefix_is_proven_consistent(case: tuple[int, int]) -> None:
    old, new = case
    leaves = leaves_of(new)
    path = merkle.consistency_path(leaves, old)
    roots = naive_root(leaves[:old]), naive_root(leaves)
    assert merkle.consistency_holds(roots[0], old, roots[1], new, path)


@given(sizes.flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), st.data())
def test_a_rewritten_history_is_not_consistent(case: tuple[int, int], data: st.DataObject) -> None:
    old, new = case
    leaves = leaves_of(new)
    path = merkle.consistency_path(leaves, old)
    root = merkle.tree_root(leaves)
    at = data.draw(st.integers(0, old - 1))
    rewritten = [merkle.leaf_hash(b"other") if i == at else x for i, x in enumerate(leaves[:old])]
    other_root = merkle.tree_root(rewritten)
    assert not merkle.consistency_holds(other_root, old, root, new, path)
    assert not merkle.consistency_holds(merkle.tree_root(leaves[:old]), old, other_root, new, path)
    assert not merkle.consistency_holds(
        merkle.tree_root(leaves[:old]), old, root, new, [*path, other_root]
    )
    if path:
        assert not merkle.consistency_holds(
            merkle.tree_root(leaves[:old]), old, root, new, path[:-1]
        )


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4)])
def test_an_impossible_pair_of_sizes_is_refused(old: int, new: int) -> None:
    assert not merkle.consistency_holds(b"a" * 32, old, b"b" * 32, new, [])
    with pytest.raises(IndexError):
        merkle.consistency_path(leaves_of(new), old)


@given(st.binary(max_size=80))
def test_a_leaf_cannot_pose_as_a_node(data: bytes) -> None:
    left, right = hashlib.sha256(data).digest(), hashlib.sha256(data + b"x").digest()
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    assert merkle.leaf_hash(data) == merkle.leaf_hash(memoryview(data))
