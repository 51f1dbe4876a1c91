"""A lease is started once and ended once, whatever is repeated, lost or restarted between."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from scheduler.backends.kubernetes_api import Unreachable
from scheduler.backends.kubernetes_objects import FINALIZER, name_of
from scheduler.lease import Cause, MemberPhase
from tests.kubernetes.harness import Backends
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.leases import ended, lease_of, running, until
from tests.kubernetes.plane import wait_for

LOSE = ("/jobs", "/services")


def pods(kubelet: Kubelet, backends: Backends) -> list[Any]:
    found: list[Any] = kubelet.plane.get(f"/api/v1/namespaces/{backends.namespace}/pods")["items"]
    return found


@pytest.mark.parametrize("lost", LOSE)
def test_a_launch_whose_answer_was_lost_is_launched_once(backends: Backends, kubelet: Kubelet, lost: str) -> None:
    backend, lease = backends.fresh(), lease_of("job-lost", "echo once; sleep 0.2", ("k1", "k2"))
    send: Any = backend.api.request
    failed: list[str] = []

    def sent_and_lost(method: str, path: str, *arguments: Any, **more: Any) -> Any:
        answer = send(method, path, *arguments, **more)
        if method == "POST" and path.endswith(lost) and not failed:
            failed.append(path)
            raise Unreachable("the answer was lost")
        return answer

    backend.api.request = sent_and_lost
    if lost == "/jobs":
        with pytest.raises(ConnectionError):
            backend.launch(lease)
    assert backend.launch(lease) is None
    assert backend.launch(lease) is None
    seen = until(backend, lease, ended)

    assert failed
    assert [m.exit_code for m in seen.members] == [0, 0]
    assert len(pods(kubelet, backends)) == 2
    assert backend.logs(lease.id, 1, offset=0, limit=100) == b"once\n"


def test_launches_at_the_same_time_make_one_job(backends: Backends, kubelet: Kubelet) -> None:
    lease, many = lease_of("job-race", "sleep 60"), [backends.fresh() for _ in range(4)]
    threads = [threading.Thread(target=backend.launch, args=(lease,)) for backend in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(many[0], lease, running)

    jobs = kubelet.plane.get(f"/apis/batch/v1/namespaces/{backends.namespace}/jobs")["items"]
    assert [job["metadata"]["name"] for job in jobs] == [name_of(lease.id)]
    assert len(pods(kubelet, backends)) == 1


def test_a_lease_stopped_before_it_is_launched_never_runs(backends: Backends, kubelet: Kubelet) -> None:
    backend, lease = backends.fresh(), lease_of("job-never", "echo ran", ("k1", "k2"))
    backend.stop(lease.id, grace_ms=1000, signal=None)
    assert backend.launch(lease) is None
    seen = until(backends.fresh(), lease, ended)

    assert {(m.phase, m.cause, m.started_ms) for m in seen.members} == {(MemberPhase.EXITED, Cause.CANCELLED, None)}
    assert pods(kubelet, backends) == []


def test_a_launch_repeated_after_a_stop_does_not_take_the_stop_back(backends: Backends, kubelet: Kubelet) -> None:
    backend, lease = backends.fresh(), lease_of("job-again", "sleep 60", ("k1", "k2"))
    backend.launch(lease)
    backend.stop(lease.id, grace_ms=2000, signal=None)
    for _ in range(20):
        assert backend.launch(lease) is None
    seen = until(backend, lease, ended)

    assert {m.cause for m in seen.members} == {Cause.CANCELLED}
    wait_for(lambda: kubelet.pids() == [], 10, lambda: "processes are left")


def test_the_answer_is_the_same_after_forgetting_and_after_a_restart(backends: Backends, kubelet: Kubelet) -> None:
    backend = backends.fresh()
    whole, stopped = lease_of("job-whole", "exit 3"), lease_of("job-stopped", "sleep 60", ("k2", "k1"))
    for lease in (whole, stopped):
        backend.launch(lease)
    until(backend, stopped, running)
    backend.stop(stopped.id, grace_ms=2000, signal=None)
    before = [until(backend, lease, ended) for lease in (whole, stopped)]
    for lease in (whole, stopped, whole):
        backend.forget(lease.id)

    def released() -> bool:
        return all(FINALIZER not in pod["metadata"].get("finalizers", []) for pod in pods(kubelet, backends))

    wait_for(released, 10, lambda: "pods are kept")
    assert backends.fresh().observe([whole.id, stopped.id]) == tuple(before)
    assert backend.observe([whole.id, stopped.id]) == tuple(before)
    assert backend.logs(whole.id, 0, offset=0, limit=10) == b""


def test_nothing_is_left_of_a_forgotten_lease_after_its_time(kubelet: Kubelet) -> None:
    backends = Backends(keep_s=1)
    backend, lease = backends.fresh(), lease_of("job-gone", "sleep 60", ("k1", "k2"))
    other = lease_of("job-done", "true")
    try:
        for one in (lease, other):
            backend.launch(one)
        until(backend, lease, running)
        backend.stop(lease.id, grace_ms=1000, signal=None)
        for one in (lease, other):
            until(backend, one, ended)
            backend.forget(one.id)
        kinds = ("/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/services")

        def left() -> list[str]:
            found = [kubelet.plane.get(kind.format(backends.namespace))["items"] for kind in kinds]
            return [json.dumps(one["metadata"]["name"]) for some in found for one in some]

        wait_for(lambda: not left(), 60, lambda: f"left: {left()}")
        assert backend.observe([lease.id])[0].members[0].phase is MemberPhase.ABSENT
    finally:
        backends.close()


def test_looking_at_leases_costs_no_request(backends: Backends, kubelet: Kubelet) -> None:
    backend, lease = backends.fresh(), lease_of("job-look", "sleep 60")
    backend.launch(lease)
    until(backend, lease, running)
    asked: list[str] = []
    send = backend.api.request

    def counted(method: str, path: str, *arguments: Any, **more: Any) -> Any:
        asked.append(path)
        return send(method, path, *arguments, **more)

    backend.api.request = counted
    for _ in range(100):
        backend.observe([lease.id])

    assert asked == []
