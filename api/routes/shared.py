"""What every route takes: the services, a page of a list, the caller's language."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from api.problems import Problem
from api.wiring import Services


def _services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Shared = Annotated[Services, Depends(_services)]
Limit = Annotated[int, Query(ge=1, le=200, description="At most so many items.")]
Cursor = Annotated[str | None, Query(max_length=400, description="The next_cursor of the page before.")]


def page(items: Sequence[dict[str, Any]], limit: int, key: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """{items, next_cursor}: of limit + 1 items read, the first `limit`, and where the rest begins."""
    kept = list(items[:limit])
    more = len(items) > limit
    return {"items": kept, "next_cursor": encode(key(kept[-1])) if more else None}


def encode(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode()


def position_of(cursor: str | None) -> str | None:
    """The position a cursor stands for; a problem if it is none of ours."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/cursor", "detail": "not a cursor of ours"}]) from None


def number_of(cursor: str | None) -> str | None:
    """The position a cursor stands for in a list that is counted; a problem if it is no number."""
    position = position_of(cursor)
    if position is not None and not (position.isascii() and position.isdigit() and len(position) < 19):
        raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/cursor", "detail": "not a cursor of this list"}])
    return position


def found(value: Any, what: str, identity: str) -> Any:
    """The value, or a 404 that does not tell whether somebody else has one."""
    if value is None:
        raise Problem(404, "NOT_FOUND", {"what": what, "id": identity})
    return value
