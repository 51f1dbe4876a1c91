"""FOCUS: what firms are billed, as rows of the FinOps Open Cost and Usage Specification, Cost and Usage dataset, 1.4.

    focus_rows(billed_lines(tx, firm, start, end), voucher_as="credit") -> rows

Money is yuan as exact decimal text. ListCost is ListUnitPrice × PricingQuantity to the last digit, unrounded; BilledCost is
the fee as settled, rounded once to the fen, so the two differ by half a fen at most (`TOLERANCE_FEN`).
The voucher is either columns of the usage row (the provider invoices the fee, the treasury pays its part) or a Credit row
of its own (the invoice is net): `voucher_as`. Rows of one InvoiceId sum to that invoice in BilledCost either way.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, select

from adapters.chain import instant, timestamp
from metering.amount import MS_PER_HOUR, PERMILLE
from metering.schema import firms, providers, settlement_lines, settlements, sites
from scheduler.clock import from_ms, to_ms
from scheduler.schema import jobs

ZONE = ZoneInfo("Asia/Shanghai")  # billing periods are months of the policy's calendar
CURRENCY = "CNY"
PRICING_UNIT, CONSUMED_UNIT = "Device-Hours", "Device-Seconds"  # FOCUS unit format: singular count noun, plural time
QUANTITY_DIGITS = 12  # decimals of PricingQuantity: an hour over 3.6 × 10^9 does not end in decimals
TOLERANCE_FEN = Fraction(1, 2) + Fraction(1, 10**3)  # rounding of the fee, and of a quantity priced below ¥10^7 an hour

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ServiceCategory", "ServiceName", "ServiceProviderName",
)  # fmt: skip
STANDARD = (  # those of the 65 that this platform has something to say in, in the specification's order
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "HostProviderName", "InvoiceDetailId", "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingCategory", "PricingCurrency", "PricingQuantity", "PricingUnit", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory",
    "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId",
)  # fmt: skip
OWN = (
    "x_ChargeEnd", "x_ChargeStart", "x_ChipOrigin", "x_Clauses", "x_DeviceSeconds", "x_JobId", "x_LocalYear",
    "x_NetPayable", "x_PolicyHash", "x_PolicyId", "x_Reasons", "x_SettlementFinal", "x_SettlementHash", "x_SubsidyCost",
    "x_VoucherRate",
)  # fmt: skip
COLUMNS = STANDARD + OWN
Row = dict[str, str | None]


class VoucherAs(enum.StrEnum):
    """Where the voucher stands: beside the full fee, or as a charge of its own below zero."""

    COLUMN = "column"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledLine:
    """One settlement line with what its settlement and its case say of it. devices' share in permille; times aware."""

    settlement: str
    number: int
    final: bool
    settled_at: datetime
    hash: str
    policy: str
    bundle_sha256: str
    job: str
    job_name: str
    firm: str
    firm_name: str
    provider: str
    provider_name: str
    region: str | None
    lease: str
    model: str
    origin: str
    start: datetime
    end: datetime
    year: int
    device_ms: int
    share_permille: int
    price_fen_per_device_hour: int
    fee_fen: int
    rate_bp: int
    deduction_fen: int
    payable_fen: int
    reasons: tuple[str, ...]
    clauses: tuple[str, ...]


def focus_rows(lines: Iterable[BilledLine], voucher_as: str = VoucherAs.COLUMN) -> Iterator[Row]:
    """One Usage row per line, and with `credit` one Credit row after each line that draws. Keys are COLUMNS, in order.

    Σ BilledCost is Σ fee (column) or Σ payable (credit); Σ x_NetPayable is Σ payable and Σ x_SubsidyCost is Σ deduction
    either way. Raises ValueError for another voucher_as.
    """
    if voucher_as not in tuple(VoucherAs):
        raise ValueError(f"voucher_as: {voucher_as!r} is neither 'column' nor 'credit'")
    credit = voucher_as == VoucherAs.CREDIT
    for line in lines:
        yield _ordered(_usage(line, credit=credit))
        if credit and line.deduction_fen:
            yield _ordered(_credit(line))


def _usage(line: BilledLine, *, credit: bool) -> Row:
    hours = quantity(line.device_ms, line.share_permille)
    price = Decimal(line.price_fen_per_device_hour).scaleb(-2)
    cost = plain(_EXACT.multiply(price, hours))
    return {
        **_common(line),
        "BilledCost": yuan(line.fee_fen),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{line.model}, {line.origin}, lease {line.lease}",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": _seconds(line),
        "ConsumedUnit": CONSUMED_UNIT,
        "ContractedCost": cost,  # no discount is contracted: a voucher is a grant after the fact
        "ContractedUnitPrice": plain(price),
        "EffectiveCost": yuan(line.fee_fen),
        "InvoiceDetailId": f"{line.settlement}#{line.number}",
        "ListCost": cost,
        "ListUnitPrice": plain(price),
        "PricingCategory": "Standard",
        "PricingQuantity": plain(hours),
        "PricingUnit": PRICING_UNIT,
        "SkuId": f"{line.provider}/{line.model}",
        "SkuMeter": "Device time",
        "SkuPriceDetails": json.dumps({"x_ChipOrigin": line.origin, "x_DeviceModel": line.model}, ensure_ascii=False),
        "SkuPriceId": f"{line.provider}/{line.model}/{line.price_fen_per_device_hour}",
        "x_DeviceSeconds": _seconds(line),
        "x_NetPayable": yuan(line.fee_fen if credit else line.payable_fen),
        "x_SubsidyCost": yuan(0 if credit else line.deduction_fen),
    }


