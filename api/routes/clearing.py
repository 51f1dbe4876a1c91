"""Clearing routes: verify, batch, approve, pay; disputes, refunds, corrections, clawbacks, and the review queue."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import Connection, select

from api import programme_schemas as schemas
from api.auth import Authorised, Principal
from api.idempotency import Posted
from api.problems import Problem
from api.routes.cases import State, page_of
from api.routes.shared import Cursor, Limit, Shared, found
from metering import acts, clawback, clearing, correction, disputes, refunding, review
from metering.schema import settlement_lines, settlements

routes = APIRouter(tags=["clearing"])


def own_settlement(tx: Connection, settlement: str, who: Principal) -> None:
    """Nothing, or a 404 when the settlement is not the principal's own."""
    mine = who.party
    firm = tx.execute(select(settlements.c.firm).where(settlements.c.id == settlement)).scalar()
    query = select(settlement_lines.c.provider).where(settlement_lines.c.settlement == settlement)
    if firm is None or (mine is not None and mine != firm and mine not in set(tx.execute(query).scalars())):
        raise Problem(404, "NOT_FOUND", {"what": "settlement", "id": settlement})


@routes.get("/v1/clearing/settlements/{settlement:path}")
def standing_of(settlement: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """Where a final settlement stands on its way to payment: its story, and every obstacle now."""
    with services.database.read() as tx:
        own_settlement(tx, settlement, who)
        obstacles = clearing.obstacles(tx, services.budget, settlement)
        return {
            "settlement": settlement,
            "state": acts.state_of(tx, "settlement", settlement),
            "acts": acts.history(tx, "settlement", settlement),
            "obstacles": [{"code": each.code, "facts": dict(each.facts)} for each in obstacles],
        }


@routes.post("/v1/clearing/verifications", status_code=201)
def verify(body: schemas.Settled, once: Posted, services: Shared) -> Response:
    """Verify a settlement (核验): its papers match, and today's facts settle it the same."""
    actor, now = once.principal.actor, services.clock.now()
    return once.do(lambda tx: clearing.verify(tx, services.budget, body.settlement, actor, now))


@routes.get("/v1/clearing")
def list_batches(
    who: Authorised, services: Shared, state: State = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Clearing batches in the order of their last act; a provider sees its own."""
    return page_of(services, "clearing", clearing.batches, who.party, state, cursor, limit)


@routes.get("/v1/clearing/{batch}")
def show_batch(batch: str, who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        shown: dict[str, Any] = found(clearing.batch_document(tx, batch), "batch", batch)
    if who.party not in (None, shown["provider"]):
        raise Problem(404, "NOT_FOUND", {"what": "batch", "id": batch})
    return shown


@routes.post("/v1/clearing", status_code=201)
def build(body: schemas.Batch, once: Posted, services: Shared) -> Response:
    """A batch of everything verified and due to one provider for one year."""
    actor, now = once.principal.actor, services.clock.now()
    return once.do(lambda tx: clearing.build(tx, provider=body.provider, year=body.year, actor=actor, now=now))


@routes.post("/v1/clearing/{batch}/acts", status_code=200)
def act_on_batch(batch: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """submit, send_back, abandon, approve, withdraw_item (reference: the settlement) or reconcile; paying has its own route."""
    actor, now, budget = once.principal.actor, services.clock.now(), services.budget

    def act(tx: Connection) -> Any:
        found(acts.told(tx, "clearing", batch, "build"), "batch", batch)
        match body.act:
            case "submit":
                return clearing.submit(tx, budget, batch, actor, now)
            case "approve":
                done = clearing.approve(tx, budget, batch, actor, now)
                if isinstance(done, dict):
                    services.seal(tx, clearing.seal_reason(batch), now)
                    return clearing.batch_document(tx, batch)
                return done
            case "withdraw_item":
                return clearing.withdraw_item(tx, batch, body.reference or "", actor, body.reason, now)
            case "complete":
                raise Problem(
                    422, "INPUT_INVALID", {}, [{"pointer": "/act", "detail": "not for anybody", "value": body.act}]
                )
            case "send_back":
                return clearing.send_back(tx, batch, actor, body.reason, now)
            case "reconcile":
                return clearing.reconcile(tx, batch, actor, now)
            case "pay" | "pay_part" | "payment_returned":
                raise Problem(
                    422, "INPUT_INVALID", {}, [{"pointer": "/act", "detail": "use /payments", "value": body.act}]
                )
        moved = acts.act(tx, "clearing", batch, body.act, actor, now, reason=body.reason)
        return clearing.batch_document(tx, batch) if isinstance(moved, str) else moved

    return once.do(act, status=200)


@routes.post("/v1/clearing/{batch}/payments", status_code=201)
def pay(batch: str, body: schemas.Payment, once: Posted, services: Shared) -> Response:
    """The treasury paid so much of the batch (兑付), once per reference."""
    actor, now = once.principal.actor, services.clock.now()
    values = body.model_dump()
    return once.do(lambda tx: clearing.pay(tx, services.budget, batch, **values, actor=actor, now=now))


@routes.post("/v1/clearing/{batch}/returns", status_code=201)
def payment_returned(batch: str, body: schemas.PaymentReturned, once: Posted, services: Shared) -> Response:
    """The bank sent a payment back: it is due again."""
    actor, now = once.principal.actor, services.clock.now()
    return once.do(lambda tx: clearing.payment_returned(tx, batch, **body.model_dump(), actor=actor, now=now))


@routes.get("/v1/clawbacks")
def list_clawbacks(
    who: Authorised, services: Shared, state: State = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """What has to come back, and how far that is; a provider sees its own."""
    return page_of(services, "clawback", clawback.clawbacks, who.party, state, cursor, limit)


@routes.post("/v1/clawbacks/{case:path}/acts", status_code=200)
def act_on_clawback(case: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """notice, confirm, drop, repay, offset or write_off."""
    actor, now = once.principal.actor, services.clock.now()
    return once.do(
        lambda tx: clawback.proceed(tx, case, body.act, actor, body.reason, now, reference=body.reference), status=200
    )


@routes.get("/v1/disputes")
def list_disputes(
    who: Authorised, services: Shared, state: State = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Disputes, in the order of their last act; a party sees its own."""
    return page_of(services, "dispute", disputes.disputes, who.party, state, cursor, limit)


@routes.post("/v1/disputes", status_code=201)
def open_dispute(body: schemas.Dispute, once: Posted, services: Shared) -> Response:
    """Dispute a settlement of one's own: until it is resolved, nothing of its job is paid out."""
    actor, now = once.principal.actor, services.clock.now()
    mine = once.principal.tenant or ""

    def act(tx: Connection) -> Any:
        own_settlement(tx, body.settlement, once.principal)
        return disputes.open_dispute(tx, **body.model_dump(), party=mine, actor=actor, now=now)

    return once.do(act)


@routes.post("/v1/disputes/{dispute:path}/acts", status_code=200)
def act_on_dispute(dispute: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """withdraw (its party), uphold or dismiss (an operator, with a reason)."""
    actor, now = once.principal.actor, services.clock.now()

    def act(tx: Connection) -> Any:
        known = found(disputes.dispute(tx, dispute), "dispute", dispute)
        if once.principal.party not in (None, known["party"]):
            raise Problem(404, "NOT_FOUND", {"what": "dispute", "id": dispute})
        return disputes.resolve(tx, dispute, body.act, actor, body.reason, now)

    return once.do(act, status=200)


@routes.post("/v1/refunds", status_code=201)
def refund(body: schemas.Refund, once: Posted, services: Shared) -> Response:
    """A refund or ex-post rebate of a job's fee: the firm gets its own share, the voucher's goes back to its year."""
    actor, now = once.principal.actor, services.clock.now()

    def act(tx: Connection) -> Any:
        query = select(settlements.c.id).where(settlements.c.job == body.job).order_by(settlements.c.number.desc())
        settlement = found(tx.execute(query).scalar(), "settlement", body.job)
        own_settlement(tx, settlement, once.principal)
        return refunding.refund(tx, **body.model_dump(), actor=actor, now=now)

    return once.do(act)


@routes.post("/v1/corrections", status_code=201)
def correct(body: schemas.Correction, once: Posted, services: Shared) -> Response:
    """Settle a job again under today's facts; the new settlement cites the old."""
    actor, now = once.principal.actor, services.clock.now()
    return once.do(lambda tx: correction.correct(tx, services.budget, body.job, actor, body.reason, now))


@routes.get("/v1/reviews")
def list_reviews(who: Authorised, services: Shared, closed: bool = False) -> dict[str, Any]:  # noqa: ARG001 - zone roles see all
    """What waits for a person, oldest first, each with the actions that answer it; closed: what was answered."""
    with services.database.read() as tx:
        return {"items": review.queue(tx, closed=closed), "next_cursor": None}


@routes.post("/v1/reviews/{item:path}/answers", status_code=200)
def answer_review(item: str, body: schemas.Answer, once: Posted, services: Shared) -> Response:
    """Answer an item with one of its actions and a reason."""
    actor, now = once.principal.actor, services.clock.now()
    values = body.model_dump()
    return once.do(lambda tx: review.close(tx, review=item, **values, actor=actor, now=now), status=200)
