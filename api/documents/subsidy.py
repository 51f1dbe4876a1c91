"""Subsidy application 补贴申请: the domestic-chip server subsidy (clause 2.1.2) with every paper and figure behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.documents.clearing import ACT_COLUMNS, coded
from api.documents.sheet import Desk, Kind, Sheet, Table, content_hash, kind_of, shown
from api.documents.sheet import cell as cell_of
from metering.capital import capital_amount

SERIAL_COLUMNS = (
    ("serial", Kind.TEXT),
    ("device", Kind.TEXT),
    ("model", Kind.TEXT),
    ("listed_from", Kind.MOMENT),
    ("listed_to", Kind.MOMENT),
)
LISTING_COLUMNS = (
    ("pool", Kind.TEXT),
    ("from", Kind.MOMENT),
    ("to", Kind.MOMENT),
    ("status", Kind.TEXT),
    ("reason", Kind.TEXT),
)
STEP_COLUMNS = (
    ("step", Kind.TEXT),
    ("value", Kind.TEXT),
    ("unit", Kind.TEXT),
    ("clause", Kind.TEXT),
    ("source", Kind.TEXT),
)
UNITS = {"fen": Kind.MONEY, "basis_point": Kind.PERCENT, "permille": Kind.PERMILLE, "device_ms": Kind.HOURS}
INNER = ("seq", "items")  # a position in the books, and what has a table of its own


def subsidy_sheet(found: Mapping[str, Any], *, language: str, at: datetime, demo: bool) -> Sheet:
    """An application (metering.subsidy_evidence.application_document): papers, serials, service to others, and the computation."""
    desk = Desk(language)
    amount = found.get("amount_fen")
    contract = found.get("contract") or {}
    listing = [
        {**item, "status": coded(desk, "document.status", item["status"])} for item in found.get("listing") or []
    ]
    acts = [{**act, "act": coded(desk, "document.act", act["act"])} for act in found.get("acts") or []]
    return Sheet(
        kind="subsidy",
        title=desk.word("document.title.subsidy"),
        number=str(found["id"]),
        issued_at=at,
        language=language,
        facts=(
            desk.fact("provider", found["provider"]),
            desk.fact("provider_name", found["provider_name"]),
            desk.fact("project", found["project"]),
            desk.fact("state", coded(desk, "document.state", str(found["state"]))),
            desk.fact("policy", found["policy"]),
            desk.fact("amount_fen", amount, Kind.MONEY),
            desk.fact("amount_capital", None if amount is None else capital_amount(amount)),
        ),
        tables=(
            _pairs(desk, "document.table.contract", _outer(contract)),
            desk.guessed("document.table.contract_items", contract.get("items") or []),
            desk.guessed("document.table.invoices", [_outer(bill) for bill in found.get("invoices") or []]),
            desk.guessed("document.table.payments", [_outer(paid) for paid in found.get("payments") or []]),
            desk.table("document.table.serials", found.get("serials") or [], SERIAL_COLUMNS),
            desk.table("document.table.listing", listing, LISTING_COLUMNS),
            _pairs(desk, "document.table.availability", found.get("availability") or {}),
            _pairs(desk, "document.table.served", found.get("served") or {}),
            _computation(desk, found.get("computation") or []),
            desk.table("document.table.acts", acts, ACT_COLUMNS),
        ),
        notes=tuple(desk.said(reason) for reason in found.get("reasons") or ()),
        signatures=tuple(desk.word(f"document.sign.{who}") for who in ("provider", "zone", "treasury")),
        hashes=(
            (desk.word("document.hash.bundle"), found["bundle_sha256"]),
            (desk.word("document.hash.content"), content_hash(found)),
        ),
        demo=demo,
    )


def _outer(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in INNER}


def _pairs(desk: Desk, title: str, values: Mapping[str, Any]) -> Table:
    """A mapping as two columns: what, and its value as it reads."""
    rows = [
        {"what": desk.column(key).title, "value": shown(cell_of(value), kind_of(key))} for key, value in values.items()
    ]
    return desk.table(title, rows, (("what", Kind.TEXT), ("value", Kind.TEXT)))


def _computation(desk: Desk, steps: Sequence[Mapping[str, Any]]) -> Table:
    """Step by step, each with its clause and source. A value reads in its unit, money in yuan."""
    rows = []
    for step in steps:
        kind = UNITS.get(str(step.get("unit")), Kind.TEXT)
        unit = coded(desk, "document.unit", str(step["unit"])) if step.get("unit") is not None else None
        value = shown(cell_of(step.get("value")), kind)
        rows.append({**step, "step": coded(desk, "document.step", str(step["step"])), "value": value, "unit": unit})
    return desk.table("document.table.computation", rows, STEP_COLUMNS)
