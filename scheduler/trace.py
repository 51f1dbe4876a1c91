"""Trace file: jobs and when they arrive, as CSV with a header (design section 4)."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from adapters.catalog import load_catalog
from scheduler.cluster import Cluster
from scheduler.job import Priority
from scheduler.snapshot import Throughput

COLUMNS = (
    "job", "firm", "queue", "submit_s", "nodes", "devices_per_node", "share_permille", "cpu_milli", "memory_mib", "models",
    "duration_s", "priority", "workload", "steps",
)  # fmt: skip
REQUIRED = ("job", "submit_s", "nodes", "devices_per_node")
THROUGHPUT_COLUMNS = ("workload", "model", "devices", "steps_per_s")
SAFE = re.compile(r"[^\s,;|\"']{1,120}")
LONGEST_MS = 10**13


class TraceError(ValueError):
    """A trace that cannot be read: the line, the column, the value, and the nearest valid spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """One row. models: names in the trace's order, () = any. duration_ms holds on the first of them, None = by its steps.

    share_permille: of its one device; cpu_milli, memory_bytes: of each member's node. steps: of its workload in all.
    """

    job: str
    firm: str
    queue: str
    submit_ms: int
    nodes: int
    devices_per_node: int
    models: tuple[str, ...]
    duration_ms: int | None
    priority: Priority
    share_permille: int = 1000
    cpu_milli: int = 0
    memory_bytes: int = 0
    workload: str | None = None
    steps: int | None = None


def read_trace(path: Path, cluster: Cluster, throughputs: Sequence[Throughput] = ()) -> tuple[TraceJob, ...]:
    """The jobs of a file, in its order; TraceError (or OSError) if it cannot be read."""
    return parse_trace(path.read_text(encoding="utf-8-sig"), cluster, throughputs)


def parse_trace(text: str, cluster: Cluster, throughputs: Sequence[Throughput] = ()) -> tuple[TraceJob, ...]:
    """Every row has duration_s, or steps of a workload that the throughput table knows. Models nobody knows are refused."""
    jobs, seen = [], set()
    known = sorted({one.workload for one in throughputs})
    header, rows = _table(text, COLUMNS, REQUIRED, "a trace")
    if "duration_s" not in header and not {"workload", "steps"} <= set(header):
        raise TraceError("line 1: column 'duration_s' is required, or 'workload' and 'steps'")
    for number, row in rows:
        job = _job(number, row, cluster, known)
        if job.job in seen:
            raise TraceError(f"line {number}: job {job.job!r} stands twice")
        seen.add(job.job)
        jobs.append(job)
    return tuple(jobs)


def read_throughputs(path: Path) -> tuple[Throughput, ...]:
    """The rows of a throughput file; TraceError (or OSError) if it cannot be read."""
    return parse_throughputs(path.read_text(encoding="utf-8-sig"))


def parse_throughputs(text: str) -> tuple[Throughput, ...]:
    """CSV `workload, model, devices, steps_per_s`: measured steps of all the devices together. A model on which a workload
    does not run has no row."""
    found: dict[tuple[str, str, int], Throughput] = {}
    for number, row in _table(text, THROUGHPUT_COLUMNS, THROUGHPUT_COLUMNS, "a throughput table")[1]:
        for column in ("workload", "model"):
            if not SAFE.fullmatch(row[column]):
                raise TraceError(
                    f"line {number}: {column}: {row[column]!r} must be a name without spaces or separators"
                )
        one = Throughput(
            workload=row["workload"],
            model=row["model"],
            devices=_whole(number, "devices", row["devices"]),
            steps_per_ks=_rate(number, row["steps_per_s"]),
        )
        key = (one.workload, one.model, one.devices)
        if key in found:
            raise TraceError(f"line {number}: {'/'.join(map(str, key))} stands twice")
        found[key] = one
    return tuple(found.values())


def _rate(number: int, text: str) -> int:
    try:
        value = Decimal(text) * 1000
        rate = int(value.to_integral_value(rounding="ROUND_HALF_UP"))
    except (InvalidOperation, ValueError, OverflowError):
        raise TraceError(f"line {number}: steps_per_s: {text!r} must be a number") from None
    if not 1 <= rate <= LONGEST_MS:
        raise TraceError(f"line {number}: steps_per_s: {text!r} must be from 0.001; leave out what does not run")
    return rate


