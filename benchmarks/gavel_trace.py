"""Gavel's traces and throughput table: tab-separated jobs (10 or 7 columns) and steps per second by (type, gang size)."""

from __future__ import annotations

import ast
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MODELS = ("v100", "p100", "k80")
COLUMNS = {10: (0, 5, 6, 9), 7: (0, 4, 6, 5)}  # columns -> type, total steps, gang size, arrival


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs sorted by arrival, row i is the same job everywhere; row: its line in the file, from 0.

    gang: devices at once; steps: of the whole job; arrival_s: seconds; rate[i, m]: steps per second on model m, 0 where
    the job cannot run. dropped: lines read that run on no model.
    """

    row: Ints
    workload: tuple[str, ...]
    gang: Ints
    steps: Ints
    arrival_s: Floats
    rate: Floats
    dropped: int

    def __len__(self) -> int:
        return len(self.row)


def read_table(path: Path) -> dict[str, dict[tuple[str, int], float]]:
    """Steps per second alone on its devices, by model and (type, gang size); placed together on one server."""
    raw = json.loads(text_of(path))
    return {
        model: {ast.literal_eval(key): float(row["null"]) for key, row in raw.get(model, {}).items()}
        for model in MODELS
    }


def read_trace(path: Path, table: dict[str, dict[tuple[str, int], float]], limit: int | None = None) -> Trace:
    """The first `limit` lines of a trace, less those with no positive throughput anywhere.

    Raises ValueError naming the line and what is wrong with it.
    """
    kept: list[tuple[int, str, int, int, float, list[float]]] = []
    lines = [line for line in text_of(path).splitlines() if line.strip()][:limit]
    for number, line in enumerate(lines):
        kind, steps, gang, arrival = fields_of(line, number)
        rates = [table[model].get((kind, gang), 0.0) for model in MODELS]
        if max(rates) > 0:
            kept.append((number, kind, gang, steps, arrival, rates))
    if not kept:
        raise ValueError(f"{path.name}: no job with a positive throughput among {len(lines)} lines")
    kept.sort(key=lambda job: (job[4], job[0]))
    return Trace(
        row=np.array([job[0] for job in kept], dtype=np.int64),
        workload=tuple(job[1] for job in kept),
        gang=np.array([job[2] for job in kept], dtype=np.int64),
        steps=np.array([job[3] for job in kept], dtype=np.int64),
        arrival_s=np.array([job[4] for job in kept]),
        rate=np.array([job[5] for job in kept]),
        dropped=len(lines) - len(kept),
    )


def fields_of(line: str, number: int) -> tuple[str, int, int, float]:
    parts = line.split("\t")
    columns = COLUMNS.get(len(parts))
    if columns is None:
        raise ValueError(f"line {number + 1}: {len(parts)} tab-separated columns, expected one of {sorted(COLUMNS)}")
    kind, steps, gang, arrival = (parts[column] for column in columns)
    try:
        found = kind, int(steps), int(gang), float(arrival)
    except ValueError as error:
        raise ValueError(f"line {number + 1}: steps {steps!r}, gang {gang!r}, arrival {arrival!r}: {error}") from error
    if found[1] <= 0 or found[2] <= 0 or not 0 <= found[3] < float("inf"):
        raise ValueError(
            f"line {number + 1}: steps {steps} and gang {gang} must be above 0, arrival {arrival} at least 0"
        )
    return found


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
