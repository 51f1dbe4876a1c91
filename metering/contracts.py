"""Contracts, invoices 发票 and bank slips 回单: the papers that clearing matches with settlements, for every programme.

Each paper is an append-only record with the SHA-256 of its document; a number or reference exists once in the whole zone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select

from adapters.chain import canonical, timestamp
from metering import acts, store
from metering.ledger import (
    PROGRAMME,
    Code,
    Phase,
    Programme,
    Transfer,
    cap_source,
    contract_room,
    firm_payable,
    provider_received,
)
from metering.programme_schema import contracts, invoice_jobs, invoices, slips
from metering.refunding import shares
from metering.schema import firms, providers, settlements
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import jobs

TAX_BASES = ("tax_included", "tax_excluded")


def record_contract(
    tx: Connection,
    *,
    id: str,  # noqa: A002 - the word of the format
    number: str,
    programme: str,
    buyer: str,
    seller: str,
    signed_on: str,
    start: datetime,
    end: datetime,
    amount_fen: int,
    tax_basis: str,
    support_cap_fen: int | None,
    project: str | None,
    items: Sequence[Mapping[str, Any]],
    evidence: Mapping[str, Any],
    by: str,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """The contract is on record, for good; a compute contract's room is open, at its support cap or its whole amount.

    items: [{description, model, quantity, amount_fen, domestic}], whose amounts sum to the contract's. Recording the same
    again changes nothing; another contract under the same id, or the same number of the same seller, is refused.
    """
    if not start < end:
        return Refusal(code="TERM_EMPTY", facts={"from": timestamp(start), "to": timestamp(end)})
    if support_cap_fen is not None and support_cap_fen > amount_fen:
        return Refusal(
            code="SUPPORT_CAP_TOO_LARGE", facts={"support_cap_fen": support_cap_fen, "amount_fen": amount_fen}
        )
    if items and sum(int(item["amount_fen"]) for item in items) != amount_fen:
        total = sum(int(item["amount_fen"]) for item in items)
        return Refusal(code="ITEMS_DO_NOT_SUM", facts={"items_fen": total, "amount_fen": amount_fen})
    if programme == Programme.COMPUTE_VOUCHER and (
        store.known(tx, firms, buyer) is None or store.known(tx, providers, seller) is None
    ):
        return Refusal(code="PARTY_UNKNOWN", facts={"buyer": buyer, "seller": seller})
    cap = amount_fen if support_cap_fen is None else support_cap_fen
    body = {
        "id": id,
        "number": number,
        "programme": programme,
        "buyer": buyer,
        "seller": seller,
        "project": project,
        "signed_on": signed_on,
        "from_ms": to_ms(start),
        "to_ms": to_ms(end),
        "amount_fen": amount_fen,
        "tax_basis": tax_basis,
        "support_cap_fen": cap,
        "items": canonical([dict(item) for item in items]).decode(),
        "evidence": canonical(dict(evidence)).decode(),
    }
    same = (contracts.c.id == id) | ((contracts.c.seller == seller) & (contracts.c.number == number))
    refusal = _once(tx, contracts, same, body)
    if refusal is not None or _known(tx, contracts, contracts.c.id == id):
        return refusal or contract(tx, id) or {}
    journal.append(tx, contracts, {**body, "recorded_at_ms": to_ms(now), "recorded_by": by})
    if programme == Programme.COMPUTE_VOUCHER:
        opened = Transfer(
            id=f"open_room:contract:{id}",
            phase=Phase.POSTED,
            code=Code.OPEN_ROOM,
            debit=cap_source(PROGRAMME),
            credit=contract_room(id),
            amount_fen=cap,
        )
        store.post(tx, opened, now)
    return contract(tx, id) or {}


def record_invoice(
    tx: Connection,
    *,
    number: str,
    contract_id: str,
    amount_fen: int,
    tax_fen: int,
    issued_on: str,
    sha256: str,
    job_ids: Sequence[str],
    corrects: str | None,
    by: str,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """The invoice bills these jobs of its contract, to the fen, and no other invoice ever bills them.

    Its parties are the contract's. Σ fee of the jobs' final settlements, refunds taken off, is its amount (R: Σ lines =
    invoice total), and all invoices of a contract stay within the contract's amount (R18). corrects: a supplement, or a
    red one 红字 with a negative amount, that brings the invoice it cites to what its jobs come to now.
    """
    found = contract(tx, contract_id)
    if found is None:
        return Refusal(code="CONTRACT_UNKNOWN", facts={"contract": contract_id})
    body = {
        "number": number,
        "contract": contract_id,
        "issuer": found["seller"],
        "buyer": found["buyer"],
        "amount_fen": amount_fen,
        "tax_fen": tax_fen,
        "issued_on": issued_on,
        "sha256": sha256,
        "corrects": corrects,
    }
    refusal = _once(tx, invoices, invoices.c.number == number, body)
    if refusal is not None or _known(tx, invoices, invoices.c.number == number):
        return refusal or invoice(tx, number) or {}
    if abs(tax_fen) > abs(amount_fen) or (amount_fen < 0 and corrects is None):
        return Refusal(code="TAX_TOO_LARGE", facts={"tax_fen": tax_fen, "amount_fen": amount_fen})
    query = select(func.coalesce(func.sum(invoices.c.amount_fen), 0)).where(invoices.c.contract == contract_id)
    billed = int(tx.execute(query).scalar_one())
    if billed + amount_fen > found["amount_fen"]:
        facts = {"contract": contract_id, "left_fen": found["amount_fen"] - billed, "amount_fen": amount_fen}
        return Refusal(code="CONTRACT_AMOUNT_PASSED", facts=facts)
    if corrects is not None:
        refusal = _corrects(tx, contract_id, corrects, amount_fen, job_ids)
    elif found["programme"] == PROGRAMME:
        refusal = _jobs_match(tx, found, amount_fen, job_ids)
    elif job_ids:
        refusal = Refusal(
            code="JOBS_NOT_OF_PROGRAMME", facts={"contract": contract_id, "programme": found["programme"]}
        )
    if refusal is not None:
        return refusal
    journal.append(tx, invoices, {**body, "recorded_at_ms": to_ms(now), "recorded_by": by})
    for job in job_ids:
        journal.append(tx, invoice_jobs, {"invoice": number, "job": job})
    return invoice(tx, number) or {}


def _corrects(
    tx: Connection, contract_id: str, corrects: str, amount_fen: int, job_ids: Sequence[str]
) -> Refusal | None:
    """None for a supplement that leaves what the jobs come to now, or a red one that leaves nothing: the invoice is void."""
    known = invoice(tx, corrects)
    if known is None or known["contract"] != contract_id or known["corrects"] is not None or job_ids:
        return Refusal(code="INVOICE_UNKNOWN", facts={"invoice": corrects})
    left = known["net_fen"] + amount_fen
    dues = [due_to(tx, job, known["issuer"]) for job in known["jobs"]]
    total = sum(due["fee_fen"] for due in dues if due is not None)
    matches = left == total if known["jobs"] else left >= 0
    if left and not matches:
        facts = {"amount_fen": amount_fen, "settled_fen": total - known["net_fen"]}
        return Refusal(code="INVOICE_DOES_NOT_MATCH", facts=facts)
    return None


def _jobs_match(tx: Connection, found: Mapping[str, Any], amount_fen: int, job_ids: Sequence[str]) -> Refusal | None:
    if len(set(job_ids)) != len(job_ids):
        return Refusal(code="JOB_TWICE", facts={"job": next(job for job in job_ids if job_ids.count(job) > 1)})
    total = 0
    for job in job_ids:
        if invoice_of_job(tx, job, found["seller"]) is not None:
            return Refusal(code="JOB_ALREADY_INVOICED", facts={"job": job})
        due = due_to(tx, job, found["seller"])
        if due is None or due["firm"] != found["buyer"]:
            return Refusal(code="NOT_SETTLED", facts={"job": job})
        asked = json.loads(tx.execute(select(jobs.c.spec).where(jobs.c.id == job)).scalar() or "{}")
        named = asked.get("money", {}).get("contract")
        if named != found["id"] and (named is not None or found["support_cap_fen"] < found["amount_fen"]):
            # A contract with a cap of its own bounds only the jobs that name it, so only they may be billed under it.
            return Refusal(code="JOB_OF_ANOTHER_CONTRACT", facts={"job": job, "contract": found["id"]})
        total += due["fee_fen"]
    if total != amount_fen:
        return Refusal(code="INVOICE_DOES_NOT_MATCH", facts={"amount_fen": amount_fen, "settled_fen": total})
    return None


def invoice_of_job(tx: Connection, job: str, issuer: str) -> str | None:
    """The invoice with which a provider bills a job now; None if there is none, or it was voided."""
    query = (
        select(invoices.c.number)
        .join(invoice_jobs, invoice_jobs.c.invoice == invoices.c.number)
        .where(invoice_jobs.c.job == job, invoices.c.issuer == issuer)
        .order_by(invoices.c.seq.desc())
    )
    for number in list(tx.execute(query).scalars()):
        found = invoice(tx, number)
        if found is not None and not found["voided"]:
            return str(number)
    return None


def due_to(tx: Connection, job: str, provider: str) -> dict[str, Any] | None:
    """What a job's final settlement, less refunds, says of one provider: {settlement, firm, fee_fen, deduction_fen,
    payable_fen, by_year: {year: deduction}}. None while there is no final settlement."""
    query = select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc())
    row = tx.execute(query).mappings().first()
    if row is None or not row["final"]:
        return None
    fee = deduction = 0
    by_year: dict[int, int] = {}
    for part in shares(tx, job, row["id"]):
        left_fee = part.billed.fee_fen - part.fee_fen
        left = part.billed.deduction_fen - part.voucher_fen
        if part.billed.provider != provider:
            continue
        fee += left_fee
        deduction += left
        by_year[part.billed.year] = by_year.get(part.billed.year, 0) + left
    return {
        "settlement": row["id"],
        "firm": row["firm"],
        "fee_fen": fee,
        "deduction_fen": deduction,
        "payable_fen": fee - deduction,
        "by_year": by_year,
    }


def record_slip(
    tx: Connection,
    *,
    reference: str,
    invoice_number: str,
    payer: str,
    amount_fen: int,
    paid_at: datetime,
    sha256: str,
    by: str,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """The payment of the firm's own share is on record and in the books; a slip's reference counts once.

    A slip of a supplement counts for the invoice it corrects. When the slips of an invoice reach its amount less the
    voucher's part, its settlements are firm_paid; more than the invoice's amount cannot be paid on it.
    """
    found = invoice(tx, invoice_number)
    if found is not None and found["corrects"] is not None:
        invoice_number = str(found["corrects"])
        found = invoice(tx, invoice_number)
    if found is None:
        return Refusal(code="INVOICE_UNKNOWN", facts={"invoice": invoice_number})
    if amount_fen <= 0:
        return Refusal(code="AMOUNT_NOT_POSITIVE", facts={"amount_fen": amount_fen})
    if payer != found["buyer"]:
        return Refusal(code="PAYER_IS_NOT_BUYER", facts={"payer": payer, "buyer": found["buyer"]})
    body = {
        "reference": reference,
        "invoice": invoice_number,
        "payer": payer,
        "payee": found["issuer"],
        "amount_fen": amount_fen,
        "paid_at_ms": to_ms(paid_at),
        "sha256": sha256,
    }
    refusal = _once(tx, slips, slips.c.reference == reference, body)
    if refusal is not None:
        return refusal
    if not _known(tx, slips, slips.c.reference == reference):
        if found["paid_fen"] + amount_fen > found["net_fen"]:
            left = found["net_fen"] - found["paid_fen"]
            return Refusal(code="SLIP_TOO_LARGE", facts={"amount_fen": amount_fen, "left_fen": left})
        journal.append(tx, slips, {**body, "recorded_at_ms": to_ms(now), "recorded_by": by})
        if found["jobs"]:
            paid = Transfer(
                id=f"slip:{reference}",
                phase=Phase.POSTED,
                code=Code.FIRM_PAYS,
                debit=provider_received(found["issuer"]),
                credit=firm_payable(payer),
                amount_fen=amount_fen,
                cites=invoice_number,
            )
            store.post(tx, paid, now)
    settled = paid_enough(tx, invoice_number)
    for job in found["jobs"] if settled else ():
        due = due_to(tx, job, found["issuer"])
        if due is not None and acts.state_of(tx, "settlement", due["settlement"]) == "issued":
            acts.must(tx, "settlement", due["settlement"], "firm_paid", now, body={"slip": reference})
    return {**body, "paid_at": timestamp(paid_at), "settled": settled}


def paid_enough(tx: Connection, number: str) -> bool:
    """True when the slips of an invoice reach the firm's share of it: its amount less what the voucher takes off."""
    found = invoice(tx, number)
    if found is None:
        return False
    dues = [due_to(tx, job, found["issuer"]) for job in found["jobs"]]
    share = sum(due["payable_fen"] for due in dues if due is not None)
    return int(found["paid_fen"]) >= (share if found["jobs"] else int(found["net_fen"]))


