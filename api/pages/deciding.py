"""Deciding: the pages' few forms that change something: a firm disputes its settlement, the zone answers its reviews.

Each does what its route does, for the visitor's own session, and only from our own pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from sqlalchemy import Connection

from api.pages.rendering import Renderer
from api.pages.visitor import Visitor, same_origin, visitor_of
from metering import disputes, review
from metering.statement import job_statement
from scheduler.refusal import Refusal

if TYPE_CHECKING:
    from api.wiring import Services

ANSWERING = ("operator", "reviewer")
Text = Annotated[str, Form(max_length=2000)]
Word = Annotated[str, Form(max_length=200)]


class Refused(Exception):
    """A form was refused; what it began is rolled back and the page tells why."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.code)


def add_forms(routes: APIRouter, services: Services, renderer: Renderer) -> None:
    """The review page, and where its forms and the statement's dispute form are sent."""

    @routes.get("/reviews")
    def reviews(request: Request) -> Response:
        with services.database.read() as tx:
            visitor = visitor_of(tx, services, request)
            if visitor.principal is None and not visitor.open:
                return renderer.headers(RedirectResponse("/login?next=/reviews", status_code=303))
            if not visitor.sees_all:
                return renderer.missing(request, visitor)
            return _reviews(tx, request, visitor, None)

    def _reviews(tx: Connection, request: Request, visitor: Visitor, refusal: Refusal | None) -> Response:
        may = visitor.principal is not None and visitor.principal.role in ANSWERING
        told: dict[str, Any] = {
            "items": review.queue(tx),
            "answered": review.queue(tx, closed=True)[-20:],
            "may_answer": may,
        }
        return renderer.page("reviews.html", request, visitor, status=409 if refusal else 200, refusal=refusal, **told)

    @routes.post("/reviews")
    def answer(request: Request, item: Word, action: Word, reason: Text = "") -> Response:
        if not same_origin(request):
            return renderer.headers(PlainTextResponse("cross-site form refused", status_code=403))
        try:
            with services.database.write() as tx:
                visitor = visitor_of(tx, services, request)
                who = visitor.principal
                if who is None or who.role not in ANSWERING:
                    return renderer.missing(request, visitor)
                done = review.close(
                    tx, review=item, action=action, reason=reason, actor=who.actor, now=services.clock.now()
                )
                if isinstance(done, Refusal):
                    raise Refused(done)
        except Refused as refused:
            with services.database.read() as tx:
                return _reviews(tx, request, visitor_of(tx, services, request), refused.refusal)
        return renderer.headers(RedirectResponse("/reviews", status_code=303))

    @routes.post("/statements/jobs/{job}/disputes")
    def dispute(request: Request, job: str, code: Word, text: Text = "") -> Response:
        if not same_origin(request):
            return renderer.headers(PlainTextResponse("cross-site form refused", status_code=403))
        try:
            with services.database.write() as tx:
                visitor = visitor_of(tx, services, request)
                shown = job_statement(tx, job)
                if (
                    visitor.firm is None
                    or shown is None
                    or shown["firm"] != visitor.firm
                    or code not in disputes.REASONS
                ):
                    return renderer.missing(request, visitor)
                assert visitor.principal is not None, "a firm is signed in"
                done = disputes.open_dispute(
                    tx, settlement=shown["settlement"], code=code, text=text, party=visitor.firm,
                    actor=visitor.principal.actor, now=services.clock.now(),
                )  # fmt: skip
                if isinstance(done, Refusal):
                    raise Refused(done)
        except Refused as refused:
            problem = quote(refused.refusal.code)
            return renderer.headers(
                RedirectResponse(f"/statements/jobs/{quote(job)}?refused={problem}#dispute", status_code=303)
            )
        return renderer.headers(RedirectResponse(f"/statements/jobs/{quote(job)}#dispute", status_code=303))
