"""A second implementation of the money rules, on the JSON of a case, in fractions and one fen at a time.

It shares no code and no structure with metering: it slices time at every date in sight, asks each slice,
joins equal neighbours, and hands out deductions fen by fen. Knows only years 2020 to 2030 and a zone that is
always UTC+8.
"""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

HOUR = 3_600_000
YEAR_STARTS = [int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) * 1000 - 8 * HOUR for y in range(2020, 2032)]


def ms(text: str) -> int:
    at = datetime.fromisoformat(text)
    return round(at.timestamp() * 1000)


TERM = (ms("2024-03-28T00:00:00+08:00"), ms("2027-04-01T00:00:00+08:00"))
LATER_NOTICE = ms("2024-11-24T00:00:00+08:00")
RATE = {"domestic": Fraction(2, 5), "foreign": Fraction(3, 10), "undetermined": Fraction(3, 10)}
POOL, CAP = 100_000_000 * 100, 20_000_000 * 100


def spans(eligible: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(ms(e["from"]), ms(e["to"]) if e.get("to") else math.inf) for e in eligible]


def inside(at: int, intervals: list[tuple[int, float]]) -> bool:
    return any(a <= at < b for a, b in intervals)


def year_of(at: int) -> int:
    return 2020 + sum(1 for start in YEAR_STARTS[1:] if start <= at)


def hand_out(total: int, weights: list[Fraction]) -> list[int]:
    """Everyone the floor of a fair share; then fen by fen to whoever is owed most, the first on a tie."""
    whole = sum(weights, Fraction(0))
    fair = [Fraction(total) * w / whole if whole else Fraction(0) for w in weights]
    given = [math.floor(f) for f in fair]
    while sum(given) < total:
        owed = [f - g for f, g in zip(fair, given, strict=True)]
        given[owed.index(max(owed))] += 1
    return given


def printed(at: int) -> str:
    stamp = datetime.fromtimestamp(at // 1000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"


def lines_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    firm = spans(case["firm"]["eligible"])
    lines: list[dict[str, Any]] = []
    for entry in case["usage"]:
        site = spans(case["sites"][entry["site"]]["eligible"]) if "site" in entry else [(0, math.inf)]
        start, end = ms(entry["start"]), ms(entry["end"])
        dates = {*TERM, *YEAR_STARTS, *(d for span in firm + site for d in span)}
        cuts = [start, *sorted(int(d) for d in dates if start < d < end), end]
        slices: list[list[Any]] = []
        for a, b in itertools.pairwise(cuts):
            flags = (not TERM[0] <= a < TERM[1], not inside(a, firm), not inside(a, site), year_of(a))
            if slices and slices[-1][2] == flags:
                slices[-1][1] = b
            else:
                slices.append([a, b, flags])
        for a, b, (out_of_term, no_firm, no_site, year) in slices:
            exact = Fraction(
                entry["price_fen_per_device_hour"] * entry["devices"] * (b - a) * entry.get("share_permille", 1000),
                HOUR * 1000,
            )
            bars = [
                (code, clause)
                for barred, code, clause in (
                    (out_of_term, "POLICY_NOT_IN_FORCE", "4.3"),
                    (no_firm, "FIRM_NOT_ELIGIBLE", "4.1"),
                    (no_site, "SITE_NOT_ELIGIBLE", "4.2"),
                )
                if barred
            ]
            rate = Fraction(0) if bars else RATE[entry["origin"]]
            lines.append(
                {
                    "lease": entry["lease"],
                    "model": entry["model"],
                    "origin": entry["origin"],
                    "start": printed(a),
                    "end": printed(b),
                    "year": year,
                    "device_ms": entry["devices"] * (b - a),
                    "fee_fen": math.floor(exact + Fraction(1, 2)),
                    "rate_bp": int(rate * 10_000),
                    "deduction_fen": 0,
                    "reasons": [code for code, _ in bars],
                    "clauses": [clause for _, clause in bars] or ["2.1.1"],
                }
            )
    return lines


def settled(case: dict[str, Any]) -> dict[str, Any]:
    """The output document of a case, without bundle_sha256."""
    lines = lines_of(case)
    rooms = case.get("rooms", {})
    pool = {int(y): fen for y, fen in rooms.get("pool", {}).items()}
    firm = {int(y): fen for y, fen in rooms.get("firm", {}).items()}
    running = {name: rooms[name] for name in ("contract", "tranche") if name in rooms}
    ceilings = 0
    for year in sorted({line["year"] for line in lines if line["rate_bp"]}):
        drawing = [line for line in lines if line["rate_bp"] and line["year"] == year]
        groups: list[list[dict[str, Any]]] = []
        for domestic in dict.fromkeys(line["origin"] == "domestic" for line in drawing):
            groups.append([line for line in drawing if (line["origin"] == "domestic") is domestic])
        tops = [math.floor(sum(line["fee_fen"] for line in g) * Fraction(g[0]["rate_bp"], 10_000)) for g in groups]
        pool.setdefault(year, POOL)
        firm.setdefault(year, CAP)
        limits = {
            "FIRM_CAP_REACHED": firm[year],
            "POOL_EXHAUSTED": pool[year],
            "CONTRACT_CAP_REACHED": running.get("contract", math.inf),
            "TRANCHE_EXHAUSTED": running.get("tranche", math.inf),
        }
        taken = int(min(sum(tops), *limits.values()))
        why = [code for code, limit in limits.items() if limit == taken] if taken < sum(tops) else []
        for group, part in zip(groups, hand_out(taken, [Fraction(top) for top in tops]), strict=True):
            shares = hand_out(part, [Fraction(line["fee_fen"]) for line in group])
            for line, share in zip(group, shares, strict=True):
                line["deduction_fen"], line["reasons"] = share, why
        pool[year] -= taken
        firm[year] -= taken
        running = {name: left - taken for name, left in running.items()}
        ceilings += sum(tops)
    for line in lines:
        line["payable_fen"] = line["fee_fen"] - line["deduction_fen"]
    late = any(ms(line["end"]) > LATER_NOTICE for line in lines)
    totals = {name: sum(line[name] for line in lines) for name in ("fee_fen", "deduction_fen", "payable_fen")}
    return {
        "version": 1,
        "policy": case["policy"],
        "notices": ["POLICY_UNDER_CONFIRMATION"] if late else [],
        "lines": lines,
        "totals": {**totals, "ceiling_fen": ceilings},
        "rooms_after": {
            "pool": {str(year): fen for year, fen in pool.items()},
            "firm": {str(year): fen for year, fen in firm.items()},
            **running,
        },
    }
