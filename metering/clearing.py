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
from metering import acts, clawback, contracts, disputes, docket, exclusion, posting, review, standing, store
from metering.acts import Actor
from metering.batches import complete_if_paid, items_of, move_settlements, year_of
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
from metering.programme_schema import clearing_items, payments, states
from metering.schema import checkpoints, firms, providers, settlement_lines, settlements
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal

if TYPE_CHECKING:
    from metering.budget import VoucherBudget


def obstacles(tx: Connection, budget: VoucherBudget, settlement: str, memo: Memo | None = None) -> list[Refusal]:
    """Everything that stands between a settlement and its payment, now; [] when nothing does.

    memo: shared by the settlements of one batch, so that an invoice of many jobs is added up once.
    """
    memo = memo or Memo(tx)
    row = tx.execute(select(settlements).where(settlements.c.id == settlement)).mappings().first()
    if row is None or not row["final"]:
        return [Refusal(code="NOT_SETTLED", facts={"settlement": settlement})]
    found: list[Refusal] = []
    if acts.state_of(tx, "programme", PROGRAMME) == "frozen":
        found.append(Refusal(code="PROGRAMME_FROZEN", facts={"programme": PROGRAMME}))
    if acts.state_of(tx, "right", f"{PROGRAMME}:{row['firm']}") == "frozen":
        found.append(Refusal(code="RIGHT_FROZEN", facts={"firm": row["firm"]}))
    disputed = disputes.open_on(tx, row["job"])
    if disputed:
        found.append(Refusal(code="DISPUTED", facts={"settlement": settlement, "disputes": disputed}))
    if posting.differs(budget, tx, row):
        found.append(Refusal(code="SETTLEMENT_OUTDATED", facts={"settlement": settlement}))
    if review.waits(tx, f"SAMPLED:{settlement}"):
        found.append(Refusal(code="REVIEW_OPEN", facts={"review": f"SAMPLED:{settlement}"}))
    for provider in _providers_of(tx, settlement):
        found += _papers(tx, row, provider, memo)
    return found


class Memo:
    """Invoices and what they come to, added up once per transaction."""

    def __init__(self, tx: Connection) -> None:
        self.tx = tx
        self._bills: dict[str, dict[str, Any]] = {}

    def bill(self, number: str) -> dict[str, Any]:
        """The invoice with total_fen, what its jobs come to now, and share_fen, the firm's part of it."""
        if number not in self._bills:
            found = contracts.invoice(self.tx, number)
            assert found is not None, "found by its job"
            dues = [contracts.due_to(self.tx, job, found["issuer"]) for job in found["jobs"]]
            total = sum(due["fee_fen"] for due in dues if due is not None)
            share = sum(due["payable_fen"] for due in dues if due is not None)
            self._bills[number] = {**found, "total_fen": total, "share_fen": share}
        return self._bills[number]


