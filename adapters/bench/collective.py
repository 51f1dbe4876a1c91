"""Collective: the bus bandwidth of an all-reduce over several devices of one host, one process a device.

Bus bandwidth is S/t · 2(n−1)/n for vectors of S bytes over n ranks: what each link carries whatever the number of ranks
(https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from adapters.adapter import AdapterError
from adapters.bench.timing import WARM_UPS, Clock, inner_for

VECTOR_BYTES = {"accelerator": 256 << 20, "cpu": 8 << 20}
REPEATS = (3, 20)


class Asked(Protocol):
    """A rig behind a deadline: adapters.deadline.Worker."""

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any: ...

    def close(self) -> None: ...


def bus_bytes(size_bytes: int, ranks: int) -> float:
    """S · 2(n−1)/n, the bytes that one link carries for one all-reduce. ValueError for fewer than two ranks."""
    if ranks < 2:
        raise ValueError(f"ranks: {ranks}; a collective needs at least 2")
    return size_bytes * 2 * (ranks - 1) / ranks


def measure(ranks: Sequence[Asked], kind: str, until: float, clock: Clock) -> dict[str, Any]:
    """One answer for all ranks, as Rig's: a repeat lasts as long as on its slowest rank; work is in bus bytes.

    AdapterError if a rank cannot join, fails or is late. Every rank is closed afterwards.
    """
    size = VECTOR_BYTES[kind]
    try:
        with tempfile.TemporaryDirectory() as folder:
            meeting = str(Path(folder) / "meeting")
            _all(ranks, until, clock, lambda rank: ("join", rank, len(ranks), meeting, size))
            warm = _all(ranks, until, clock, lambda _: ("all_reduce", 1, WARM_UPS))
            once = max(max(found["seconds"][1:]) for found in warm)
            inner = inner_for(once)
            lasts = max(inner * once, 1e-6)
            repeats = max(REPEATS[0], min(REPEATS[1], int((until - clock()) * 0.5 / lasts)))
            found = _all(ranks, until, clock, lambda _: ("all_reduce", inner, repeats))
    finally:
        for one in ranks:
            one.close()
    slowest = [max(times) for times in zip(*(each["seconds"] for each in found), strict=True)]
    errors = [each["error"] for each in found]
    return {
        "size": found[0]["size"],
        "work": bus_bytes(size, len(ranks)),
        "inner": inner,
        "seconds": slowest,
        "error": None if None in errors else max(errors),
        "tolerance": 0.0,
        "ok": all(each["ok"] for each in found),
        "ranks": len(ranks),
    }


def _all(ranks: Sequence[Asked], until: float, clock: Clock, question: Callable[[int], tuple[Any, ...]]) -> list[Any]:
    """What every rank answers, asked at once; the first failure is raised when all have answered or are late."""
    left = until - clock()
    if left <= 0:
        raise AdapterError("all_reduce: no time is left")
    with ThreadPoolExecutor(len(ranks)) as pool:
        waiting = [pool.submit(one.ask, *question(rank), deadline_s=left) for rank, one in enumerate(ranks)]
    return [each.result() for each in waiting]
