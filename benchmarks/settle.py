"""Settled lines per second, beside the bare integer arithmetic of the same lines, and how cost grows with lines."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from metering.amount import fee_fen
from metering.case import settle_document
from metering.parameters import load_policies
from metering.rule import load_rules

SMALL, LARGE = 5_000, 10_000


def case(entries: int, seed: int = 1) -> dict[str, Any]:
    """A firm's year: random leases on two origins."""
    rng = random.Random(seed)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    usage = []
    for number in range(entries):
        begin = start + timedelta(milliseconds=rng.randrange(300 * 86_400_000))
        usage.append(
            {
                "lease": f"L{number}",
                "model": rng.choice(["Ascend910B3", "H800"]),
                "origin": rng.choice(["domestic", "foreign"]),
                "devices": rng.choice([1, 2, 4, 8, 16]),
                "start": begin.isoformat(timespec="milliseconds"),
                "end": (begin + timedelta(milliseconds=rng.randrange(86_400_000))).isoformat(timespec="milliseconds"),
                "price_fen_per_device_hour": rng.randrange(500, 4000),
            }
        )
    eligible = [{"from": "2024-01-01T00:00:00+08:00", "to": None}]
    return {"version": 1, "policy": "etown-2024-10", "firm": {"id": "F", "eligible": eligible}, "usage": usage}


def measure() -> dict[str, Any]:
    """{lines_per_s, growth (cost of twice the lines; 2.0 is linear), bare_fraction (arithmetic alone / all of it)}."""
    registry, rules = load_policies(), load_rules()
    texts = {size: json.dumps(case(size)) for size in (SMALL, LARGE)}
    settle_document(texts[SMALL], registry, rules)
    spent = {}
    for size, text in texts.items():
        began = time.perf_counter()
        out = settle_document(text, registry, rules)
        spent[size] = time.perf_counter() - began
    lines = out["lines"]
    began = time.perf_counter()
    for line in lines:
        fee_fen(2000, line["device_ms"], 1000)
    bare = time.perf_counter() - began
    return {
        "entries": LARGE,
        "lines": len(lines),
        "lines_per_s": round(len(lines) / spent[LARGE]),
        "growth": round(spent[LARGE] / spent[SMALL], 2),
        "bare_fraction": round(bare / spent[LARGE], 4),
    }
