"""A browser for tests: requests go straight into an application, redirects are looked at and not followed."""

from __future__ import annotations

import warnings

from fastapi import APIRouter, FastAPI

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the test client's own remark about its HTTP library
    from fastapi.testclient import TestClient


def browse(routes: APIRouter) -> TestClient:
    """A client of these routes alone."""
    app = FastAPI()
    app.include_router(routes)
    return TestClient(app, base_url="http://zone.test", follow_redirects=False)
