"""Policies: one policy in full, two side by side, and what stored usage would draw under another. Nothing is changed.

The list of policies is in api/routes/public.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime
from sqlalchemy import Connection, RowMapping, Select, func, select

from adapters.chain import timestamp
from api.auth import Authorised
from api.problems import Problem
from api.routes.public import tagged
from api.routes.shared import Cursor, Limit, Shared, number_of, page
from api.wiring import Services
from metering.case import CaseError
from metering.impact import Sample, compare
from metering.parameters import Policy, UnknownPolicy
from metering.parameters.description import describe, difference, warnings
from metering.schema import settlements
from scheduler.clock import from_ms

routes = APIRouter(tags=["policies"])


@routes.get("/v1/policies/cases")
def cases(
    who: Authorised,  # noqa: ARG001 - zone roles see all
    services: Shared,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Each job's latest settlement with the case it was made from, oldest first: what a change of policy is tried on."""
    query = _latest().limit(limit + 1)
    if (after := number_of(cursor)) is not None:
        query = query.where(settlements.c.seq > int(after))
    with services.database.read() as tx:
        items = [_case(row) for row in tx.execute(query).mappings()]
    return page(items, limit, lambda item: str(item["seq"]))


@routes.get("/v1/policies/simulate")
def simulate(
    who: Authorised,  # noqa: ARG001
    services: Shared,
    policy: Annotated[str, Query(max_length=120)],
    against: Annotated[str, Query(max_length=120)],
    start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    end: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> dict[str, Any]:
    """Every job's usage within [from, to) settled under both policies: per job, per firm and in total. Posts nothing."""
    before, after = _policy(services, policy), _policy(services, against)
    with services.database.read() as tx:
        samples = list(_samples(tx))
    try:
        compared = compare(samples, before, after, services.budget.rules, start=start, end=end, in_sequence=True)
    except CaseError as bad:
        raise Problem(409, "SIMULATION_IMPOSSIBLE", {"settlement": bad.facts.get("file"), "problem": str(bad)}) from bad
    return {**compared.document(), "warnings": warnings(after)}


@routes.get("/v1/policies/{policy}")
def policy(policy: str, request: Request, services: Shared) -> Response:
    """Every value with unit, dates, clauses and people; every question the text leaves open; what to beware of."""
    return tagged(request, describe(_policy(services, policy)))


@routes.get("/v1/policies/{policy}/diff/{other}")
def diff(policy: str, other: str, request: Request, services: Shared) -> Response:
    """Parameter by parameter, when and how the two differ."""
    return tagged(request, difference(_policy(services, policy), _policy(services, other)))


def _policy(services: Services, name: str) -> Policy:
    try:
        return services.budget.registry.policy(name)
    except UnknownPolicy as unknown:
        known = sorted(services.budget.registry.policies)
        raise Problem(404, "POLICY_UNKNOWN", {"id": name[:80], "known": known, "problem": str(unknown)}) from None


def _latest() -> Select[Any]:
    """Each job's settlement of the highest number, in the order in which they were made."""
    last = (
        select(settlements.c.job, func.max(settlements.c.number).label("number")).group_by(settlements.c.job).subquery()
    )
    found = select(settlements).join(last, (settlements.c.job == last.c.job) & (settlements.c.number == last.c.number))
    return found.order_by(settlements.c.seq)


def _samples(tx: Connection) -> Iterator[Sample]:
    for row in tx.execute(_latest()).mappings():
        yield Sample(name=row["id"], firm=row["firm"], case=json.loads(row["case_json"]))


def _case(row: RowMapping) -> dict[str, Any]:
    kept = ("seq", "id", "job", "firm", "policy", "bundle_sha256", "fee_fen", "deduction_fen")
    return {
        **{name: row[name] for name in kept},
        "settled_at": timestamp(from_ms(row["settled_at_ms"])),
        "case": json.loads(row["case_json"]),
    }
