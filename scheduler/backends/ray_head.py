"""Head: what an existing Ray cluster answers over its dashboard's HTTP address; every call has a time limit.

Jobs:     /api/jobs/ (the Jobs REST API), /api/version.
Packages: /api/packages/gcs/NAME, where the Jobs SDK puts a working_dir; stored under its name in the head's store.
Nodes:    /api/v0/nodes (the state API) for what is there, /nodes?view=summary for how much of it is held.
Logs:     /api/v0/logs/file (the state API) reads a file of a node's log directory through that node's agent.

Not ray.job_submission.JobSubmissionClient: its requests have no time limit, so a head that hangs would hang the loop,
and it needs Ray installed beside the platform. The process never becomes a Ray driver.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

CHUNK = 1 << 16


class HeadAway(ConnectionError):
    """The head gave no answer that can be used: nothing is known, which is not "there is nothing"."""


class Head:
    """One cluster's head. address: of its dashboard, http or https. token_file: holds what Authorization bears.

    ca_file: certificates to trust beside none. timeout_s: for a connection and between two bytes of an answer.
    """

    def __init__(
        self, address: str, *, token_file: Path | None = None, ca_file: Path | None = None, timeout_s: float = 10.0
    ) -> None:
        parts = httpx.URL(address)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError(f"address: {address!r} is not an http address; nearest: 'http://{address or 'HEAD'}:8265'")
        self.address = address.rstrip("/")
        self.token_file = token_file
        verify: Any = True
        if ca_file is not None:
            import ssl

            verify = ssl.create_default_context(cafile=str(ca_file))
        self._client = httpx.Client(base_url=self.address, timeout=timeout_s, verify=verify, trust_env=False)

    def close(self) -> None:
        self._client.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def session(self) -> str:
        """The name of the head's session: another one after a restart that lost the head's store."""
        return str(self._json("GET", "/api/version", ("session_name",))["session_name"])

    def job(self, submission: str) -> Mapping[str, Any] | None:
        """The job's entry; None when the head has none of that name."""
        answer = self._ask("GET", f"/api/jobs/{quote(submission, safe='')}")
        if answer.status_code == 404 and "does not exist" in answer.text:  # an ingress without a head says 404 too
            return None
        return _entry(_parsed(answer))

    def jobs(self) -> tuple[dict[str, Mapping[str, Any]], int]:
        """Every submitted job by its submission id, and the head's clock: milliseconds, at most one second behind."""
        answer = self._ask("GET", "/api/jobs/")
        rows = _parsed(answer)
        if not isinstance(rows, list):
            raise HeadAway(f"{self.address}: the list of jobs is a {type(rows).__name__}")
        entries = [_entry(row) for row in rows]
        return {str(row["submission_id"]): row for row in entries if row.get("submission_id")}, _date_ms(answer)

    def submit(self, submission: str, entrypoint: str, working_dir: str, metadata: Mapping[str, str]) -> None:
        """The head has the job. It stores the entry only where there is none of that name, so a race submits once."""
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission,
            "runtime_env": {"working_dir": working_dir},
            "metadata": dict(metadata),
        }
        answer = self._ask("POST", "/api/jobs/", json=body, refused=True)
        if answer.status_code >= 400 and self.job(submission) is None:
            raise HeadAway(f"{self.address}: did not take {submission}: {_last_line(answer.text)}")

    def stop(self, submission: str) -> None:
        """The job's driver has been asked to end by SIGTERM; SIGKILL follows after 3 s."""
        self._ask("POST", f"/api/jobs/{quote(submission, safe='')}/stop")

    def delete(self, submission: str) -> None:
        """The head no longer lists the job, unless it still runs."""
        self._ask("DELETE", f"/api/jobs/{quote(submission, safe='')}", refused=True)

    def driver_log(self, submission: str) -> str:
        """What the driver printed; empty when the head no longer has it."""
        answer = self._ask("GET", f"/api/jobs/{quote(submission, safe='')}/logs", refused=True)
        body = _parsed(answer) if answer.status_code == 200 else {}
        return str(body.get("logs") or "") if isinstance(body, dict) else ""

    # --- packages -----------------------------------------------------------------------------------------------------

    def put(self, name: str, content: bytes) -> str:
        """The package is in the head's store; returns its URI."""
        self._ask("PUT", f"/api/packages/gcs/{quote(name, safe='')}", content=content)
        return f"gcs://{name}"

    def expire(self, name: str) -> None:
        """A package that nobody refers to goes in 10 minutes (RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S)."""
        self._ask("GET", f"/api/packages/gcs/{quote(name, safe='')}", refused=True)

    # --- nodes and files ----------------------------------------------------------------------------------------------

    def nodes(self) -> list[Mapping[str, Any]]:
        """The state API's rows, nodes that are gone included."""
        body = self._json("GET", "/api/v0/nodes?detail=true&limit=10000", ("data",))
        try:
            return [_node(row) for row in body["data"]["result"]["result"]]
        except (KeyError, TypeError, AttributeError) as problem:
            raise HeadAway(f"{self.address}: the list of nodes cannot be read: {problem!r}") from problem

    def usage(self) -> tuple[dict[str, str], frozenset[str]]:
        """Per node id the dashboard's text of what is held, such as `1.0/2.0 NPU`, and the nodes being drained."""
        body = self._json("GET", "/nodes?view=summary", ("data",))
        held: dict[str, str] = {}
        draining = set()
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            held = {str(k): str(v) for k, v in (body["data"].get("nodeLogicalResources") or {}).items()}
            for row in body["data"]["summary"]:
                raylet = row.get("raylet") or {}
                if (raylet.get("stateSnapshot") or {}).get("state") == "DRAINING":
                    draining.add(str(raylet["nodeId"]))
        return held, frozenset(draining)

    def file(self, node: str, name: str, *, offset: int, limit: int) -> bytes | None:
        """Bytes [offset, offset + limit) of a file among a node's logs; None when the node or the file is gone.

        The API reads a file from its beginning only, so the bytes before offset are passed over.
        """
        query = {"node_id": node, "filename": name, "lines": "-1"}
        found = bytearray()
        with (
            self._guarded(),
            self._client.stream("GET", "/api/v0/logs/file", params=query, headers=self._headers()) as answer,
        ):
            if answer.status_code != 200:
                return None
            passed = 0
            for chunk in answer.iter_bytes(CHUNK):
                found += chunk[max(0, offset - passed) :]
                passed += len(chunk)
                if len(found) >= limit:
                    break
        return bytes(found[:limit])

    # --- asking -------------------------------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        try:
            token = self.token_file.read_text(encoding="utf-8").strip() if self.token_file else ""
        except OSError as problem:
            raise HeadAway(f"token_file: {problem}") from problem
        return {"Authorization": f"Bearer {token}"} if token else {}

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            raise HeadAway(f"{self.address}: {type(problem).__name__}: {problem}") from problem

    def _ask(self, method: str, path: str, *, refused: bool = False, **given: Any) -> httpx.Response:
        """The head's answer. refused: an error of its own is one too; else only 404 is."""
        with self._guarded():
            answer = self._client.request(method, path, headers=self._headers(), **given)
        if answer.status_code in (401, 403):
            raise HeadAway(f"{self.address}: {method} {path}: {answer.status_code}, the token is not accepted")
        if answer.status_code >= 400 and answer.status_code != 404 and not refused:
            raise HeadAway(f"{self.address}: {method} {path}: {answer.status_code} {_last_line(answer.text)}")
        return answer

    def _json(self, method: str, path: str, fields: tuple[str, ...]) -> dict[str, Any]:
        answer = self._ask(method, path)
        body = _parsed(answer) if answer.status_code == 200 else None
        if not isinstance(body, dict) or any(field not in body for field in fields):
            raise HeadAway(f"{self.address}: {path} answered {answer.status_code} without {', '.join(fields)}")
        return body


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError) as problem:
        raise HeadAway(f"{answer.request.url}: not JSON: {answer.text[:80]!r}") from problem


def _entry(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("status"), str):
        raise HeadAway(f"a job's entry has no status: {str(row)[:80]}")
    return row


def _node(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its names as text and its resources as numbers; whatever else raises."""
    totals = {str(k): v for k, v in (row["resources_total"] or {}).items() if isinstance(v, int | float)}
    labels = {str(k): str(v) for k, v in (row.get("labels") or {}).items()}
    names = {key: str(row[key]) for key in ("node_id", "node_name", "state")}
    return {**row, **names, "resources_total": totals, "labels": labels}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _date_ms(answer: httpx.Response) -> int:
    """The Date header (RFC 9110, 6.6.1) in epoch milliseconds; this host's clock where there is none."""
    try:
        said = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError, TypeError):
        return time.time_ns() // 1_000_000
    return int((said - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
