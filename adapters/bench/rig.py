"""Rig: a stack inside a process of its own, asked for one measurement at a time; answers are plain JSON values.

A hung kernel cannot be ended from within, so the trial keeps a deadline and kills this process (adapters/deadline.py).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from adapters.bench import gemm, memory, transfer
from adapters.bench.challenge import answer
from adapters.bench.question import Challenge
from adapters.bench.stack import Array, Stack, Transfer, Unsupported, first_stack, open_stack
from adapters.bench.timing import Clock, Repeats, batch, repeat, rounds

FIRST_SIZE = 512
ANY_RATE = 1e18  # operations a second; only memory bounds a size then
GROWTH = 1.25  # a size is tried again while what it shows asks for one so much larger


class Rig:
    """Holds one device of one stack. `auto` is the first stack with an accelerator, else numpy.

    Answers of measurements: {size, work, inner, seconds, error, tolerance}; work is operations or bytes of one run.
    """

    def __init__(
        self, stack: str = "auto", index: int = 0, seed: int = 0, held: Stack | None = None, clock: Clock | None = None
    ) -> None:
        self._stack = held or (first_stack(index)[1] if stack == "auto" else open_stack(stack, index))
        self._about = self._stack.about()
        self._seed = seed
        self._clock = clock or time.perf_counter
        self._reduced: tuple[Transfer, Array, Array] | None = None

    def about(self) -> dict[str, Any]:
        """See stack.About."""
        return asdict(self._about)

    def gemm(self, precision: str, budget_s: float) -> dict[str, Any]:
        """A product of a size that suits the device's speed, timed and then checked on a corner."""
        size, tried = min(FIRST_SIZE, gemm.size_for(precision, ANY_RATE, self._about.memory_bytes)), 0
        while True:
            a, b = gemm.operands(precision, size, self._seed)
            product = self._stack.product(precision, a, b)
            batch(product.run, self._stack.synchronize, 1, self._clock)
            once = batch(product.run, self._stack.synchronize, 2, self._clock) / 2
            wanted = gemm.size_for(precision, gemm.flops(size, size, size) / max(once, 1e-9), self._about.memory_bytes)
            tried += 1
            if tried >= 4 or wanted < size * GROWTH:
                break
            size = wanted
        product.clear()  # what is found afterwards was multiplied by the runs that were timed
        timed = repeat(product.run, self._stack.synchronize, budget_s=budget_s, clock=self._clock)
        rows, columns = gemm.corner(size, self._seed)
        checked = gemm.check(precision, a, b, rows, columns, product.take(rows, columns))
        return _answer(size, gemm.flops(size, size, size), timed, checked.error, checked.tolerance)

    def memory(self, kind: str, budget_s: float) -> dict[str, Any]:
        """copy or triad."""
        count = memory.elements(self._about.kind, self._about.memory_bytes)
        moved = memory.movement(self._stack, kind, count, self._seed)
        return self._moved(*moved, count, memory.TOLERANCE[kind], budget_s)

    def transfer(self, direction: str, other: int | None, budget_s: float) -> dict[str, Any]:
        """host_to_device, device_to_host, or device_to_device to the `other`-th device."""
        limit = self._about.memory_bytes
        count = min(transfer.VECTOR_BYTES, limit // 8 if limit else transfer.VECTOR_BYTES) // 4
        moved = transfer.movement(self._stack, direction, other, count, self._seed)
        return self._moved(*moved, count, 0.0, budget_s)

    def _moved(
        self, moved: Transfer, where: Array, expected: Array, count: int, tolerance: float, budget_s: float
    ) -> dict[str, Any]:
        moved.clear()
        timed = repeat(moved.run, self._stack.synchronize, budget_s=budget_s, clock=self._clock)
        error = memory.worst(moved.take(where), expected)
        return _answer(count, moved.bytes_moved, timed, error, tolerance)

    def join(self, rank: int, world: int, meeting: str, size_bytes: int) -> bool:
        """This rig is one rank; its vector is 1 everywhere, so a sum over n ranks is n everywhere."""
        import numpy as np

        self._stack.join(rank, world, meeting)
        count = size_bytes // 4
        where = memory.places(count, self._seed)
        self._reduced = (self._stack.all_reduce(np.ones(count, np.float32)), where, np.full(len(where), world))
        return True

    def all_reduce(self, inner: int, repeats: int) -> dict[str, Any]:
        """Exactly repeats × inner sums, timed; then one more on fresh vectors, checked."""
        if self._reduced is None:
            raise Unsupported("all_reduce: this rig has not joined")
        moved, where, expected = self._reduced
        timed = rounds(moved.run, self._stack.synchronize, inner=inner, repeats=repeats, clock=self._clock)
        moved.clear()
        moved.run()
        self._stack.synchronize()
        error = memory.worst(moved.take(where), expected)
        return _answer(moved.bytes_moved // 4, moved.bytes_moved, timed, error, 0.0)

    def challenge(self, nonce: str, size: int, depth: int) -> dict[str, Any]:
        """See challenge.answer."""
        return answer(Challenge(nonce=nonce, size=size, depth=depth), self._stack, self._clock)


def _answer(size: int, work: int, timed: Repeats, error: float, tolerance: float) -> dict[str, Any]:
    """error is null where it is not finite, which JSON cannot say; `ok` is false then."""
    return {
        "size": size,
        "work": work,
        "inner": timed.inner,
        "seconds": list(timed.seconds),
        "error": error if math.isfinite(error) else None,
        "tolerance": tolerance,
        "ok": error <= tolerance,
    }