def _credit(line: BilledLine) -> Row:
    """The voucher's part below zero. A charge unrelated to a price: ListCost and ContractedCost are BilledCost."""
    amount = yuan(-line.deduction_fen)
    return {
        **_common(line),
        "BilledCost": amount,
        "ChargeCategory": "Credit",
        "ChargeDescription": f"Compute voucher on lease {line.lease}, {line.policy}",
        "ChargeFrequency": "One-Time",
        "ContractedCost": amount,
        "EffectiveCost": amount,
        "InvoiceDetailId": f"{line.settlement}#{line.number}/voucher",
        "ListCost": amount,
        "x_NetPayable": amount,
        "x_SubsidyCost": yuan(line.deduction_fen),
    }


def _common(line: BilledLine) -> Row:
    first, after = billing_period(line.settled_at, ZONE)
    return {
        "BillingAccountId": line.firm,
        "BillingAccountName": line.firm_name,
        "BillingAccountType": "Firm",
        "BillingCurrency": CURRENCY,
        "BillingPeriodStart": _second(first),
        "BillingPeriodEnd": _second(after),
        "ChargePeriodStart": _second(line.start),
        "ChargePeriodEnd": _second(line.end + timedelta(milliseconds=999)),  # to the second, and never less than used
        "HostProviderName": line.provider_name,
        "InvoiceId": line.settlement,
        "InvoiceIssuerName": line.provider_name,
        "PricingCurrency": CURRENCY,
        "RegionId": line.region,
        "RegionName": line.region,
        "ResourceId": line.lease,
        "ResourceName": line.job_name,
        "ResourceType": "Lease",
        "ServiceCategory": "Compute",
        "ServiceName": "Accelerator lease",
        "ServiceProviderName": line.provider_name,
        "ServiceSubcategory": "Other (Compute)",
        "x_ChargeStart": timestamp(line.start),
        "x_ChargeEnd": timestamp(line.end),
        "x_ChipOrigin": line.origin,
        "x_Clauses": " ".join(line.clauses) or None,
        "x_JobId": line.job,
        "x_LocalYear": str(line.year),
        "x_PolicyHash": line.bundle_sha256,
        "x_PolicyId": line.policy,
        "x_Reasons": " ".join(line.reasons) or None,
        "x_SettlementFinal": "true" if line.final else "false",
        "x_SettlementHash": line.hash,
        "x_VoucherRate": plain(Decimal(line.rate_bp).scaleb(-4)),
    }


def _ordered(row: Row) -> Row:
    return {name: row.get(name) for name in COLUMNS}


# --- quantities ---------------------------------------------------------------------------------------------------

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


def quantity(device_ms: int, share_permille: int = PERMILLE) -> Decimal:
    """Device-hours to QUANTITY_DIGITS decimals, half to even: 1 ms of one device is 0.000000277778."""
    exact = _EXACT.divide(Decimal(device_ms * share_permille), Decimal(MS_PER_HOUR * PERMILLE))
    return exact.quantize(Decimal(1).scaleb(-QUANTITY_DIGITS), context=_EXACT)


def yuan(fen: int) -> str:
    """Fen as yuan with two decimals and nothing else: -123456 is -1234.56."""
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02d}"


def plain(value: Decimal) -> str:
    """A decimal without exponent and without noughts at its end, as the FOCUS numeric format asks."""
    written = f"{value:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _seconds(line: BilledLine) -> str:
    return plain(Decimal(line.device_ms * line.share_permille).scaleb(-6))


