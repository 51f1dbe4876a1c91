"""Trace file: jobs and when they arrive, as CSV with a header (design section 4)."""

from __future__ import annotations

import csv
import difflib
import io
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from adapters.catalog import load_catalog
from scheduler.cluster import Cluster
from scheduler.job import Priority

COLUMNS = (
    "job", "firm", "queue", "submit_s", "nodes", "devices_per_node", "share_permille", "cpu_milli", "memory_mib", "models",
    "duration_s", "priority", "workload", "steps",
)  # fmt: skip
REQUIRED = ("job", "submit_s", "nodes", "devices_per_node", "duration_s")
SAFE = re.compile(r"[^\s,;|\"']{1,120}")
LONGEST_MS = 10**13


class TraceError(ValueError):
    """A trace that cannot be read: the line, the column, the value, and the nearest valid spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """One row. models: names in the trace's order, () = any. duration_ms holds on the first of them."""

    job: str
    firm: str
    queue: str
    submit_ms: int
    nodes: int
    devices_per_node: int
    models: tuple[str, ...]
    duration_ms: int
    priority: Priority


def read_trace(path: Path, cluster: Cluster) -> tuple[TraceJob, ...]:
    """The jobs of a file, in its order; TraceError (or OSError) if it cannot be read."""
    return parse_trace(path.read_text(encoding="utf-8-sig"), cluster)


def parse_trace(text: str, cluster: Cluster) -> tuple[TraceJob, ...]:
    """Fractional shares and `steps` are refused as not supported yet, by line; so are models nobody knows."""
    reader = csv.reader(io.StringIO(text))
    header = next(reader, None)
    if not header:
        raise TraceError("line 1: a trace begins with a header")
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.0)[0]
            raise TraceError(f"line 1: unknown column {name!r}; nearest: {near}")
    if len(set(header)) != len(header):
        raise TraceError("line 1: a column stands twice")
    for name in REQUIRED:
        if name not in header:
            raise TraceError(f"line 1: column {name!r} is required")
    jobs, seen = [], set()
    for number, cells in enumerate(reader, start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise TraceError(f"line {number}: {len(cells)} cells under {len(header)} columns")
        job = _job(number, dict(zip(header, (c.strip() for c in cells), strict=True)), cluster)
        if job.job in seen:
            raise TraceError(f"line {number}: job {job.job!r} stands twice")
        seen.add(job.job)
        jobs.append(job)
    return tuple(jobs)


def _job(number: int, row: dict[str, str], cluster: Cluster) -> TraceJob:
    if row.get("steps"):
        raise TraceError(f"line {number}: steps: NOT_SUPPORTED_YET, it needs a throughput table; give duration_s")
    share = row.get("share_permille") or "1000"
    if share != "1000":
        raise TraceError(f"line {number}: share_permille: {share!r} is NOT_SUPPORTED_YET; whole devices are 1000")
    if not SAFE.fullmatch(row["job"]):
        raise TraceError(f"line {number}: job: {row['job']!r} must be a name without spaces or separators")
    return TraceJob(
        job=row["job"],
        firm=row.get("firm") or "firm",
        queue=row.get("queue") or "default",
        submit_ms=_seconds(number, "submit_s", row["submit_s"]),
        nodes=_whole(number, "nodes", row["nodes"]),
        devices_per_node=_whole(number, "devices_per_node", row["devices_per_node"]),
        models=_models(number, row.get("models", ""), cluster),
        duration_ms=_seconds(number, "duration_s", row["duration_s"]),
        priority=_priority(number, row.get("priority") or "normal"),
    )


def _whole(number: int, column: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        hint = " (jobs without devices are NOT_SUPPORTED_YET)" if text == "0" else ""
        raise TraceError(f"line {number}: {column}: {text!r} must be a whole number from 1{hint}")
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
