"""Benchmark: results of `yisuan bench` on record, and what of them stands on the listings beside the makers' figures.

A figure is only ever shown, never billed or placed by. One that no device of its model could reach is kept, reviewed, and
not shown.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from adapters.accelerator import Source
from adapters.bench.question import FASTER_THAN_PEAK
from adapters.catalog import Catalog, Chip
from adapters.chain import canonical, digest, instant, timestamp
from metering import evidence
from metering.benchmark_schema import benchmarks
from metering.fingerprint import half_precision_tflops, judge
from metering.parameters.policy import FINGERPRINT_HIGHEST, FINGERPRINT_LOWEST, Policy
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, nodes

SKEW = timedelta(minutes=5)  # how far a node's clock may be ahead
OLDEST = timedelta(days=7)  # what was measured longer ago is measured again
HALF = ("fp16", "bf16")


def record(
    tx: Connection, document: Mapping[str, Any], *, policy: Policy, catalog: Catalog, by: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The result is on record and compared with its model's band: {seq, device, document_sha256, within}.

    The same document again is the same record. metering.fingerprint.BenchmarkInvalid and ValueError for what is no result.
    Refusals: DEVICE_UNKNOWN, BENCHMARK_OF_PROCESSOR, BENCHMARK_OF_SIMULATED, BENCHMARK_OF_ANOTHER_MODEL,
    BENCHMARK_TIME_INVALID.
    """
    device, at = document["device"]["uuid"], instant(document["at"])
    row = tx.execute(select(devices).where(devices.c.uuid == device)).mappings().first()
    if document["device"]["kind"] != "accelerator":
        return Refusal(code="BENCHMARK_OF_PROCESSOR", facts={"device": device})
    if row is None:
        return Refusal(code="DEVICE_UNKNOWN", facts={"device": device})
    if row["source"] == Source.SIMULATED.value:
        return Refusal(code="BENCHMARK_OF_SIMULATED", facts={"device": device})
    given = document["device"]["model"]
    if row["model"] is None or given != row["model"]:
        return Refusal(
            code="BENCHMARK_OF_ANOTHER_MODEL", facts={"device": device, "given": given, "model": row["model"]}
        )
    if not now - OLDEST <= at <= now + SKEW:
        return Refusal(code="BENCHMARK_TIME_INVALID", facts={"at": timestamp(at)})
    sha256 = digest(document)
    known = select(benchmarks.c.seq, benchmarks.c.within).where(
        benchmarks.c.device == device, benchmarks.c.document_sha256 == sha256
    )
    before = tx.execute(known).first()
    if before is not None:
        return _told(before.seq, device, sha256, before.within)
    low, high = (policy.answer_at(key, now) for key in (FINGERPRINT_LOWEST, FINGERPRINT_HIGHEST))
    found = judge(
        half_precision_tflops(document),
        catalog.get(row["model"]),
        None if low is None else int(low),
        None if high is None else int(high),
    )
    refusal = evidence.record_fingerprint(
        tx, device=device, facts=found, sha256=sha256, by=by, now=now, catalog=catalog
    )
    if isinstance(refusal, Refusal):
        return refusal
    within = None if found["within"] is None else int(found["within"])
    values = {
        "device": device,
        "node": row["node"],
        "model": row["model"],
        "at_ms": to_ms(at),
        "document": canonical(document).decode(),
        "document_sha256": sha256,
        "log_sha256": document["log_sha256"],
        "within": within,
        "recorded_at_ms": to_ms(now),
        "recorded_by": by,
    }
    return _told(journal.append(tx, benchmarks, values), device, sha256, within)


