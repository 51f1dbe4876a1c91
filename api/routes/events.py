"""Events: a job's story, as a list or as server-sent events. The one async endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from api import queries
from api.auth import Authorised
from api.routes.shared import Shared, found
from api.wiring import Services
from scheduler.lifecycle import State

routes = APIRouter(tags=["jobs"])
LOOK_S = 0.25
HEARTBEAT_S = 15.0


@routes.get("/v1/jobs/{job}/events")
async def events(
    job: str,
    request: Request,
    who: Authorised,
    services: Shared,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """With Accept: text/event-stream, every event from after Last-Event-ID on, until the job has ended."""
    after = int(last_event_id) if last_event_id and last_event_id.isdigit() else 0
    story = await run_in_threadpool(_story, services, who.firm, job, after)
    if "text/event-stream" not in accept:
        return JSONResponse({"items": story, "next_cursor": None})
    request.app.state.tailer.watch()
    stream = _stream(request, services, who.firm, job, story, after)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _story(services: Services, firm: str | None, job: str, after: int) -> list[dict[str, Any]]:
    with services.database.read() as tx:
        found(queries.job(tx, firm, job), "job", job)
        return queries.story(tx, job, after)


async def _stream(
    request: Request, services: Services, firm: str | None, job: str, story: list[dict[str, Any]], after: int
) -> AsyncIterator[str]:
    tailer = request.app.state.tailer
    seen, beat = 0, time.monotonic()
    while not await request.is_disconnected():
        for event in story:
            after = event["seq"]
            yield f"id: {after}\nevent: {event['event']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
            if State(event["state_to"]).terminal:
                return
        if services.draining.is_set():  # the client comes again, with its last id, to a process that stays
            yield "event: closing\nretry: 500\ndata: {}\n\n"
            return
        if time.monotonic() - beat > HEARTBEAT_S:
            beat = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_S)
        story = []
        if tailer.latest > seen:  # one thread asks the database whether anything happened; clients read only then
            seen = tailer.latest
            story = await run_in_threadpool(_story, services, firm, job, after)
        elif after == 0:
            story = await run_in_threadpool(_story, services, firm, job, after)
