"""Challenge: a short chain of multiplications that the platform asks for at random and can check on a processor.

Everything follows from a nonce: ternary matrices are drawn from SHAKE-256 (FIPS 202), and X ← (X·W) mod 3 in {-1, 0, 1}
is taken for each. Sums are whole numbers that stay below 256 by many standard deviations, so fp16, bf16, fp32 and int8
all hold them exactly and every honest device gives the same answer to the last bit, whatever the order of its sums.

Rows do not mix: the answer carries a hash of each, so the platform recomputes only some rows, chosen after the answer
is in, at a small part of the cost. It proves that something here multiplied these matrices in that time. It does not
prove which device it was (docs/bench.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adapters.bench.question import FASTER_THAN_PEAK, LIMIT_S, Challenge, Verdict
from adapters.bench.stack import Array, Stack, Unsupported
from adapters.bench.timing import Clock, significant

ROWS_CHECKED = 16
PRECISIONS = ("fp16", "fp32")  # the first that the stack has


def matrices(challenge: Challenge) -> tuple[Array, list[Array]]:
    """The first X and the Ws, ternary int8; the same on every machine and for every version of numpy."""
    return _matrix(challenge, 0), [_matrix(challenge, number) for number in range(1, challenge.depth + 1)]


def answer(challenge: Challenge, stack: Stack, clock: Clock) -> dict[str, Any]:
    """What the device makes of it: {nonce, size, depth, precision, digest, rows, chain_seconds}.

    chain_seconds: of the second of two runs, the chain and the copy of its last X to the host alone.
    """
    first, steps = matrices(challenge)
    precision, run = _prepared(stack, first, steps)
    run()
    stack.synchronize()
    before = clock()
    found = run()
    stack.synchronize()
    seconds = clock() - before
    rows = row_hashes(found)
    return {
        "nonce": challenge.nonce,
        "size": challenge.size,
        "depth": challenge.depth,
        "precision": precision,
        "digest": digest(rows),
        "rows": rows,
        "chain_seconds": significant(seconds),
    }


def judge(
    challenge: Challenge,
    given: Mapping[str, Any],
    *,
    elapsed_s: float,
    rows: Sequence[int],
    limit_s: float = LIMIT_S,
    peak_tflops: float | None = None,
) -> Verdict:
    """Whether the answer is this challenge's, right in these rows, in time, and no faster than the model can be.

    elapsed_s: by the platform's clock, from asking to answer. rows: chosen after the answer came. peak_tflops: the
    catalogue's figure of the device, None = unknown and not compared.
    """
    told = given.get("rows")
    seconds = given.get("chain_seconds")
    if not _well_formed(told, seconds, challenge.size):
        return Verdict(ok=False, code="MALFORMED", facts={})
    for name in ("nonce", "size", "depth"):
        if given.get(name) != getattr(challenge, name):
            return Verdict(ok=False, code="NOT_THIS_CHALLENGE", facts={"field": name})
    if elapsed_s > limit_s:
        return Verdict(ok=False, code="LATE", facts={"elapsed_s": elapsed_s, "limit_s": limit_s})
    assert isinstance(told, list)
    assert isinstance(seconds, int | float)
    expected = predict(challenge, rows)
    wrong = [row for row in rows if told[row] != expected[row]]
    if wrong or digest(told) != given.get("digest"):
        return Verdict(ok=False, code="WRONG", facts={"rows": wrong})
    rate = challenge.flops / seconds / 1e12
    if seconds > elapsed_s or (peak_tflops is not None and rate > peak_tflops * FASTER_THAN_PEAK):
        return Verdict(ok=False, code="FASTER_THAN_PEAK", facts={"tflops": significant(rate), "peak": peak_tflops})
    return Verdict(ok=True, code="OK", facts={"tflops": significant(rate), "rows": len(rows)})


def predict(challenge: Challenge, rows: Sequence[int]) -> dict[int, str]:
    """The hashes that these rows must have, recomputed here: rows/size of the chain's cost."""
    first, steps = matrices(challenge)
    x = first[list(rows), :].astype(np.float32)
    for step in steps:
        y = x @ step.astype(np.float32)
        x = y - 3 * np.rint(y / 3)
    return dict(zip(rows, row_hashes(x.astype(np.int8)), strict=True))


def chosen_rows(size: int, draw: Callable[[int], int], count: int = ROWS_CHECKED) -> list[int]:
    """Different rows, by `draw(n)` in [0, n) (secrets.randbelow), so that an answer cannot prepare for them."""
    found: set[int] = set()
    while len(found) < min(count, size):
        found.add(draw(size))
    return sorted(found)


def row_hashes(x: Array) -> list[str]:
    """The first 16 hex digits of SHA-256 of each row's int8 bytes."""
    return [hashlib.sha256(np.ascontiguousarray(row, np.int8).tobytes()).hexdigest()[:16] for row in x]


def digest(rows: Sequence[str]) -> str:
    """SHA-256 over the rows' hashes in order."""
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def _matrix(challenge: Challenge, number: int) -> Array:
    size = challenge.size
    word = f"cn.etown.compute.bench.challenge.v1:{challenge.nonce}:{size}:{challenge.depth}:{number}"
    drawn = np.frombuffer(hashlib.shake_256(word.encode()).digest(size * size), np.uint8)
    return ((drawn % 3).astype(np.int8) - 1).reshape(size, size)  # of 256 values 86 give -1, 85 each 0 and 1


def _prepared(stack: Stack, first: Array, steps: Sequence[Array]) -> tuple[str, Callable[[], Array]]:
    has = stack.about().precisions
    precision = next((one for one in PRECISIONS if one in has), None)
    if precision is None:
        raise Unsupported(f"challenge: the stack has none of {', '.join(PRECISIONS)}")
    return precision, stack.chain(first, steps, precision)


def _well_formed(rows: Any, seconds: Any, size: int) -> bool:
    if not isinstance(rows, list) or len(rows) != size or not all(isinstance(row, str) for row in rows):
        return False
    return type(seconds) in (int, float) and math.isfinite(seconds) and seconds > 0