def _papers(tx: Connection, row: Mapping[Any, Any], provider: str, memo: Memo) -> list[Refusal]:
    """What is wrong with the papers for one provider's part: invoice, contract, slips, declaration."""
    job, firm = row["job"], row["firm"]
    number = contracts.invoice_of_job(tx, job, provider)
    if number is None:
        return [Refusal(code="INVOICE_MISSING", facts={"job": job, "provider": provider})]
    bill = memo.bill(number)
    found = []
    agreed = contracts.contract(tx, bill["contract"])
    assert agreed is not None, "an invoice cites a contract on record"
    if bill["net_fen"] != bill["total_fen"]:
        facts: dict[str, Any] = {"amount_fen": bill["net_fen"], "settled_fen": bill["total_fen"]}
        found.append(Refusal(code="INVOICE_DOES_NOT_MATCH", facts=facts))
    if bill["paid_fen"] < bill["share_fen"]:
        facts = {"invoice": bill["number"], "paid_fen": bill["paid_fen"], "payable_fen": bill["share_fen"]}
        found.append(Refusal(code="FIRM_SHARE_UNPAID", facts=facts))
    used = _used(tx, row["id"], provider)
    term = [Interval(start=instant(agreed["from"]), end=instant(agreed["to"]))]
    if used and subtract(used, term):
        facts = {"contract": agreed["id"], "from": agreed["from"], "to": agreed["to"]}
        found.append(Refusal(code="CONTRACT_NOT_IN_TERM", facts=facts))
    if agreed["tax_basis"] != "tax_included":
        found.append(Refusal(code="TAX_BASIS", facts={"contract": agreed["id"], "tax_basis": agreed["tax_basis"]}))
    better = exclusion.better_elsewhere(tx, firm, agreed["id"])
    if better is not None:
        found.append(better)
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
    """Settlements with something left to clear for the provider and year: verified ones, and paid ones of another year
    or whose money came back and fell due again."""
    lines = select(settlement_lines.c.settlement).where(
        settlement_lines.c.provider == provider, settlement_lines.c.year == year, settlement_lines.c.deduction_fen > 0
    )
    ready = select(states.c.subject, states.c.act_seq).where(
        states.c.kind == "settlement", states.c.state.in_(("verified", "paid", "closed")), states.c.subject.in_(lines)
    )
    found = []
    for case in tx.execute(ready.order_by(states.c.act_seq)):
        row = tx.execute(select(settlements).where(settlements.c.id == case.subject)).mappings().one()
        left = clawback.left_of(tx, row["job"]).get((provider, year), 0)
        due = contracts.due_to(tx, row["job"], provider)
        number = contracts.invoice_of_job(tx, row["job"], provider)
        if left <= 0 or due is None or number is None:
            continue
        bill = contracts.invoice(tx, number)
        assert bill is not None, "just found"
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
    if items_of(tx, batch):
        facts = {"kind": "clearing", "act": "submit", "state": "sent back", "possible": ["abandon"]}
        return Refusal(code="ACT_NOT_NOW", facts=facts)
    memo = Memo(tx)
    due = _due_items(tx, built["provider"], built["year"])
    items = [item for item in due if not obstacles(tx, budget, item["settlement"], memo)]
    if not items:
        return Refusal(code="NOTHING_DUE", facts={"provider": built["provider"], "year": built["year"]})
    total = sum(item["deduction_fen"] for item in items)
    body = {"total_fen": total, "items": len(items)}
    done = acts.act(tx, "clearing", batch, "submit", actor, now, body=body)
    if isinstance(done, Refusal):
        return done
    journal.append_all(tx, clearing_items, [{"batch": batch, **item} for item in items])
    for item in items:
        acts.must(tx, "settlement", item["settlement"], "submit", now, body={"batch": batch})
    return batch_document(tx, batch) or {}


