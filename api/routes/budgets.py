"""Budgets: what a firm is willing to pay over time, net of the voucher."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field, model_validator

from api import schemas
from api.auth import Authorised
from api.idempotency import Posted
from api.problems import Problem
from api.routes.shared import Shared
from metering import firm_budget
from scheduler.clock import from_ms, to_ms

routes = APIRouter(tags=["money"])
MOST_FEN = 10**15


class Budget(schemas.Body):
    """At most limit_fen for usage in [from, to), to null = open; null lifts the limit of this very interval.

    firm: the operator names it; a firm's own key leaves it out.
    """

    firm: schemas.CreditCode | None = None
    start: Annotated[schemas.Instant, Field(alias="from")]
    end: Annotated[schemas.Instant | None, Field(alias="to")] = None
    limit_fen: Annotated[int, Field(ge=0, le=MOST_FEN)] | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end is not None and to_ms(self.end) <= to_ms(self.start):
            raise ValueError("to is not after from")
        return self


@routes.get("/v1/budgets")
def budgets(who: Authorised, services: Shared, firm: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Every budget that was set, oldest first; of those that stand, what is spent: net of what is settled by now."""
    mine = who.firm if who.firm is not None else firm
    with services.database.read() as tx:
        items = firm_budget.budgets(tx, mine)
        standing = {(b.firm, b.start, b.end) for b in firm_budget.standing_budgets(tx, {i["firm"] for i in items})}
        spent = {key: services.budget.expenditure.spent(tx, *key) for key in standing}
    for item in items:
        item["spent_fen"] = spent.get(firm_budget.interval_of(item)) if item["stands"] else None
    return {"items": items, "next_cursor": None}


@routes.post("/v1/budgets", status_code=201)
def set_budget(body: Budget, once: Posted, services: Shared) -> Response:
    """From now on nothing of the firm starts that could pass the limit, and what runs is stopped when it is spent."""
    firm = once.principal.tenant if once.principal.role == "firm" else body.firm
    if firm is None or (body.firm is not None and body.firm != firm):
        detail = "the operator names the firm" if firm is None else "a firm sets its own budget only"
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/firm", "detail": detail}])
    start = from_ms(to_ms(body.start))
    end = None if body.end is None else from_ms(to_ms(body.end))
    return once.do(
        lambda tx: firm_budget.set_budget(
            tx, firm=firm, start=start, end=end, limit_fen=body.limit_fen, by=once.principal.key_id,
            now=services.clock.now(),
        )
    )  # fmt: skip
