"""The Merkle tree of RFC 6962: against its own definition, and every proof against every alteration of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.merkle import (
    EMPTY,
    Frontier,
    consistency_path,
    consistent,
    included,
    inclusion_path,
    leaf_hash,
    node_hash,
    node_of,
    root_of,
    subtree,
)

LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def defined(data: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not data:
        return sha(b"")
    if len(data) == 1:
        return sha(b"\x00" + data[0])
    k = 1
    while k * 2 < len(data):
        k *= 2
    return sha(b"\x01" + defined(data[:k]) + defined(data[k:]))


def defined_path(m: int, data: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(data) == 1:
        return []
    k = 1
    while k * 2 < len(data):
        k *= 2
    if m < k:
        return [*defined_path(m, data[:k]), defined(data[k:])]
    return [*defined_path(m - k, data[k:]), defined(data[:k])]


def defined_proof(m: int, data: Sequence[bytes], b: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2."""
    if m == len(data):
        return [] if b else [defined(data)]
    k = 1
    while k * 2 < len(data):
        k *= 2
    if m <= k:
        return [*defined_proof(m, data[:k], b), defined(data[k:])]
    return [*defined_proof(m - k, data[k:], False), defined(data[:k])]


def hashed(data: Sequence[bytes]) -> list[bytes]:
    return [leaf_hash(one) for one in data]


def flipped(data: bytes, bit: int) -> bytes:
    at = bit % (8 * len(data))
    return bytes(byte ^ (1 << at % 8) if index == at // 8 else byte for index, byte in enumerate(data))


# --- vectors --------------------------------------------------------------------------------------------------------


def test_the_empty_tree_and_the_smallest_trees_are_what_the_definition_says() -> None:
    """The empty hash and the leaf of no bytes are also in the public test vectors of certificate transparency."""
    a, b, c = sha(b"\x00a"), sha(b"\x00b"), sha(b"\x00c")

    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of([]) == EMPTY
    assert root_of(hashed([b"a"])) == a
    assert root_of(hashed([b"a", b"b"])) == sha(b"\x01" + a + b)
    assert root_of(hashed([b"a", b"b", b"c"])) == sha(b"\x01" + sha(b"\x01" + a + b) + c)


def test_the_eight_leaves_of_the_public_vectors_give_their_published_root() -> None:
    data = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                       "606162636465666768696a6b6c6d6e6f")]  # fmt: skip

    assert root_of(hashed(data)).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")

    assert leaf_hash(left + right) != node_hash(left, right)


# --- laws -----------------------------------------------------------------------------------------------------------


@given(LEAVES)
def test_the_frontier_grows_into_the_defined_root_one_leaf_at_a_time_or_all_at_once(data: list[bytes]) -> None:
    frontier = Frontier()
    for size, leaf in enumerate(hashed(data), start=1):
        frontier = frontier.append(leaf)
        assert frontier.root() == defined(data[:size])
        assert len(frontier.hashes) == size.bit_count()
    assert frontier == Frontier().extend(hashed(data))


@given(LEAVES, st.data())
def test_a_frontier_goes_on_from_where_it_was_kept(data: list[bytes], draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))

    assert Frontier().extend(hashed(data[:cut])).extend(hashed(data[cut:])).root() == defined(data)


@given(LEAVES)
def test_every_leafs_proof_is_the_defined_one_and_verifies(data: list[bytes]) -> None:
    leaves, root = hashed(data), defined(data)
    for index in range(len(data)):
        path = inclusion_path(index, len(data), node_of(leaves))
        assert path == defined_path(index, data)
        assert len(path) <= (len(data) - 1).bit_length()
        assert included(leaves[index], index, len(data), path, root)