def latest(tx: Connection) -> list[dict[str, Any]]:
    """The last result of every device that is still here as the model it was, by device; without host and submitter."""
    last = select(func.max(benchmarks.c.seq)).group_by(benchmarks.c.device)
    query = (
        select(benchmarks, nodes.c.pool)
        .join(devices, devices.c.uuid == benchmarks.c.device)
        .join(nodes, nodes.c.id == devices.c.node)
        .where(benchmarks.c.seq.in_(last), devices.c.model == benchmarks.c.model)
        .order_by(benchmarks.c.device)
    )
    found = []
    for row in tx.execute(query).mappings():
        document = json.loads(row["document"])
        found.append(
            {
                "device": row["device"],
                "pool": row["pool"],
                "model": row["model"],
                "at": timestamp(from_ms(row["at_ms"])),
                **{key: document[key] for key in ("stack", "backend", "versions", "measurements")},
                "within": None if row["within"] is None else bool(row["within"]),
                **{key: row[key] for key in ("document_sha256", "log_sha256", "hash")},
            }
        )
    return found


def measured(results: Iterable[Mapping[str, Any]], catalog: Catalog) -> dict[str, dict[str, Any]]:
    """By pool, over the last results of its devices: {devices, fp16_tflops, memory_bandwidth_gbs, oldest_at, newest_at, newest}.

    Medians over devices: of each the faster of fp16 and bf16, and of copy and triad. None where none was measured. Results
    outside their model's band do not count, nor does a figure above the maker's by more than a twentieth. newest: the device of the
    newest result and the hashes of its document and raw log; those of the others are in /v1/benchmarks.
    """
    by_pool: dict[str, list[Mapping[str, Any]]] = {}
    for one in results:
        if one["within"] is not False:
            by_pool.setdefault(one["pool"], []).append(one)
    found = {}
    for pool, mine in by_pool.items():
        peaks = _nominal(catalog.get(mine[0]["model"]), whole=False)
        found[pool] = {
            "devices": len(mine),
            "fp16_tflops": _median((_best(one, "gemm", HALF) for one in mine), peaks["fp16_tflops"]),
            "memory_bandwidth_gbs": _median(
                (_best(one, "memory_", (None,)) for one in mine), peaks["memory_bandwidth_gbs"]
            ),
            "oldest_at": min(one["at"] for one in mine),
            "newest_at": max(one["at"] for one in mine),
            "newest": {
                name: max(mine, key=lambda one: (one["at"], one["device"]))[name]
                for name in ("device", "document_sha256", "log_sha256")
            },
        }
    return found


def beside(chip: Chip | None, found: Mapping[str, Any] | None, *, whole: bool) -> dict[str, Any]:
    """What a listing says of one device: {nominal: the maker's figures, measured: see above, None = never measured}.

    measured.percent_of_peak: each measured figure in percent of the nominal one, to a tenth; None where either is unknown.
    whole: the pool's devices are whole packages, as declared ones are, and not dies.
    """
    nominal = _nominal(chip, whole=whole)
    if found is None:
        return {"nominal": nominal, "measured": None}
    percent = {name: _percent(found[name], peak) for name, peak in nominal.items()}
    return {"nominal": nominal, "measured": {**found, "percent_of_peak": percent}}


def _percent(value: float | None, peak: float | None) -> float | None:
    return None if value is None or not peak else round(value * 100 / peak, 1)


def _nominal(chip: Chip | None, *, whole: bool) -> dict[str, float | None]:
    dies = chip.dies if chip and not whole else 1
    figures = {
        "fp16_tflops": chip.fp16_tflops if chip else None,
        "memory_bandwidth_gbs": chip.memory_bandwidth_gbs if chip else None,
    }
    return {name: None if figure is None else figure / dies for name, figure in figures.items()}


def _best(result: Mapping[str, Any], name: str, precisions: tuple[str | None, ...]) -> float | None:
    return max(
        (m["value"] for m in result["measurements"] if m["name"].startswith(name) and m["precision"] in precisions),
        default=None,
    )


def _median(values: Iterable[float | None], peak: float | None) -> float | None:
    known = [v for v in values if v is not None and (peak is None or v <= peak * FASTER_THAN_PEAK)]
    return statistics.median(known) if known else None


def _told(seq: int, device: str, sha256: str, within: int | None) -> dict[str, Any]:
    shown = None if within is None else bool(within)
    return {"seq": seq, "device": device, "document_sha256": sha256, "within": shown}
