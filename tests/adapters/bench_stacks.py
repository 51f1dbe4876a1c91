"""Stacks and rigs that behave badly, or well and fast, for the tests of the bench."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from adapters.adapter import AdapterError
from adapters.bench.numpy_stack import Numpy
from adapters.bench.rig import Rig
from adapters.bench.stack import About, Array, Product, Transfer, Unsupported

ACCELERATOR = {
    "name": "fake",
    "versions": {"fake": "1"},
    "kind": "accelerator",
    "backend": "fake",
    "device_name": "NVIDIA H800",
    "memory_bytes": 80 << 30,
    "devices": 2,
    "precisions": ("fp16",),
}


class Small(Numpy):
    """Numpy with so little memory that every vector and matrix is small; it counts what it was asked."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self._changes = changes

    def about(self) -> About:
        known = {name: getattr(super(Small, self).about(), name) for name in About.__slots__}
        return About(**{**known, "memory_bytes": 1 << 20, **self._changes})

    def upload(self, source: Array) -> Transfer:
        return self.copy(source)

    def download(self, source: Array) -> Transfer:
        return self.copy(source)

    def product(self, precision: str, a: Array, b: Array) -> Product:
        return super().product({"fp16": "fp32", "bf16": "fp32"}.get(precision, precision), a, b)


class Refusing(Small):
    """A stack that can do nothing but say so."""

    def product(self, precision: str, a: Array, b: Array) -> Product:
        raise Unsupported(f"no kernel for {precision}")

    def copy(self, source: Array) -> Transfer:
        raise Unsupported("out of memory")

    def triad(self, b: Array, c: Array, scalar: float) -> Transfer:
        raise Unsupported("out of memory")


class Lazy(Small):
    """Fast and wrong: it multiplies only half of what it should, and moves all but the last byte."""

    def product(self, precision: str, a: Array, b: Array) -> Product:
        half = a.shape[1] // 2
        return super().product(precision, a[:, :half], b[:half, :])

    def copy(self, source: Array) -> Transfer:
        made = super().copy(source)

        def take(places: Array) -> Array:
            found = made.take(places)
            found[places == len(source) - 1] = 0
            return found

        return Transfer(run=made.run, clear=made.clear, take=take, bytes_moved=made.bytes_moved)

    def chain(self, first: Array, steps: Sequence[Array], precision: str) -> Callable[[], Array]:
        return super().chain(first, steps[:-1], precision)


class Idle(Small):
    """It answers before anything is done: the result is what was there before."""

    def product(self, precision: str, a: Array, b: Array) -> Product:
        made = super().product(precision, a, b)
        made.run()
        return Product(run=lambda: None, clear=made.clear, take=made.take)


class Here:
    """A rig in this process, behind the face of a worker."""

    def __init__(self, rig: Any, before: Callable[[str], None] = lambda method: None) -> None:
        self.rig, self.before, self.closed, self.asked = rig, before, 0, []

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any:
        self.asked.append((method, arguments, deadline_s))
        self.before(method)
        try:
            return getattr(self.rig, method)(*arguments)
        except Unsupported as refused:
            raise AdapterError(str(refused)) from None

    def close(self) -> None:
        self.closed += 1


def here(stack: Numpy, seed: int = 1) -> Here:
    return Here(Rig(held=stack, seed=seed))


class Hanging:
    """A rig whose multiplication never returns, as on a wedged driver. Lives in a real child process."""

    def about(self) -> dict[str, Any]:
        return {**ACCELERATOR, "kind": "cpu"}

    def gemm(self, precision: str, budget_s: float) -> None:
        signal.pause()

    def memory(self, kind: str, budget_s: float) -> dict[str, Any]:
        return {"size": 1, "work": 2e9, "inner": 1, "seconds": [1.0], "error": 0.0, "tolerance": 0.0, "ok": True}


class Rank:
    """One rank of a collective on a device that sums as it is told to."""

    def __init__(self, seconds: float, *, wrong: bool = False) -> None:
        self.seconds, self.wrong, self.joined = seconds, wrong, ()
        self.rounds: list[tuple[int, int]] = []

    def join(self, rank: int, world: int, meeting: str, size_bytes: int) -> bool:
        self.joined = (rank, world, size_bytes)
        return True

    def all_reduce(self, inner: int, repeats: int) -> dict[str, Any]:
        self.rounds.append((inner, repeats))
        error = 0.5 if self.wrong else 0.0
        return {
            "size": self.joined[2] // 4,
            "work": self.joined[2],
            "inner": inner,
            "seconds": [self.seconds] * repeats,
            "error": error,
            "tolerance": 0.0,
            "ok": not self.wrong,
        }
