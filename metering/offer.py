"""Offer: what could be leased now, at what price, and how much computing power the zone has. Pure.

PFLOPS are nominal: peak dense FP16 of the catalogue × devices; never billed from. A chip without a figure counts as
unknown, not as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.accelerator import Origin
from adapters.catalog import Chip

if TYPE_CHECKING:
    from scheduler.netcost import Cost
    from scheduler.shadow import ShadowPrice
    from scheduler.snapshot import Terms

GOAL_PFLOPS = (
    10_000  # the zone's own goal for 2026, 京技管发〔2024〕10号, general objectives; stated without a precision
)


def listing_of(
    pool: Mapping[str, Any],
    origin: Origin,
    chip: Chip | None,
    devices: Sequence[Mapping[str, Any]],
    rate_bp: int,
    papers: bool,
) -> dict[str, Any]:
    """The published form of a pool. rate_bp: what the voucher takes off at most; net is what is then left, rounded up.

    devices: {node, held, usable} each. The voucher applies only at a site with its energy papers (clause 4.2).
    """
    price = int(pool["price_fen_per_device_hour"])
    applied = rate_bp if papers else 0
    # The catalogue's figure is of a package; a real inventory lists its dies as devices, a declared one whole packages.
    dies = chip.dies if chip and pool["source"] != "simulated" else 1
    usable = [d for d in devices if d["usable"]]
    free = sum(1 for d in usable if not d["held"])
    return {
        **{k: pool[k] for k in ("id", "provider", "site", "region", "backend", "vendor", "model", "source")},
        "origin": origin.value,
        "memory_bytes": chip.memory_bytes if chip else None,
        "fp16_tflops": chip.fp16_tflops / dies if chip and chip.fp16_tflops else None,
        "price_fen_per_device_hour": price,
        "rate_bp": applied,
        "net_fen_per_device_hour": price - price * applied // 10_000,
        "energy_papers": papers,
        "nodes": len({d["node"] for d in devices}),
        "devices_listed": len(devices),
        "devices_free": free,
        "devices_allocated": sum(1 for d in devices if d["held"]),
        "listed_at": pool["created_at"],
    }


def quote_of(model: str, terms: Terms, most: Cost, expected: Cost | None, shadow: ShadowPrice | None) -> dict[str, Any]:
    """One alternative of a quote: what is held for the whole time limit, what is expected, and what the choice compares.

    most: of the time limit; expected: of the predicted time, None = not predicted, and then the time limit is compared.
    effective_fen = gross − draw · (1 − λ), design section 7. shadow_price says what λ follows from; None = not computed.
    """
    compared = expected or most
    return {
        "pool": terms.pool,
        "model": model,
        "price_fen_per_device_hour": terms.price_fen_per_device_hour,
        "rate_bp": terms.rate_bp,
        "predicted_ms": expected.duration_ms if expected else None,
        "time_limit_ms": most.duration_ms,
        "at_most": {"gross_fen": most.gross_fen, "draw_fen": most.draw_fen, "net_fen": most.net_fen},
        "expected": {"gross_fen": expected.gross_fen, "draw_fen": expected.draw_fen, "net_fen": expected.net_fen}
        if expected
        else None,
        "effective_fen": compared.effective_fen,
        "shadow_price": {
            "permille": terms.shadow_price_permille,
            "firm_permille": shadow.firm_permille if shadow else None,
            "pool_permille": shadow.pool_permille if shadow else None,
            "room_fen": terms.room_fen,
            "wanted_fen": shadow.wanted_fen if shadow else None,
            "days_left": shadow.days_left if shadow else None,
        },
    }


def ranked(quotes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Best first by effective_fen, then pool; each with net_saved_fen, what the first one saves the firm against it.

    The expected net where both are predicted, else of the time limit; below 0 where room is kept for later.
    """
    found = sorted((dict(one) for one in quotes), key=lambda one: (one["effective_fen"], one["pool"]))
    for one in found:
        part = "expected" if one["expected"] and found[0]["expected"] else "at_most"
        one["net_saved_fen"] = one[part]["net_fen"] - found[0][part]["net_fen"]
    return found


def capacity_of(listings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Devices and PFLOPS, listed, free and allocated; in all and by origin, region, provider and source."""
    found = list(listings)
    total = _sum(found)
    return {
        "precision": "fp16",
        "density": "dense",
        "basis": "nominal, catalogue peak",
        "goal_pflops": GOAL_PFLOPS,
        "to_goal_pflops": round(max(0.0, GOAL_PFLOPS - total["pflops"]["listed"]), 3),
        **total,
        **{
            f"by_{key}": {
                value: _sum([x for x in found if x[key] == value]) for value in sorted({str(x[key]) for x in found})
            }
            for key in ("origin", "region", "provider", "source")
        },
    }


def _sum(listings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    devices = {state: sum(x[f"devices_{state}"] for x in listings) for state in ("listed", "free", "allocated")}
    rated = [x for x in listings if x["fp16_tflops"] is not None]
    pflops = {
        state: round(sum(x["fp16_tflops"] * x[f"devices_{state}"] for x in rated) / 1000, 3)
        for state in ("listed", "free", "allocated")
    }
    unknown = sum(x["devices_listed"] for x in listings if x["fp16_tflops"] is None)
    return {"devices": devices, "pflops": pflops, "devices_without_figure": unknown}
