"""Report: the result document of a bench run, its peaks, and the check that a kept log says the same.

Rates are medians over repeats, with the 10th and 90th percentile as spread; TFLOPS and TOPS are 10^12 operations a
second, GB/s 10^9 bytes a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from adapters.bench.log import sha256
from adapters.bench.timing import quantile, significant
from adapters.catalog import Chip
from adapters.chain import timestamp

VERSION = 1
Measurement = dict[str, Any]
UNITS = {"gemm": 1e12}  # others: 10^9 bytes
FORMULAS = {
    "gemm": "2*M*N*K/t",  # LAPACK Working Note 41, appendix C
    "memory_copy": "2*bytes/t",  # STREAM: each byte is read and written
    "memory_triad": "moved_bytes/t",  # STREAM: 3 vectors, 5 where the stack needs two passes
    "host_to_device": "bytes/t",
    "device_to_host": "bytes/t",
    "device_to_device": "bytes/t",
    "all_reduce": "bytes*2*(n-1)/n/t",  # nccl-tests: bus bandwidth
}


class ReportInvalid(ValueError):
    """A document that is no result of a bench run; the message names the field."""


def measurement(
    name: str, precision: str | None, answer: Mapping[str, Any], chip: Chip | None, line: bytes
) -> Measurement:
    """One measurement of the document from a rig's answer; line: what of the log it rests on."""
    found = rates(name, answer)
    middle = significant(quantile(found, 0.5))
    peak = peak_of(name, precision, chip)
    return {
        "name": name,
        "precision": precision,
        "size": answer["size"],
        "value": middle,
        "unit": unit_of(name, precision),
        "formula": FORMULAS[name],
        "repeats": len(found),
        "median": middle,
        "p10": significant(quantile(found, 0.1)),
        "p90": significant(quantile(found, 0.9)),
        "peak": peak,
        "ratio_of_peak": significant(middle / peak, 4) if peak else None,
        "log_sha256": sha256(line),
    }


def rates(name: str, answer: Mapping[str, Any]) -> list[float]:
    """The work of one run over its seconds, for every repeat, in the measurement's unit."""
    return [answer["work"] / each / UNITS.get(name, 1e9) for each in answer["seconds"]]


def unit_of(name: str, precision: str | None) -> str:
    """TFLOPS of multiplications, TOPS of whole-number ones, GB/s of everything else."""
    if name != "gemm":
        return "GB/s"
    return "TOPS" if precision == "int8" else "TFLOPS"


def peak_of(name: str, precision: str | None, chip: Chip | None) -> float | None:
    """The catalogue's figure of one device (a package's, over its dies); None where the catalogue has none."""
    if chip is None:
        return None
    if name == "gemm" and precision in ("fp16", "bf16") and chip.fp16_tflops is not None:
        return chip.fp16_tflops / chip.dies
    if name.startswith("memory_") and chip.memory_bandwidth_gbs is not None:
        return chip.memory_bandwidth_gbs / chip.dies
    return None


def document(
    *,
    about: Mapping[str, Any],
    device: Mapping[str, Any],
    host: Mapping[str, Any],
    seed: int,
    seconds: float,
    at: datetime,
    made: Sequence[Measurement],
    problems: Sequence[str],
    log: bytes,
) -> dict[str, Any]:
    """What `yisuan bench -o json` prints for one device."""
    return {
        "version": VERSION,
        "at": timestamp(at),
        "seed": seed,
        "seconds": seconds,
        "stack": about["name"],
        "backend": about["backend"],
        "versions": dict(about["versions"]),
        "device": dict(device),
        "host": dict(host),
        "measurements": list(made),
        "problems": list(problems),
        "log_sha256": sha256(log),
    }


def verify(found: Mapping[str, Any], log: bytes) -> list[str]:
    """What the kept log contradicts in a document; empty when it has the document's hash and gives the same figures.

    ReportInvalid for what is no document or no log.
    """
    try:
        made = [(str(each["name"]), each["precision"], each) for each in found["measurements"]]
        whole = found["log_sha256"]
    except (KeyError, TypeError) as problem:
        raise ReportInvalid(f"document: {problem} is missing or is not what it should be") from None
    problems = [] if sha256(log) == whole else [f"log_sha256: the log has {sha256(log)}, the document {whole}"]
    lines = {sha256(line): line for line in log.splitlines(keepends=True)}
    for name, precision, each in made:
        title = f"{name} {precision or ''}".strip()
        line = lines.get(each.get("log_sha256"))
        if line is None:
            problems.append(f"{title}: no line of the log has its hash")
            continue
        try:
            told = json.loads(line)
            again = measurement(told["name"], told["precision"], told["answer"], None, line)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as problem:
            raise ReportInvalid(f"log: the line of {title} is none of a test: {problem}") from None
        if not told["answer"].get("ok"):
            problems.append(f"{title}: its result was wrong")
        fields = ("name", "precision", "value", "unit", "repeats", "median", "p10", "p90")
        problems += [
            f"{title}: {f} is {each.get(f)}, the log gives {again[f]}" for f in fields if each.get(f) != again[f]
        ]
    return problems
