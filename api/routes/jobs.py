"""Jobs: submit, list, show, cancel, logs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import uuid_utils
from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from sqlalchemy import Connection

from api import queries
from api.auth import Authorised
from api.idempotency import Posted
from api.problems import Problem
from api.routes.shared import Cursor, Limit, Shared, found, page, position_of
from metering.schema import firms
from scheduler import store
from scheduler.admission import unsupported
from scheduler.job import JobId, JobSpec
from scheduler.jobfile import JobFileError, from_canonical, parse_job, spec_hash
from scheduler.lease import LeaseId
from scheduler.lifecycle import State

routes = APIRouter(tags=["jobs"])
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
YAML_BODY = {"requestBody": {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}}


@routes.post("/v1/jobs", status_code=201, openapi_extra=YAML_BODY)
def submit(once: Posted, services: Shared) -> Response:
    """A job file, as YAML (application/yaml) or as its JSON form; it waits in its queue afterwards."""
    spec = spec_from(once.request, once.body)
    refused = unsupported(spec)
    if refused:
        raise Problem(422, refused[0].code, refused[0].facts, [_unsupported(r.facts["field"]) for r in refused])
    firm = once.principal.tenant or ""

    def act(tx: Connection) -> Any:
        if queries.one(tx, firms, firm) is None:
            raise Problem(404, "FIRM_UNKNOWN", {"firm": firm})
        job = JobId(f"job_{uuid_utils.uuid7()}")
        store.submit(tx, job=job, firm=firm, spec=spec, now=services.clock.now())
        return {"id": job, "name": spec.name, "state": State.SUBMITTED.value, "spec_sha256": spec_hash(spec)}

    return once.do(act)


def _unsupported(field: str) -> dict[str, Any]:
    return {"pointer": field, "detail": "not supported yet", "code": "NOT_SUPPORTED_YET"}


def spec_from(request: Request, body: bytes) -> JobSpec:
    """The job of a body in either form; a Problem names what is wrong with it."""
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind not in (*YAML_TYPES, "application/json"):
        raise Problem(415, "MEDIA_TYPE", {"media_type": kind, "nearest": "application/yaml"})
    try:
        return parse_job(body) if kind in YAML_TYPES else from_canonical(json.loads(body))
    except JobFileError as wrong:
        errors = [
            {"pointer": p.field, "detail": p.message, "value": p.value, **({"nearest": p.nearest} if p.nearest else {})}
            for p in wrong.problems
        ]
        raise Problem(422, "JOB_FILE_INVALID", {"problems": len(errors)}, errors) from None
    except (ValueError, RecursionError) as wrong:
        raise Problem(400, "NOT_JSON", {"problem": str(wrong)}) from None


@routes.get("/v1/jobs")
def jobs(
    who: Authorised,
    services: Shared,
    state: Annotated[State | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Newest first."""
    with services.database.read() as tx:
        items = queries.jobs(tx, who.firm, state, position_of(cursor), limit + 1)
    return page(items, limit, lambda item: str(item["id"]))


@routes.get("/v1/jobs/{job}")
def job(job: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """State, why it waits, where it ran, what it has cost."""
    with services.database.read() as tx:
        shown: dict[str, Any] = found(queries.job(tx, who.firm, job), "job", job)
    return shown


@routes.post("/v1/jobs/{job}/cancel", status_code=202)
def cancel(job: str, once: Posted, services: Shared) -> Response:
    """A waiting job is cancelled at once, a running one is told to stop."""

    def act(tx: Connection) -> Any:
        found(queries.job(tx, once.principal.firm, job), "job", job)
        refusal = store.request_cancel(tx, JobId(job), services.clock.now())
        return refusal or {"id": job, "cancelled": True}

    return once.do(act, status=202)


@routes.get("/v1/jobs/{job}/logs")
def logs(
    job: str,
    who: Authorised,
    services: Shared,
    rank: Annotated[int, Query(ge=0, le=100_000)] = 0,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1 << 20)] = 65536,
) -> Response:
    """Bytes of a member's output, of the newest lease, as text."""
    with services.database.read() as tx:
        shown = found(queries.job(tx, who.firm, job), "job", job)
    if not shown["leases"]:
        return PlainTextResponse("")
    lease = shown["leases"][0]
    backend = services.backends.get(lease["backend"])
    data = backend.logs(LeaseId(lease["id"]), rank, offset=offset, limit=limit) if backend else b""
    return Response(data, media_type="text/plain; charset=utf-8", headers={"X-Next-Offset": str(offset + len(data))})