def send_back(tx: Connection, batch: str, actor: Actor, reason: str, now: datetime) -> dict[str, Any] | Refusal:
    """The reviewer does not approve: the batch is being built again and can only be abandoned, its settlements are free."""
    done = acts.act(tx, "clearing", batch, "send_back", actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    move_settlements(tx, batch, "submitted", "send_back", now)
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
    year, total = year_of(tx, batch), sum(item["deduction_fen"] for item in items_of(tx, batch))
    _post(tx, f"{batch}:room", Code.OPEN_ROOM, cap_source("clearing"), clearing_room(batch), total, batch, now)
    _post(tx, f"{batch}:approve", Code.APPROVE, treasury_approved(year), treasury_committed(year), total, batch, now)
    move_settlements(tx, batch, "submitted", "approve", now)
    return batch_document(tx, batch) or {}


def withdraw_item(
    tx: Connection, batch: str, settlement: str, actor: Actor, reason: str, now: datetime
) -> dict[str, Any] | Refusal:
    """An approved batch goes on without this settlement, which is verified again and can be corrected.

    Its part of the approval is taken back. Refused when less than that part is left to pay.
    """
    refusal = acts.obstacle(tx, "clearing", batch, "withdraw_item", actor, reason)
    if refusal is not None:
        return refusal
    item = next((each for each in items_of(tx, batch) if each["settlement"] == settlement), None)
    if item is None:
        return Refusal(code="NOT_IN_BATCH", facts={"batch": batch, "settlement": settlement})
    room, fen, year = clearing_room(batch), item["deduction_fen"], year_of(tx, batch)
    left = store.balance(tx, room).available
    if left < fen:
        return Refusal(code="WITHDRAWN_TOO_LATE", facts={"settlement": settlement, "amount_fen": fen, "left_fen": left})
    body = {"settlement": settlement, "amount_fen": fen}
    done = acts.act(tx, "clearing", batch, "withdraw_item", actor, now, reason=reason, body=body)
    if isinstance(done, Refusal):
        return done
    _post(tx, f"{batch}:withdraw:{settlement}:0", Code.WITHDRAW, room, spent_of(room), fen, batch, now)
    pair = (treasury_committed(year), treasury_approved(year))
    _post(tx, f"{batch}:withdraw:{settlement}:1", Code.WITHDRAW, pair[0], pair[1], fen, batch, now)
    if acts.state_of(tx, "settlement", settlement) == "approved":
        acts.must(tx, "settlement", settlement, "withdraw", now, body={"batch": batch})
    complete_if_paid(tx, batch, now, {"by": "withdraw_item"})
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
    if not 0 < amount_fen <= left:
        return Refusal(code="PAYMENT_TOO_LARGE", facts={"amount_fen": amount_fen, "left_fen": left})
    name = "pay" if amount_fen == left else "pay_part"
    body = {"amount_fen": amount_fen, "reference": reference}
    done = acts.act(tx, "clearing", batch, name, actor, now, body=body)
    if isinstance(done, Refusal):
        return done
    _pay(tx, f"payment:{batch}:{reference}", batch, amount_fen, reference, None, actor, now)
    if done == "paid":
        move_settlements(tx, batch, "approved", "pay", now)
    return batch_document(tx, batch) or {}


def payment_returned(
    tx: Connection, batch: str, *, reference: str, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The bank sent a payment of the batch back: it is due again."""
    query = select(payments).where(payments.c.batch == batch, payments.c.reference == reference)
    row = tx.execute(query).mappings().first()
    if row is None or row["returns"] is not None:
        return Refusal(code="PAYMENT_UNKNOWN", facts={"batch": batch, "reference": reference})
    if tx.execute(select(payments.c.id).where(payments.c.returns == row["id"])).first() is not None:
        return Refusal(code="ALREADY_RECORDED", facts={"record": "payments", "different": ["returns"]})
    done = acts.act(tx, "clearing", batch, "payment_returned", actor, now, reason=reason, body={"payment": row["id"]})
    if isinstance(done, Refusal):
        return done
    _pay(tx, f"{row['id']}:returned", batch, row["amount_fen"], f"{reference}:returned", row["id"], actor, now)
    for before in ("paid", "closed"):
        move_settlements(tx, batch, before, "payment_returned", now)
    return batch_document(tx, batch) or {}


def reconcile(tx: Connection, batch: str, actor: Actor, now: datetime) -> dict[str, Any] | Refusal:
    """Bank and books agree: the batch is done and its settlements are closed."""
    done = acts.act(tx, "clearing", batch, "reconcile", actor, now)
    if isinstance(done, Refusal):
        return done
    move_settlements(tx, batch, "paid", "close", now)
    return batch_document(tx, batch) or {}


def _still_clear(tx: Connection, budget: VoucherBudget, batch: str) -> Refusal | None:
    """None when no item of the batch has met an obstacle since it was submitted; the Refusal names the first that has."""
    items = items_of(tx, batch)
    if not items:
        return Refusal(code="BATCH_UNKNOWN", facts={"batch": batch})
    memo = Memo(tx)
    for item in items:
        found = obstacles(tx, budget, item["settlement"], memo)
        if found:
            codes = [each.code for each in found]
            facts = {**found[0].facts, "settlement": item["settlement"], "obstacles": codes}
            return Refusal(code=found[0].code, facts=facts)
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
    room, year = clearing_room(batch), year_of(tx, batch)
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


def batch_document(tx: Connection, batch: str) -> dict[str, Any] | None:
    """The batch as it stands, with its items, acts, payments and the roots sealed when it was submitted; None if unknown."""
    built = acts.told(tx, "clearing", batch, "build")
    if built is None:
        return None
    story = acts.history(tx, "clearing", batch)
    items = items_of(tx, batch)
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


def batches(tx: Connection, wanted: docket.Wanted = docket.ALL) -> list[dict[str, Any]]:
    """Clearing batches in the order of their last act: {seq, id, state, since, provider, year, programme}."""
    found = docket.cases(tx, "clearing", wanted, party_is="provider")
    return [
        {"seq": case.seq, "id": case.subject, "state": case.state, "since": case.since, **case.body} for case in found
    ]


def seal_reason(batch: str) -> str:
    """The reason under which the seal of a batch is kept."""
    return f"clearing:{batch}"


def _sealed(tx: Connection, batch: str) -> str | None:
    """The root sealed when the batch was approved; None before, and where nobody sealed."""
    query = select(checkpoints.c.heads).where(checkpoints.c.heads.like(f'%"reason":"{seal_reason(batch)}"%'))
    text = tx.execute(query).scalar()
    return str(json.loads(text)["merkle_root"]) if text is not None else None
