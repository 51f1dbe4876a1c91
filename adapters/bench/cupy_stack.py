"""Cupy: numpy's interface on CUDA and ROCm devices, where torch is not installed. No collectives and no fp8 here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from adapters.bench.stack import About, Array, Product, StackAbsent, Transfer, Unsupported

TYPES = {"fp64": np.float64, "fp32": np.float32, "fp16": np.float16}


class Cupy:
    """The index-th device that cupy sees; StackAbsent without cupy or without that device."""

    def __init__(self, index: int = 0) -> None:
        if importlib.util.find_spec("cupy") is None:
            raise StackAbsent("cupy: not installed")
        try:
            self._cupy: Any = importlib.import_module("cupy")
            count = int(self._cupy.cuda.runtime.getDeviceCount())
        except Exception as problem:
            raise StackAbsent(f"cupy: {problem}") from problem
        if not 0 <= index < count:
            raise StackAbsent(f"cupy: device {index} of {count}")
        self._index, self._count = index, count
        self._cupy.cuda.Device(index).use()

    def about(self) -> About:
        runtime = self._cupy.cuda.runtime
        told = runtime.getDeviceProperties(self._index)
        name = told.get("name", b"")
        return About(
            name="cupy",
            versions={
                "cupy": str(self._cupy.__version__),
                "numpy": np.__version__,
                "runtime": str(runtime.runtimeGetVersion()),
            },
            kind="accelerator",
            backend="hip" if getattr(runtime, "is_hip", False) else "cuda",
            device_name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
            memory_bytes=int(told["totalGlobalMem"]) if "totalGlobalMem" in told else None,
            devices=self._count,
            precisions=tuple(TYPES),
        )

    def synchronize(self) -> None:
        self._cupy.cuda.Device(self._index).synchronize()

    def product(self, precision: str, a: Array, b: Array) -> Product:
        cupy, kind = self._cupy, TYPES.get(precision)
        if kind is None:
            raise Unsupported(f"cupy multiplies no {precision}")
        with refusing(f"product in {precision}"):
            left, right = cupy.asarray(a).astype(kind), cupy.asarray(b).astype(kind)
            out = cupy.zeros((a.shape[0], b.shape[1]), kind)

        def take(rows: Sequence[int], columns: Sequence[int]) -> Array:
            lines = cupy.asnumpy(out[cupy.asarray(list(rows))])
            return np.asarray(lines[:, list(columns)].astype(np.float64))

        return Product(
            run=lambda: _none(cupy.matmul(left, right, out=out)), clear=lambda: _none(out.fill(0)), take=take
        )

    def copy(self, source: Array) -> Transfer:
        with refusing("copy"):
            held = self._cupy.asarray(source)
            out = self._cupy.zeros_like(held)
        return self._into(lambda: _none(self._cupy.copyto(out, held)), out, 2 * source.nbytes)

    def triad(self, b: Array, c: Array, scalar: float) -> Transfer:
        cupy = self._cupy
        with refusing("triad"):
            left, right = cupy.asarray(b), cupy.asarray(c)
            out = cupy.zeros_like(left)
            kernel = cupy.ElementwiseKernel("T b, T c, T s", "T a", "a = b + s * c", "yisuan_triad")
        factor = b.dtype.type(scalar)
        return self._into(lambda: _none(kernel(left, right, factor, out)), out, 3 * b.nbytes)

    def upload(self, source: Array) -> Transfer:
        with refusing("upload"):
            pinned, out = self._pinned(source), self._cupy.zeros(source.shape, source.dtype)
        return self._into(lambda: _none(out.set(pinned)), out, source.nbytes)

    def download(self, source: Array) -> Transfer:
        with refusing("download"):
            held, out = self._cupy.asarray(source), self._pinned(np.zeros_like(source))
        return Transfer(
            run=lambda: _none(held.get(out=out)),
            clear=lambda: out.fill(0),
            take=lambda places: out[places],
            bytes_moved=source.nbytes,
        )

    def peer(self, source: Array, other: int) -> Transfer:
        if not 0 <= other < self._count or other == self._index:
            raise Unsupported(f"cupy: there is no other device {other} to copy to")
        with refusing("peer"):
            held = self._cupy.asarray(source)
            with self._cupy.cuda.Device(other):
                out = self._cupy.zeros(source.shape, source.dtype)
        return self._into(lambda: _none(out.data.copy_from_device_async(held.data, held.nbytes)), out, source.nbytes)

    def chain(self, first: Array, steps: Sequence[Array], precision: str) -> Callable[[], Array]:
        cupy, kind = self._cupy, TYPES.get(precision, np.float32)
        with refusing("chain"):
            start, held = cupy.asarray(first).astype(kind), [cupy.asarray(step).astype(kind) for step in steps]

        def run() -> Array:
            x = start
            for step in held:
                y = cupy.matmul(x, step).astype(np.float32)
                x = (y - 3 * cupy.rint(y / 3)).astype(kind)
            return np.asarray(cupy.asnumpy(x.astype(np.int8)))

        return run

    def join(self, rank: int, world: int, meeting: str) -> None:  # noqa: ARG002 - the port's signature
        raise Unsupported("cupy: collectives are measured with torch")

    def all_reduce(self, source: Array) -> Transfer:  # noqa: ARG002 - the port's signature
        raise Unsupported("cupy: collectives are measured with torch")

    def _into(self, run: Callable[[], None], out: Any, size: int) -> Transfer:
        return Transfer(
            run=run,
            clear=lambda: _none(out.fill(0)),
            take=lambda places: np.asarray(self._cupy.asnumpy(out[self._cupy.asarray(places)])),
            bytes_moved=size,
        )

    def _pinned(self, value: Array) -> Array:
        memory = self._cupy.cuda.alloc_pinned_memory(value.nbytes)
        held = np.frombuffer(memory, value.dtype, value.size).reshape(value.shape)
        held[...] = value
        return held


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What cupy raises here (no kernel, no memory) is Unsupported, with its first line."""
    try:
        yield
    except Exception as problem:
        said = str(problem).strip().splitlines()
        raise Unsupported(f"cupy: {what}: {said[0][:200] if said else type(problem).__name__}") from problem


def _none(_: object) -> None:
    """Results are in their targets."""
