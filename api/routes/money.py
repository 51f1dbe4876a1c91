"""Money: vouchers, usage, settlements, statements, the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AwareDatetime, Field
from sqlalchemy import Connection

from api import queries, schemas
from api.auth import Authorised
from api.idempotency import Posted
from api.routes.shared import Cursor, Limit, Shared, found, number_of, page
from metering import linking, store, tranche
from metering.schema import firms
from metering.statement import firm_statement, job_statement
from metering.year import local_year
from scheduler.refusal import Refusal

routes = APIRouter(tags=["money"])


class Claim(schemas.Claim):
    """id, year: of the tranche, where claims take one (claim_mode tranche); else only the programme says anything.

    id: the same one again is the same tranche; the Idempotency-Key without it. year: a local year; this one without it.
    """

    id: schemas.Id | None = None
    year: Annotated[int, Field(ge=1, le=9999)] | None = None


class Link(schemas.Body):
    """Two credit codes that are one firm over [from, to), with the evidence; they share a cap where the policy says so."""

    codes: Annotated[list[schemas.CreditCode], Field(min_length=2, max_length=2)]
    start: Annotated[schemas.Instant, Field(alias="from")]
    end: Annotated[schemas.Instant | None, Field(alias="to")] = None
    evidence: dict[str, Any]
    withdraws: int | None = None


@routes.get("/v1/vouchers")
def vouchers(who: Authorised, services: Shared, firm: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Rights to draw, with what is left of each year's rooms, and the tranches issued: what of them is drawn, held and left."""
    mine = who.firm if who.firm is not None else firm
    with services.database.read() as tx:
        items = [
            {
                **item,
                "tranches": tranche.shown(tx, services.budget.policy, item["firm"]),
                "subjects": linking.subjects_of(tx, item["firm"]),
            }
            for item in queries.vouchers(tx, mine)
        ]
    return {"items": items, "next_cursor": None}


@routes.post("/v1/vouchers", status_code=201)
def claim(body: Claim, once: Posted, services: Shared) -> Response:
    """Claim the right to draw (申领): instant, once. It locks no money, or a tranche where the year goes through tranches."""
    policy, now = services.budget.policy, services.clock.now()
    firm, by = once.principal.tenant or "", once.principal.key_id

    def act(tx: Connection) -> Any:
        got = store.claim(tx, firm=firm, by=by, policy=policy.id, caps=policy.firm_cap_fen, now=now)
        if isinstance(got, Refusal):
            return got
        linking.regroup(tx, policy, now)
        taken: dict[str, Any] = {}
        asked = body.year if body.year is not None else local_year(now, policy.zone)
        if body.id is not None or body.year is not None or tranche.in_use(policy, asked, now):
            identity = f"{firm}:{body.id or once.request.headers.get('idempotency-key', '')}"
            issued = tranche.issue(tx, policy, id=identity, firm=firm, by=by, now=now, year=body.year)
            if isinstance(issued, Refusal):
                return issued
            taken = {"tranche": issued}
        rooms = queries.text_years(store.rooms(tx, firm))
        return {**got, "programme": body.programme, "rooms": rooms, **taken}

    return once.do(act)


@routes.get("/v1/links")
def links(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - zone roles see all
    """Every link between two credit codes, withdrawn ones too."""
    with services.database.read() as tx:
        return {"items": linking.links(tx), "next_cursor": None}


@routes.post("/v1/links", status_code=201)
def link(body: Link, once: Posted, services: Shared) -> Response:
    """Two codes are one firm over [from, to); from then on they share one cap a year where the policy counts linked firms."""
    codes = (body.codes[0], body.codes[1])
    return once.do(
        lambda tx: linking.link(
            tx, services.budget.policy, codes=codes, start=body.start, end=body.end, evidence=body.evidence,
            by=once.principal.key_id, now=services.clock.now(), withdraws=body.withdraws,
        )
    )  # fmt: skip


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
