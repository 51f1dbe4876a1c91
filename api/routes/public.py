"""Public: listings, capacity, policies, health, metrics. No key; cacheable by ETag."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from adapters.chain import timestamp
from api import queries
from api.problems import Problem, language_of
from api.published import Document, Published
from api.readiness import reasons
from api.routes.shared import Shared, found
from api.texts import text

routes = APIRouter(tags=["public"])


def tagged(request: Request, body: Any) -> Response:
    """The document with its ETag; 304 without a body if the client has it already."""
    return Document(body).answer(request)


@routes.get("/v1/listings")
async def listings(request: Request) -> Response:
    """What could be leased now, by pool, at what price before and after the voucher."""
    published: Published = request.app.state.published
    return (await published.current()).listings().answer(request)


@routes.get("/v1/capacity")
async def capacity(request: Request) -> Response:
    """Devices and nominal dense FP16 PFLOPS, listed, free and allocated, by origin, region and provider."""
    published: Published = request.app.state.published
    return (await published.current()).capacity().answer(request)


DIRECT = {"/v1/listings": listings, "/v1/capacity": capacity}  # they take the request and nothing else


@routes.get("/v1/listings/{listing}")
async def listing(listing: str, request: Request) -> Response:
    published: Published = request.app.state.published
    items = (await published.current()).items
    return tagged(request, found(next((i for i in items if i["id"] == listing), None), "listing", listing))


@routes.get("/v1/listings/{listing}/history")
def history(listing: str, request: Request, services: Shared) -> Response:
    """When it was listed and every price it had; append-only."""
    with services.database.read() as tx:
        events = queries.listing_history(tx, listing)
    return tagged(request, {"items": found(events or None, "listing", listing), "next_cursor": None})


@routes.get("/v1/policies")
def policies(request: Request, services: Shared) -> Response:
    """Every policy that is loaded: status, the hash that statements carry, clauses and rates."""
    return tagged(request, {"items": queries.policies(services.budget.registry), "next_cursor": None})


@routes.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@routes.get("/readyz")
def ready(request: Request, services: Shared) -> Response:
    """200 and who is the loop, or 503 and every reason why this process should not be sent requests."""
    why, leader = reasons(services)
    if why:
        lang = language_of(request)
        told = [{"code": one.code, "detail": text(one.code, one.facts, lang), "facts": dict(one.facts)} for one in why]
        raise Problem(503, "NOT_READY", {}, told)
    loop = None
    if leader is not None:
        ticked = timestamp(leader.ticked_at) if leader.ticked_at else None
        here = services.election.still()
        loop = {"who": leader.who, "since": timestamp(leader.since), "ticked_at": ticked, "here": here}
    return JSONResponse({"status": "ok", "loop": loop})


@routes.get("/metrics")
def metrics(services: Shared) -> Response:
    """Prometheus metrics."""
    return Response(services.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
