"""Clearing (清算): verified settlements become a batch, which is approved, paid and reconciled; each by someone else.

Nothing is paid on a settlement's word: at verification, submission, approval and payment it is matched again with its
contract, invoice and bank slips (clause 2.1.1 pays the settled fee of compute actually used), settled again under today's
facts, and stopped by an open dispute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import uuid_utils
from sqlalchemy import Connection, select

from adapters.chain import instant, timestamp
from metering import acts, clawback, contracts, disputes, exclusion, posting, review, standing, store
from metering.acts import Actor
from metering.facts import Interval, subtract
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Code,
    Phase,
    Transfer,
    cap_source,
    clearing_room,
    spent_of,
    treasury_approved,
    treasury_committed,
    treasury_paid,
)
from metering.programme_schema import clearing_items, invoice_jobs, payments
from metering.schema import checkpoints, firms, providers, settlement_lines, settlements
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal

if TYPE_CHECKING:
    from metering.budget import VoucherBudget


def obstacles(tx: Connection, budget: VoucherBudget, settlement: str) -> list[Refusal]:
    """Everything that stands between a settlement and its payment, now; [] when nothing does."""
    row = tx.execute(select(settlements).where(settlements.c.id == settlement)).mappings().first()
    if row is None or not row["final"]:
        return [Refusal(code="NOT_SETTLED", facts={"settlement": settlement})]
    found: list[Refusal] = []
    if disputes.open_on(tx, row["job"]):
        found.append(
            Refusal(code="DISPUTED", facts={"settlement": settlement, "disputes": disputes.open_on(tx, row["job"])})
        )
    if posting.differs(budget, tx, row):
        found.append(Refusal(code="SETTLEMENT_OUTDATED", facts={"settlement": settlement}))
    if review.waits(tx, f"SAMPLED:{settlement}"):
        found.append(Refusal(code="REVIEW_OPEN", facts={"review": f"SAMPLED:{settlement}"}))
    for provider in _providers_of(tx, settlement):
        found += _papers(tx, row, provider)
    return found


def _papers(tx: Connection, row: Mapping[Any, Any], provider: str) -> list[Refusal]:
    """What is wrong with the papers for one provider's part: invoice, contract, slips, declaration."""
    job, firm = row["job"], row["firm"]
    number = tx.execute(select(invoice_jobs.c.invoice).where(invoice_jobs.c.job == job)).scalar()
    bill = contracts.invoice(tx, number) if number is not None else None
    if bill is None or bill["issuer"] != provider:
        return [Refusal(code="INVOICE_MISSING", facts={"job": job, "provider": provider})]
    found = []
    agreed = contracts.contract(tx, bill["contract"])
    assert agreed is not None, "an invoice cites a contract on record"
    due = contracts.due_to(tx, job, provider)
    assert due is not None, "the settlement is final"
    total = sum((contracts.due_to(tx, other, provider) or due)["fee_fen"] for other in bill["jobs"])
    if bill["net_fen"] != total:
        found.append(
            Refusal(code="INVOICE_DOES_NOT_MATCH", facts={"amount_fen": bill["net_fen"], "settled_fen": total})
        )
    if not contracts.paid_enough(tx, bill["number"]):
        facts = {"invoice": bill["number"], "paid_fen": bill["paid_fen"], "payable_fen": due["payable_fen"]}
        found.append(Refusal(code="FIRM_SHARE_UNPAID", facts=facts))
    used = _used(tx, row["id"], provider)
    term = [Interval(start=instant(agreed["from"]), end=instant(agreed["to"]))]
    if used and subtract(used, term):
        facts = {"contract": agreed["id"], "from": agreed["from"], "to": agreed["to"]}
        found.append(Refusal(code="CONTRACT_NOT_IN_TERM", facts=facts))
    better = exclusion.better_elsewhere(tx, firm, agreed["id"])
    if better is not None:
        found.append(better)
    if agreed["tax_basis"] != "tax_included":
        found.append(Refusal(code="TAX_BASIS", facts={"contract": agreed["id"], "tax_basis": agreed["tax_basis"]}))
    if used and subtract(used, standing.declared_unrelated(tx, firm, provider)):
        found.append(Refusal(code="DECLARATION_MISSING", facts={"firm": firm, "provider": provider}))
    return found