def contract(tx: Connection, id: str) -> dict[str, Any] | None:  # noqa: A002
    """The contract as recorded: times as text, items and evidence as values; None if there is none."""
    row = tx.execute(select(contracts).where(contracts.c.id == id)).mappings().first()
    return None if row is None else contract_document(row)


def contract_document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The published form of a contract's row."""
    left_out = ("prev_hash", "hash", "from_ms", "to_ms", "items", "evidence", "recorded_at_ms")
    return {
        **{key: row[key] for key in row if key not in left_out},
        "from": timestamp(from_ms(row["from_ms"])),
        "to": timestamp(from_ms(row["to_ms"])),
        "items": json.loads(row["items"]),
        "evidence": json.loads(row["evidence"]),
    }


def invoice(tx: Connection, number: str) -> dict[str, Any] | None:
    """The invoice with the jobs it bills, its amount net of its corrections, and what slips have paid of it; None if unknown."""
    row = tx.execute(select(invoices).where(invoices.c.number == number)).mappings().first()
    if row is None:
        return None
    billed = tx.execute(select(invoice_jobs.c.job).where(invoice_jobs.c.invoice == number).order_by(invoice_jobs.c.seq))
    paid = tx.execute(
        select(func.coalesce(func.sum(slips.c.amount_fen), 0)).where(slips.c.invoice == number)
    ).scalar_one()
    kept = (
        "seq",
        "number",
        "contract",
        "issuer",
        "buyer",
        "amount_fen",
        "tax_fen",
        "issued_on",
        "sha256",
        "corrects",
    )
    query = select(invoices.c.amount_fen).where(invoices.c.corrects == number)
    corrections = [int(fen) for fen in tx.execute(query).scalars()]
    net = row["amount_fen"] + sum(corrections)
    shown = {key: row[key] for key in kept}
    voided = bool(corrections) and net == 0 and row["amount_fen"] != 0
    return {**shown, "jobs": list(billed.scalars()), "paid_fen": int(paid), "net_fen": net, "voided": voided}


def slips_of(tx: Connection, number: str) -> list[str]:
    """References of the slips that paid an invoice, in the order they were recorded."""
    return list(tx.execute(select(slips.c.reference).where(slips.c.invoice == number).order_by(slips.c.seq)).scalars())


def _known(tx: Connection, table: Table, where: Any) -> bool:
    return tx.execute(select(table.c.seq).where(where)).first() is not None


def _once(tx: Connection, table: Table, where: Any, body: Mapping[str, Any]) -> Refusal | None:
    """None when nothing like it is on record, or exactly it; a Refusal names what differs."""
    row = tx.execute(select(table).where(where)).mappings().first()
    if row is None:
        return None
    different = sorted(key for key, value in body.items() if row[key] != value)
    return Refusal(code="ALREADY_RECORDED", facts={"record": table.name, "different": different}) if different else None
