"""Zone: what operators enrol and look after: providers, sites, pools, nodes, queues, firms, facts, keys."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Source
from adapters.reading import read_partition
from adapters.registry import vendors
from api import queries, schemas
from api.auth import Authorised, mint_key
from api.idempotency import Posted
from api.problems import Problem
from api.routes.evidence import sight
from api.routes.shared import Shared, found
from api.wiring import Services
from metering import allowance, evidence, standing
from metering import store as money
from metering.schema import firms, providers, sites
from scheduler import places, view
from scheduler.codec import snapshot_document
from scheduler.refusal import Refusal
from scheduler.schema import nodes, pools, queues

routes = APIRouter(tags=["zone"])


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"items": items, "next_cursor": None}


@routes.get("/v1/providers")
def list_providers(who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _list(queries.rows(tx, providers, {"id": who.provider}))


@routes.post("/v1/providers", status_code=201)
def enrol_provider(body: schemas.Party, once: Posted, services: Shared) -> Response:
    def act(tx: Connection) -> Any:
        refusal = money.enrol_provider(tx, id=body.id, name=body.name, now=services.clock.now())
        return refusal or body.model_dump()

    return once.do(act)


@routes.get("/v1/sites")
def list_sites(who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _list(queries.rows(tx, sites, {"provider": who.provider}))


@routes.post("/v1/sites", status_code=201)
def enrol_site(body: schemas.Site, once: Posted, services: Shared) -> Response:
    """The site's energy papers are facts of their own (POST /v1/facts)."""
    return once.do(lambda tx: money.enrol_site(tx, **body.model_dump(), now=services.clock.now()) or body.model_dump())


