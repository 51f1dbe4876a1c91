"""Public: listings, capacity, policies, health, metrics. No key; cacheable by ETag."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text

from api import queries
from api.routes.shared import Shared, found
from scheduler.database import Database

routes = APIRouter(tags=["public"])
QUIET = timedelta(seconds=15)  # a loop that has not ticked for so long does not serve


def tagged(request: Request, body: Any) -> Response:
    """The document with its ETag; 304 without a body if the client has it already."""
    content = json.dumps(body, ensure_ascii=False).encode()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


@routes.get("/v1/listings")
def listings(request: Request, services: Shared) -> Response:
    """What could be leased now, by pool, at what price before and after the voucher."""
    with services.database.read() as tx:
        items = queries.listings(tx, services.budget, services.catalog, services.clock.now())
    return tagged(request, {"items": items, "next_cursor": None})


@routes.get("/v1/listings/{listing}")
def listing(listing: str, request: Request, services: Shared) -> Response:
    with services.database.read() as tx:
        items = queries.listings(tx, services.budget, services.catalog, services.clock.now())
    return tagged(request, found(next((i for i in items if i["id"] == listing), None), "listing", listing))


@routes.get("/v1/listings/{listing}/history")
def history(listing: str, request: Request, services: Shared) -> Response:
    """When it was listed and every price it had; append-only."""
    with services.database.read() as tx:
        events = queries.listing_history(tx, listing)
    return tagged(request, {"items": found(events or None, "listing", listing), "next_cursor": None})


@routes.get("/v1/capacity")
def capacity(request: Request, services: Shared) -> Response:
    """Devices and nominal dense FP16 PFLOPS, listed, free and allocated, by origin, region and provider."""
    with services.database.read() as tx:
        body = queries.capacity(tx, services.budget, services.catalog, services.clock.now())
    return tagged(request, body)


@routes.get("/v1/policies")
def policies(request: Request, services: Shared) -> Response:
    """Every policy that is loaded: status, the hash that statements carry, clauses and rates."""
    return tagged(request, {"items": queries.policies(services.budget.registry), "next_cursor": None})


@routes.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@routes.get("/readyz")
def ready(services: Shared) -> JSONResponse:
    """The loop has ticked lately and the database answers."""
    now, ticked = services.clock.now(), services.loop.ticked_at
    checks = {"loop": ticked is not None and now - ticked <= QUIET, "database": _answers(services.database)}
    ok = all(checks.values())
    return JSONResponse({"status": "ok" if ok else "unavailable", "checks": checks}, status_code=200 if ok else 503)


def _answers(database: Database) -> bool:
    with database.read() as tx:
        return tx.execute(text("SELECT 1")).scalar() == 1


@routes.get("/metrics")
def metrics(services: Shared) -> Response:
    """Prometheus metrics."""
    return Response(services.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
