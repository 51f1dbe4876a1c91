"""Support: what the server subsidy (clause 2.1.2) and the model voucher (clause 2.4.7) come to, step by step. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metering.amount import ceiling_fen

# What clause 2.4.7 supports buying, of a foundation model whose technology is independently controlled (技术自主可控).
MODEL_USES = ("private_deployment", "cloud_deployment", "api_calls", "appliance_model_part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the computation sheet. unit: fen | basis_point; clause: what it rests on; source: the record it is from."""

    step: str
    value: int
    unit: str
    clause: str
    source: str

    def document(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "unit": self.unit, "clause": self.clause, "source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What is granted, how it was computed, and why it is less than its ceiling (empty when it is not)."""

    amount_fen: int
    steps: tuple[Step, ...]
    reasons: tuple[str, ...]


def assess_server(
    *,
    items: Sequence[Mapping[str, Any]],
    paid_fen: int,
    invoiced_fen: int,
    rate_bp: int,
    project_room_fen: int,
    contract: str,
) -> Assessment:
    """At most rate × the domestic-server part actually bought, within the project's cumulative room (clause 2.1.2).

    "Actually bought" is the part that was invoiced and paid: the domestic items' share of the lesser of the two, rounded
    down. items: the contract's [{amount_fen, domestic}].
    """
    total = sum(int(item["amount_fen"]) for item in items)
    domestic = sum(int(item["amount_fen"]) for item in items if item["domestic"] is True)
    bought = min(paid_fen, invoiced_fen, total)
    base = domestic * bought // total if total else 0
    ceiling = ceiling_fen(base, rate_bp)
    amount = min(ceiling, project_room_fen)
    clause = "2.1.2"
    steps = (
        Step(step="contract_amount", value=total, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="domestic_part", value=domestic, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="invoiced", value=invoiced_fen, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="paid", value=paid_fen, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="domestic_part_bought", value=base, unit="fen", clause=clause, source="⌊domestic_part × bought ÷ contract_amount⌋"),
        Step(step="rate", value=rate_bp, unit="basis_point", clause=clause, source="server_subsidy.rate_ceiling"),
        Step(step="ceiling", value=ceiling, unit="fen", clause=clause, source="⌊domestic_part_bought × rate⌋"),
        Step(step="project_room", value=project_room_fen, unit="fen", clause=clause, source="server_subsidy.project_cap"),
        Step(step="amount", value=amount, unit="fen", clause=clause, source="min(ceiling, project_room)"),
    )  # fmt: skip
    return Assessment(amount_fen=amount, steps=steps, reasons=("PROJECT_CAP_REACHED",) if amount < ceiling else ())


def assess_model(
    *,
    completed_fen: int,
    amount_fen: int,
    model_part_fen: int,
    rate_bp: int,
    firm_room_fen: int,
    pool_room_fen: int,
    contract: str,
) -> Assessment:
    """Half of the contract amount actually completed, of an appliance only its model part, within both rooms (2.4.7).

    What is completed of the contract is completed of its model part in the same proportion, rounded down.
    """
    base = model_part_fen * min(completed_fen, amount_fen) // amount_fen if amount_fen else 0
    ceiling = ceiling_fen(base, rate_bp)
    amount = min(ceiling, firm_room_fen, pool_room_fen)
    clause = "2.4.7"
    steps = (
        Step(step="completed", value=completed_fen, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="model_part", value=model_part_fen, unit="fen", clause=clause, source=f"contract:{contract}"),
        Step(step="rate", value=rate_bp, unit="basis_point", clause=clause, source="model_voucher.rate"),
        Step(
            step="ceiling",
            value=ceiling,
            unit="fen",
            clause=clause,
            source="⌊⌊model_part × completed ÷ contract amount⌋ × rate⌋",
        ),
        Step(step="firm_room", value=firm_room_fen, unit="fen", clause=clause, source="model_voucher.firm_cap"),
        Step(step="pool_room", value=pool_room_fen, unit="fen", clause=clause, source="model_voucher.pool"),
        Step(step="amount", value=amount, unit="fen", clause=clause, source="min(ceiling, firm_room, pool_room)"),
    )
    reasons = []
    if amount < ceiling:
        reasons += ["FIRM_CAP_REACHED"] if amount == firm_room_fen else []
        reasons += ["POOL_EXHAUSTED"] if amount == pool_room_fen else []
    return Assessment(amount_fen=amount, steps=steps, reasons=tuple(reasons))