def _used(tx: Connection, settlement: str, provider: str) -> list[Interval]:
    query = select(settlement_lines.c.start_ms, settlement_lines.c.end_ms).where(
        settlement_lines.c.settlement == settlement, settlement_lines.c.provider == provider
    )
    return [Interval(start=from_ms(line.start_ms), end=from_ms(line.end_ms)) for line in tx.execute(query)]


def _providers_of(tx: Connection, settlement: str) -> list[str]:
    query = select(settlement_lines.c.provider).where(
        settlement_lines.c.settlement == settlement, settlement_lines.c.deduction_fen > 0
    )
    return sorted(set(tx.execute(query).scalars()))


def verify(
    tx: Connection, budget: VoucherBudget, settlement: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The settlement is verified (核验): its papers match and today's facts give the same lines. A Refusal names the first
    obstacle and how many there are."""
    found = obstacles(tx, budget, settlement)
    if found:
        return Refusal(code=found[0].code, facts={**found[0].facts, "obstacles": [each.code for each in found]})
    done = acts.act(tx, "settlement", settlement, "verify", actor, now)
    return done if isinstance(done, Refusal) else {"settlement": settlement, "state": done}


def build(tx: Connection, *, provider: str, year: int, actor: Actor, now: datetime) -> dict[str, Any] | Refusal:
    """A batch of everything verified and due to one provider for one year, being built. Refused when nothing is due."""
    items = _due_items(tx, provider, year)
    if not items:
        return Refusal(code="NOTHING_DUE", facts={"provider": provider, "year": year})
    batch = f"batch_{uuid_utils.uuid7()}"
    body = {"provider": provider, "year": year, "programme": PROGRAMME}
    done = acts.act(tx, "clearing", batch, "build", actor, now, body=body)
    if isinstance(done, Refusal):
        return done
    return batch_document(tx, batch) or {}


def _due_items(tx: Connection, provider: str, year: int) -> list[dict[str, Any]]:
    """Verified settlements with something left to clear for the provider and year, in the order they were verified."""
    found = []
    for case in acts.subjects(tx, "settlement", "verified"):
        row = tx.execute(select(settlements).where(settlements.c.id == case["subject"])).mappings().one()
        left = clawback.due_of(tx, row["job"]).get((provider, year), 0)
        left -= clawback.cleared_of(tx, row["job"]).get((provider, year), 0)
        due = contracts.due_to(tx, row["job"], provider)
        number = tx.execute(select(invoice_jobs.c.invoice).where(invoice_jobs.c.job == row["job"])).scalar()
        bill = contracts.invoice(tx, number) if number else None
        if left > 0 and due is not None and bill is not None:
            found.append(
                {
                    "settlement": row["id"],
                    "job": row["job"],
                    "firm": row["firm"],
                    "provider": provider,
                    "year": year,
                    "fee_fen": due["fee_fen"],
                    "deduction_fen": left,
                    "payable_fen": due["payable_fen"],
                    "contract": bill["contract"],
                    "invoice": bill["number"],
                    "slip": ",".join(contracts.slips_of(tx, bill["number"])),
                }
            )
    return found


def submit(tx: Connection, budget: VoucherBudget, batch: str, actor: Actor, now: datetime) -> dict[str, Any] | Refusal:
    """The batch's items are fixed and wait for approval; what obstacles keep out stays verified for a later batch."""
    built = acts.told(tx, "clearing", batch, "build")
    if built is None:
        return Refusal(code="BATCH_UNKNOWN", facts={"batch": batch})
    items = [i for i in _due_items(tx, built["provider"], built["year"]) if not obstacles(tx, budget, i["settlement"])]
    if not items:
        return Refusal(code="NOTHING_DUE", facts={"provider": built["provider"], "year": built["year"]})
    if _items(tx, batch):
        return Refusal(
            code="ACT_NOT_NOW",
            facts={"kind": "clearing", "act": "submit", "state": "sent back", "possible": ["abandon"]},
        )
    total = sum(item["deduction_fen"] for item in items)
    done = acts.act(tx, "clearing", batch, "submit", actor, now, body={"total_fen": total, "items": len(items)})
    if isinstance(done, Refusal):
        return done
    for item in items:
        journal.append(tx, clearing_items, {"batch": batch, **item})
        acts.must(tx, "settlement", item["settlement"], "submit", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def send_back(tx: Connection, batch: str, actor: Actor, reason: str, now: datetime) -> dict[str, Any] | Refusal:
    """The reviewer does not approve: the batch is being built again and can only be abandoned, its settlements are free."""
    done = acts.act(tx, "clearing", batch, "send_back", actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    for item in _items(tx, batch):
        acts.must(tx, "settlement", item["settlement"], "send_back", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def approve(tx: Connection, budget: VoucherBudget, batch: str, actor: Actor, now: datetime) -> dict[str, Any] | Refusal:
    """The batch may be paid: its money is approved in the books, in a room that can never be paid twice.

    The caller seals the records last (seal_reason), so that the batch carries a root that left the building.
    """
    refusal = _still_clear(tx, budget, batch)
    if refusal is not None:
        return refusal
    done = acts.act(tx, "clearing", batch, "approve", actor, now)
    if isinstance(done, Refusal):
        return done
    items = _items(tx, batch)
    year, total = items[0]["year"], sum(item["deduction_fen"] for item in items)
    _post(tx, f"{batch}:room", Code.OPEN_ROOM, cap_source("clearing"), clearing_room(batch), total, batch, now)
    _post(tx, f"{batch}:approve", Code.APPROVE, treasury_approved(year), treasury_committed(year), total, batch, now)
    for item in items:
        acts.must(tx, "settlement", item["settlement"], "approve", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def pay(
    tx: Connection, budget: VoucherBudget, batch: str, *, amount_fen: int, reference: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The treasury has paid so much of the batch (兑付), once per reference; paid in full, its settlements are paid."""
    if tx.execute(select(payments.c.id).where(payments.c.reference == reference)).first() is not None:
        return Refusal(code="ALREADY_RECORDED", facts={"record": "payments", "different": ["reference"]})
    refusal = _still_clear(tx, budget, batch)
    if refusal is not None:
        return refusal
    left = store.balance(tx, clearing_room(batch)).available
    if amount_fen > left:
        return Refusal(code="PAYMENT_TOO_LARGE", facts={"amount_fen": amount_fen, "left_fen": left})
    name = "pay" if amount_fen == left else "pay_part"
    done = acts.act(tx, "clearing", batch, name, actor, now, body={"amount_fen": amount_fen, "reference": reference})
    if isinstance(done, Refusal):
        return done
    identity = f"payment:{batch}:{reference}"
    _pay(tx, identity, batch, amount_fen, reference, None, actor, now)
    if done == "paid":
        for item in _items(tx, batch):
            acts.must(tx, "settlement", item["settlement"], "pay", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def payment_returned(
    tx: Connection, batch: str, *, reference: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The bank sent a payment of the batch back: it is due again."""
    row = (
        tx.execute(select(payments).where(payments.c.batch == batch, payments.c.reference == reference))
        .mappings()
        .first()
    )
    if row is None or row["returns"] is not None:
        return Refusal(code="PAYMENT_UNKNOWN", facts={"batch": batch, "reference": reference})
    if tx.execute(select(payments.c.id).where(payments.c.returns == row["id"])).first() is not None:
        return Refusal(code="ALREADY_RECORDED", facts={"record": "payments", "different": ["returns"]})
    was = acts.state_of(tx, "clearing", batch)
    done = acts.act(tx, "clearing", batch, "payment_returned", actor, now, reason=reason, body={"payment": row["id"]})
    if isinstance(done, Refusal):
        return done
    _pay(tx, f"{row['id']}:returned", batch, row["amount_fen"], f"{reference}:returned", row["id"], actor, now)
    if was == "paid":
        for item in _items(tx, batch):
            acts.must(tx, "settlement", item["settlement"], "payment_returned", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def reconcile(tx: Connection, batch: str, actor: Actor, now: datetime) -> dict[str, Any] | Refusal:
    """Bank and books agree: the batch is done and its settlements are closed."""
    done = acts.act(tx, "clearing", batch, "reconcile", actor, now)
    if isinstance(done, Refusal):
        return done
    for item in _items(tx, batch):
        if acts.state_of(tx, "settlement", item["settlement"]) == "paid":
            acts.must(tx, "settlement", item["settlement"], "close", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def _still_clear(tx: Connection, budget: VoucherBudget, batch: str) -> Refusal | None:
    """None when no item of the batch has met an obstacle since it was submitted."""
    items = _items(tx, batch)
    if not items:
        return Refusal(code="BATCH_UNKNOWN", facts={"batch": batch})
    for item in items:
        found = obstacles(tx, budget, item["settlement"])
        if found:
            codes = [each.code for each in found]
            return Refusal(
                code=found[0].code, facts={**found[0].facts, "settlement": item["settlement"], "obstacles": codes}
            )
    return None


def _pay(
    tx: Connection,
    identity: str,
    batch: str,
    fen: int,
    reference: str,
    returns: str | None,
    actor: Actor,
    now: datetime,
) -> None:
    values = {
        "id": identity,
        "batch": batch,
        "amount_fen": fen,
        "reference": reference,
        "returns": returns,
        "recorded_at_ms": to_ms(now),
        "recorded_by": actor.by,
    }
    journal.append(tx, payments, values)
    room, year = clearing_room(batch), _items(tx, batch)[0]["year"]
    pairs = ((room, spent_of(room)), (treasury_paid(year), treasury_approved(year)))
    for index, (debit, credit) in enumerate(pairs):
        code = Code.PAY if returns is None else Code.PAYMENT_RETURNED
        ends = (debit, credit) if returns is None else (credit, debit)
        _post(tx, f"{identity}:{index}", code, ends[0], ends[1], fen, batch, now)


def _post(
    tx: Connection, key: str, code: Code, debit: AccountId, credit: AccountId, fen: int, cites: str, now: datetime
) -> None:
    transfer = Transfer(id=key, phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen, cites=cites)
    store.post(tx, transfer, now)


def _items(tx: Connection, batch: str) -> list[dict[str, Any]]:
    query = select(clearing_items).where(clearing_items.c.batch == batch).order_by(clearing_items.c.seq)
    kept = (
        "settlement",
        "job",
        "firm",
        "provider",
        "year",
        "fee_fen",
        "deduction_fen",
        "payable_fen",
        "contract",
        "invoice",
        "slip",
    )
    return [{key: row[key] for key in kept} for row in tx.execute(query).mappings()]


def batch_document(tx: Connection, batch: str) -> dict[str, Any] | None:
    """The batch as it stands, with its items, acts, payments and the roots sealed when it was submitted; None if unknown."""
    built = acts.told(tx, "clearing", batch, "build")
    if built is None:
        return None
    story = acts.history(tx, "clearing", batch)
    items = _items(tx, batch)
    names = {row.id: row.name for row in tx.execute(select(firms.c.id, firms.c.name))}
    return {
        "id": batch,
        "programme": built["programme"],
        "year": built["year"],
        "state": acts.state_of(tx, "clearing", batch),
        "provider": built["provider"],
        "provider_name": tx.execute(select(providers.c.name).where(providers.c.id == built["provider"])).scalar(),
        "opened_at": story[0]["at"],
        "items": [{**item, "firm_name": names.get(item["firm"])} for item in items],
        "totals": {key: sum(item[key] for item in items) for key in ("fee_fen", "deduction_fen", "payable_fen")},
        "left_fen": store.balance(tx, clearing_room(batch)).available,
        "merkle_root": _sealed(tx, batch),
        "acts": [{key: step[key] for key in ("act", "by", "role", "at", "reason")} for step in story],
        "payments": [
            {
                **{key: row[key] for key in ("id", "amount_fen", "reference", "returns")},
                "at": timestamp(from_ms(row["recorded_at_ms"])),
            }
            for row in tx.execute(select(payments).where(payments.c.batch == batch).order_by(payments.c.seq)).mappings()
        ],
    }


def seal_reason(batch: str) -> str:
    """The reason under which the seal of a batch is kept."""
    return f"clearing:{batch}"


def _sealed(tx: Connection, batch: str) -> str | None:
    """The root sealed when the batch was approved; None before, and where nobody sealed."""
    query = select(checkpoints.c.heads).where(checkpoints.c.heads.like(f'%"reason":"{seal_reason(batch)}"%'))
    text = tx.execute(query).scalar()
    return str(json.loads(text)["merkle_root"]) if text is not None else None