def billing_period(at: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The local calendar month around an instant, [start, end) in UTC: the month whose books the settlement is in."""
    first = at.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.astimezone(UTC), after.astimezone(UTC)


def _second(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# --- what is on record --------------------------------------------------------------------------------------------


def billed_lines(
    tx: Connection, firm: str | None = None, start: datetime | None = None, end: datetime | None = None
) -> list[BilledLine]:
    """Lines of the latest settlement of each job, of those settled in [start, end): the set of a firm's statement.

    firm: only that firm's. Oldest settlement first, lines in their order. A job's earlier interim settlements are left
    out, since its latest one stands for the whole.
    """
    query = select(settlements).order_by(settlements.c.seq)
    latest: dict[str, RowMapping] = {}
    for row in tx.execute(query if firm is None else query.where(settlements.c.firm == firm)).mappings():
        latest.pop(row["job"], None)
        latest[row["job"]] = row
    named = {t.name: {r.id: r.name for r in tx.execute(select(t.c.id, t.c.name))} for t in (firms, providers, jobs)}
    regions = {row.id: row.region for row in tx.execute(select(sites.c.id, sites.c.region))}
    found: list[BilledLine] = []
    for row in latest.values():
        if (start is None or row["settled_at_ms"] >= to_ms(start)) and (
            end is None or row["settled_at_ms"] < to_ms(end)
        ):
            found.extend(_lines(tx, row, named, regions))
    return found


def _lines(
    tx: Connection, row: RowMapping, named: Mapping[str, Mapping[str, str]], regions: Mapping[str, str]
) -> Iterator[BilledLine]:
    entries = json.loads(row["case_json"])["usage"]
    query = select(settlement_lines).where(settlement_lines.c.settlement == row["id"])
    copied = ("lease", "model", "origin", "year", "device_ms", "fee_fen", "rate_bp", "deduction_fen", "payable_fen")
    for line in tx.execute(query.order_by(settlement_lines.c.number)).mappings():
        entry = _entry(entries, line)
        yield BilledLine(
            settlement=row["id"],
            number=line["number"],
            final=bool(row["final"]),
            settled_at=from_ms(row["settled_at_ms"]),
            hash=row["hash"],
            policy=row["policy"],
            bundle_sha256=row["bundle_sha256"],
            job=row["job"],
            job_name=named["jobs"].get(row["job"], row["job"]),
            firm=row["firm"],
            firm_name=named["firms"].get(row["firm"], row["firm"]),
            provider=line["provider"],
            provider_name=named["providers"].get(line["provider"], line["provider"]),
            region=regions.get(entry.get("site") or ""),
            start=from_ms(line["start_ms"]),
            end=from_ms(line["end_ms"]),
            share_permille=entry.get("share_permille", PERMILLE),
            price_fen_per_device_hour=entry["price_fen_per_device_hour"],
            reasons=tuple(json.loads(line["reasons"])),
            clauses=tuple(json.loads(line["clauses"])),
            **{name: line[name] for name in copied},
        )


def _entry(entries: Iterable[Mapping[str, Any]], line: RowMapping) -> Mapping[str, Any]:
    """The usage entry of the settlement's case that the line was cut from: it carries the price and the share."""
    for entry in entries:
        if entry["lease"] != line["lease"] or entry["model"] != line["model"]:
            continue
        if to_ms(instant(entry["start"])) <= line["start_ms"] and line["end_ms"] <= to_ms(instant(entry["end"])):
            return entry
    raise LookupError(f"line {line['number']} of {line['settlement']} is in no usage entry of its case")


# --- the form of the rows -----------------------------------------------------------------------------------------

_AMOUNT = {"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{2}$"}
_DECIMAL = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
_INSTANT = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}
_WITH_MS = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXT = {"type": "string", "pattern": "."}
_CURRENCY = {"const": CURRENCY}
_FORMS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("BilledCost", "EffectiveCost", "x_NetPayable", "x_SubsidyCost"), _AMOUNT),
    **dict.fromkeys(("ContractedCost", "ListCost", "x_VoucherRate"), _DECIMAL),
    **dict.fromkeys(("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"), _INSTANT),
    **dict.fromkeys(("x_ChargeStart", "x_ChargeEnd"), _WITH_MS),
    **dict.fromkeys(("BillingCurrency", "PricingCurrency"), _CURRENCY),
    **dict.fromkeys(("x_PolicyHash", "x_SettlementHash"), _HASH),
    "ChargeCategory": {"enum": ["Usage", "Purchase", "Tax", "Credit", "Adjustment"]},
    "ChargeClass": {"enum": [None, "Correction"]},
    "ChargeFrequency": {"enum": ["One-Time", "Recurring", "Usage-Based"]},
    "ServiceCategory": {"const": "Compute"},
    "x_ChipOrigin": {"enum": ["domestic", "foreign", "undetermined"]},
    "x_LocalYear": {"type": "string", "pattern": "^[0-9]{4}$"},
    "x_SettlementFinal": {"enum": ["true", "false"]},
}
_ONLY_USAGE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ConsumedQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingQuantity"), _DECIMAL),
    "x_DeviceSeconds": _DECIMAL,
    "ConsumedUnit": {"const": CONSUMED_UNIT},
    "PricingCategory": {"const": "Standard"},
    "PricingUnit": {"const": PRICING_UNIT},
    **dict.fromkeys(("SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId"), _TEXT),
}
_OPEN = ("RegionId", "RegionName", "x_Clauses", "x_Reasons")


def focus_schema() -> dict[str, Any]:
    """JSON Schema of an export: an array of rows, every column present, null where it does not apply. docs/schemas."""

    def form(name: str) -> dict[str, Any]:
        if name in _ONLY_USAGE:
            return {"anyOf": [_ONLY_USAGE[name], {"type": "null"}]}
        return {"type": ["string", "null"]} if name in _OPEN else _FORMS.get(name, _TEXT)

    row = {
        "type": "object",
        "additionalProperties": False,
        "required": list(COLUMNS),
        "properties": {name: form(name) for name in COLUMNS},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "yisuan export focus: rows of FOCUS 1.4 Cost and Usage; numbers are exact decimal text",
        "type": "array",
        "items": row,
    }
