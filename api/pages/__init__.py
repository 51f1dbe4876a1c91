"""Pages: the zone in a browser, rendered on the server, readable without JavaScript, loading nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from sqlalchemy import Connection

from api.pages import read, read_jobs
from api.pages.deciding import add_forms
from api.pages.rendering import STATIC, Renderer, files, language_of
from api.pages.visitor import SESSION_COOKIE, Visitor, same_origin, visitor_of
from metering import disputes
from metering.offer import GOAL_PFLOPS
from metering.statement import firm_statement, job_statement
from metering.store import rooms
from scheduler.lifecycle import State

if TYPE_CHECKING:
    from api.wiring import Services

SESSION_S = 12 * 3600


def router(services: Services) -> APIRouter:
    """Every page, its fragments, forms and files."""
    routes = APIRouter(include_in_schema=False)
    renderer = Renderer(mark=services.settings.ledger or "live")
    _zone_pages(routes, services, renderer)
    _job_pages(routes, services, renderer)
    _statement_pages(routes, services, renderer)
    _sign_in(routes, services, renderer)
    add_forms(routes, services, renderer)
    _files(routes)
    return routes


Page = Callable[[Connection, Visitor], Response]


def _shown(services: Services, renderer: Renderer, request: Request, page: Page, *, public: bool = False) -> Response:
    """The page, read in one transaction, for the visitor the request's cookie names; else the way to sign in."""
    with services.database.read() as tx:
        visitor = visitor_of(tx, services, request)
        if not public and not visitor.sees_jobs:
            where = quote(request.url.path, safe="/")
            return renderer.headers(RedirectResponse(f"/login?next={where}", status_code=303))
        return page(tx, visitor)


def _zone_pages(routes: APIRouter, services: Services, renderer: Renderer) -> None:
    @routes.get("/")
    def overview(request: Request) -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            shown = read.overview(tx, services.budget, services.catalog, services.clock.now(), visitor.jobs())
            return renderer.page(
                "overview.html", request, visitor, shown=shown, goal=GOAL_PFLOPS, now=services.clock.now()
            )

        return _shown(services, renderer, request, page, public=True)

    @routes.get("/offers")
    def offers(request: Request) -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            rows = read.offers(tx, services.budget, services.catalog, services.clock.now())
            return renderer.page("offers.html", request, visitor, rows=rows, now=services.clock.now())

        return _shown(services, renderer, request, page, public=True)


def _job_pages(routes: APIRouter, services: Services, renderer: Renderer) -> None:
    @routes.get("/jobs")
    def jobs(request: Request, state: str | None = None, before: str | None = None) -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            wanted = state if state in set(State) else None
            rows, after = read_jobs.job_list(tx, visitor.jobs(), wanted, before)
            return renderer.page(
                "jobs.html", request, visitor, rows=rows, after=after, wanted=wanted, states=[s.value for s in State]
            )

        return _shown(services, renderer, request, page)

    def job_view(request: Request, job: str, template: str) -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            shown = read_jobs.job_page(tx, job, visitor.jobs())
            if shown is None:
                return renderer.missing(request, visitor)
            lease = shown.leases[0] if shown.leases else None
            logs = [] if lease is None else [
                (member.rank, *read_jobs.log_tail(services.backends, lease, member.rank)) for member in lease.members
            ]  # fmt: skip
            return renderer.page(template, request, visitor, job=shown, logs=logs, now=services.clock.now())

        return _shown(services, renderer, request, page)

    @routes.get("/jobs/{job}")
    def job(request: Request, job: str) -> Response:
        return job_view(request, job, "job.html")

    @routes.get("/jobs/{job}/live")
    def job_live(request: Request, job: str) -> Response:
        return job_view(request, job, "job_live.html")