def _table(
    text: str, columns: Sequence[str], required: Sequence[str], what: str
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header and the rows with their line numbers, cells stripped; empty lines are passed over."""
    reader = csv.reader(io.StringIO(text))
    header = next(reader, None)
    if not header:
        raise TraceError(f"line 1: {what} begins with a header")
    for name in header:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)[0]
            raise TraceError(f"line 1: unknown column {name!r}; nearest: {near}")
    if len(set(header)) != len(header):
        raise TraceError("line 1: a column stands twice")
    for name in required:
        if name not in header:
            raise TraceError(f"line 1: column {name!r} is required")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise TraceError(f"line {number}: {len(cells)} cells under {len(header)} columns")
            yield number, dict(zip(header, (c.strip() for c in cells), strict=True))

    return header, rows()


def _job(number: int, row: dict[str, str], cluster: Cluster, workloads: Sequence[str]) -> TraceJob:
    if not SAFE.fullmatch(row["job"]):
        raise TraceError(f"line {number}: job: {row['job']!r} must be a name without spaces or separators")
    devices = _whole(number, "devices_per_node", row["devices_per_node"], least=0)
    share = _whole(number, "share_permille", row.get("share_permille") or "1000")
    if share > 1000:
        raise TraceError(f"line {number}: share_permille: '{share}' is above 1000; nearest: 1000")
    if share < 1000 and devices != 1:
        raise TraceError(
            f"line {number}: share_permille: a share is of one device; devices_per_node: '{devices}', not 1"
        )
    workload, steps = row.get("workload") or None, row.get("steps") or None
    if steps is not None and workload not in workloads:
        near = difflib.get_close_matches(workload or "", workloads, n=1, cutoff=0.0)
        hint = f"; nearest: {near[0]}" if near else "; give a throughput table"
        raise TraceError(f"line {number}: workload: {workload!r} is not in the throughput table{hint}")
    if steps is None and not row.get("duration_s"):
        raise TraceError(f"line {number}: duration_s: is required where there are no steps")
    return TraceJob(
        job=row["job"],
        firm=row.get("firm") or "firm",
        queue=row.get("queue") or "default",
        submit_ms=_seconds(number, "submit_s", row["submit_s"]),
        nodes=_whole(number, "nodes", row["nodes"]),
        devices_per_node=devices,
        models=_models(number, row.get("models", ""), cluster),
        duration_ms=None if steps is not None else _seconds(number, "duration_s", row["duration_s"]),
        priority=_priority(number, row.get("priority") or "normal"),
        share_permille=share,
        cpu_milli=_whole(number, "cpu_milli", row.get("cpu_milli") or "0", least=0, most=1 << 40),
        memory_bytes=_whole(number, "memory_mib", row.get("memory_mib") or "0", least=0, most=1 << 40) << 20,
        workload=workload,
        steps=None if steps is None else _whole(number, "steps", steps, most=10**12),
    )


def _whole(number: int, column: str, text: str, *, least: int = 1, most: int = 1_000_000) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
        raise TraceError(f"line {number}: {column}: {text!r} must be a whole number from {least} to {most}")
    return int(text)


def _seconds(number: int, column: str, text: str) -> int:
    """Whole milliseconds, half up; decimals are allowed."""
    try:
        value = Decimal(text) * 1000
        whole = int((value + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))
    except (InvalidOperation, ValueError, OverflowError):
        raise TraceError(f"line {number}: {column}: {text!r} must be seconds") from None
    if not 0 <= whole <= LONGEST_MS:
        raise TraceError(f"line {number}: {column}: {text!r} must be from 0 to {LONGEST_MS // 1000} seconds")
    return whole


def _priority(number: int, text: str) -> Priority:
    words = [p.value for p in Priority]
    if text not in words:
        near = difflib.get_close_matches(text, words, n=1, cutoff=0.0)[0]
        raise TraceError(f"line {number}: priority: {text!r} must be one of {', '.join(words)}; nearest: {near}")
    return Priority(text)


def _models(number: int, text: str, cluster: Cluster) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split("|") if name.strip())
    catalog = load_catalog()
    for name in names:
        if name not in cluster.models and not catalog.resolve(name):
            words = sorted(cluster.models)
            close = difflib.get_close_matches(name, words, n=1, cutoff=0.4)
            near = close[0] if close else catalog.nearest(name)
            raise TraceError(f"line {number}: models: {name!r} is in neither cluster nor catalogue; nearest: {near}")
    return names
