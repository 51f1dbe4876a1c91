"""The FOCUS export: sums agree with the statement, products are exact, and each row has the form it promises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.amount import fee_fen
from metering.focus import (
    COLUMNS,
    MANDATORY,
    QUANTITY_DIGITS,
    TOLERANCE_FEN,
    ZONE,
    BilledLine,
    billed_lines,
    billing_period,
    focus_rows,
    focus_schema,
    quantity,
    yuan,
)
from metering.statement import firm_statement
from tests.platform import FIRM, PROVIDER, job_text, make_platform

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "focus.json"
START = datetime(2026, 6, 1, 4, 0, 0, 250_000, tzinfo=UTC)


def line(**given: Any) -> BilledLine:
    """One line of eight devices for an hour at 20.00, 40% off."""
    values: dict[str, Any] = {
        "settlement": "settlement:job_a:1", "number": 1, "final": True, "settled_at": START + timedelta(hours=1),
        "hash": "a" * 64, "policy": "etown-2024-10", "bundle_sha256": "b" * 64, "job": "job_a", "job_name": "train",
        "firm": "F", "firm_name": "企业", "provider": "P", "provider_name": "服务商", "region": "beijing", "lease": "job_a.1",
        "model": "Ascend910B3", "origin": "domestic", "start": START, "end": START + timedelta(hours=1), "year": 2026,
        "device_ms": 28_800_000, "share_permille": 1000, "price_fen_per_device_hour": 2000, "fee_fen": 16_000,
        "rate_bp": 4000, "deduction_fen": 6_400, "payable_fen": 9_600, "reasons": (), "clauses": ("2.1.1",),
    }  # fmt: skip
    return BilledLine(**{**values, **given})


@st.composite
def lines(draw: st.DrawFn) -> BilledLine:
    ms, price = draw(st.integers(0, 10**13)), draw(st.integers(0, 10**8))
    share = draw(st.sampled_from([1, 125, 333, 500, 1000]))
    fee = fee_fen(price, ms, share)
    deduction = draw(st.integers(0, fee))
    return line(
        device_ms=ms, share_permille=share, price_fen_per_device_hour=price, fee_fen=fee,
        deduction_fen=deduction, payable_fen=fee - deduction,
    )  # fmt: skip


def total(rows: list[dict[str, str | None]], name: str) -> Decimal:
    return sum((Decimal(str(row[name])) for row in rows), Decimal(0))


@given(found=st.lists(lines(), max_size=5), voucher_as=st.sampled_from(["column", "credit"]))
def test_costs_sum_to_the_invoice_and_products_are_exact(found: list[BilledLine], voucher_as: str) -> None:
    rows = list(focus_rows(found, voucher_as))

    fee, payable = sum(item.fee_fen for item in found), sum(item.payable_fen for item in found)
    assert total(rows, "BilledCost") * 100 == (fee if voucher_as == "column" else payable)
    assert total(rows, "EffectiveCost") == total(rows, "BilledCost")
    assert total(rows, "x_NetPayable") * 100 == payable
    assert total(rows, "x_SubsidyCost") * 100 == fee - payable
    for row in rows:
        if row["ChargeCategory"] == "Usage":
            price, hours = Fraction(str(row["ListUnitPrice"])), Fraction(str(row["PricingQuantity"]))
            assert price * hours == Fraction(str(row["ListCost"])) == Fraction(str(row["ContractedCost"]))
            gap = Fraction(str(row["ListCost"])) - Fraction(str(row["BilledCost"]))
            assert abs(gap) * 100 <= TOLERANCE_FEN
        else:
            assert row["ListCost"] == row["ContractedCost"] == row["BilledCost"]
            assert row["ListUnitPrice"] is row["PricingQuantity"] is None


@given(found=lines(), voucher_as=st.sampled_from(["column", "credit"]))
def test_every_row_has_every_column_in_order_and_the_published_form(found: BilledLine, voucher_as: str) -> None:
    for row in focus_rows([found], voucher_as):
        assert tuple(row) == COLUMNS
        assert problems([row], focus_schema()) == []
        mandatory = set(MANDATORY) - {"ChargeClass"} - ({"PricingQuantity", "PricingUnit"} if _credit(row) else set())
        assert [name for name in mandatory if row[name] is None] == []


def _credit(row: Mapping[str, Any]) -> bool:
    return bool(row["ChargeCategory"] == "Credit")


def test_columns_are_the_standard_s_then_ours_each_in_alphabetical_order() -> None:
    standard = [name for name in COLUMNS if not name.startswith("x_")]
    own = [name for name in COLUMNS if name.startswith("x_")]

    assert list(COLUMNS) == standard + own
    # The specification's order is alphabetical but for periods, where End precedes Start all the same.
    assert standard == sorted(standard)
    assert own == sorted(own)
    assert set(MANDATORY) <= set(standard)


def test_a_voucher_is_a_column_or_a_credit_row() -> None:
    beside = list(focus_rows([line()], "column"))
    apart = list(focus_rows([line()], "credit"))

    assert [(r["ChargeCategory"], r["BilledCost"], r["x_SubsidyCost"], r["x_NetPayable"]) for r in beside] == [
        ("Usage", "160.00", "64.00", "96.00")
    ]
    assert [(r["ChargeCategory"], r["BilledCost"], r["x_SubsidyCost"], r["x_NetPayable"]) for r in apart] == [
        ("Usage", "160.00", "0.00", "160.00"),
        ("Credit", "-64.00", "64.00", "-64.00"),
    ]
    nothing = line(deduction_fen=0, payable_fen=16_000)
    assert len(list(focus_rows([nothing], "credit"))) == 1, "no row for a voucher that drew nothing"


def test_the_charge_period_covers_the_use_and_the_own_columns_give_it_to_the_millisecond() -> None:
    (row,) = focus_rows([line()])

    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2026-06-01T04:00:00Z", "2026-06-01T05:00:01Z")
    assert (row["x_ChargeStart"], row["x_ChargeEnd"]) == ("2026-06-01T04:00:00.250Z", "2026-06-01T05:00:00.250Z")
    whole = line(start=START.replace(microsecond=0), end=START.replace(hour=5, microsecond=0))
    (row,) = focus_rows([whole])
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2026-06-01T04:00:00Z", "2026-06-01T05:00:00Z")


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-05-31T15:59:59+00:00", "2026-04-30T16:00", "2026-05-31T16:00"),
        ("2026-05-31T16:00:00+00:00", "2026-05-31T16:00", "2026-06-30T16:00"),
        ("2026-12-31T15:59:59+00:00", "2026-11-30T16:00", "2026-12-31T16:00"),
        ("2026-12-31T16:00:00+00:00", "2026-12-31T16:00", "2027-01-31T16:00"),
    ],
)
def test_a_billing_period_is_a_month_of_beijing(at: str, start: str, end: str) -> None:
    first, after = billing_period(datetime.fromisoformat(at), ZONE)

    assert (f"{first:%Y-%m-%dT%H:%M}", f"{after:%Y-%m-%dT%H:%M}") == (start, end)


@given(ms=st.integers(0, 10**15), share=st.integers(1, 1000))
def test_a_quantity_is_within_half_its_last_digit(ms: int, share: int) -> None:
    gap = Fraction(quantity(ms, share)) - Fraction(ms * share, 3_600_000_000)

    assert abs(gap) <= Fraction(1, 2 * 10**QUANTITY_DIGITS)


@given(fen=st.integers(-(10**17), 10**17))
def test_yuan_is_exact(fen: int) -> None:
    assert Decimal(yuan(fen)) * 100 == fen
    assert re.fullmatch(r"-?[0-9]+\.[0-9]{2}", yuan(fen))


def test_a_price_reads_without_exponent() -> None:
    (row,) = focus_rows([line(price_fen_per_device_hour=1_000_000, device_ms=1, fee_fen=fee_fen(10**6, 1, 1000))])

    assert (row["ListUnitPrice"], row["PricingQuantity"]) == ("10000", "0.000000277778")
    assert row["ListCost"] == "0.00277778"
    assert row["ConsumedQuantity"] == "0.001"


@pytest.mark.parametrize("wrong", ["", "row", "CREDIT", None])
def test_another_setting_is_refused_with_both_that_there_are(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"voucher_as: {wrong!r} is neither 'column' nor 'credit'"):
        list(focus_rows([line()], wrong))


def test_an_export_is_what_the_firm_s_statement_says(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    for name, accelerators in (("a", "Ascend910B3:7"), ("b", "H800:8")):
        job = platform.submit(name, job_text(name, accelerators))
        platform.loop.tick()
        platform.clock.advance(3599.777)
        platform.beat()
        platform.backend.end(f"{job}.1", 0)
        platform.loop.tick()
    with platform.database.read() as tx:
        found = billed_lines(tx)
        said = firm_statement(tx, FIRM)
        assert billed_lines(tx, "another") == []
        assert billed_lines(tx, FIRM, end=found[0].settled_at) == []
        assert billed_lines(tx, FIRM, start=found[0].settled_at, end=platform.clock.now() + timedelta(1)) == found

    assert {(item.origin, item.price_fen_per_device_hour) for item in found} == {("domestic", 2000), ("foreign", 1800)}
    assert {(item.provider, item.region, item.firm_name) for item in found} == {(PROVIDER, "beijing", "firm")}
    for voucher_as, name in (("column", "fee_fen"), ("credit", "payable_fen")):
        rows = list(focus_rows(found, voucher_as))
        assert total(rows, "BilledCost") * 100 == said["totals"][name]
        assert said["totals"][name] > 0
        assert problems(rows, json.loads(SCHEMA.read_text(encoding="utf-8"))) == []


# --- the published form -------------------------------------------------------------------------------------------


def problems(value: Any, schema: Mapping[str, Any], where: str = "") -> list[str]:
    """What a value breaks of a schema made of the few words that focus.json uses."""
    known = {"$schema", "title", "type", "items", "additionalProperties", "required", "properties", "anyOf", "enum"}
    assert set(schema) <= known | {"const", "pattern"}, "a word this validator does not know"
    found: list[str] = []
    kinds = {"string": str, "null": type(None), "array": list, "object": dict}
    wanted = schema.get("type", [])
    if wanted and not isinstance(
        value, tuple(kinds[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
    ):
        return [f"{where}: type"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: enum")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: const")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where}: pattern")
    if "anyOf" in schema and all(problems(value, one) for one in schema["anyOf"]):
        found.append(f"{where}: anyOf")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += problems(item, schema["items"], f"{where}/{number}")
    if isinstance(value, dict):
        found += [f"{where}/{name}: missing" for name in schema["required"] if name not in value]
        found += [f"{where}/{name}: unknown" for name in value if name not in schema["properties"]]
        for name in value.keys() & schema["properties"].keys():
            found += problems(value[name], schema["properties"][name], f"{where}/{name}")
    return found


def test_the_published_schema_is_the_code_s() -> None:
    """Write it again with: json.dumps(focus_schema(), indent=2, ensure_ascii=False) and a line end."""
    assert SCHEMA.read_text(encoding="utf-8") == json.dumps(focus_schema(), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BilledCost", "1.5"),
        ("BilledCost", None),
        ("BilledCost", 160.0),
        ("ChargeCategory", "Discount"),
        ("ChargeClass", "Refund"),
        ("ChargePeriodStart", "2026-06-01 04:00:00"),
        ("ListCost", "1e3"),
        ("BillingCurrency", "USD"),
        ("x_PolicyHash", "b" * 63),
        ("x_More", "1"),
    ],
)
def test_the_schema_refuses_what_is_not_its_form(name: str, value: Any) -> None:
    (row,) = focus_rows([replace(line(), reasons=("FIRM_CAP_REACHED",))])

    assert problems([row], focus_schema()) == []
    assert problems([{**row, name: value}], focus_schema())[0].startswith(f"/0/{name}")
