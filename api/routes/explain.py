"""Explain: any number as a tree, and what shows that a record is under a seal and that seals only grew."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from api.auth import Authorised
from api.problems import Problem
from api.routes.shared import Shared
from metering import proof as proofs
from metering.explain import explain as explained
from metering.explain import explanation
from scheduler.refusal import Refusal

routes = APIRouter(tags=["evidence"])
BIGGEST = 2**53 - 1
Seal = Annotated[int | None, Query(ge=1, le=BIGGEST, alias="to", description="A checkpoint's id; the newest without.")]


@routes.get("/v1/explain")
def explain(
    who: Authorised, services: Shared, amount: Annotated[str, Query(min_length=1, max_length=400)]
) -> dict[str, Any]:
    """A number by its id (docs/evidence.md): clause, parameter, arithmetic, record, evidence; a firm only its own."""
    with services.database.read() as tx:
        found = explained(
            tx,
            amount,
            services.budget.registry,
            firm=who.firm,
            register=services.budget.register,
            now=services.clock.now(),
        )
    if isinstance(found, Refusal):
        raise Problem(404, found.code, found.facts)
    return explanation(found)


@routes.get("/v1/ledger/proofs/{stream}/{seq}")
def proof(
    stream: str, seq: Annotated[int, Path(ge=1, le=BIGGEST)], who: Authorised, services: Shared
) -> dict[str, Any]:
    """That a record is under the newest signed Merkle root (RFC 6962 inclusion proof). Tells hashes, never contents."""
    del who
    with services.database.read() as tx:
        return _known(proofs.prove_inclusion(tx, stream, seq))


@routes.get("/v1/ledger/consistency")
def consistency(
    who: Authorised,
    services: Shared,
    start: Annotated[int, Query(ge=1, le=BIGGEST, alias="from", description="The older checkpoint's id.")],
    end: Seal = None,
) -> dict[str, Any]:
    """That one signed checkpoint only adds to an older one, stream by stream (RFC 6962 consistency proofs)."""
    del who
    with services.database.read() as tx:
        return _known(proofs.prove_consistency(tx, start, end))


def _known(found: dict[str, Any] | Refusal) -> dict[str, Any]:
    if isinstance(found, Refusal):
        raise Problem(404, found.code, found.facts)
    return found
