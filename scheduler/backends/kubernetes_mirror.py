"""Mirror: what the API server holds of one kind, kept beside us by a watch, so that looking costs no request.

A list, then its changes from the list's version on. A watch that breaks goes on from the last version seen; a version that
the server has forgotten (410 Gone) is answered with a new list, which replaces everything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from scheduler.backends.kubernetes_api import ClusterApi, Refused, Unreachable

log = structlog.get_logger("kubernetes")
FIRST_S = 15.0  # how long the first look waits for the first list
STALE_S = 30.0  # without a connection for so long, nothing is known
BACKOFF_S = (0.1, 5.0)


class Mirror:
    """Objects at one path, grouped by `key`. Starts with the first look; close() ends its thread."""

    def __init__(
        self,
        api: ClusterApi,
        path: str,
        *,
        selector: str | None = None,
        key: Callable[[Any], str] = lambda thing: str(thing["metadata"]["name"]),
        essence: Callable[[Any], object] = lambda thing: thing["metadata"]["resourceVersion"],
    ) -> None:
        """essence: of an object, what has to differ for `changed` to be set."""
        self.api, self.path, self.key, self.essence = api, path, key, essence
        self.changed = threading.Event()  # set when something has; whoever looks clears it before
        self.query = {"labelSelector": selector} if selector else {}
        self._held: dict[str, dict[str, Any]] = {}  # by key, then by uid
        self._version = ""
        self._heard = 0.0  # monotonic seconds
        self._problem = "not asked yet"
        self._lock = threading.Lock()
        self._ready, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._stream: Any = None
        self.lists = 0  # how often everything was listed

    def of(self, key: str) -> list[Any]:
        """The objects of one key, in the order of their creation. Unreachable while the server is not heard from."""
        self._ask()
        with self._lock:
            found = list(self._held.get(key, {}).values())
        return sorted(found, key=lambda thing: (thing["metadata"]["creationTimestamp"], thing["metadata"]["name"]))

    def all(self) -> list[Any]:
        """Every object, by key. Unreachable while the server is not heard from."""
        self._ask()
        with self._lock:
            return [thing for key in sorted(self._held) for thing in self._held[key].values()]

    def note(self, thing: Mapping[str, Any]) -> None:
        """An object as the server just answered it, so that we see what we have written; an older one changes nothing."""
        with self._lock:
            self._put(dict(thing))

    def close(self) -> None:
        """No thread runs any more; what was seen is kept."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(Exception):  # it may end by itself meanwhile, in whatever state
                stream.shutdown()
        if self._thread is not None:
            self._thread.join(5)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._follow, name=f"mirror {self.path}", daemon=True)
                self._thread.start()
        heard = self._ready.wait(FIRST_S)
        if not heard or (self._stream is None and time.monotonic() - self._heard > STALE_S):
            raise Unreachable(f"{self.path}: {self._problem}")

    def _follow(self) -> None:
        wait = BACKOFF_S[0]
        while not self._closed.is_set():
            try:
                if not self._version:
                    self._list()
                began = time.monotonic()
                self._watch()
                if time.monotonic() - began > 1:
                    wait = BACKOFF_S[0]
                    continue
            except Refused as problem:
                self._problem = str(problem)
                if problem.status == 410:
                    self._version = ""
                    continue
                log.warning("watch_refused", path=self.path, problem=str(problem))
            except Unreachable as problem:
                self._problem = str(problem)
            except Exception as problem:  # an answer nobody expected: everything is listed anew
                self._problem, self._version = repr(problem), ""
                log.exception("watch_failed", path=self.path)
            self._closed.wait(wait)
            wait = min(BACKOFF_S[1], wait * 2)

    def _list(self) -> None:
        found: dict[str, dict[str, Any]] = {}
        version = ""
        for page in self.api.pages(self.path, self.query):
            version = page["metadata"]["resourceVersion"]
            for thing in page["items"]:
                found.setdefault(self.key(thing), {})[thing["metadata"]["uid"]] = thing
        with self._lock:
            self._held, self._version = found, version
        self.lists += 1
        self.changed.set()
        self._heard = time.monotonic()
        self._ready.set()

    def _watch(self) -> None:
        with self.api.stream(self.path, {**self.query, "resourceVersion": self._version}) as (events, answer):
            self._stream = answer
            try:
                for event in events:
                    self._take(event)
                    if self._closed.is_set():
                        return
            finally:
                self._heard = time.monotonic()
                self._stream = None

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            raise Refused(int(thing.get("code", 0)), str(thing.get("reason", "")), str(thing.get("message", "")))
        with self._lock:
            if kind in ("ADDED", "MODIFIED"):
                self._put(thing)
            elif kind == "DELETED":
                self._drop(thing)
            self._version = thing["metadata"]["resourceVersion"]

    def _put(self, thing: dict[str, Any]) -> None:
        group = self._held.setdefault(self.key(thing), {})
        known = group.get(thing["metadata"]["uid"])
        if known is None or _version(known) <= _version(thing):
            group[thing["metadata"]["uid"]] = thing
            if known is None or self.essence(known) != self.essence(thing):
                self.changed.set()

    def _drop(self, thing: Mapping[str, Any]) -> None:
        group = self._held.get(self.key(thing), {})
        group.pop(thing["metadata"]["uid"], None)
        self.changed.set()
        if not group:
            self._held.pop(self.key(thing), None)


def _version(thing: Mapping[str, Any]) -> int:
    """Versions of one kind grow with every write, and are whole numbers (Kubernetes 1.35: comparable)."""
    return int(thing["metadata"]["resourceVersion"])
