"""Torch: PyTorch on the first accelerator that it or an installed vendor's plug-in offers, else on the processor.

`cuda` is what NVIDIA, AMD and Hygon (ROCm), Iluvatar, MetaX and T-Head builds call their devices; Huawei, Cambricon,
Moore Threads and Enflame have plug-ins with a name space of their own, made after torch.cuda; Intel's is in PyTorch.
Time is the host's between two synchronisations, the one way that all of them share.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapters.bench.stack import About, Array, Product, StackAbsent, Transfer, Unsupported

# name space of torch, the plug-in that adds it, the backend of torch.distributed
BACKENDS = (
    ("cuda", None, "nccl"),
    ("npu", "torch_npu", "hccl"),
    ("mlu", "torch_mlu", "cncl"),
    ("musa", "torch_musa", "mccl"),
    ("gcu", "torch_gcu", "eccl"),
    ("xpu", None, "xccl"),
)
TYPES = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
FP8 = "float8_e4m3fn"
AMPERE = (8, 0)  # the first compute capability with TF32
MEETING = timedelta(seconds=30)


class Torch:
    """The index-th device that torch sees in this process; StackAbsent without torch or without that device."""

    def __init__(self, index: int = 0) -> None:
        if importlib.util.find_spec("torch") is None:
            raise StackAbsent("torch: not installed")
        try:
            self._torch: Any = importlib.import_module("torch")
        except Exception as problem:
            raise StackAbsent(f"torch: cannot be imported: {problem}") from problem
        self._backend, self._collective, self._space = self._found()
        count = self._space.device_count() if self._space else 1
        if not 0 <= index < count:
            raise StackAbsent(f"torch: {self._backend} device {index} of {count}")
        self._index, self._count = index, count
        self._device = self._torch.device(f"{self._backend}:{index}" if self._space else "cpu")
        if self._space:
            self._space.set_device(index)

    def _found(self) -> tuple[str, str, Any]:
        for name, plugin, collective in BACKENDS:
            if plugin and importlib.util.find_spec(plugin) is None:
                continue
            with contextlib.suppress(Exception):  # a plug-in that does not load is as none
                if plugin:
                    importlib.import_module(plugin)
                space = getattr(self._torch, name, None)
                if space is not None and space.is_available() and space.device_count() > 0:
                    return name, collective, space
        return "cpu", "gloo", None

    def about(self) -> About:
        from adapters.bench.numpy_stack import processor_name

        name, memory = processor_name(), None
        if self._space:
            name = str(self._space.get_device_name(self._index))
            with contextlib.suppress(Exception):
                memory = int(self._space.get_device_properties(self._index).total_memory)
        return About(
            name="torch",
            versions=self._versions(),
            kind="accelerator" if self._space else "cpu",
            backend=self._backend,
            device_name=name,
            memory_bytes=memory,
            devices=self._count,
            precisions=self._precisions(),
        )

    def _versions(self) -> dict[str, str]:
        found = {"torch": str(self._torch.__version__), "numpy": np.__version__}
        for word in ("cuda", "hip"):
            if getattr(self._torch.version, word, None):
                found[word] = str(getattr(self._torch.version, word))
        for name, plugin, _ in BACKENDS:
            if plugin and name == self._backend:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    found[plugin] = importlib.metadata.version(plugin)
        return found

    def _precisions(self) -> tuple[str, ...]:
        """What is worth asking; `product` still refuses what the device cannot do."""
        if not self._space:
            return ("fp64", "fp32", "bf16")
        tf32 = False
        if self._backend == "cuda" and not getattr(self._torch.version, "hip", None):
            with contextlib.suppress(Exception):
                tf32 = tuple(self._space.get_device_capability(self._index)) >= AMPERE
        found = ["fp64", "fp32", *(["tf32"] if tf32 else []), "fp16", "bf16"]
        if self._backend == "cuda":  # the two below are operators of CUDA builds alone
            found += ["int8"] if hasattr(self._torch, "_int_mm") else []
            found += ["fp8"] if hasattr(self._torch, "_scaled_mm") and hasattr(self._torch, FP8) else []
        return tuple(found)

    def synchronize(self) -> None:
        if self._space:
            self._space.synchronize()

    def product(self, precision: str, a: Array, b: Array) -> Product:
        torch = self._torch
        with refusing(f"{precision} on {self._backend}"):
            if precision == "int8":
                return self._integer(a, b)
            if precision == "fp8":
                return self._scaled(a, b)
            if precision not in TYPES:
                raise Unsupported(f"torch: {precision} is not known")
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            kind = getattr(torch, TYPES[precision])
            left, right = self._put(a).to(kind), self._put(b).to(kind)
            out = torch.zeros((a.shape[0], b.shape[1]), dtype=kind, device=self._device)
            return self._product(lambda: torch.matmul(left, right, out=out), [out])

    def _integer(self, a: Array, b: Array) -> Product:
        """int8 operands, int32 sums; the right operand lies by columns, as the matrix units of CUDA want it."""
        torch = self._torch
        left, right = self._put(a), self._put(np.ascontiguousarray(b.T)).t()
        held = [torch.zeros(1, device=self._device)]

        def run() -> None:
            held[0] = torch._int_mm(left, right)

        return self._product(run, held)

    def _scaled(self, a: Array, b: Array) -> Product:
        torch = self._torch
        kind, one = getattr(torch, FP8), torch.ones((), dtype=torch.float32, device=self._device)
        left = self._put(a).to(torch.float32).to(kind)
        right = self._put(np.ascontiguousarray(b.T)).to(torch.float32).to(kind).t()
        held = [torch.zeros(1, device=self._device)]

        def run() -> None:
            found = torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
            held[0] = found[0] if isinstance(found, tuple) else found  # a pair before PyTorch 2.5

        return self._product(run, held)

    def _product(self, run: Callable[[], Any], held: list[Any]) -> Product:
        def take(rows: Sequence[int], columns: Sequence[int]) -> Array:
            if held[0].dim() != 2:
                raise Unsupported("nothing was multiplied")
            lines = held[0][self._torch.tensor(list(rows), device=self._device)].cpu()
            return np.asarray(lines.to(self._torch.float64).numpy()[:, list(columns)])

        def asked() -> None:
            with refusing(self._backend):
                run()

        asked()  # refused here, and not in the middle of a measurement
        self.synchronize()
        return Product(run=asked, clear=lambda: _none(held[0].zero_()), take=take)

    def copy(self, source: Array) -> Transfer:
        held = self._put(source)
        return self._transfer(held, self._torch.zeros_like(held), 2 * source.nbytes)

    def triad(self, b: Array, c: Array, scalar: float) -> Transfer:
        torch, left, right = self._torch, self._put(b), self._put(c)
        out = torch.zeros_like(left)
        return Transfer(
            run=lambda: _none(torch.add(left, right, alpha=scalar, out=out)),
            clear=lambda: _none(out.zero_()),
            take=lambda places: self._at(out, places),
            bytes_moved=3 * b.nbytes,  # one kernel: b and c are read, a is written
        )

    def upload(self, source: Array) -> Transfer:
        if not self._space:
            raise Unsupported("the processor has no link to itself")
        with refusing("upload"):
            held = self._pinned(self._torch.from_numpy(source))
            return self._transfer(held, self._torch.zeros_like(held, device=self._device), source.nbytes)

    def download(self, source: Array) -> Transfer:
        if not self._space:
            raise Unsupported("the processor has no link to itself")
        with refusing("download"):
            out = self._pinned(self._torch.zeros(source.shape, dtype=getattr(self._torch, source.dtype.name)))
            return self._transfer(self._put(source), out, source.nbytes)

    def peer(self, source: Array, other: int) -> Transfer:
        if not self._space or not 0 <= other < self._count or other == self._index:
            raise Unsupported(f"{self._backend}: there is no other device {other} to copy to")
        with refusing("peer"):
            out = self._torch.zeros(
                source.shape, dtype=getattr(self._torch, source.dtype.name), device=f"{self._backend}:{other}"
            )
            return self._transfer(self._put(source), out, source.nbytes)

    def _transfer(self, source: Any, target: Any, size: int) -> Transfer:
        return Transfer(
            run=lambda: _none(target.copy_(source, non_blocking=True)),
            clear=lambda: _none(target.zero_()),
            take=lambda places: self._at(target, places),
            bytes_moved=size,
        )

    def chain(self, first: Array, steps: Sequence[Array], precision: str) -> Callable[[], Array]:
        torch = self._torch
        kind = getattr(torch, TYPES.get(precision, "float32"))
        torch.set_float32_matmul_precision("highest")
        with refusing(f"chain in {precision}"):
            start, held = self._put(first).to(kind), [self._put(step).to(kind) for step in steps]

        def run() -> Array:
            x = start
            for step in held:
                y = torch.matmul(x, step).to(torch.float32)  # whole numbers that every precision holds exactly
                x = (y - 3 * torch.round(y / 3)).to(kind)
            return np.asarray(x.to(torch.int8).cpu().numpy())

        return run

    def join(self, rank: int, world: int, meeting: str) -> None:
        distributed = self._torch.distributed
        if not distributed.is_available():
            raise Unsupported("torch.distributed is not part of this build")
        with refusing(self._collective):
            distributed.init_process_group(
                self._collective, init_method=Path(meeting).as_uri(), rank=rank, world_size=world, timeout=MEETING
            )

    def all_reduce(self, source: Array) -> Transfer:
        distributed, held = self._torch.distributed, self._put(source)
        kept = held.clone()
        return Transfer(
            run=lambda: _none(distributed.all_reduce(held)),
            clear=lambda: _none(held.copy_(kept)),
            take=lambda places: self._at(held, places),
            bytes_moved=source.nbytes,
        )

    def _at(self, tensor: Any, places: Array) -> Array:
        return np.asarray(tensor[self._torch.from_numpy(places).to(tensor.device)].cpu().numpy())

    def _put(self, value: Array) -> Any:
        with refusing("memory"):
            return self._torch.from_numpy(value).to(self._device, copy=True)

    def _pinned(self, tensor: Any) -> Any:
        """In memory that the device reaches by itself; where the stack cannot, as it is (and slower)."""
        try:
            return tensor.pin_memory()
        except Exception:  # noqa: BLE001  plug-ins raise what they like
            return tensor


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What torch raises here (a missing kernel, no memory) is Unsupported, with its first line."""
    try:
        yield
    except Unsupported:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as problem:
        said = str(problem).strip().splitlines()
        raise Unsupported(f"torch: {what}: {said[0][:200] if said else type(problem).__name__}") from problem


def _none(_: object) -> None:
    """Results are in their targets."""
