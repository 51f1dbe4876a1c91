"""A cluster's API server: one request, or one stream of changes, over the official client. Bodies are plain mappings.

The client's typed models are not used: they check and copy every object, which costs several times the request itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

APPLY, MERGE, JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"
REQUEST_S = 10.0
STREAM_S = 240  # a watch is begun anew after this long; a server ends one after 30 to 60 minutes anyway
PAGE = 500  # objects of a list per request


class Refused(Exception):
    """The API server's no. status: of HTTP; reason: its own word, such as Invalid, Forbidden, AlreadyExists."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Unreachable(ConnectionError):
    """The API server does not answer, or not now: nothing is known."""


class ClusterApi:
    """One cluster by kubeconfig and context; both None = $KUBECONFIG or ~/.kube/config, else the pod's own account."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self.kubeconfig, self.context = kubeconfig, context
        self._client: Any = None

    def request(
        self, method: str, path: str, body: Any = None, *, kind: str = JSON, query: Mapping[str, str] | None = None
    ) -> Any:
        """The answer's body. Refused for 4xx but 401 and 429, Unreachable for the rest and where nothing answers."""
        return json.loads(self.read(method, path, body, kind=kind, query=query) or b"null")

    def read(
        self, method: str, path: str, body: Any = None, *, kind: str = JSON, query: Mapping[str, str] | None = None
    ) -> bytes:
        """As `request`, the bytes themselves."""
        answer = self._send(method, path, body, kind, query or {}, REQUEST_S)
        try:
            found: bytes = answer.read()
        except _http_error() as problem:
            raise Unreachable(f"{path}: {problem}") from problem
        _check(answer.status, found)
        return found

    def pages(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Any]:
        """A list in pages of PAGE objects, each with its metadata; one consistent state of the cluster."""
        asked = {**(query or {}), "limit": str(PAGE)}
        while True:
            page = self.request("GET", path, query=asked)
            yield page
            following = page["metadata"].get("continue")
            if not following:
                return
            asked["continue"] = following

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[Iterator[Any], Any]]:
        """A watch: its events, and the answer whose shutdown() ends it from another thread. Refused(410) if too old."""
        asked = {**query, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(STREAM_S)}
        answer = self._send("GET", path, None, JSON, asked, (REQUEST_S, STREAM_S + 30.0))
        try:
            if answer.status != 200:
                _check(answer.status, answer.read())
            yield _events(answer.response), answer.response
        except (_http_error(), OSError, ValueError) as problem:
            raise Unreachable(f"{path}: {problem}") from problem
        finally:
            answer.response.close()

    def close(self) -> None:
        """Its connections are closed; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _send(self, method: str, path: str, body: Any, kind: str, query: Mapping[str, str], timeout: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        client = self._connected()
        headers = {"Accept": JSON, "Content-Type": kind}
        try:
            sent = client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, auth_settings=["BearerToken"]
            )
            return client.call_api(sent[0], sent[1], sent[2], body, _request_timeout=timeout)
        except (_http_error(), OSError, ApiException) as problem:
            raise Unreachable(f"{path}: {problem}") from problem

    def _connected(self) -> Any:
        if self._client is None:
            from kubernetes import config
            from kubernetes.client import ApiClient, Configuration
            from kubernetes.config import ConfigException

            inside: Any = config.load_incluster_config
            outside: Any = config.load_kube_config
            found = Configuration()
            found.retries, found.keep_alive = False, True
            found.connection_pool_maxsize = 16
            try:
                if self._inside():
                    inside(client_configuration=found)
                else:
                    outside(config_file=self.kubeconfig, context=self.context, client_configuration=found)
            except ConfigException as problem:
                raise Unreachable(f"kubeconfig: {problem}") from problem
            self._client = ApiClient(configuration=found)
        return self._client

    def _inside(self) -> bool:
        if self.kubeconfig or self.context or os.environ.get("KUBECONFIG"):
            return False
        return "KUBERNETES_SERVICE_HOST" in os.environ and not (Path.home() / ".kube" / "config").exists()


def _http_error() -> type[Exception]:
    """What the client's own HTTP library raises."""
    from kubernetes.client import rest

    library: Any = rest
    found: type[Exception] = library.urllib3.exceptions.HTTPError
    return found


def _check(status: int, body: bytes) -> None:
    if status < 400:
        return
    try:
        said = json.loads(body)
        reason, message = str(said.get("reason", "")), str(said.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body[:500].decode(errors="replace")
    if status in (401, 429) or status >= 500:
        raise Unreachable(f"{status} {reason}: {message}")
    raise Refused(status, reason, message)


def _events(response: Any) -> Iterator[Any]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
