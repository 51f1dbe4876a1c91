"""Jobs: submit, list, show, cancel, logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import uuid_utils
from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from sqlalchemy import Connection

from api import queries, schemas
from api.auth import Authorised, Principal
from api.idempotency import Posted
from api.problems import Problem
from api.routes.shared import Cursor, Limit, Shared, found, page, position_of
from api.wiring import Services
from metering.schema import firms
from scheduler import progress, store
from scheduler.admission import unsupported, untimely
from scheduler.job import JobId, JobSpec
from scheduler.jobfile import JobFileError, from_canonical, parse_job, spec_hash
from scheduler.lease import LeaseId
from scheduler.lifecycle import State
from scheduler.refusal import Refusal

routes = APIRouter(tags=["jobs"])
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
YAML_BODY = {"requestBody": {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}}


@routes.post("/v1/jobs", status_code=201, openapi_extra=YAML_BODY)
def submit(once: Posted, services: Shared) -> Response:
    """A job file, as YAML (application/yaml) or as its JSON form; it waits in its queue afterwards.

    Of one with an array each element waits as a job of its own (`jobs`); `id` then stands for all of them.
    """
    spec = spec_from(once.request, once.body)
    refused = unsupported(spec)
    if refused:
        raise Problem(422, refused[0].code, refused[0].facts, [_unsupported(r.facts["field"]) for r in refused])
    firm = once.principal.tenant or ""

    def act(tx: Connection) -> Any:
        if queries.one(tx, firms, firm) is None:
            raise Problem(404, "FIRM_UNKNOWN", {"firm": firm})
        now = services.clock.now()
        late = untimely(spec, now)
        if late is not None:
            pointer = "/deadline" if late.code == "DEADLINE_PAST" else "/array"
            raise Problem(422, late.code, late.facts, [{"pointer": pointer, "detail": late.code}])
        job = JobId(f"job_{uuid_utils.uuid7()}")
        ids = store.submit(tx, job=job, firm=firm, spec=spec, now=now)
        said = {"id": job, "name": spec.name, "state": State.SUBMITTED.value, "spec_sha256": spec_hash(spec)}
        return said | ({"jobs": list(ids)} if spec.array else {})

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
    """State, why it waits, where it ran, what it has cost. Of an array: its state and its elements."""
    with services.database.read() as tx:
        known = queries.job(tx, who.firm, job) or queries.array(tx, who.firm, job)
        shown: dict[str, Any] = found(known, "job", job)
    return shown


def _each(tx: Connection, who: Principal, job: str, deed: Callable[[JobId], Refusal | None]) -> Refusal | None:
    """The deed is done to the job, or to every element of the array that takes it; a Refusal if none does."""
    elements = queries.array(tx, who.firm, job)
    if elements is None:
        found(queries.job(tx, who.firm, job), "job", job)
        return deed(JobId(job))
    said = [deed(JobId(one["id"])) for one in elements["elements"]]
    return said[0] if all(said) else None


@routes.post("/v1/jobs/{job}/cancel", status_code=202)
def cancel(job: str, once: Posted, services: Shared) -> Response:
    """A waiting job is cancelled at once, a running one is told to stop; of an array every element that has not ended."""

    def act(tx: Connection) -> Any:
        refusal = _each(tx, once.principal, job, lambda each: _cancel(tx, each, services))
        return refusal or {"id": job, "cancelled": True}

    return once.do(act, status=202)


def _cancel(tx: Connection, job: JobId, services: Services) -> Refusal | None:
    """What a job that waits again had run before is settled for good: no lease of it will end any more."""
    now, row = services.clock.now(), store.job_row(tx, job)
    waits = row is not None and not State(row["state"]).terminal and not State(row["state"]).holds_devices
    refusal = store.request_cancel(tx, job, now)
    if refusal is None and waits and row is not None and row["attempt"]:
        services.budget.charge(tx, [job], now, final=True)
    return refusal


@routes.post("/v1/jobs/{job}/hold", status_code=200)
def hold(job: str, once: Posted, services: Shared) -> Response:
    """A waiting job, or an array's elements that wait, start only when released."""
    by, now = once.principal.role, services.clock.now()

    def act(tx: Connection) -> Any:
        refusal = _each(tx, once.principal, job, lambda each: store.hold_back(tx, each, by, now))
        return refusal or {"id": job, "held_by": by}

    return once.do(act, status=200)


@routes.post("/v1/jobs/{job}/release", status_code=200)
def release(job: str, once: Posted, services: Shared) -> Response:
    """The job may start again. What an operator holds only an operator releases."""
    by, now = once.principal.role, services.clock.now()

    def act(tx: Connection) -> Any:
        refusal = _each(tx, once.principal, job, lambda each: store.let_go(tx, each, by, now))
        return refusal or {"id": job, "held_by": None}

    return once.do(act, status=200)


@routes.post("/v1/jobs/{job}/progress", status_code=200)
def report(job: str, body: schemas.Progress, once: Posted, services: Shared) -> Response:
    """What a running job has done so far. How fast it goes is learnt from the time between reports, so they come as it works."""

    def act(tx: Connection) -> Any:
        found(queries.job(tx, once.principal.firm, job), "job", job)
        refusal = progress.report(tx, JobId(job), **body.model_dump(), now=services.clock.now())
        return refusal or {"id": job, **body.model_dump()}

    return once.do(act, status=200)


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
