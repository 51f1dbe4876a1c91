"""Programme routes: freezing, years, prices, listings, the server subsidy's projects and the model voucher's applications."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import Connection

from api import programme_schemas as schemas
from api import queries
from api.auth import Authorised
from api.idempotency import Posted
from api.problems import Problem
from api.routes.cases import State, page_of
from api.routes.shared import Cursor, Limit, Shared, found
from metering import (
    acts,
    allowance,
    contracts,
    eligibility,
    listing,
    model_voucher,
    pricing,
    rooms,
    store,
    subsidy,
    subsidy_evidence,
)
from metering.ledger import Programme
from metering.schema import firms
from scheduler.schema import pools

routes = APIRouter(tags=["programmes"])


@routes.get("/v1/programmes")
def list_programmes(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - for all to see
    """Each programme: open or frozen, and its story."""
    with services.database.read() as tx:
        items = [
            {
                "programme": programme.value,
                "state": "frozen" if acts.state_of(tx, "programme", programme.value) == "frozen" else "open",
                "acts": acts.history(tx, "programme", programme.value),
            }
            for programme in Programme
        ]
    return {"items": items, "next_cursor": None}


@routes.post("/v1/programmes/{programme}/acts", status_code=200)
def act_on_programme(programme: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """freeze (at once: nothing new is promised or paid) or unfreeze (a reviewer, who did not freeze it)."""
    if programme not in [each.value for each in Programme]:
        raise Problem(404, "NOT_FOUND", {"what": "programme", "id": programme})
    return once.do(lambda tx: _plain(tx, "programme", programme, body, once, services), status=200)


@routes.post("/v1/vouchers/{firm}/acts", status_code=200)
def act_on_right(firm: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """freeze, unfreeze or revoke a firm's right to draw."""

    def act(tx: Connection) -> Any:
        found(store.right_of(tx, firm), "voucher", firm)
        return _plain(tx, "right", f"{Programme.COMPUTE_VOUCHER.value}:{firm}", body, once, services)

    return once.do(act, status=200)