@given(LEAVES, st.data())
def test_any_altered_bit_or_place_or_length_breaks_an_inclusion_proof(data: list[bytes], draw: st.DataObject) -> None:
    leaves, root, size = hashed(data), defined(data), len(data)
    index = draw.draw(st.integers(0, size - 1))
    bit = draw.draw(st.integers(0, 255))
    path = inclusion_path(index, size, node_of(leaves))

    assert not included(flipped(leaves[index], bit), index, size, path, root)
    assert not included(leaves[index], index, size, path, flipped(root, bit))
    assert not included(leaves[index], index, size, [*path, root], root)
    assert not included(leaves[index], size, size, path, root)
    assert not included(leaves[index], -1, size, path, root)
    for step in range(len(path)):
        forged = [*path[:step], flipped(path[step], bit), *path[step + 1 :]]
        assert not included(leaves[index], index, size, forged, root)
        assert not included(leaves[index], index, size, [*path[:step], *path[step + 1 :]], root)
    for other in range(size):
        if leaves[other] != leaves[index]:
            assert not included(leaves[other], index, size, path, root)


@given(LEAVES)
def test_every_pair_of_sizes_is_consistent_by_the_defined_proof(data: list[bytes]) -> None:
    leaves = hashed(data)
    new = len(data)
    for old in range(1, new + 1):
        path = consistency_path(old, new, node_of(leaves))
        assert path == defined_proof(old, data)
        assert consistent(old, defined(data[:old]), new, defined(data), path)


@given(st.lists(st.binary(max_size=8), min_size=2, max_size=40, unique=True), st.data())
def test_a_history_that_was_altered_is_consistent_by_no_honest_or_forged_proof(
    data: list[bytes], draw: st.DataObject
) -> None:
    old = draw.draw(st.integers(1, len(data) - 1))
    at = draw.draw(st.integers(0, old - 1))
    bit = draw.draw(st.integers(0, 255))
    rewritten = [*data[:at], data[at] + b"!", *data[at + 1 :]]
    honest = consistency_path(old, len(data), node_of(hashed(data)))
    forged = consistency_path(old, len(data), node_of(hashed(rewritten)))
    before, after, false = defined(data[:old]), defined(data), defined(rewritten)

    assert consistent(old, before, len(data), after, honest)
    assert not consistent(old, before, len(data), false, honest)
    assert not consistent(old, before, len(data), false, forged)
    assert not consistent(old, flipped(before, bit), len(data), after, honest)
    assert not consistent(old, before, len(data), after, [*honest, after])
    for step in range(len(honest)):
        assert not consistent(old, before, len(data), after, honest[:step])
        assert not consistent(
            old, before, len(data), after, [*honest[:step], flipped(honest[step], bit), *honest[step + 1 :]]
        )


@given(LEAVES, st.data())
def test_a_subtree_is_the_definition_over_its_leaves(data: list[bytes], draw: st.DataObject) -> None:
    size = draw.draw(st.integers(0, len(data)))

    assert subtree(0, size, node_of(hashed(data))) == defined(data[:size])


# --- what is not a question -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_leaf_outside_the_tree_has_no_path(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"leaf {index} of a tree of {size}"):
        inclusion_path(index, size, node_of([]))


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_a_tree_that_did_not_grow_has_no_consistency_path(old: int, new: int) -> None:
    with pytest.raises(ValueError, match=f"from {old} to {new}"):
        consistency_path(old, new, node_of([]))


def test_everything_is_consistent_with_nothing_and_nothing_with_less() -> None:
    root = root_of(hashed([b"a", b"b"]))

    assert consistent(0, EMPTY, 2, root, [])
    assert not consistent(0, root, 2, root, [])
    assert not consistent(0, EMPTY, 2, root, [root])
    assert consistent(2, root, 2, root, [])
    assert not consistent(2, root, 2, EMPTY, [])
    assert not consistent(3, root, 2, root, [])
    assert not consistent(1, leaf_hash(b"a"), 2, root, [])


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 leaves has 2 hashes"):
        Frontier(3, (EMPTY,))
