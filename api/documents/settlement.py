"""Settlement sheet 结算单: what provider, firm and treasury sign. Amounts stand in figures and in capitals."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api.documents.sheet import Desk, Kind, Sheet, content_hash
from api.documents.statement import lines_table, settled_facts, total_facts
from metering.capital import capital_amount

SIGNED_BY = ("firm", "provider", "zone")


def settlement_sheet(
    found: Mapping[str, Any], *, firm_name: str | None, language: str, at: datetime, demo: bool
) -> Sheet:
    """One settlement (api.queries.settlement) to be signed; totals are those on record, never added up here.

    Raises ValueError if the lines do not sum to the totals on record: such a sheet must not be printed.
    """
    desk = Desk(language)
    totals = found["totals"]
    for name in ("fee_fen", "deduction_fen", "payable_fen"):
        summed = sum(line[name] for line in found["lines"])
        if summed != totals[name]:
            raise ValueError(f"{name}: lines of {found['id']} sum to {summed}, the record says {totals[name]}")
    providers = sorted({line["provider"] for line in found["lines"]})
    return Sheet(
        kind="settlement",
        title=desk.word("document.title.settlement"),
        number=found["id"],
        issued_at=at,
        language=language,
        facts=(
            desk.fact("job", found["job"]),
            desk.fact("firm", found["firm"]),
            desk.fact("firm_name", firm_name),
            desk.fact("provider", ", ".join(providers) or None),
            *settled_facts(desk, found),
            *total_facts(desk, totals),
            desk.fact("payable_capital", capital_amount(totals["payable_fen"])),
            desk.fact("deduction_capital", capital_amount(totals["deduction_fen"])),
        ),
        tables=(lines_table(desk, found["lines"]), _by_origin(desk, found)),
        notes=tuple(desk.said(notice) for notice in found["notices"]),
        signatures=tuple(desk.word(f"document.sign.{who}") for who in SIGNED_BY),
        hashes=(
            (desk.word("document.hash.bundle"), found["bundle_sha256"]),
            (desk.word("document.hash.record"), found["hash"]),
            (desk.word("document.hash.content"), content_hash({k: v for k, v in found.items() if k != "case"})),
        ),
        demo=demo,
    )


def _by_origin(desk: Desk, found: Mapping[str, Any]) -> Any:
    sums: dict[str, dict[str, Any]] = {}
    names = ("device_ms", "fee_fen", "deduction_fen", "payable_fen")
    for line in found["lines"]:
        row = sums.setdefault(
            line["origin"], {"origin": desk.said(f"origin.{line['origin']}"), **dict.fromkeys(names, 0)}
        )
        for name in names:
            row[name] += line[name]
    columns = [("origin", Kind.TEXT), ("device_ms", Kind.HOURS), *((name, Kind.MONEY) for name in names[1:])]
    totals = {name: sum(line[name] for line in found["lines"]) for name in names}  # equal to the record, see above
    return desk.table("document.table.origins", [sums[name] for name in sorted(sums)], columns, totals)