def _statement_pages(routes: APIRouter, services: Services, renderer: Renderer) -> None:
    @routes.get("/statements/jobs/{job}")
    def of_job(request: Request, job: str, refused: str = "") -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            shown = read_jobs.job_page(tx, job, visitor.jobs())
            found = job_statement(tx, job) if shown else None
            if shown is None or found is None:
                return renderer.missing(request, visitor)
            cited = sorted({clause for line in found["lines"] for clause in line["clauses"]})
            known = services.budget.registry.policy(found["policy"]).clauses
            told: dict[str, Any] = {"shown": found, "firm_name": shown.firm_name, "cited": cited, "clauses": known}
            told |= {"disputes": disputes.of_job(tx, job), "reasons": disputes.REASONS, "refused": refused}
            return renderer.page("statement.html", request, visitor, rooms=rooms(tx, found["firm"]), **told)

        return _shown(services, renderer, request, page)

    @routes.get("/statements/jobs/{job}/papers")
    def papers(request: Request, job: str, format: str = "html") -> Response:  # noqa: A002 - the parameter's public name
        from api.documents.statement import job_sheet
        from api.routes.documents import Form, answer

        def page(tx: Connection, visitor: Visitor) -> Response:
            found = job_statement(tx, job) if read_jobs.job_page(tx, job, visitor.jobs()) else None
            if found is None or format not in set(Form):
                return renderer.missing(request, visitor)
            demo = services.settings.ledger == "demo"
            sheet = job_sheet(found, language=language_of(request), at=services.clock.now(), demo=demo)
            return answer(sheet, Form(format))

        return _shown(services, renderer, request, page)

    @routes.get("/statements/firms/{firm}")
    def of_firm(request: Request, firm: str) -> Response:
        def page(tx: Connection, visitor: Visitor) -> Response:
            if not visitor.may_see_firm(firm) or read_jobs.firm_of(tx, firm) is None:
                return renderer.missing(request, visitor)
            return renderer.page("firm.html", request, visitor, shown=firm_statement(tx, firm))

        return _shown(services, renderer, request, page)


def _sign_in(routes: APIRouter, services: Services, renderer: Renderer) -> None:
    @routes.get("/login")
    def form(request: Request, next: str = "/") -> Response:  # noqa: A002 - the parameter's public name
        def page(_tx: Connection, visitor: Visitor) -> Response:
            return renderer.page("login.html", request, visitor, after=_local(next), wrong=False)

        return _shown(services, renderer, request, page, public=True)

    @routes.post("/login")
    def sign_in(
        request: Request,
        key: Annotated[str, Form(max_length=200)] = "",
        next: Annotated[str, Form(max_length=500)] = "/",  # noqa: A002
    ) -> Response:
        from api.auth import open_session

        if not same_origin(request):
            return renderer.headers(PlainTextResponse("cross-site form refused", status_code=403))
        with services.database.write() as tx:
            token = open_session(tx, key.strip(), services.clock.now())
            if token is None:
                visitor = visitor_of(tx, services, request)
                return renderer.page("login.html", request, visitor, status=403, after=_local(next), wrong=True)
        answer = renderer.headers(RedirectResponse(_local(next), status_code=303))
        secure = request.url.scheme == "https"
        answer.set_cookie(SESSION_COOKIE, token, max_age=SESSION_S, httponly=True, samesite="lax", secure=secure)
        return answer

    @routes.post("/logout")
    def sign_out(request: Request) -> Response:
        from api.auth import close_session

        if not same_origin(request):
            return renderer.headers(PlainTextResponse("cross-site form refused", status_code=403))
        with services.database.write() as tx:
            close_session(tx, request.cookies.get(SESSION_COOKIE, ""))
        answer = renderer.headers(RedirectResponse("/", status_code=303))
        answer.delete_cookie(SESSION_COOKIE)
        return answer


def _local(path: str) -> str:
    """A path of ours: signing in never leads to another site."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain else "/"


def _files(routes: APIRouter) -> None:
    known = files()

    @routes.get("/static/{name:path}")
    def file(name: str) -> Response:
        if name not in known:
            return PlainTextResponse("not found", status_code=404)
        headers: dict[str, Any] = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
        return FileResponse(STATIC / name, headers=headers)
