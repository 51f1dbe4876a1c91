"""Visitor: who looks at a page, what they may see, and the session cookie that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from sqlalchemy import ColumnElement, Connection, false, true

from scheduler.schema import jobs

if TYPE_CHECKING:
    from api.auth import Principal
    from api.wiring import Services

SESSION_COOKIE = "yisuan_session"
LANGUAGE_COOKIE = "yisuan_lang"
ZONE_ROLES = ("operator", "reviewer", "finance", "auditor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """principal None: nobody signed in. open: the zone shows everything to anyone (demo ledgers only)."""

    principal: Principal | None
    open: bool

    @property
    def sees_all(self) -> bool:
        return self.open or (self.principal is not None and self.principal.role in ZONE_ROLES)

    @property
    def firm(self) -> str | None:
        """The visitor's own firm."""
        mine: str | None = None
        if self.principal is not None and self.principal.role == "firm":
            mine = self.principal.tenant
        return mine

    @property
    def sees_jobs(self) -> bool:
        return self.sees_all or self.firm is not None

    def may_see_firm(self, firm: str) -> bool:
        return self.sees_all or self.firm == firm

    def jobs(self) -> ColumnElement[bool]:
        """The condition on the jobs table: every query about jobs carries it."""
        if self.sees_all:
            return true()
        return jobs.c.firm == self.firm if self.firm is not None else false()


def visitor_of(tx: Connection, services: Services, request: Request) -> Visitor:
    """Who the request's session cookie belongs to."""
    token = request.cookies.get(SESSION_COOKIE)
    principal = None
    if token:
        from api.auth import principal_of_session

        principal = principal_of_session(tx, token, services.clock.now())
    return Visitor(principal=principal, open=services.settings.pages_open)


def same_origin(request: Request) -> bool:
    """Whether a form came from our own pages: its Origin names the host it was sent to. None at all is refused too."""
    origin = request.headers.get("origin", "")
    return origin.split("://", 1)[-1] == request.headers.get("host", "") and "://" in origin