@routes.post("/v1/firms/{firm}/eligibility", status_code=200)
def act_on_eligibility(firm: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """submit, verify, suspend, reinstate or revoke: the decision about a firm's standing (clause 4.1). Facts say since when."""
    if once.principal.firm not in (None, firm):
        raise Problem(404, "NOT_FOUND", {"what": "firm", "id": firm})
    actor, now = once.principal.actor, services.clock.now()

    def act(tx: Connection) -> Any:
        found(queries.one(tx, firms, firm), "firm", firm)
        return eligibility.decide(tx, firm, body.act, actor, body.reason, now)

    return once.do(act, status=200)


def _plain(tx: Connection, kind: str, subject: str, body: schemas.Act, once: Any, services: Any) -> Any:
    done = acts.act(tx, kind, subject, body.act, once.principal.actor, services.clock.now(), reason=body.reason)
    return {"subject": subject, "state": done} if isinstance(done, str) else done


@routes.post("/v1/years", status_code=201)
def close_year(body: schemas.YearClose, once: Posted, services: Shared) -> Response:
    """Close a year of the compute voucher: what nobody drew lapses."""
    actor, now, policy = once.principal.actor, services.clock.now(), services.budget.policy
    return once.do(lambda tx: rooms.close_year(tx, policy, body.year, actor, body.reason, now))


@routes.post("/v1/prices", status_code=201)
def set_price(body: schemas.Price, once: Posted, services: Shared) -> Response:
    """A pool's price from a moment to come on. Back-dated: with force it is proposed and shows what it would change."""
    actor, now = once.principal.actor, services.clock.now()

    def act(tx: Connection) -> Any:
        pool = found(queries.one(tx, pools, body.pool), "pool", body.pool)
        fen = body.price_fen_per_device_hour
        if body.force:
            return pricing.propose(
                tx, pool=body.pool, fen=fen, start=body.start, reason=body.reason, actor=actor, now=now
            )
        refusal = store.set_price(
            tx, pool=body.pool, model=pool["model"], fen=fen, start=body.start, by=actor.by, now=now
        )
        return refusal or {"pool": body.pool, "price_fen_per_device_hour": fen, "from": body.start.isoformat()}

    return once.do(act)


@routes.post("/v1/prices/{price:path}/acts", status_code=200)
def act_on_price(price: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """approve or reject a back-dated price; approving settles again what it changes."""
    actor, now = once.principal.actor, services.clock.now()

    def act(tx: Connection) -> Any:
        if body.act == "approve":
            return pricing.approve(tx, services.budget, price, actor, body.reason, now)
        found(acts.told(tx, "price", price, "propose"), "price", price)
        return _plain(tx, "price", price, body, once, services)

    return once.do(act, status=200)


@routes.post("/v1/pools/{pool}/listing", status_code=200)
def set_listing(pool: str, body: schemas.Listing, once: Posted, services: Shared) -> Response:
    """List, pause or delist a pool; its story is subsidy evidence."""

    def act(tx: Connection) -> Any:
        row = found(queries.one(tx, pools, pool), "pool", pool)
        if once.principal.provider not in (None, row["provider"]):
            raise Problem(404, "NOT_FOUND", {"what": "pool", "id": pool})
        now = services.clock.now()
        low = allowance.unlistable(tx, services.budget.policy, pool, now) if body.status == "listed" else None
        return low or listing.set_listing(
            tx, pool=pool, status=body.status, reason=body.reason, actor=once.principal.actor, now=now
        )

    return once.do(act, status=200)


@routes.get("/v1/subsidies")
def list_projects(
    who: Authorised, services: Shared, state: State = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Projects of the domestic-chip server subsidy, in the order of their last act; a provider sees its own."""
    return page_of(services, "project", subsidy.projects, who.provider, state, cursor, limit)


@routes.get("/v1/subsidies/{project}")
def show_project(project: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """Everything an auditor asks of the project, down to the computation sheet."""
    with services.database.read() as tx:
        shown: dict[str, Any] = found(
            subsidy_evidence.application_document(tx, project, services.budget.policy, services.clock.now()),
            "project",
            project,
        )
    if who.provider not in (None, shown["provider"]):
        raise Problem(404, "NOT_FOUND", {"what": "project", "id": project})
    return shown


@routes.post("/v1/subsidies", status_code=201)
def draft_project(body: schemas.Project, once: Posted, services: Shared) -> Response:
    """A provider opens a project; its room is the cap per project (clause 2.1.2)."""
    actor, now, policy = once.principal.actor, services.clock.now(), services.budget.policy
    mine = once.principal.tenant or ""
    return once.do(
        lambda tx: subsidy.draft(tx, policy, project=body.id, provider=mine, name=body.name, actor=actor, now=now)
    )


@routes.post("/v1/subsidies/{project}/serials", status_code=201)
def add_serial(project: str, body: schemas.Serial, once: Posted, services: Shared) -> Response:
    """A bought server's serial, traced to a listed device."""
    values = body.model_dump()

    def act(tx: Connection) -> Any:
        built = found(acts.told(tx, "project", project, "draft"), "project", project)
        if once.principal.provider not in (None, built["provider"]):
            raise Problem(404, "NOT_FOUND", {"what": "project", "id": project})
        return subsidy.add_serial(tx, project=project, **values, by=once.principal.key_id, now=services.clock.now())

    return once.do(act)


@routes.post("/v1/subsidies/{project}/acts", status_code=200)
def act_on_project(project: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """The project's next step; each asks for its evidence."""
    actor, now, policy = once.principal.actor, services.clock.now(), services.budget.policy
    return once.do(
        lambda tx: subsidy.proceed(
            tx,
            policy,
            project=project,
            act=body.act,
            actor=actor,
            reason=body.reason,
            now=now,
            reference=body.reference,
        ),
        status=200,
    )


@routes.get("/v1/model-vouchers")
def list_applications(
    who: Authorised, services: Shared, state: State = None, cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Applications for the model voucher, in the order of their last act; a firm sees its own."""
    return page_of(services, "application", model_voucher.applications, who.firm, state, cursor, limit)


@routes.post("/v1/model-vouchers", status_code=201)
def apply_for_model(body: schemas.Application, once: Posted, services: Shared) -> Response:
    """A firm applies for one contract for an independently controlled foundation model (clause 2.4.7)."""
    actor, now = once.principal.actor, services.clock.now()
    values = body.model_dump(exclude={"id"})
    firm = once.principal.tenant or ""

    def act(tx: Connection) -> Any:
        agreed = contracts.contract(tx, body.contract)
        if agreed is None or agreed["buyer"] != firm:
            raise Problem(404, "NOT_FOUND", {"what": "contract", "id": body.contract})
        return model_voucher.submit(tx, application=body.id, firm=firm, **values, actor=actor, now=now)

    return once.do(act)


@routes.post("/v1/model-vouchers/{application}/acts", status_code=200)
def act_on_application(application: str, body: schemas.Act, once: Posted, services: Shared) -> Response:
    """verify, reject, approve or pay."""
    actor, now, policy = once.principal.actor, services.clock.now(), services.budget.policy
    return once.do(
        lambda tx: model_voucher.proceed(
            tx, policy, application=application, act=body.act, actor=actor, reason=body.reason, now=now,
            reference=body.reference,
        ),
        status=200,
    )  # fmt: skip
