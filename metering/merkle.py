"""Merkle: one hash over a growing list, with short proofs that it holds a record and that it only ever grew. Pure.

RFC 6962 §2.1, SHA-256: an empty tree is SHA-256 of nothing, a leaf SHA-256(0x00 ‖ data), a node SHA-256(0x01 ‖ left ‖
right); a list of n > 1 leaves is split at the largest power of two below n. The prefixes keep a leaf from passing for a
node. Proofs are checked by the algorithms of RFC 9162 §2.1.3.2 and §2.1.4.2, which speak of the same tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

EMPTY = hashlib.sha256(b"").digest()
Node = Callable[[int, int], bytes]  # (level, index): the hash over leaves [index × 2^level, (index + 1) × 2^level)


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf: SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees: SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# --- growing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to append to a tree of `size` leaves: one hash per 1 in the binary form of size.

    hashes: of the perfect subtrees from left to right, largest first; at most 64 of them for any size we can count to.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or self.size.bit_count() != len(self.hashes):
            raise ValueError(f"a frontier of {self.size} leaves has {self.size.bit_count()} hashes, not {self.hashes}")

    def append(self, leaf: bytes) -> Frontier:
        """The frontier after one more leaf hash; as many node hashes as size has trailing 1s."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """The frontier after these leaf hashes, in order."""
        size, kept = self.size, list(self.hashes)
        for leaf in leaves:
            carried, full = leaf, size
            while full & 1:
                carried = node_hash(kept.pop(), carried)
                full >>= 1
            kept.append(carried)
            size += 1
        return Frontier(size, tuple(kept))

    def root(self) -> bytes:
        """The tree hash of everything appended so far."""
        if not self.hashes:
            return EMPTY
        found = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            found = node_hash(left, found)
        return found


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The tree hash over leaf hashes."""
    return Frontier().extend(leaves).root()


# --- proving ------------------------------------------------------------------------------------------------------


def node_of(leaves: Sequence[bytes]) -> Node:
    """The perfect subtrees over leaf hashes held in memory."""

    def node(level: int, index: int) -> bytes:
        start = index << level
        return root_of(leaves[start : start + (1 << level)])

    return node


def inclusion_path(index: int, size: int, node: Node) -> list[bytes]:
    """The audit path of leaf `index` (from 0) in the tree of the first `size` leaves, from the leaf upwards.

    At most ⌈log2 size⌉ hashes. ValueError when 0 ≤ index < size does not hold.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of a tree of {size}; leaves are 0 to {size - 1}")
    return _path(index, 0, size, node)


def _path(index: int, start: int, size: int, node: Node) -> list[bytes]:
    if size == 1:
        return []
    half = _half(size)
    if index < half:
        return [*_path(index, start, half, node), subtree(start + half, size - half, node)]
    return [*_path(index - half, start + half, size - half, node), subtree(start, half, node)]


def consistency_path(old: int, new: int, node: Node) -> list[bytes]:
    """The hashes that show the first `old` leaves of the tree of `new` are the tree of `old`; none when they are equal.

    ValueError when 0 < old ≤ new does not hold: everything is consistent with an empty tree, so there is no proof of it.
    """
    if not 0 < old <= new:
        raise ValueError(f"consistency from {old} to {new} leaves; from is 1 to {new}")
    return _consistency(old, 0, new, node, whole=True)


def _consistency(old: int, start: int, size: int, node: Node, *, whole: bool) -> list[bytes]:
    if old == size:
        return [] if whole else [subtree(start, size, node)]
    half = _half(size)
    if old <= half:
        left = _consistency(old, start, half, node, whole=whole)
        return [*left, subtree(start + half, size - half, node)]
    right = _consistency(old - half, start + half, size - half, node, whole=False)
    return [*right, subtree(start, half, node)]


def subtree(start: int, size: int, node: Node) -> bytes:
    """The tree hash over leaves [start, start + size); start is where a subtree of RFC 6962's split begins."""
    if size == 0:
        return EMPTY
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    half = _half(size)
    return node_hash(subtree(start, half, node), subtree(start + half, size - half, node))


def _half(size: int) -> int:
    """The largest power of two below `size` (> 1)."""
    return 1 << ((size - 1).bit_length() - 1)


# --- checking -----------------------------------------------------------------------------------------------------


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` shows that leaf hash `leaf` is number `index` (from 0) of the tree of `size` with this root."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that the tree of `new` leaves begins with the tree of `old`: nothing was altered since.

    An empty old tree is consistent with every tree, with an empty path.
    """
    if not 0 <= old <= new:
        return False
    if old == new:
        return not path and old_root == new_root and (old > 0 or old_root == EMPTY)
    if old == 0:
        return not path and old_root == EMPTY
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
