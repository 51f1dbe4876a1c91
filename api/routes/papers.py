"""Papers: contracts, invoices, bank slips, declarations, and what comes from elsewhere for the same project."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import Connection, or_, select

from api import programme_schemas as schemas
from api.auth import Authorised, Principal
from api.idempotency import Posted
from api.problems import Problem
from api.routes.shared import Cursor, Limit, Shared, found, number_of, page
from metering import contracts, exclusion, standing, store
from metering.programme_schema import contracts as contract_rows
from metering.programme_schema import invoices as invoice_rows
from metering.programme_schema import other_supports, slips
from scheduler.refusal import Refusal

routes = APIRouter(tags=["papers"])


def _contract_of(tx: Connection, identity: str, who: Principal) -> dict[str, Any]:
    row = contracts.contract(tx, identity)
    mine = who.party
    if row is None or mine not in (None, row["buyer"], row["seller"]):
        raise Problem(404, "NOT_FOUND", {"what": "contract", "id": identity})
    return row


@routes.get("/v1/contracts")
def list_contracts(who: Authorised, services: Shared, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    """Contracts on record, oldest first; a party sees its own."""
    query = select(contract_rows).where(contract_rows.c.seq > int(number_of(cursor) or 0)).order_by(contract_rows.c.seq)
    mine = who.party
    if mine is not None:
        query = query.where(or_(contract_rows.c.buyer == mine, contract_rows.c.seller == mine))
    with services.database.read() as tx:
        items = [contracts.contract_document(row) for row in tx.execute(query.limit(limit + 1)).mappings()]
    return page(items, limit, lambda item: str(item["seq"]))


@routes.get("/v1/contracts/{contract}")
def show_contract(contract: str, who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _contract_of(tx, contract, who)


@routes.post("/v1/contracts", status_code=201)
def record_contract(body: schemas.Contract, once: Posted, services: Shared) -> Response:
    """A contract on record, for good; a compute contract's room opens."""
    values = body.model_dump()
    return once.do(
        lambda tx: contracts.record_contract(tx, **values, by=once.principal.key_id, now=services.clock.now())
    )


@routes.get("/v1/invoices")
def list_invoices(who: Authorised, services: Shared, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    """Invoices on record, oldest first; a party sees its own."""
    query = (
        select(invoice_rows.c.number)
        .where(invoice_rows.c.seq > int(number_of(cursor) or 0))
        .order_by(invoice_rows.c.seq)
    )
    mine = who.party
    if mine is not None:
        query = query.where(or_(invoice_rows.c.buyer == mine, invoice_rows.c.issuer == mine))
    with services.database.read() as tx:
        items = [contracts.invoice(tx, number) or {} for number in list(tx.execute(query.limit(limit + 1)).scalars())]
    return page(items, limit, lambda item: str(item["seq"]))


@routes.post("/v1/invoices", status_code=201)
def record_invoice(body: schemas.Invoice, once: Posted, services: Shared) -> Response:
    """An invoice 发票 of one contract that bills these jobs to the fen."""

    def act(tx: Connection) -> Any:
        agreed = _contract_of(tx, body.contract, once.principal)
        if once.principal.party not in (None, agreed["seller"]):
            return Refusal(code="ISSUER_IS_NOT_SELLER", facts={"contract": body.contract, "seller": agreed["seller"]})
        return contracts.record_invoice(
            tx, number=body.number, contract_id=body.contract, amount_fen=body.amount_fen, tax_fen=body.tax_fen,
            issued_on=body.issued_on, sha256=body.sha256, job_ids=body.jobs, corrects=body.corrects,
            by=once.principal.key_id, now=services.clock.now(),
        )  # fmt: skip

    return once.do(act)


@routes.get("/v1/slips")
def list_slips(who: Authorised, services: Shared, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    """Bank slips on record, oldest first; a party sees its own."""
    query = select(slips).where(slips.c.seq > int(number_of(cursor) or 0)).order_by(slips.c.seq)
    mine = who.party
    if mine is not None:
        query = query.where(or_(slips.c.payer == mine, slips.c.payee == mine))
    left_out = ("prev_hash", "hash")
    with services.database.read() as tx:
        rows = tx.execute(query.limit(limit + 1)).mappings()
        items = [{key: row[key] for key in row if key not in left_out} for row in rows]
    return page(items, limit, lambda item: str(item["seq"]))


@routes.post("/v1/slips", status_code=201)
def record_slip(body: schemas.Slip, once: Posted, services: Shared) -> Response:
    """A bank slip 回单: the payer's own share of an invoice, paid. An operator records it: both parties would gain by saying so."""

    def act(tx: Connection) -> Any:
        found(contracts.invoice(tx, body.invoice), "invoice", body.invoice)
        return contracts.record_slip(
            tx, reference=body.reference, invoice_number=body.invoice, payer=body.payer, amount_fen=body.amount_fen,
            paid_at=body.paid_at, sha256=body.sha256, by=once.principal.key_id, now=services.clock.now(),
        )  # fmt: skip

    return once.do(act)


@routes.post("/v1/relations", status_code=201)
def record_relation(body: schemas.Relation, once: Posted, services: Shared) -> Response:
    """A firm declares that it is not related to a provider (非关联声明); an operator may record that it is."""
    mine = once.principal.firm
    firm = mine if mine is not None else body.firm
    if firm is None:
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/firm", "detail": "which firm?"}])
    if mine is not None and (body.firm not in (None, mine) or body.fact != standing.UNRELATED):
        raise Problem(403, "ROLE_NOT_ALLOWED", {"role": "firm", "route": "POST /v1/relations"})

    def act(tx: Connection) -> Any:
        subject = standing.relation(firm, body.provider)
        number = store.record_fact(
            tx, subject_kind="relation", subject=subject, fact=body.fact, start=body.start, end=body.end,
            evidence=body.evidence, by=once.principal.key_id, now=services.clock.now(),
        )  # fmt: skip
        return {"seq": number, "firm": firm, "provider": body.provider, "fact": body.fact}

    return once.do(act)


@routes.get("/v1/other-supports")
def list_other_supports(
    who: Authorised, services: Shared, project: Annotated[str, Query(max_length=80)], firm: str | None = None
) -> dict[str, Any]:
    """Ours against the others for one project (clause 4.4), both amounts, and which is taken."""
    mine = who.firm if who.firm is not None else firm
    with services.database.read() as tx:
        if mine is None:
            query = select(other_supports.c.firm).where(other_supports.c.project == project)
            mine = found(tx.execute(query).scalar(), "project", project)
        return exclusion.comparison(tx, str(mine), project)


@routes.post("/v1/other-supports", status_code=201)
def record_other_support(body: schemas.OtherSupport, once: Posted, services: Shared) -> Response:
    """Support of the project from elsewhere is on record; the answer shows which of both the firm takes."""
    mine = once.principal.firm
    if mine is not None and body.firm != mine:
        raise Problem(404, "NOT_FOUND", {"what": "firm", "id": body.firm})
    return once.do(
        lambda tx: exclusion.record_other(tx, **body.model_dump(), actor=once.principal.actor, now=services.clock.now())
    )
