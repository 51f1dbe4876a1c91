"""Agents: heartbeats and readings from nodes."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from adapters.sample import Sample
from api import schemas
from api.idempotency import Posted
from api.routes.shared import Shared
from api.routes.zone import accelerator
from scheduler import store

routes = APIRouter(tags=["agents"])


@routes.post("/v1/agents/heartbeat", status_code=200)
def heartbeat(body: schemas.Heartbeat, once: Posted, services: Shared) -> Response:
    """The node is alive and holds these devices. The platform's own clock says when."""
    devices = [accelerator(device) for device in body.devices]
    return once.do(lambda tx: store.heartbeat(tx, body.node, devices, services.clock.now()) or {"node": body.node}, 200)


@routes.post("/v1/agents/samples", status_code=200)
def samples(body: schemas.Samples, once: Posted, services: Shared) -> Response:
    """Readings, kept once per device and instant."""
    batch = [Sample(**reading.model_dump()) for reading in body.samples]
    del services
    return once.do(lambda tx: {"kept": store.add_samples(tx, batch)}, 200)
