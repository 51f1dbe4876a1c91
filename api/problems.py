"""Problems: every refusal as RFC 9457 `application/problem+json`, with a stable code and a text in zh or en."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.texts import catalogue, known, text

_STATUS = {401: "KEY_MISSING", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE", 415: "MEDIA_TYPE"}
_CLAUSE = re.compile(r"[;:；：。]")


class Problem(Exception):
    """Answer with this problem instead. errors: [{pointer, detail, value?, nearest?}] for input that is wrong."""

    def __init__(
        self, status: int, code: str, facts: Mapping[str, Any] | None = None, errors: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.status, self.code, self.facts, self.errors = status, code, dict(facts or {}), list(errors)
        super().__init__(code)


def language_of(request: Request) -> str:
    """zh unless the request prefers en."""
    for part in request.headers.get("accept-language", "").lower().split(","):
        if part.strip().startswith(("zh", "en")):
            return part.strip()[:2]
    return "zh"


def title_of(problem: Problem, lang: str) -> str:
    """What kind of problem it is, in words that are the same each time: the clauses of the code's text before the first
    fact, else what the status means."""
    if not known(problem.code):
        return text(problem.code, {}, lang)
    plain, fact, _ = catalogue(lang)[problem.code].partition("{")
    if not fact:
        return plain
    clauses = _CLAUSE.split(plain)
    if len(clauses) > 1:
        return clauses[0].strip()
    named = f"title.{problem.status}"
    return text(named if known(named) else "title.other", {}, lang)


def answer(request: Request, problem: Problem) -> JSONResponse:
    """The problem document."""
    lang = language_of(request)
    body: dict[str, Any] = {
        "type": f"urn:yisuan:problem:{problem.code}",
        "title": title_of(problem, lang),
        "status": problem.status,
        "detail": text(problem.code, problem.facts, lang),
        "instance": request.url.path,
        "code": problem.code,
        "facts": problem.facts,
    }
    if problem.errors:
        body["errors"] = problem.errors
    headers = {"Content-Language": lang}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=problem.status, media_type="application/problem+json", headers=headers)


def install(app: FastAPI) -> None:
    """Every way a request can fail answers with a problem document."""

    @app.exception_handler(Problem)
    def _refused(request: Request, problem: Problem) -> JSONResponse:
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, invalid: RequestValidationError) -> JSONResponse:
        return answer(request, Problem(422, "INPUT_INVALID", {}, [_error(request, e) for e in invalid.errors()]))

    @app.exception_handler(HTTPException)
    def _http(request: Request, raised: HTTPException) -> JSONResponse:
        code = _STATUS.get(raised.status_code, HTTPStatus(raised.status_code).name)
        return answer(request, Problem(raised.status_code, code))


def _error(request: Request, error: Mapping[str, Any]) -> dict[str, Any]:
    """One wrong field: where, what, the value, and for an unknown field the nearest that exists."""
    where = [str(part) for part in error["loc"]]
    found: dict[str, Any] = {"pointer": "/" + "/".join(where[1:] or where), "detail": error["msg"]}
    named = re.match(r"Value error, (/\S*) ", str(error["msg"]))
    if named is not None and len(where) == 1:  # a value that cannot be stored, found before any field was looked at
        return {"pointer": named[1], "detail": error["msg"]}
    value = error.get("input")
    if isinstance(value, str | int | float | bool) or value is None:
        found["value"] = value if not isinstance(value, str) else value[:80]
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], _fields(request), n=1, cutoff=0.5)
        if near:
            found["nearest"] = near[0]
    return found


def _fields(request: Request) -> list[str]:
    """Every field name the route's body knows."""
    route = request.scope.get("route")
    body = getattr(route, "body_field", None)
    model = getattr(getattr(body, "field_info", None), "annotation", None)
    return list(getattr(model, "model_fields", {}))
