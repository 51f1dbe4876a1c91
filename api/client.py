"""Client: the HTTP side of the command line. A thin one: paths and documents are those of `/v1`."""

from __future__ import annotations

import json
import os
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

SERVER = "http://127.0.0.1:8080"
CONFIG = Path(".config") / "yisuan" / "config.toml"
TIMEOUT_S = 30.0
SUBMIT_DIR = "YISUAN_SUBMIT_DIR"


class Unavailable(Exception):
    """The server cannot be reached, or says that it cannot serve now."""


class Refused(Exception):
    """The server answered with a problem (RFC 9457). status, code; detail in the language asked for."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        self.code = str(problem.get("code", status))
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
        super().__init__(self.detail)

    @property
    def errors(self) -> list[str]:
        """One line per field that is wrong: where, what, and the nearest valid spelling."""
        lines = []
        for error in self.problem.get("errors") or ():
            where = error.get("pointer") or error.get("field") or ""
            near = error.get("nearest")
            lines.append(f"{where}: {error.get('detail') or error.get('message')}" + (f" ({near})" if near else ""))
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the platform is and who asks; key None: public routes only."""

    server: str
    key: str | None


def find_access(role: str, environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Access:
    """From YISUAN_SERVER and YISUAN_KEY, else ~/.config/yisuan/config.toml, else keys.json of YISUAN_DATA_DIR.

    keys.json: {"server": address, "keys": {role: key}}; `role` is preferred there, any other serves if it is missing.
    """
    server, key = environment.get("YISUAN_SERVER"), environment.get("YISUAN_KEY")
    config = (home or Path.home()) / CONFIG
    if (not server or not key) and config.is_file():
        said = tomllib.loads(config.read_text(encoding="utf-8"))
        server, key = server or said.get("server"), key or said.get("key")
    folder = environment.get("YISUAN_DATA_DIR")
    if (not server or not key) and folder and (Path(folder) / "keys.json").is_file():
        found = json.loads((Path(folder) / "keys.json").read_text(encoding="utf-8"))
        keys = found.get("keys", {k: v for k, v in found.items() if k != "server"})
        server = server or found.get("server")
        key = key or keys.get(role) or next(iter(keys.values()), None)
    return Access(server=(server or SERVER).rstrip("/"), key=key)


class Client:
    """Speaks to one server. transport: another way to reach it, for tests."""

    def __init__(self, access: Access, lang: str, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Accept-Language": lang}
        if access.key:
            headers["Authorization"] = f"Bearer {access.key}"
        self.server = access.server
        self._http = httpx.Client(base_url=access.server, headers=headers, timeout=TIMEOUT_S, transport=transport)

    def get(self, path: str, **parameters: Any) -> Any:
        """The document at `path`; parameters that are None are left out."""
        return self.fetch(path, **parameters).json()

    def fetch(self, path: str, **parameters: Any) -> httpx.Response:
        """The answer itself, where it is not JSON."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._answer("GET", path, params=given)

    def items(self, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Every item of a paged list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, cursor=cursor, **parameters)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def post(self, path: str, body: Any = None, *, text: str | None = None, key: str | None = None) -> Any:
        """Send a document, or `text` as YAML; key: repeat it to be sure of one effect however often it is sent."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        if text is not None:
            headers["Content-Type"] = "application/yaml"
            return self._answer("POST", path, headers=headers, content=text.encode()).json()
        return self._answer("POST", path, headers=headers, json=body if body is not None else {}).json()

    def _answer(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.InvalidURL as problem:
            raise Unavailable(f"{self.server}: {problem}") from problem
        except httpx.HTTPError as problem:
            raise Unavailable(f"{self.server}: {problem or type(problem).__name__}") from problem
        if answer.status_code >= 500:
            raise Unavailable(f"{self.server}: HTTP {answer.status_code} {_problem(answer).get('detail', '')}".strip())
        if answer.status_code >= 400:
            raise Refused(answer.status_code, _problem(answer))
        return answer


def with_submit_directory(text: str, directory: Path, name: str | None = None) -> str:
    """The job file with YISUAN_SUBMIT_DIR in its envs (its own value stands) and the other name, if one is given.

    The text stays as written where a line at its end is enough. Raises scheduler.jobfile.JobFileError for a bad file.
    """
    import yaml

    from scheduler.jobfile import JobFileError, parse_job

    spec = parse_job(text)
    wanted = replace(spec, name=name or spec.name, envs={SUBMIT_DIR: str(directory), **spec.envs})
    if wanted == spec:
        return text
    loaded = yaml.safe_load(text)
    loaded["name"] = wanted.name
    loaded["envs"] = {SUBMIT_DIR: str(directory), **(loaded.get("envs") or {})}
    appended = f"{text.rstrip()}\nenvs: {{{SUBMIT_DIR}: {json.dumps(str(directory), ensure_ascii=False)}}}\n"
    for candidate in (appended, yaml.safe_dump(loaded, allow_unicode=True, sort_keys=False)):
        try:
            if parse_job(candidate) == wanted:
                return candidate
        except JobFileError:
            continue
    raise AssertionError("a job file that parses can be written again")


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
