"""Memory: what a device's own memory carries, by copying a vector and by the triad a = b + s·c.

Bytes are counted as STREAM counts them (McCalpin 1995, https://www.cs.virginia.edu/stream/ref.html): a copy reads and
writes every byte once, a triad in one pass reads two and writes one. A stack that needs two passes counts both.
"""

from __future__ import annotations

import numpy as np

from adapters.bench.stack import Array, Stack, Transfer

SCALAR = 3.0
CHECKED = 4096  # places that are compared
VECTOR_BYTES = {"accelerator": 512 << 20, "cpu": 64 << 20}  # several times the largest cache known of each kind
TILE = 1 << 18  # elements of the block of random numbers that a vector repeats
KINDS = ("copy", "triad")


def vector(count: int, seed: int) -> Array:
    """`count` float32 numbers in [0, 1), the same for the same seed; a block of random ones, repeated."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return np.resize(rng.random(min(count, TILE), dtype=np.float32), count)


def places(count: int, seed: int) -> Array:
    """The places to compare: the first, the last and others all over, different for every seed."""
    rng = np.random.Generator(np.random.PCG64([seed, count]))
    found = rng.integers(0, count, CHECKED, dtype=np.int64)
    found[:2] = (0, count - 1)
    return found


def elements(kind: str, memory_bytes: int | None) -> int:
    """How many float32 a vector holds: 512 MiB of them on an accelerator, less where an eighth of its memory is less."""
    size = VECTOR_BYTES[kind]
    return (size if memory_bytes is None else min(size, memory_bytes // 8)) // 4


def movement(stack: Stack, kind: str, count: int, seed: int) -> tuple[Transfer, Array, Array]:
    """The transfer, the places to look at, and what must be there afterwards."""
    where, b = places(count, seed), vector(count, seed)
    if kind == "copy":
        return stack.copy(b), where, b[where]
    c = vector(count, seed + 1)
    expected = b[where] + np.float32(SCALAR) * c[where]
    return stack.triad(b, c, SCALAR), where, expected


def worst(found: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number expected; infinite for what is not a number."""
    difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    whole = float(np.max(np.abs(expected)))
    error = float(np.max(difference)) / whole
    return error if np.isfinite(error) else float("inf")


TOLERANCE = {"copy": 0.0, "triad": 2.0**-22}  # a fused multiply-add rounds once, two operations twice: 2^-24 each
