"""App: the FastAPI application over Services. Refusals become problems, pages and routes share one process."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from api.direct import Direct
from api.pages import router as pages
from api.problems import install
from api.published import Published
from api.routes import (
    agents,
    benchmarks,
    budgets,
    clearing,
    documents,
    events,
    evidence,
    explain,
    jobs,
    money,
    papers,
    policies,
    programmes,
    public,
    quotes,
    usage_events,
    zone,
)
from api.tailer import Tailer
from api.wiring import Services


def create_app(services: Services) -> FastAPI:
    """Every route of the platform on these services."""
    app = FastAPI(
        title="yisuan",
        version=version("yisuan"),
        summary="The platform a compute zone runs: listings, jobs, metering, vouchers.",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.services = services
    app.state.tailer = Tailer(services.database)
    app.state.published = Published(services)
    install(app)
    app.add_middleware(Direct, functions=public.DIRECT)
    for module in (
        public,
        jobs,
        quotes,
        events,
        zone,
        money,
        budgets,
        documents,
        agents,
        benchmarks,
        policies,
        usage_events,
        evidence,
        explain,
        papers,
        clearing,
        programmes,
    ):
        app.include_router(module.routes)
    app.include_router(pages(services))
    return app
