"""The mirror of what the API server holds: it goes on after 410, a killed server and a cut line, and says when it knows nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scheduler.backends import kubernetes_mirror
from scheduler.backends.kubernetes_api import Refused, Unreachable
from scheduler.backends.kubernetes_mirror import Mirror
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.leases import running, until
from tests.kubernetes.plane import Plane, wait_for


def thing(name: str, version: int, uid: str = "") -> dict[str, Any]:
    meta = {
        "name": name,
        "uid": uid or name,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"metadata": meta}


class Scripted:
    """An API server that plays a script: lists, and per watch its events or its error."""

    def __init__(self, lists: list[tuple[int, list[Any]]], watches: list[Any]) -> None:
        self.lists, self.watches, self.over = lists, watches, False
        self.since: list[str] = []

    def pages(self, path: str, query: Any = None) -> Iterator[Any]:
        version, items = self.lists.pop(0)
        yield {"metadata": {"resourceVersion": str(version)}, "items": items}

    @contextmanager
    def stream(self, path: str, query: Any) -> Iterator[Any]:
        self.since.append(query["resourceVersion"])
        while not self.watches and not self.over:
            time.sleep(0.01)
        if self.over:
            raise Unreachable("closed")
        script = self.watches.pop(0)
        if isinstance(script, Exception):
            raise script
        yield iter(script), None


def followed(api: Any, holds: Any) -> Mirror:
    mirror = Mirror(api, "/things")
    wait_for(lambda: holds(mirror), 10, lambda: f"still {[t['metadata'] for t in mirror.all()]}")
    api.over = True
    mirror.close()
    return mirror


def names(mirror: Mirror) -> list[str]:
    return [one["metadata"]["name"] for one in mirror.all()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_mirror, "BACKOFF_S", (0.01, 0.05))


GONE = {"code": 410, "reason": "Expired", "message": "too old resource version: 5 (9)"}


@pytest.mark.parametrize("how", [Refused(410, "Expired", "too old"), [{"type": "ERROR", "object": GONE}]])
def test_a_version_that_the_server_forgot_is_answered_with_a_new_list(how: Any) -> None:
    api = Scripted([(5, [thing("a", 4), thing("b", 5)]), (9, [thing("b", 8)])], [how])
    mirror = followed(api, lambda m: names(m) == ["b"])

    assert mirror.lists == 2
    assert api.since[:2] == ["5", "9"]


def test_a_broken_watch_goes_on_from_where_it_was_without_a_new_list() -> None:
    first = [{"type": "ADDED", "object": thing("b", 6)}, {"type": "BOOKMARK", "object": thing("", 20)}]
    api = Scripted([(5, [thing("a", 4)])], [first, Unreachable("cut"), [{"type": "DELETED", "object": thing("a", 21)}]])
    mirror = followed(api, lambda m: names(m) == ["b"])

    assert mirror.lists == 1
    assert api.since[:3] == ["5", "20", "20"]


def test_an_older_object_never_replaces_a_newer_one() -> None:
    api = Scripted([(5, [thing("a", 4)])], [[{"type": "MODIFIED", "object": thing("a", 7)}]])
    mirror = Mirror(api, "/things")  # type: ignore[arg-type]
    wait_for(lambda: mirror.of("a")[0]["metadata"]["resourceVersion"] == "7", 10, lambda: "not seen")
    mirror.note(thing("a", 6))
    assert mirror.of("a")[0]["metadata"]["resourceVersion"] == "7"
    mirror.note(thing("a", 8))
    assert mirror.of("a")[0]["metadata"]["resourceVersion"] == "8"
    api.over = True
    mirror.close()


def test_a_server_that_is_not_heard_from_is_unknown_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_mirror, "FIRST_S", 0.05)
    api = Scripted([], [])
    api.pages = lambda *_: (_ for _ in ()).throw(Unreachable("nobody there"))  # type: ignore[method-assign]
    mirror = Mirror(api, "/things")  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        mirror.all()
    mirror.close()


def test_a_server_that_fell_silent_is_unknown_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Scripted([(5, [thing("a", 4)])], [Unreachable("cut") for _ in range(10_000)])
    mirror = Mirror(api, "/things")  # type: ignore[arg-type]
    assert names(mirror) == ["a"]
    monkeypatch.setattr(kubernetes_mirror, "STALE_S", 0.0)
    with pytest.raises(Unreachable, match="cut"):
        mirror.all()
    mirror.close()


def test_a_killed_api_server_is_found_again_with_what_happened_meanwhile(tmp_path: Any) -> None:
    """A control plane of its own: the shared one is not killed."""
    pytest.importorskip("kubernetes")
    from tests.kubernetes import harness
    from tests.kubernetes.plane import NoPlane

    try:
        plane = Plane(tmp_path)
    except NoPlane as problem:
        pytest.skip(str(problem))
    from scheduler.backends.kubernetes import KubernetesBackend
    from tests.kubernetes.leases import lease_of

    with plane, Kubelet(plane, {"k1": {harness.resource(): 4}}) as kubelet:
        namespace = plane.namespace("jobs", **{"pod-security.kubernetes.io/enforce": "restricted"})
        config = str(plane.kubeconfig)
        backend = KubernetesBackend("zone", kubeconfig=config, namespace=namespace, image="registry.invalid/job:1")
        first, second = lease_of("job-first", "sleep 60"), lease_of("job-second", "sleep 60")
        backend.launch(first)
        until(backend, first, running)
        plane.kill("kube-apiserver")
        (seen,) = backend.observe([first.id])
        with pytest.raises(ConnectionError):
            backend.launch(second)
        plane.again("kube-apiserver")
        for attempt in itertools.count():
            try:
                assert backend.launch(second) is None
                break
            except ConnectionError:
                assert attempt < 100, "the server is not found again"
                time.sleep(0.1)
        until(backend, second, running)
        path = "/api/v1/namespaces/jobs/configmaps"
        old = Mirror(backend.api, path)
        old._version = "1"  # as after a long sleep: the server remembers nothing from before its start
        with pytest.raises(Refused) as expired:
            old._watch()
        assert expired.value.status == 410
        assert "kube-root-ca.crt" in names(old)
        assert old.lists == 1
        old.close()

        assert running(seen)
        assert until(backend, first, running) == seen
        assert len(kubelet.pids()) == 2
        backend.close()
