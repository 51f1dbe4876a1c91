"""Quotes: what a job would take, cost and wait for, in every pool it could run in, before it is submitted."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from adapters.chain import timestamp
from api import queries
from api.idempotency import Posted
from api.problems import Problem
from api.routes.jobs import YAML_BODY, spec_from
from api.routes.shared import Shared
from api.wiring import Services
from metering.offer import quote_of
from metering.schema import firms
from scheduler import view
from scheduler.admission import unsupported
from scheduler.codec import encode, pending_document
from scheduler.engine import Set, apply
from scheduler.job import FirmId, JobId, JobSpec
from scheduler.kept import Kept
from scheduler.node import Pool
from scheduler.progress import profile_name
from scheduler.quote import Option, Quote, quote
from scheduler.region_file import RegionFile, read_region_file
from scheduler.shadow import ShadowPrice
from scheduler.snapshot import Terms, WaitingJob

routes = APIRouter(tags=["quotes"])
DATA = re.compile(r"(?P<region>[^=\s]{1,80})=(?P<size>\d{1,9}(?:\.\d{1,6})?)(?P<unit>MiB|GiB|TiB)")
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_LOCK = threading.Lock()
_KEPT: WeakKeyDictionary[Any, Kept] = WeakKeyDictionary()  # by loop: it goes when the platform does


@routes.post("/v1/quotes", openapi_extra=YAML_BODY)
def ask(
    once: Posted,
    services: Shared,
    data: Annotated[list[str], Query(description="Where inputs lie: REGION=SIZE, e.g. hebei=2TiB.")] = [],  # noqa: B006
) -> dict[str, Any]:
    """A job file as for /v1/jobs. Nothing is stored and nothing is held: a quote promises what it says it promises."""
    spec = spec_from(once.request, once.body)
    regions = _regions(services.settings.data_dir)
    where = _data(data) or regions.data_of(spec.inputs)
    now = services.clock.now()
    with services.database.read() as tx:
        firm = FirmId(once.principal.tenant or "")
        if queries.one(tx, firms, firm) is None:
            raise Problem(404, "FIRM_UNKNOWN", {"firm": firm})
        with _kept(services).state(tx, now) as known:
            pools = tuple(known.pools.values())
            shadow = services.budget.shadow_price(tx, firm, pools, now) if pools else None
            own = (
                () if any(one.firm == firm for one in known.terms.values()) else _terms(tx, services, firm, pools, now)
            )
            state = apply(known, [*(Set(one) for one in own), *(Set(one) for one in regions.links)])
            job = waiting_job(spec, firm, now, where)
            found = quote(state, job, services.loop.policy, region_facts=regions.facts)
    missing = [refusal.facts["field"] for refusal in unsupported(spec)]
    return document(found, spec.name, services.loop.policy.name, shadow) | {"not_supported": missing}


def _kept(services: Services) -> Kept:
    """The state that quotes of this process share."""
    with _LOCK:
        found: Kept | None = _KEPT.get(services.loop)
        if found is None:
            found = _KEPT[services.loop] = Kept(services.budget)
        return found


def _terms(
    tx: Connection, services: Services, firm: FirmId, pools: tuple[Pool, ...], now: datetime
) -> tuple[Terms, ...]:
    """This firm's, which nobody else needs while it has no job that waits."""
    return services.budget.terms(tx, [firm], pools, now)


def waiting_job(spec: JobSpec, firm: FirmId, now: datetime, data: Mapping[str, int]) -> WaitingJob:
    """The job as it would wait if it were submitted now. data: bytes of its inputs in each region."""
    return WaitingJob(
        id=JobId("quote"),
        name=spec.name,
        firm=firm,
        queue=spec.queue,
        priority=spec.priority,
        submitted_at=now,
        nodes=spec.nodes,
        time_limit_ms=spec.time_limit_ms,
        request=spec.request,
        money=spec.money,
        stacks=view.stacks_of(spec),
        images=view.images_of(spec),
        share_permille=view.share_permille(spec),
        min_nodes=spec.gang_min_nodes if spec.gang_min_nodes < spec.nodes else None,
        workload=profile_name(firm, spec.workload),
        checkpoint_interval_ms=spec.checkpoint.interval_ms if spec.checkpoint else None,
        deadline=spec.deadline,
        data=data,
    )


def _data(values: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        read = DATA.fullmatch(value)
        if read is None:
            errors = [{"pointer": "/data", "detail": "must be REGION=SIZE", "value": value, "nearest": "hebei=2TiB"}]
            raise Problem(422, "INPUT_INVALID", {}, errors)
        whole, _, part = read["size"].partition(".")
        size = int(whole) * UNITS[read["unit"]] + (int(part) * UNITS[read["unit"]] // 10 ** len(part) if part else 0)
        found[read["region"]] = found.get(read["region"], 0) + size
    return found


def _regions(folder: Path) -> RegionFile:
    """What the zone recorded in regions.yaml of its data directory; nothing without the file."""
    path = folder / "regions.yaml"
    try:
        return read_region_file(path) if path.is_file() else RegionFile()
    except (OSError, ValueError) as wrong:
        raise Problem(500, "REGIONS_UNREADABLE", {"problem": str(wrong)}) from None


def document(found: Quote, name: str, policy: str, shadow: ShadowPrice | None) -> dict[str, Any]:
    """Version 1. Options best first (those asked for, those that would have to be accepted, those that cannot start)."""
    return {
        "version": 1,
        "name": name,
        "policy": policy,
        "now": timestamp(found.now),
        "best": found.best,
        "pending": None if found.pending is None else pending_document(found.pending),
        "options": [_option(one, shadow) for one in found.options],
        "instead": [encode(one) for one in found.instead],
        "saved": None if found.saved is None else encode(found.saved),
    }


def _option(one: Option, shadow: ShadowPrice | None) -> Mapping[str, Any]:
    return {
        **quote_of(one.model, one.terms, one.most, one.expected, shadow),
        "alternative": one.alternative,
        "accepts": one.accepts,
        "region": one.region,
        "devices": one.devices,
        "code": one.code,
        "earliest_start": None if one.earliest is None else timestamp(one.earliest),
        "latest_start": None if one.latest is None else timestamp(one.latest),
        "promised": one.promised,
        "done_at": None if one.done is None else timestamp(one.done),
        "exceeds_limit": one.exceeds_limit,
        "transfer_ms": one.transfer_ms,
        "transfer_fen": one.transfer_fen,
        "total_fen": one.total_fen,
        "energy_fen": one.energy_fen,
        "carbon_g": one.carbon_g,
    }
