"""Fingerprint: whether a benchmark of a device lies where its model's peak says it must. Pure.

Behaviour, not proof: a slower card cannot pass for a faster one, and a faster one that was slowed down can pass for a slower.
So lying inside raises nothing, and lying outside holds a device back (evidence_level.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapters.catalog import Chip

UNITS = {"flop/s": 1e-12, "gflop/s": 1e-3, "gflops": 1e-3, "tflop/s": 1.0, "tflops": 1.0, "pflop/s": 1e3, "pflops": 1e3}
PRECISIONS = ("fp16", "bf16")  # the catalogue's peak is of either
MEASUREMENTS_MAX = 1000


class BenchmarkInvalid(ValueError):
    """A result document that cannot be read; the message names field and value."""


def half_precision_tflops(document: Mapping[str, Any]) -> float | None:
    """The fastest FP16 or BF16 matrix multiplication of a `yisuan bench` result, in 10^12 operations a second; None without.

    BenchmarkInvalid for a document that is none.
    """
    measurements = document.get("measurements")
    if not isinstance(measurements, list) or len(measurements) > MEASUREMENTS_MAX:
        raise BenchmarkInvalid("measurements: a list of what was measured is missing")
    found = []
    for index, item in enumerate(measurements):
        where = f"measurements[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BenchmarkInvalid(f"{where}: {str(item)[:80]!r} is not an object with a name")
        name, precision = item["name"].casefold(), str(item.get("precision") or "").casefold()
        if "gemm" not in name or not any(precision == one or one in name for one in PRECISIONS):
            continue
        unit = str(item.get("unit") or "").casefold()
        if unit not in UNITS:
            raise BenchmarkInvalid(f"{where}.unit: {item.get('unit')!r} is not one of {', '.join(UNITS)}")
        value = item.get("value")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise BenchmarkInvalid(f"{where}.value: {value!r} is not a number from 0")
        found.append(float(value) * UNITS[unit])
    return max(found, default=None)


def judge(
    tflops: float | None, chip: Chip | None, lowest_percent: int | None, highest_percent: int | None
) -> dict[str, Any]:
    """{within, percent_of_peak, lowest_percent, highest_percent, tflops}; within None where nothing can be compared.

    Both ends of the band are inside. A package of several dies is measured a die at a time, and its peak shared by them.
    """
    peak = None if chip is None or not chip.fp16_tflops else chip.fp16_tflops / chip.dies
    percent = None if peak is None or tflops is None else tflops * 100 / peak
    within = None
    if percent is not None and lowest_percent is not None and highest_percent is not None:
        within = lowest_percent <= percent <= highest_percent
    return {
        "within": within,
        "percent_of_peak": None if percent is None else f"{percent:.2f}",
        "lowest_percent": lowest_percent,
        "highest_percent": highest_percent,
        "tflops": None if tflops is None else f"{tflops:.3f}",
    }
