"""Rendering: templates, languages and the headers that every page carries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api import texts
from api.pages.visitor import LANGUAGE_COOKIE, Visitor

HERE = Path(__file__).parent
STATIC = HERE / "static"
HTMX = "vendor/htmx.min.js"
YEAR_S = 365 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
AnyResponse = TypeVar("AnyResponse", bound=Response)


class Renderer:
    """Turns values into pages. mark: demo or live, told on every page."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,  # job names, log lines and reasons come from outside
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            money=texts.money, moment=texts.moment, count=texts.count, percent=texts.percent, memory=texts.memory
        )
        self._versions = files()

    def page(self, template: str, request: Request, visitor: Visitor, *, status: int = 200, **values: Any) -> Response:
        """The template in the visitor's language; a language asked for by `?lang=` is kept in a cookie."""
        lang = language_of(request)

        def t(code: str, **facts: Any) -> str:
            return texts.text(code, facts, lang)

        def t_facts(code: str, facts: Mapping[str, Any]) -> str:
            return texts.text(code, facts, lang)

        body = self._environment.get_template(template).render(
            t=t,
            t_facts=t_facts,
            known=texts.known,
            pending_words=lambda pending: texts.pending_words(pending, lang),
            duration=lambda ms: texts.duration(ms, lang),
            lang=lang,
            other=_switch(request, "en" if lang == "zh" else "zh"),
            path=request.url.path,
            visitor=visitor,
            demo=self._mark == "demo",
            asset=self._asset,
            live=HTMX in self._versions,
            **values,
        )
        answer = self.headers(HTMLResponse(body, status_code=status))
        answer.headers["Content-Language"] = "zh-CN" if lang == "zh" else "en"
        if request.query_params.get("lang") in texts.LANGUAGES:
            answer.set_cookie(LANGUAGE_COOKIE, lang, max_age=YEAR_S, samesite="lax", httponly=True)
        return answer

    def missing(self, request: Request, visitor: Visitor) -> Response:
        """There is no such page, or the visitor may not know of it: the answers are the same."""
        return self.page("missing.html", request, visitor, status=404)

    def headers(self, answer: AnyResponse) -> AnyResponse:
        """The answer with the headers that keep it from being framed, sniffed, cached or scripted."""
        answer.headers.update(HEADERS)
        return answer

    def _asset(self, name: str) -> str:
        return f"/static/{name}?v={self._versions[name]}"


def files() -> dict[str, str]:
    """Every file the pages may load, and a short hash of its content; nothing else under static is served."""
    found = {}
    for name in ("style.css", "icon.svg", HTMX):
        path = STATIC / name
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def language_of(request: Request) -> str:
    """zh unless `?lang=en` or the cookie of an earlier `?lang=en` says otherwise."""
    for wanted in (request.query_params.get("lang"), request.cookies.get(LANGUAGE_COOKIE)):
        if wanted in texts.LANGUAGES:
            return wanted
    return texts.LANGUAGES[0]


def _switch(request: Request, lang: str) -> str:
    """The same page in the other language."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "lang"]
    return "?" + urlencode([*kept, ("lang", lang)])
