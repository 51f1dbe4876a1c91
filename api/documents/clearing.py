"""Clearing batch 清算批次: the settlements a provider submits to the treasury for one programme and year."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api.documents.sheet import Desk, Kind, Sheet, content_hash
from metering.capital import capital_amount

MONEY = ("fee_fen", "deduction_fen", "payable_fen")
ITEM_COLUMNS = (
    ("settlement", Kind.TEXT),
    ("firm", Kind.TEXT),
    ("firm_name", Kind.TEXT),
    ("contract", Kind.TEXT),
    ("invoice", Kind.TEXT),
    ("slip", Kind.TEXT),
    *((name, Kind.MONEY) for name in MONEY),
)
ACT_COLUMNS = (("act", Kind.TEXT), ("by", Kind.TEXT), ("role", Kind.TEXT), ("at", Kind.MOMENT), ("reason", Kind.TEXT))
PAYMENT_COLUMNS = (
    ("id", Kind.TEXT),
    ("amount_fen", Kind.MONEY),
    ("at", Kind.MOMENT),
    ("reference", Kind.TEXT),
    ("returns", Kind.TEXT),
)


def clearing_sheet(found: Mapping[str, Any], *, language: str, at: datetime, demo: bool) -> Sheet:
    """A batch (metering.clearing.batch_document) with its items, who acted on it, what was paid, and its Merkle root.

    A payment that the bank sent back is a line below zero that names the payment.
    Raises ValueError if the items do not sum to the batch's totals: such a sheet must not be printed.
    """
    desk = Desk(language)
    totals = found["totals"]
    for name in MONEY:
        summed = sum(item[name] for item in found["items"])
        if summed != totals[name]:
            raise ValueError(f"{name}: items of {found['id']} sum to {summed}, the batch says {totals[name]}")
    payments = [
        {**payment, "amount_fen": -payment["amount_fen"] if payment.get("returns") else payment["amount_fen"]}
        for payment in found.get("payments") or []
    ]
    paid = {"amount_fen": sum(payment["amount_fen"] for payment in payments)}
    acts = [{**act, "act": coded(desk, "document.act", act["act"])} for act in found.get("acts") or []]
    root = found.get("merkle_root")
    return Sheet(
        kind="clearing",
        title=desk.word("document.title.clearing"),
        number=str(found["id"]),
        issued_at=at,
        language=language,
        facts=(
            desk.fact("programme", coded(desk, "voucher.programme", str(found["programme"]))),
            desk.fact("year", str(found["year"])),
            desk.fact("state", coded(desk, "document.state", str(found["state"]))),
            desk.fact("provider", found["provider"]),
            desk.fact("provider_name", found["provider_name"]),
            desk.fact("opened_at", found["opened_at"], Kind.MOMENT),
            *(desk.fact(name, totals[name], Kind.MONEY) for name in MONEY),
            desk.fact("left_fen", found.get("left_fen"), Kind.MONEY),
            desk.fact("deduction_capital", capital_amount(totals["deduction_fen"])),
        ),
        tables=(
            desk.table("document.table.items", found["items"], ITEM_COLUMNS, totals),
            desk.table("document.table.payments", payments, PAYMENT_COLUMNS, paid),
            desk.table("document.table.acts", acts, ACT_COLUMNS),
        ),
        signatures=tuple(desk.word(f"document.sign.{who}") for who in ("provider", "zone", "treasury")),
        hashes=(
            *([(desk.word("document.hash.merkle"), str(root))] if root else []),
            (desk.word("document.hash.content"), content_hash(found)),
        ),
        demo=demo,
    )


def coded(desk: Desk, family: str, code: str) -> str:
    """The words of a closed code's family; a code of a newer record reads as itself."""
    full = f"{family}.{code}"
    words = desk.said(full)
    return code if words == full else words
