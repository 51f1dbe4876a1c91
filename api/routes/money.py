"""Money: vouchers, usage, settlements, statements, the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AwareDatetime
from sqlalchemy import Connection

from api import queries, schemas
from api.auth import Authorised
from api.idempotency import Posted
from api.routes.shared import Cursor, Limit, Shared, found, number_of, page
from metering import store
from metering.parameters.policy import CLAIM_MODE
from metering.schema import firms
from metering.statement import firm_statement, job_statement
from scheduler.refusal import Refusal

routes = APIRouter(tags=["money"])


@routes.get("/v1/vouchers")
def vouchers(who: Authorised, services: Shared, firm: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Rights to draw, with what is left of each year's rooms."""
    mine = who.firm if who.firm is not None else firm
    with services.database.read() as tx:
        return {"items": queries.vouchers(tx, mine), "next_cursor": None}


@routes.post("/v1/vouchers", status_code=201)
def claim(body: schemas.Claim, once: Posted, services: Shared) -> Response:
    """Claim the right to draw (申领): instant, once; it locks no money."""
    policy = services.budget.policy

    def act(tx: Connection) -> Any:
        if policy.value_at(CLAIM_MODE, services.clock.now()) == "tranche":
            return Refusal(code="NOT_SUPPORTED_YET", facts={"field": f"{CLAIM_MODE}: tranche"})
        got = store.claim(
            tx, firm=once.principal.tenant or "", by=once.principal.key_id, policy=policy.id, caps=policy.firm_cap_fen,
            now=services.clock.now(),
        )  # fmt: skip
        return (
            got
            if not isinstance(got, dict)
            else {**got, "programme": body.programme, "rooms": queries.text_years(got["rooms"])}
        )

    return once.do(act)


@routes.get("/v1/usage")
def usage(who: Authorised, services: Shared, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    """What leases consumed, oldest first."""
    with services.database.read() as tx:
        items = queries.usage(tx, who.firm, who.provider, number_of(cursor), limit + 1)
    return page(items, limit, lambda item: str(item["seq"]))


@routes.get("/v1/settlements")
def settlements(
    who: Authorised,
    services: Shared,
    job: Annotated[str | None, Query()] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Settlements, oldest first; a job's last one stands for the whole job."""
    with services.database.read() as tx:
        items = queries.settlements(tx, who.firm, job, number_of(cursor), limit + 1)
    return page(items, limit, lambda item: str(item["seq"]))


@routes.get("/v1/settlements/{settlement:path}")
def settlement(settlement: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """One settlement with its lines and the `yisuan settle` case that gives them."""
    with services.database.read() as tx:
        shown: dict[str, Any] = found(queries.settlement(tx, who.firm, settlement), "settlement", settlement)
    return shown


@routes.get("/v1/statements/jobs/{job}")
def of_job(job: str, who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        found(queries.job(tx, who.firm, job), "job", job)
        shown: dict[str, Any] = found(job_statement(tx, job), "statement", job)
    return shown


@routes.get("/v1/statements/firms/{firm}")
def of_firm(
    firm: str,
    who: Authorised,
    services: Shared,
    start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    end: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> dict[str, Any]:
    with services.database.read() as tx:
        known = queries.one(tx, firms, firm) if who.firm in (None, firm) else None
        found(known, "firm", firm)
        return firm_statement(tx, firm, start, end)


@routes.get("/v1/ledger")
def ledger(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - zone roles see all
    """The trial balance: every account, and per ledger debits against credits."""
    with services.database.read() as tx:
        return {"mark": store.ledger_mark(tx), **store.trial_balance(tx)}
