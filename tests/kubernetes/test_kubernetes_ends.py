"""How a lease ends: by itself, by its time, by a stop, by a node, by the cluster; and what is said of it each time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from scheduler.backends.kubernetes_objects import name_of
from scheduler.lease import Cause, MemberPhase, billed_interval
from tests.kubernetes.harness import Backends, plane, resource
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.leases import ended, lease_of, running, until
from tests.kubernetes.plane import wait_for

EXITED, LOST, STARTING = MemberPhase.EXITED, MemberPhase.LOST, MemberPhase.STARTING
TELLS = "echo $RANK/$WORLD_SIZE $NODE $YISUAN_DEVICES $MASTER_ADDR:$MASTER_PORT $((2 * 3)) $(echo sub) $$"


def test_ranks_run_where_the_lease_says_and_find_each_other(backends: Backends, kubelet: Kubelet) -> None:
    backend, lease = backends.fresh(), lease_of("job-where", f"{TELLS}; sleep 60", ("k2", "k1"), devices=2)
    backend.launch(lease)
    until(backend, lease, running)
    at = f"/api/v1/namespaces/{backends.namespace}"
    pods = kubelet.plane.get(f"{at}/pods")["items"]
    service = kubelet.plane.get(f"{at}/services/{name_of(lease.id)}")
    nodes = {p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]: p["spec"]["nodeName"] for p in pods}
    name = name_of(lease.id)

    def said(rank: int) -> str:
        text: bytes = backend.logs(lease.id, rank, offset=0, limit=1000)
        return text.decode()

    wait_for(lambda: said(0) and said(1), 10, lambda: "nothing was written")
    assert nodes == {"0": "k2", "1": "k1"}
    assert {p["spec"]["hostname"] for p in pods} == {f"{name}-0", f"{name}-1"}
    assert {p["spec"]["subdomain"] for p in pods} == {service["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"
    for rank in (0, 1):
        words = said(rank).split()
        address = f"{name}-0.{name}.{backends.namespace}.svc:29500"
        assert words[:3] == [f"{rank}/2", "2", address]
        assert words[3:5] == ["6", "sub"]
        assert words[5].isdigit()


def test_a_member_that_fails_ends_the_whole_gang_without_us(backends: Backends) -> None:
    backend = backends.fresh()
    lease = lease_of("job-fails", '[ "$RANK" = 1 ] && { sleep 1.2; exit 7; }; sleep 60', ("k1", "k2"))
    backend.launch(lease)
    until(backend, lease, running)
    backend.close()
    seen = until(backends.fresh(), lease, ended)

    assert [(m.phase, m.exit_code, m.cause) for m in seen.members] == [
        (EXITED, -15, Cause.CANCELLED),
        (EXITED, 7, None),
    ]


def test_setup_runs_first_and_its_failure_is_the_end(backends: Backends) -> None:
    backend = backends.fresh()
    good = lease_of("job-setup", "cat made", setup="echo ready > made")
    bad = lease_of("job-setup-bad", "echo never", setup="exit 9")
    for lease in (good, bad):
        backend.launch(lease)
    assert [until(backend, lease, ended).members[0].exit_code for lease in (good, bad)] == [0, 9]
    assert backend.logs(good.id, 0, offset=0, limit=100) == b"ready\n"
    assert backend.logs(bad.id, 0, offset=0, limit=100) == b""


def test_the_declared_signal_reaches_every_process_of_the_job(backends: Backends) -> None:
    backend = backends.fresh()
    run = "trap 'echo outer' USR1; sh -c \"trap 'echo inner; exit 0' USR1; while :; do sleep 0.05; done\"; echo saved; exit 0"
    lease = lease_of("job-signal", run, signal="SIGUSR1", grace_ms=5000)
    backend.launch(lease)
    until(backend, lease, running)
    time.sleep(0.5)
    backend.stop(lease.id, grace_ms=5000, signal="SIGUSR1")
    seen = until(backend, lease, ended)

    assert (seen.members[0].exit_code, seen.members[0].cause) == (0, Cause.CANCELLED)
    assert {b"inner", b"outer", b"saved"} <= set(backend.logs(lease.id, 0, offset=0, limit=1000).split())


def test_a_job_that_does_not_listen_is_killed_after_its_grace(backends: Backends) -> None:
    backend = backends.fresh()
    lease = lease_of("job-deaf", "trap '' TERM; while :; do sleep 0.1; done", grace_ms=1000)
    backend.launch(lease)
    until(backend, lease, running)
    time.sleep(0.5)
    backend.stop(lease.id, grace_ms=1000, signal=None)
    seen = until(backend, lease, ended)

    assert [(m.exit_code, m.cause) for m in seen.members] == [(-9, Cause.CANCELLED)]


def test_a_shorter_grace_than_the_jobs_own_is_kept(backends: Backends) -> None:
    backend = backends.fresh()
    lease = lease_of("job-slow", "trap '' TERM; while :; do sleep 0.1; done", grace_ms=60_000)
    backend.launch(lease)
    until(backend, lease, running)
    backend.stop(lease.id, grace_ms=1000, signal=None)

    wait_for(lambda: _grace(backend, backends) == 1, 10, lambda: "the grace was not shortened")


def _grace(backend: Any, backends: Backends) -> Any:
    pods = plane().get(f"/api/v1/namespaces/{backends.namespace}/pods")["items"]
    return pods[0]["metadata"].get("deletionGracePeriodSeconds")


def test_a_lease_ends_at_its_time_limit(backends: Backends) -> None:
    backend = backends.fresh()
    lease = lease_of("job-limit", "sleep 60", ("k1", "k2"), limit_ms=2000)
    backend.launch(lease)
    seen = until(backend, lease, ended)
    billed = billed_interval(seen)

    assert {m.cause for m in seen.members} == {Cause.TIME_LIMIT}
    assert billed is not None
    assert 1000 <= billed.duration_ms <= 10_000


def test_the_cluster_ends_a_lease_over_its_time_while_we_are_away(backends: Backends, kubelet: Kubelet) -> None:
    away = Backends(backends.namespace, allowance_s=0)
    backend, lease = away.fresh(), lease_of("job-away", "sleep 60", limit_ms=2000)
    backend.launch(lease)
    backend.close()
    path = f"/apis/batch/v1/namespaces/{backends.namespace}/jobs/{name_of(lease.id)}"
    wait_for(lambda: _failed(kubelet.plane.get(path)), 30, lambda: "the Job goes on")
    seen = until(away.fresh(), lease, ended)
    away.close()

    assert [m.cause for m in seen.members] == [Cause.TIME_LIMIT]
    assert billed_interval(seen) is not None


def _failed(job: Any) -> bool:
    return any(c["type"] == "Failed" for c in job["status"].get("conditions", ()))


def test_an_image_that_cannot_be_had_ends_the_lease_with_its_words(backends: Backends) -> None:
    missing = Backends(backends.namespace, image="missing/image:1", start_limit_s=1)
    backend, lease = missing.fresh(), lease_of("job-image", "true", ("k1", "k2"))
    backend.launch(lease)
    until(backend, lease, lambda seen: "ImagePull" in str(seen.members[0].detail))
    seen = until(backend, lease, ended)
    missing.close()

    assert {(m.phase, m.exit_code, m.cause) for m in seen.members} == {(EXITED, 126, None)}
    assert all("no such image missing/image:1" in str(m.detail) for m in seen.members)
    assert billed_interval(seen) is None


def test_a_pod_that_no_node_takes_is_the_platforms_loss(backends: Backends) -> None:
    backend = backends.fresh()
    lease = lease_of("job-full", "true", devices=5)
    backend.launch(lease)
    until(backend, lease, lambda seen: "Unschedulable" in str(seen.members[0].detail))
    seen = until(backend, lease, ended)

    assert [m.phase for m in seen.members] == [LOST]
    assert resource() in str(seen.members[0].detail)


def test_a_lost_node_loses_its_member_and_ends_the_others(kubelet: Kubelet) -> None:
    with Kubelet(kubelet.plane, {"gone": {resource(): 4}}) as dying:
        backends = Backends(lost_after_s=1)
        backend, lease = backends.fresh(), lease_of("job-node", "sleep 60", ("k1", "gone"))
        backend.launch(lease)
        until(backend, lease, running)
        dying.lose("gone")
        lost = until(backend, lease, lambda seen: seen.members[1].phase is LOST, 60)
        backend.stop(lease.id, grace_ms=1000, signal=None)
        seen = until(backend, lease, ended, 60)
        backend.forget(lease.id)
        again = backends.fresh().observe([lease.id])
        backends.close()

    assert "gone" in str(lost.members[1].detail)
    assert [m.phase for m in seen.members] == [EXITED, LOST]
    assert again == (seen,)


def test_a_drained_node_loses_its_member_and_lets_go_of_the_pod(backends: Backends, kubelet: Kubelet) -> None:
    backend, lease = backends.fresh(), lease_of("job-drain", "sleep 60", ("k1", "k2"))
    backend.launch(lease)
    until(backend, lease, running)
    at = f"/api/v1/namespaces/{backends.namespace}/pods"
    name = next(p["metadata"]["name"] for p in kubelet.plane.get(at)["items"] if p["spec"]["nodeName"] == "k2")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    kubelet.plane.ask("POST", f"{at}/{name}/eviction", eviction).raise_for_status()
    seen = until(backend, lease, ended)
    backend.forget(lease.id)

    assert [(m.phase, m.cause) for m in seen.members] == [(EXITED, Cause.CANCELLED), (LOST, None)]
    assert "Eviction" in str(seen.members[1].detail)
    wait_for(lambda: kubelet.plane.ask("GET", f"{at}/{name}").status_code == 404, 10, lambda: "drain waits for the pod")


def test_a_pod_deleted_by_hand_is_lost_and_a_deleted_job_too(backends: Backends, kubelet: Kubelet) -> None:
    backend = backends.fresh()
    first, second = lease_of("job-pod", "sleep 60"), lease_of("job-job", "sleep 60", ("k2",))
    for lease in (first, second):
        backend.launch(lease)
        until(backend, lease, running)
    at = f"/namespaces/{backends.namespace}"
    pods = kubelet.plane.get(f"/api/v1{at}/pods")["items"]
    kubelet.plane.ask(
        "DELETE", f"/api/v1{at}/pods/{next(p for p in pods if p['spec']['nodeName'] == 'k1')['metadata']['name']}"
    )
    kubelet.plane.ask("DELETE", f"/apis/batch/v1{at}/jobs/{name_of(second.id)}", propagationPolicy="Background")

    for lease in (first, second):
        assert [m.phase for m in until(backend, lease, ended).members] == [LOST]


def test_a_queue_is_handed_the_lease_and_chooses_its_nodes(backends: Backends, kubelet: Kubelet) -> None:
    queued = Backends(backends.namespace, kueue_queue="team-a")
    backend, first, second = (
        queued.fresh(),
        lease_of("job-queue", "exit 4", ("k1", "k2")),
        lease_of("job-dropped", "true"),
    )
    for lease in (first, second):
        backend.launch(lease)
    path = f"/apis/batch/v1/namespaces/{backends.namespace}/jobs/{name_of(first.id)}"
    job = kubelet.plane.get(path)
    pod = job["spec"]["template"]["spec"]

    assert (job["spec"]["suspend"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "team-a")
    assert "affinity" not in pod
    assert "schedulingGates" not in pod
    assert [m.phase for m in backend.observe([first.id])[0].members] == [STARTING, STARTING]
    kubelet.plane.patch(path, {"spec": {"suspend": False}})  # as Kueue does when it admits
    assert [m.exit_code for m in until(backend, first, ended).members] == [4, 4]
    backend.stop(second.id, grace_ms=0, signal=None)
    seen = until(backend, second, ended)
    queued.close()
    assert [(m.cause, m.started_ms) for m in seen.members] == [(Cause.CANCELLED, None)]


def test_what_the_cluster_refuses_is_a_refusal_with_its_words(backends: Backends, kubelet: Kubelet) -> None:
    nowhere = Backends("no-such-namespace")
    refusal = nowhere.fresh().launch(lease_of("job-nowhere", "true"))
    nowhere.close()
    imageless = Backends(backends.namespace, image=None)
    second = imageless.fresh().launch(lease_of("job-imageless", "true"))
    imageless.close()
    part = lease_of("job-part", "true")
    request = replace(part.spec.request, share_cores_permille=500)
    third = backends.fresh().launch(replace(part, spec=replace(part.spec, request=request)))

    assert third is not None
    assert third.code == "SHARE_NOT_SUPPORTED"
    assert refusal is not None
    assert (refusal.code, refusal.facts["reason"]) == ("CLUSTER_REFUSED", "NotFound")
    assert second is not None
    assert second.code == "IMAGE_REQUIRED"


def test_a_jobs_pod_is_confined_and_knows_nothing_of_the_cluster(backends: Backends, kubelet: Kubelet) -> None:
    """The namespace enforces `restricted`, and would refuse a pod that is not."""
    backend, lease = backends.fresh(), lease_of("job-tight", "sleep 60")
    backend.launch(lease)
    until(backend, lease, running)
    (pod,) = kubelet.plane.get(f"/api/v1/namespaces/{backends.namespace}/pods")["items"]
    loose = {"metadata": {"name": "loose"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    refused = kubelet.plane.ask("POST", f"/api/v1/namespaces/{backends.namespace}/pods", loose)

    assert refused.status_code == 403
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert [v["name"] for v in pod["spec"]["volumes"]] == ["work", "shm"]  # no service account token
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {resource(): "1"}
