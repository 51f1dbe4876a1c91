"""Agents: heartbeats, readings and device events from nodes."""

from __future__ import annotations

from secrets import randbelow
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import Connection, select

from adapters.chain import timestamp
from adapters.device_event import DeviceEvent, Severity
from adapters.reading import read_sample
from api import schemas
from api.auth import Authorised
from api.idempotency import Posted
from api.routes.binding import speak_for, speak_of
from api.routes.evidence import sight
from api.routes.shared import Shared
from api.routes.zone import accelerator
from metering import evidence_challenge
from scheduler import places
from scheduler.clock import from_ms
from scheduler.refusal import Refusal
from scheduler.schema import device_events, devices, nodes

routes = APIRouter(tags=["agents"])
SHOWN = 500


@routes.post("/v1/agents/heartbeat", status_code=200)
def heartbeat(body: schemas.Heartbeat, once: Posted, services: Shared) -> Response:
    """The node is alive and holds these devices. The platform's own clock says when.

    {node, challenge}: what the platform asks of the node now, null where nothing (metering/evidence_challenge.py).
    """
    speak_for(once.principal, body.node)
    held = [accelerator(device) for device in body.devices]
    demo = services.settings.ledger == "demo"
    sight(services, body.node, held, once.principal.key_id)

    def act(tx: Connection) -> Any:
        if not demo and any(device.source == "simulated" for device in body.devices):
            pool = tx.execute(select(nodes.c.pool).where(nodes.c.id == body.node)).scalar()
            return Refusal(code="SIMULATED_NEEDS_DEMO_LEDGER", facts={"pool": pool or body.node})
        refusal = places.heartbeat(tx, body.node, held, services.clock.now())
        if refusal is not None:
            return refusal
        hours, now = services.settings.challenge_hours, services.clock.now()
        asked = evidence_challenge.ask(tx, body.node, hours=hours, draw=randbelow, now=now)
        return {"node": body.node, "challenge": asked}

    return once.do(act, 200)


@routes.post("/v1/agents/samples", status_code=200)
def samples(body: schemas.Samples, once: Posted) -> Response:
    """Readings, kept once per device and instant, and device events, each once.

    A fatal event takes its device out of placement at once, a warning makes it degraded.
    """
    speak_for(once.principal, body.node)
    batch = [read_sample(reading.model_dump(mode="json")) for reading in body.samples]
    said = [
        DeviceEvent(**{**event.model_dump(), "severity": Severity(event.severity) if event.severity else None})
        for event in body.events
    ]

    def act(tx: Connection) -> Any:
        speak_of(tx, once.principal, [sample.uuid for sample in batch])
        kept = places.add_samples(tx, batch)
        return {"kept": kept, "events": places.add_device_events(tx, body.node, said)}

    return once.do(act, 200)


@routes.get("/v1/device-events")
def list_device_events(who: Authorised, services: Shared, node: str | None = None) -> dict[str, Any]:
    """What drivers said of devices, newest first, at most 500; of one node's with `node`."""
    query = select(device_events, devices.c.node).join(devices, devices.c.uuid == device_events.c.device)
    if node is not None:
        query = query.where(devices.c.node == node)
    order = (device_events.c.at_ms.desc(), device_events.c.device, device_events.c.code)
    with services.database.read() as tx:
        rows = tx.execute(query.order_by(*order).limit(SHOWN)).mappings().all()
    del who
    return {
        "items": [
            {
                "node": row["node"],
                "device": row["device"],
                "at": timestamp(from_ms(row["at_ms"])),
                "code": row["code"],
                "severity": row["severity"],
                "text": row["text"],
            }
            for row in rows
        ]
    }
