"""GEMM: operands whose product is known exactly, how large they should be, and whether the device's product is right.

A multiplication of M×K by K×N is 2·M·N·K floating-point operations, a multiply and an add each (LAPACK Working Note 41,
appendix C: xGEMM); integer ones are counted the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.bench.stack import Array

CORNER = 16  # rows and columns that are checked
STEP = 128  # sizes are multiples: every vendor's matrix unit takes them whole
SIZES = (256, 8192)
RUN_S = 0.03  # a run this long hides its launch
# Largest relative error (Frobenius) of the checked part. Operands are exact in their precision, so this is the rounding of
# sums and of the result alone: units in the last place are 2^-53, 2^-24, 2^-11, 2^-8; sums over K ≤ 8192 grow it by √K in
# the worst kept order. fp32's lies between its own error (about 1e-6) and that of TF32 passed off as it (4e-4).
TOLERANCE = {"fp64": 1e-12, "fp32": 5e-5, "tf32": 2e-3, "fp16": 5e-3, "bf16": 1e-2, "int8": 0.0, "fp8": 5e-2}
WIDE = ("fp64", "fp32")  # operands with a full mantissa; others are whole numbers that the precision holds exactly
BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
OUT_BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 4, "fp8": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The checked rows and columns, and the relative error found there; ok when it is within the precision's tolerance."""

    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)  # false for what is not a number


def flops(m: int, n: int, k: int) -> int:
    """Operations of an M×K by K×N multiplication: 2·M·N·K."""
    return 2 * m * n * k


def operands(precision: str, size: int, seed: int) -> tuple[Array, Array]:
    """Two square operands, the same for the same arguments; every element is exact in the precision.

    fp64 and fp32: uniform in [-1, 1) with full mantissas; others: whole numbers from -4 to 4, so that sums over 8192
    products stay below fp16's largest number by far.
    """
    rng = np.random.Generator(np.random.PCG64(_seed(precision, size, seed)))
    if precision in WIDE:
        kind = np.float64 if precision == "fp64" else np.float32
        return tuple(rng.random((size, size), dtype=kind) * 2 - 1 for _ in range(2))  # type: ignore[return-value]
    return tuple(rng.integers(-4, 5, (size, size), dtype=np.int8) for _ in range(2))  # type: ignore[return-value]


def corner(size: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """The rows and columns to check: spread over the whole product, others for every seed."""
    rng = np.random.Generator(np.random.PCG64(_seed("corner", size, seed)))
    count = min(CORNER, size)
    rows, columns = (sorted(int(i) for i in rng.choice(size, count, replace=False)) for _ in range(2))
    return rows, columns


def check(precision: str, a: Array, b: Array, rows: Sequence[int], columns: Sequence[int], found: Array) -> Check:
    """Compares the device's corner with the same corner computed here in float64."""
    expected = a[list(rows), :].astype(np.float64) @ b[:, list(columns)].astype(np.float64)
    with np.errstate(all="ignore"):
        difference = float(np.linalg.norm(np.asarray(found, np.float64) - expected))
    whole = float(np.linalg.norm(expected))
    error = difference / whole if whole else difference
    return Check(error=error if math.isfinite(error) else math.inf, tolerance=TOLERANCE[precision])


def size_for(precision: str, rate: float, memory_bytes: int | None) -> int:
    """The size whose run takes about 30 ms at `rate` operations a second, within 256 … 8192 and a quarter of the memory."""
    size = (max(rate, 1.0) * RUN_S / 2) ** (1 / 3)
    if memory_bytes is not None:
        size = min(size, math.sqrt(memory_bytes / 4 / (2 * BYTES[precision] + OUT_BYTES[precision])))
    return max(SIZES[0], min(SIZES[1], int(size) // STEP * STEP))


def _seed(word: str, size: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"yisuan.bench:{word}:{size}:{seed}".encode()).digest()[:16], "big")
