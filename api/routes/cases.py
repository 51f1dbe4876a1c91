"""Cases: a page of batches, clawbacks, disputes, projects or applications, by the position of their last act."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import Connection

from api.problems import Problem
from api.routes.shared import Shared, number_of, page
from metering import docket

State = Annotated[str | None, Query(max_length=40, description="Only cases in this state.")]
Read = Callable[[Connection, docket.Wanted], Sequence[dict[str, Any]]]


def page_of(
    services: Shared, kind: str, read: Read, party: str | None, state: str | None, cursor: str | None, limit: int
) -> dict[str, Any]:
    """{items, next_cursor}; a problem names the field for a state that no case of the kind has, and for a foreign cursor."""
    known = docket.states_of(kind)
    if state is not None and state not in known:
        near = difflib.get_close_matches(state, known, n=1, cutoff=0.0)
        error = {"pointer": "/state", "detail": f"one of {', '.join(known)}", "value": state, "nearest": near[0]}
        raise Problem(422, "INPUT_INVALID", {}, [error])
    wanted = docket.Wanted(party=party, state=state, after=int(number_of(cursor) or 0), limit=limit + 1)
    with services.database.read() as tx:
        items = read(tx, wanted)
    return page(items, limit, lambda item: str(item["seq"]))