@routes.get("/v1/firms")
def list_firms(who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _list(queries.rows(tx, firms, {"id": who.firm}))


@routes.post("/v1/firms", status_code=201)
def enrol_firm(body: schemas.Party, once: Posted, services: Shared) -> Response:
    def act(tx: Connection) -> Any:
        refusal = money.enrol_firm(tx, id=body.id, name=body.name, now=services.clock.now())
        return refusal or body.model_dump()

    return once.do(act)


@routes.get("/v1/pools")
def list_pools(who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _list(queries.rows(tx, pools, {"provider": who.provider}))


@routes.post("/v1/pools", status_code=201)
def add_pool(body: schemas.Pool, once: Posted, services: Shared) -> Response:
    """Nodes of one provider, site, backend, model and price. Simulated ones need a ledger marked demo."""
    _known("/vendor", body.vendor, {*vendors(), *(chip.vendor for chip in services.catalog)})
    if services.catalog.get(body.model) is None:
        near = services.catalog.nearest(body.model)
        raise Problem(422, "MODEL_UNKNOWN", {"model": body.model, "nearest": near})
    _known("/backend", body.backend, services.backends)
    if body.source == "simulated" and services.settings.ledger != "demo":
        raise Problem(409, "SIMULATED_NEEDS_DEMO_LEDGER", {"pool": body.id})
    return once.do(lambda tx: _add_pool(tx, body, services, once.principal.key_id))


def _add_pool(tx: Connection, body: schemas.Pool, services: Services, by: str) -> dict[str, Any] | Refusal:
    now = services.clock.now()
    site = queries.one(tx, sites, body.site)
    if site is None or site["provider"] != body.provider:
        return Refusal(code="SITE_UNKNOWN", facts={"site": body.site, "provider": body.provider})
    known = queries.one(tx, pools, body.id)
    refusal = places.add_pool(tx, **body.model_dump(), now=now)
    if refusal is not None:
        return refusal
    if known is None:
        fen = body.price_fen_per_device_hour
        refusal = money.set_price(tx, pool=body.id, model=body.model, fen=fen, start=now, by=by, now=now)
    return refusal or body.model_dump()


def _known(pointer: str, value: str, words: Any) -> None:
    if value not in words:
        near = difflib.get_close_matches(value, list(words), n=1, cutoff=0.0)
        error = {"pointer": pointer, "detail": "unknown", "value": value, "nearest": near[0] if near else None}
        raise Problem(422, "INPUT_INVALID", {}, [error])


@routes.get("/v1/nodes")
def list_nodes(who: Authorised, services: Shared) -> dict[str, Any]:
    with services.database.read() as tx:
        return _list(queries.nodes(tx, who.provider))


@routes.post("/v1/nodes", status_code=201)
def add_node(body: schemas.Node, once: Posted, services: Shared) -> Response:
    """A host with the devices its agent found (`devices`), or with declared ones (`simulated`)."""
    if (body.simulated is None) == (body.devices is None):
        error = {"pointer": "/devices", "detail": "give either devices or simulated"}
        raise Problem(422, "INPUT_INVALID", {}, [error])
    sight(services, body.id, [accelerator(device) for device in body.devices or ()], once.principal.key_id)
    return once.do(lambda tx: _add_node(tx, body, services))


def _add_node(tx: Connection, body: schemas.Node, services: Services) -> dict[str, Any] | Refusal:
    pool = queries.one(tx, pools, body.pool)
    if pool is None:
        return Refusal(code="POOL_UNKNOWN", facts={"pool": body.pool})
    if body.simulated is not None:
        if services.settings.ledger != "demo" or pool["source"] != "simulated":
            return Refusal(code="SIMULATED_NEEDS_DEMO_LEDGER", facts={"pool": body.pool})
        devices = _declared(body, services)
    else:
        devices = [accelerator(device) for device in body.devices or ()]
        if services.settings.ledger != "demo" and any(device.source is Source.SIMULATED for device in devices):
            return Refusal(code="SIMULATED_NEEDS_DEMO_LEDGER", facts={"pool": body.pool})
    other = sorted({d.model or d.model_raw for d in devices} - {pool["model"]})
    if other:
        return Refusal(code="MODEL_NOT_OF_POOL", facts={"pool": body.pool, "models": other, "model": pool["model"]})
    extra = {k: getattr(body, k) for k in ("cpu_milli", "memory_bytes", "rack")}
    refusal = places.add_node(tx, id=body.id, pool=body.pool, devices=devices, now=services.clock.now(), **extra)
    if refusal is None:
        allowance.hold_back(tx, services.budget.policy, body.pool, body.id, services.clock.now())
        evidence.keep_out(tx, body.id, services.clock.now())
    return refusal or {"id": body.id, "pool": body.pool, "devices": [d.uuid for d in devices]}


def _declared(body: schemas.Node, services: Services) -> list[Accelerator]:
    from adapters.vendors.simulated import Declaration, Simulated

    assert body.simulated is not None, "asked only for declared devices"
    declaration = Declaration(node=body.id, model=body.simulated.model, count=body.simulated.count)
    return list(Simulated((declaration,), catalog=services.catalog).inventory())


def accelerator(device: schemas.Device) -> Accelerator:
    """The device a body describes."""
    values = device.model_dump()
    values["health"], values["source"] = Health(device.health), Source(device.source)
    values["evidence_level"] = EvidenceLevel(min(device.evidence_level, EvidenceLevel.TOOL_REPORTED))
    values["problems"] = tuple(device.problems)
    values["partition"] = read_partition(values["partition"])
    return Accelerator(**values)


@routes.post("/v1/nodes/{node}/schedulable", status_code=200)
def set_schedulable(node: str, body: schemas.Schedulable, once: Posted, services: Shared) -> Response:
    """Cordon a node, or use it again; running leases stay."""

    def act(tx: Connection) -> Any:
        refusal = places.set_schedulable(tx, node, body.schedulable, services.clock.now())
        return refusal or {"id": node, "schedulable": body.schedulable}

    return once.do(act, status=200)


@routes.get("/v1/queues")
def list_queues(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - quotas are for all to see
    with services.database.read() as tx:
        return _list(queries.rows(tx, queues, {}))


@routes.put("/v1/queues/{name:path}")
def set_queue(name: str, body: schemas.Queue, who: Authorised, services: Shared) -> JSONResponse:  # noqa: ARG001
    """How many devices the queue's leases may hold together, null = no limit; and what it lends to and borrows from the others
    of its cohort. The body is the whole quota: what it leaves out is as if never set."""
    rest = body.model_dump(exclude={"nominal_devices"})
    with services.database.write() as tx:
        places.set_queue(tx, name, body.nominal_devices)
        refusal = places.set_cohort(tx, name, **rest)
        assert refusal is None, "the queue was set just now"
    return JSONResponse({"name": name, **body.model_dump()})


@routes.get("/v1/facts")
def list_facts(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - zone roles see all
    with services.database.read() as tx:
        return _list(queries.facts(tx))


@routes.post("/v1/facts", status_code=201)
def record_fact(body: schemas.Fact, once: Posted, services: Shared) -> Response:
    """A dated fact with its evidence; a correction withdraws an earlier one by number."""
    _known("/fact", body.fact, standing.KINDS[body.subject_kind])

    def act(tx: Connection) -> Any:
        found(
            queries.one(tx, firms if body.subject_kind == "firm" else sites, body.subject),
            body.subject_kind,
            body.subject,
        )
        number = money.record_fact(
            tx, subject_kind=body.subject_kind, subject=body.subject, fact=body.fact, start=body.start, end=body.end,
            evidence=body.evidence, by=once.principal.key_id, now=services.clock.now(), withdraws=body.withdraws,
        )  # fmt: skip
        return {"seq": number, "subject": body.subject, "fact": body.fact}

    return once.do(act)


@routes.get("/v1/snapshot")
def snapshot(who: Authorised, services: Shared) -> dict[str, Any]:  # noqa: ARG001 - the operator sees all
    """Everything the planner knows now; `yisuan plan` reads it anywhere."""
    with services.database.read() as tx:
        moves = services.settings.moves_per_hour
        found = view.snapshot(tx, services.clock.now(), services.budget, moves_per_hour=moves)
        return snapshot_document(view.regional(tx, found, services.loop.dispatch.regions))


@routes.post("/v1/keys", status_code=201)
def new_key(body: schemas.Key, once: Posted, services: Shared) -> Response:
    """A new API key, shown this once; a repeat of the request says that it was made, with `key` null.

    An agent's speaks for one node, `node`.

    Who approves and who pays are not made by an operator: reviewers make reviewers, finance makes finance.
    """
    maker = body.role if body.role in ("reviewer", "finance") else "operator"
    if once.principal.role != maker:
        raise Problem(403, "KEY_NOT_YOURS_TO_MAKE", {"role": body.role, "maker": maker})

    if (body.role == "agent") != (body.node is not None):
        detail = "role agent needs the node it speaks for" if body.node is None else f"role {body.role} has no node"
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/node", "detail": detail}])
    if body.role == "agent" and body.tenant is not None:
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/tenant", "detail": "role agent has no tenant"}])

    def act(tx: Connection) -> Any:
        if body.node is not None and queries.one(tx, nodes, body.node) is None:
            return Refusal(code="NODE_UNKNOWN", facts={"node": body.node})
        tenant = body.node or body.tenant
        try:
            secret = mint_key(tx, name=body.name, role=body.role, tenant=tenant, now=services.clock.now())
        except ValueError as problem:
            raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/tenant", "detail": str(problem)}]) from None
        return {"key": secret, "role": body.role, "tenant": body.tenant, "node": body.node}

    return once.do(act, kept=lambda value: {**value, "key": None})
