"""Numpy: the stack that is always there, on the host's processor. Its figures are never an accelerator's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from adapters.bench.stack import About, Array, Product, StackAbsent, Transfer, Unsupported

TYPES: dict[str, type[np.floating]] = {"fp64": np.float64, "fp32": np.float32}
ONLY_HOST = "the processor has no link to itself"


class Numpy:
    """Memory and multiplication of the processor that runs this. Precisions that BLAS has: fp64 and fp32."""

    def __init__(self, index: int = 0) -> None:
        if index != 0:
            raise StackAbsent(f"numpy: device {index} of 1")

    def about(self) -> About:
        return About(
            name="numpy",
            versions={"numpy": np.__version__},
            kind="cpu",
            backend="cpu",
            device_name=processor_name(),
            memory_bytes=None,
            devices=1,
            precisions=tuple(TYPES),
        )

    def synchronize(self) -> None:
        """Every call of numpy has finished when it returns."""

    def product(self, precision: str, a: Array, b: Array) -> Product:
        kind = TYPES.get(precision)
        if kind is None:
            raise Unsupported(f"numpy multiplies no {precision} at BLAS speed")
        left, right = a.astype(kind), b.astype(kind)
        out = np.zeros((left.shape[0], right.shape[1]), kind)
        return Product(
            run=lambda: _done(np.matmul(left, right, out=out)),
            clear=lambda: out.fill(0),
            take=lambda rows, columns: out[np.ix_(rows, columns)].astype(np.float64),
        )

    def copy(self, source: Array) -> Transfer:
        held, out = source.copy(), np.zeros_like(source)
        return Transfer(
            run=lambda: np.copyto(out, held),
            clear=lambda: out.fill(0),
            take=lambda places: out[places],
            bytes_moved=2 * held.nbytes,
        )

    def triad(self, b: Array, c: Array, scalar: float) -> Transfer:
        out = np.zeros_like(b)

        def run() -> None:
            np.multiply(c, b.dtype.type(scalar), out=out)
            np.add(out, b, out=out)

        return Transfer(
            run=run,
            clear=lambda: out.fill(0),
            take=lambda places: out[places],
            bytes_moved=5 * b.nbytes,  # two passes: c is read, a written; a and b are read, a written
        )

    def upload(self, source: Array) -> Transfer:  # noqa: ARG002 - the port's signature
        raise Unsupported(ONLY_HOST)

    def download(self, source: Array) -> Transfer:  # noqa: ARG002 - the port's signature
        raise Unsupported(ONLY_HOST)

    def peer(self, source: Array, other: int) -> Transfer:  # noqa: ARG002 - the port's signature
        raise Unsupported(ONLY_HOST)

    def chain(self, first: Array, steps: Sequence[Array], precision: str) -> Callable[[], Array]:
        kind = TYPES.get(precision, np.float32)
        start, held = first.astype(kind), [step.astype(kind) for step in steps]

        def run() -> Array:
            x = start
            for step in held:
                y = np.matmul(x, step)
                x = y - 3 * np.rint(y / 3)
            return x.astype(np.int8)

        return run

    def join(self, rank: int, world: int, meeting: str) -> None:  # noqa: ARG002 - the port's signature
        raise Unsupported("numpy has no collective operations")

    def all_reduce(self, source: Array) -> Transfer:  # noqa: ARG002 - the port's signature
        raise Unsupported("numpy has no collective operations")


def processor_name() -> str:
    """The processor as Linux names it, else what kind it is."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return next(iter(named), "") or platform.processor() or platform.machine() or "unknown"


def _done(_: object) -> None:
    """What a call returned is already in its target."""
