"""Records as the books give them, for the tests of documents: a settlement, a batch, an application."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

AT = datetime(2026, 6, 3, 1, 2, 3, tzinfo=UTC)
LONG_NAME = "北京经济技术开发区" + "亦庄新城智能算力科技发展" * 7 + "有限责任公司"  # 99 Han characters
HOSTILE = "=cmd|'/C calc'!A1 <script>alert(\"x\")</script> & </font> 𬭳"


def line(number: int = 1, **given: Any) -> dict[str, Any]:
    values = {
        "lease": f"job_a.{number}", "provider": "91110302MA0YDEMA0X", "model": "Ascend910B3", "origin": "domestic",
        "start": "2026-06-01T04:00:00.000Z", "end": "2026-06-01T05:00:00.000Z", "year": 2026, "device_ms": 28_800_000,
        "fee_fen": 16_000, "rate_bp": 4000, "deduction_fen": 6_400, "payable_fen": 9_600, "reasons": [],
        "clauses": ["2.1.1"],
    }  # fmt: skip
    return {**values, **given}


def settlement(lines: list[dict[str, Any]] | None = None, **given: Any) -> dict[str, Any]:
    """As api.queries.settlement gives it."""
    kept = [line()] if lines is None else lines
    names = ("fee_fen", "deduction_fen", "payable_fen")
    totals = {name: sum(item[name] for item in kept) for name in names}
    values = {
        "seq": 1, "id": "settlement:job_a:1", "job": "job_a", "firm": "91110302MA01A2B3C4", "number": 1,
        "policy": "etown-2024-10", "bundle_sha256": "b" * 64, "spec_sha256": "c" * 64, "voucher": "drawn", "hash": "a" * 64,
        "final": True, "settled_at": "2026-06-01T05:00:01.000Z", "notices": ["POLICY_UNDER_CONFIRMATION"],
        "totals": {**totals, "ceiling_fen": totals["deduction_fen"]}, "lines": kept, "case": {},
    }  # fmt: skip
    return {**values, **given}


def statement(**given: Any) -> dict[str, Any]:
    """As metering.statement.job_statement gives it."""
    found = settlement(**given)
    unbilled = {
        "lease": "job_a.2", "model": "Ascend910B3", "kind": "lost", "cause": "node_fail", "devices": 8,
        "start": "2026-06-01T05:00:00.000Z", "end": "2026-06-01T05:00:07.200Z", "device_ms": 57_600,
    }  # fmt: skip
    kept = (
        "job",
        "firm",
        "final",
        "settled_at",
        "voucher",
        "policy",
        "bundle_sha256",
        "spec_sha256",
        "notices",
        "lines",
    )
    return {
        **{name: found[name] for name in kept},
        "settlement": found["id"],
        "name": "train",
        "totals": found["totals"],
        "unbilled": [unbilled],
    }


def batch(**given: Any) -> dict[str, Any]:
    """As metering.clearing.batch_document gives it."""
    items = [
        {
            "settlement": f"settlement:job_{n}:1", "job": f"job_{n}", "firm": "91110302MA01A2B3C4", "firm_name": LONG_NAME,
            "fee_fen": 1_600_000_00, "deduction_fen": 640_000_00, "payable_fen": 960_000_00, "contract": "HT-2026-001",
            "invoice": "24112000000012345678", "slip": None if n else "HD-77",
        }
        for n in range(3)
    ]  # fmt: skip
    values = {
        "id": "batch_1", "programme": "compute_voucher", "year": 2026, "state": "approved",
        "provider": "91110302MA0YDEMA0X", "provider_name": "示范算力有限公司", "opened_at": "2026-07-01T00:00:00.000Z",
        "items": items,
        "totals": {"fee_fen": 480_000_000, "deduction_fen": 192_000_000, "payable_fen": 288_000_000},
        "merkle_root": "d" * 64,
        "acts": [{"act": "submit", "by": "provider", "at": "2026-07-02T00:00:00.000Z", "reason": None},
                 {"act": "approve", "by": "finance", "at": "2026-07-03T00:00:00.000Z", "reason": "三单一致"}],
        "payments": [{"id": "pay_1", "amount_fen": 192_000_000, "at": "2026-07-05T00:00:00.000Z", "reference": "HD-9"}],
    }  # fmt: skip
    return {**values, **given}


def application(**given: Any) -> dict[str, Any]:
    """As metering.subsidy.application_document gives it."""
    contract = {
        "seq": 1, "id": "contract_1", "number": "CG-1", "programme": "server_subsidy", "buyer": "91110302MA0YDEMA0X",
        "seller": "91110302MA0YDEMA1X", "project": "P-2026-1", "signed_on": "2026-01-01", "amount_fen": 500_000_000,
        "tax_basis": "tax_included", "support_cap_fen": 0, "recorded_by": "op", "evidence": {"sha256": "e" * 64},
        "from": "2026-01-01T00:00:00.000Z", "to": "2027-01-01T00:00:00.000Z",
        "items": [{"description": "昇腾服务器", "model": "Ascend910B3", "quantity": 8, "amount_fen": 500_000_000,
                   "domestic": True}],
    }  # fmt: skip
    bill = {
        "seq": 1, "number": "FP-1", "contract": "contract_1", "issuer": "91110302MA0YDEMA1X", "buyer": "91110302MA0YDEMA0X",
        "amount_fen": 500_000_000, "tax_fen": 57_522_124, "issued_on": "2026-02-01", "sha256": "f" * 64, "corrects": None,
        "jobs": [], "paid_fen": 500_000_000, "net_fen": 500_000_000,
    }  # fmt: skip
    step = {"clause": "2.1.2", "source": "contract:contract_1"}
    values = {
        "id": "subsidy_1", "provider": "91110302MA0YDEMA0X", "provider_name": "示范算力有限公司", "project": "P-2026-1",
        "name": "一期", "state": "drafted", "policy": "etown-2024-10", "bundle_sha256": "b" * 64, "contract": contract,
        "invoices": [bill],
        "payments": [{"reference": "HD-1", "invoice": "FP-1", "amount_fen": 500_000_000, "sha256": "a" * 64,
                      "paid_at": "2026-02-02T00:00:00.000Z"}],
        "serials": [{"serial": "SN1", "device": "GPU-1", "model": "Ascend910B3",
                     "listed_from": "2026-03-01T00:00:00.000Z", "listed_to": None}],
        "listing": [{"pool": "ascend", "from": "2026-03-01T00:00:00.000Z", "to": None, "status": "listed", "reason": ""}],
        "availability": {"probes": 1000, "listed": 1000, "available": 993, "permille": 993},
        "served": {"device_ms": 36_000_000, "unrelated_device_ms": 18_000_000, "customers": 3,
                   "top_customer_permille": 500, "own_use_permille": None},
        "computation": [{"step": "domestic_part_bought", "value": 500_000_000, "unit": "fen", **step},
                        {"step": "rate", "value": 1000, "unit": "basis_point", **step},
                        {"step": "amount", "value": 50_000_000, "unit": "fen", **step}],
        "amount_fen": 50_000_000, "reasons": ["PROJECT_CAP_REACHED"],
        "acts": [{"act": "draft", "by": "p", "role": "provider", "at": "2026-07-02T00:00:00.000Z", "reason": ""}],
    }  # fmt: skip
    return {**values, **given}


def firm() -> dict[str, Any]:
    """As metering.statement.firm_statement gives it."""
    totals = {"fee_fen": 16_000, "ceiling_fen": 6_400, "deduction_fen": 6_400, "payable_fen": 9_600}
    sums = {"fee_fen": 16_000, "deduction_fen": 6_400, "payable_fen": 9_600, "device_ms": 28_800_000}
    return {
        "firm": "91110302MA01A2B3C4", "name": LONG_NAME, "from": "2026-05-31T16:00:00.000Z", "to": None,
        "jobs": [{"job": "job_a", "name": "train", "settled_at": "2026-06-01T05:00:01.000Z", "final": False, "totals": totals}],
        "totals": totals, "by_origin": {"domestic": sums},
        "rooms": {"pool": {"2026": 9_999_993_600}, "firm": {"2026": 1_999_993_600}}, "right": None,
    }  # fmt: skip
