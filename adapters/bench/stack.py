"""Stack: the small port behind which a numerical library (torch and its vendors' plugins, cupy, numpy) multiplies and copies.

A stack only does the work; what is measured, how often and whether the numbers are right is decided outside of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

Array = np.ndarray[Any, Any]

STACKS = {
    "torch": "adapters.bench.torch_stack:Torch",
    "cupy": "adapters.bench.cupy_stack:Cupy",
    "numpy": "adapters.bench.numpy_stack:Numpy",
}
PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "int8", "fp8")


class StackAbsent(Exception):
    """The library is not installed here, or finds no device; the message says which."""


class Unsupported(Exception):
    """The stack or the device cannot do this; the message says why. Other measurements go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a stack says of itself and of the device it holds.

    kind: `cpu` or `accelerator`; backend: the stack's word for it (cuda, npu, mlu, …). memory_bytes: None where the
    stack does not say. devices: how many it sees.
    """

    name: str
    versions: dict[str, str]
    kind: str
    backend: str
    device_name: str
    memory_bytes: int | None
    devices: int
    precisions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """C = A·B on the device. run starts it; clear zeroes C; take gives C[rows][:, columns] as float64 on the host."""

    run: Callable[[], None]
    clear: Callable[[], None]
    take: Callable[[Sequence[int], Sequence[int]], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A movement of `bytes_moved` bytes. run starts it; clear undoes it; take gives the target's elements at these places."""

    run: Callable[[], None]
    clear: Callable[[], None]
    take: Callable[[Array], Array]
    bytes_moved: int


class Stack(Protocol):
    """One device of one library. Work is queued; `synchronize` returns when all of it is done.

    Unsupported for what the library or the device cannot do. Never safe for two threads.
    """

    def about(self) -> About: ...

    def synchronize(self) -> None: ...

    def product(self, precision: str, a: Array, b: Array) -> Product:
        """a, b: square, on the host, exact in the precision; C is in the widest form that the stack gives at full speed."""
        ...

    def copy(self, source: Array) -> Transfer:
        """Device memory to the same device's memory: every byte is read once and written once."""
        ...

    def triad(self, b: Array, c: Array, scalar: float) -> Transfer:
        """a = b + scalar·c; bytes_moved counts what this stack really reads and writes for it."""
        ...

    def upload(self, source: Array) -> Transfer: ...

    def download(self, source: Array) -> Transfer: ...

    def peer(self, source: Array, other: int) -> Transfer:
        """From this device to the `other`-th that the stack sees."""
        ...

    def chain(self, first: Array, steps: Sequence[Array], precision: str) -> Callable[[], Array]:
        """X ← (X·W) mod 3 in {-1, 0, 1} for every W, all of ternary int8; the call returns the last X when it is done."""
        ...

    def join(self, rank: int, world: int, meeting: str) -> None:
        """This process is one rank of `world` that meet at the file `meeting`."""
        ...

    def all_reduce(self, source: Array) -> Transfer:
        """The sum over all ranks in place; bytes_moved is the size of one rank's vector."""
        ...


def open_stack(name: str, index: int = 0) -> Stack:
    """The stack of this name on its index-th device. StackAbsent when the library or the device is not there.

    ValueError for a name that no stack has.
    """
    if name not in STACKS:
        raise ValueError(f"stack: {name!r} is none of {', '.join(STACKS)}")
    module, _, kind = STACKS[name].partition(":")
    return cast(Stack, getattr(importlib.import_module(module), kind)(index))


def first_stack(index: int = 0) -> tuple[str, Stack]:
    """The first stack with an accelerator, else numpy on the processor. numpy is always there."""
    for name in STACKS:
        try:
            stack = open_stack(name, index)
        except StackAbsent:
            continue
        if name == "numpy" or stack.about().kind == "accelerator":
            return name, stack
    raise StackAbsent("no stack: numpy cannot be absent")  # pragma: no cover
