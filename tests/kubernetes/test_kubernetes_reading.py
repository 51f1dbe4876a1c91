"""Names, objects and readings, without a cluster: what is made of a lease, and what pods in any state are said to be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.catalog import load_catalog
from scheduler.backends.kubernetes import KubernetesBackend
from scheduler.backends.kubernetes_nodes import devices_of, found_nodes, quantity
from scheduler.backends.kubernetes_objects import (
    INDEX,
    LIMIT,
    NAME_MAX,
    STOP,
    Settings,
    job_of,
    name_of,
    service_of,
    tombstone_of,
    uneven,
)
from scheduler.backends.kubernetes_status import Stop, end_text, members_of, overdue, stop_of, stop_text, trouble_of
from scheduler.job import Variant
from scheduler.lease import Cause, MemberPhase, MemberStatus
from tests.kubernetes.leases import lease_of

ZONE = Settings(cluster="zone", image="job:1")
NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
BOOT = "kubernetes:zone"
ABSENT, STARTING, RUNNING, EXITED, LOST = MemberPhase


def at(seconds: int) -> str:
    return (datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    ranks: int = 1, *, stop: Stop | None = None, failed: str | None = None, complete: bool = False
) -> dict[str, Any]:
    conditions = (
        [{"type": "Failed", "status": "True", "reason": failed, "lastTransitionTime": at(20)}] if failed else []
    )
    conditions += [{"type": "Complete", "status": "True"}] if complete else []
    return {
        "metadata": {"name": "j", "annotations": {STOP: stop_text(stop)} if stop else {}},
        "spec": {"completions": ranks},
        "status": {"conditions": conditions},
    }


def pod(rank: int = 0, **state: Any) -> dict[str, Any]:
    """state: running, code, deleted, grace, disrupted, waiting, phase, node."""
    meta: dict[str, Any] = {
        "name": f"p{rank}",
        "uid": f"u{rank}",
        "labels": {INDEX: str(rank)},
        "creationTimestamp": at(0),
    }
    if "deleted" in state:
        meta |= {"deletionTimestamp": at(state["deleted"]), "deletionGracePeriodSeconds": state.get("grace", 0)}
    container: dict[str, Any] = {}
    if "code" in state:
        ended = {"exitCode": state["code"], "reason": "Error", "finishedAt": at(state.get("ended", 10))}
        container = {"terminated": ended | {"startedAt": at(1)}}
    elif state.get("running"):
        container = {"running": {"startedAt": at(1)}}
    elif "waiting" in state:
        container = {"waiting": {"reason": state["waiting"], "message": "why"}}
    conditions = []
    if "disrupted" in state:
        conditions.append(
            {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "Evicted",
                "lastTransitionTime": at(state["disrupted"]),
            }
        )
    status = {"phase": state.get("phase", "Running"), "conditions": conditions}
    status["containerStatuses"] = [{"state": container}]
    return {"metadata": meta, "spec": {"nodeName": state.get("node", "k1")}, "status": status}


def read(body: Any, *pods: Any, ready: Any = True, now: datetime = NOW) -> tuple[MemberStatus, ...]:
    return members_of(body, pods, boot=BOOT, now=now, answers=lambda _: ready)


STOPPED = Stop(cause=Cause.CANCELLED, at=datetime(2026, 6, 1, 12, 0, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    ("body", "seen", "phase", "code", "cause"),
    [
        (job(), pod(running=True), RUNNING, None, None),
        (job(), pod(phase="Pending"), STARTING, None, None),
        (job(), pod(code=0), EXITED, 0, None),
        (job(), pod(code=7), EXITED, 7, None),
        (job(), pod(code=137), EXITED, -9, None),
        (job(), pod(code=255), EXITED, 255, None),
        (job(stop=STOPPED), pod(code=143, deleted=6, grace=2), EXITED, -15, Cause.CANCELLED),
        (job(stop=STOPPED), pod(code=143, deleted=12), EXITED, -15, Cause.CANCELLED),  # after the kubelet's last word
        (job(stop=STOPPED), pod(code=7, ended=4), EXITED, 7, None),  # it had ended before the stop
        (job(stop=STOPPED), pod(code=7, ended=4, deleted=12), EXITED, 7, None),
        (job(failed="DeadlineExceeded"), pod(code=143, deleted=11, grace=2), EXITED, -15, Cause.TIME_LIMIT),
        (job(), pod(code=143, deleted=12, grace=5), LOST, None, None),  # deleted by hand
        (job(), pod(code=143, ended=10, disrupted=9, deleted=12, grace=3), LOST, None, None),
        (job(), pod(code=0, ended=8, disrupted=9), EXITED, 0, None),  # it was done before
        (job(stop=STOPPED), pod(code=143, disrupted=9, deleted=8, grace=3), EXITED, -15, Cause.CANCELLED),
        (job(stop=STOPPED), pod(code=143, disrupted=5, deleted=8, grace=3), LOST, None, None),
        (job(), pod(phase="Failed"), LOST, None, None),  # the kubelet did not admit it
        (job(stop=STOPPED), pod(phase="Pending", deleted=6, node=None), EXITED, None, Cause.CANCELLED),
    ],
)
def test_a_pod_is_said_to_be_what_it_is(body: Any, seen: Any, phase: Any, code: Any, cause: Any) -> None:
    (member,) = read(body, seen)

    assert (member.phase, member.exit_code, member.cause) == (phase, code, cause)
    assert member.boot_id == BOOT
    assert (member.ended_ms is not None) == (phase is EXITED and "terminated" in str(seen))


def test_times_are_the_containers_own_in_milliseconds() -> None:
    (member,) = read(job(), pod(code=0))

    assert member.started_at == datetime(2026, 6, 1, 12, 0, 1, tzinfo=UTC)
    assert member.started_ms is not None
    assert member.ended_ms is not None
    assert member.ended_ms - member.started_ms == 9000


def test_a_container_that_could_not_be_started_never_began() -> None:
    never = pod(code=128)
    never["status"]["containerStatuses"][0]["state"]["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
    (member,) = read(job(), never)

    assert (member.phase, member.exit_code, member.started_ms, member.ended_ms) == (EXITED, 128, None, None)


@pytest.mark.parametrize(
    ("ready", "seconds", "state", "phase"),
    [
        (True, 30, {"running": True}, RUNNING),
        (False, 30, {"running": True}, RUNNING),  # it may come back
        (None, 30, {"running": True}, LOST),  # the node is gone
        (False, 30, {"running": True, "disrupted": 9, "deleted": 9}, LOST),
        (True, 30, {"running": True, "disrupted": 9, "deleted": 40, "grace": 30}, RUNNING),  # it has its grace yet
        (False, 35, {"running": True, "deleted": 9, "grace": 5}, RUNNING),
        (False, 41, {"running": True, "deleted": 9, "grace": 5}, LOST),
        (True, 41, {"running": True, "deleted": 9, "grace": 5}, RUNNING),
    ],
)
def test_a_pod_on_a_silent_node_is_lost_once_it_cannot_come_back(
    ready: bool | None, seconds: int, state: dict[str, Any], phase: MemberPhase
) -> None:
    moment = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)
    assert read(job(), pod(**state), ready=ready, now=moment)[0].phase is phase


def test_members_that_end_for_anothers_sake_are_cancelled_and_the_other_is_not() -> None:
    others = (pod(0, code=143, deleted=11, grace=2), pod(1, code=7), pod(2, phase="Pending", deleted=11, node=None))
    same_second = pod(3, code=1, deleted=12, grace=2)
    seen = read(job(4, failed="PodFailurePolicy"), *others, same_second)

    cancelled = Cause.CANCELLED
    assert [(m.exit_code, m.cause) for m in seen] == [(-15, cancelled), (7, None), (None, cancelled), (1, cancelled)]


def test_a_deadline_that_a_stop_has_set_is_not_the_job_s_time_limit() -> None:
    """After an outage the controller ends the others for the failed member, and our stop comes on top of it."""
    body = job(2, failed="DeadlineExceeded", stop=STOPPED)
    body["metadata"]["annotations"][LIMIT] = "3600000"
    body["status"]["startTime"] = at(0)
    members = (pod(0, code=143, ended=4, deleted=5, grace=2), pod(1, code=3, ended=1))
    assert [(m.exit_code, m.cause) for m in read(body, *members)] == [(-15, Cause.CANCELLED), (3, None)]

    body["metadata"]["annotations"][LIMIT] = "20000"  # it failed at 20 s, which is its limit
    assert [(m.exit_code, m.cause) for m in read(body, *members)] == [(-15, Cause.TIME_LIMIT), (3, None)]


def test_what_is_not_there_is_told_by_the_job() -> None:
    assert read(None) == ()
    assert [m.phase for m in read(job(2))] == [STARTING, STARTING]
    assert [(m.phase, m.exit_code) for m in read(job(complete=True))] == [(EXITED, 0)]
    assert [m.phase for m in read(job(failed="BackoffLimitExceeded"))] == [LOST]
    assert [m.cause for m in read(job(failed="DeadlineExceeded", stop=STOPPED))] == [Cause.CANCELLED]
    assert [m.phase for m in read(None, pod(1, running=True))] == [LOST, RUNNING]


def test_of_two_pods_of_a_rank_the_later_counts() -> None:
    assert [m.phase for m in read(job(), pod(code=143), pod(running=True))] == [RUNNING]


@pytest.mark.parametrize(
    ("state", "seconds", "cause"),
    [
        ({"waiting": "ImagePullBackOff", "phase": "Pending"}, 10, None),
        ({"waiting": "ImagePullBackOff", "phase": "Pending"}, 70, Cause.LAUNCH_FAILED),
        ({"waiting": "InvalidImageName", "phase": "Pending"}, 1, Cause.LAUNCH_FAILED),
        ({"waiting": "ContainerCreating", "phase": "Pending"}, 70, None),
        ({"running": True}, 70, None),
    ],
)
def test_a_lease_that_does_not_start_is_given_up_in_time(
    state: dict[str, Any], seconds: int, cause: Cause | None
) -> None:
    moment = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)
    found = trouble_of(job(), [pod(**state)], moment, timedelta(minutes=1), lambda _: None)

    assert (found.cause if found else None) is cause


def test_a_lease_whose_node_was_closed_meanwhile_is_given_up_soon() -> None:
    refused = pod(phase="Pending", node=None)
    refused["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}
    ]
    body = job_of(lease_of("a", "true"), ZONE, "i", {})
    queued = job_of(lease_of("a", "true"), replace(ZONE, kueue_queue="q"), "i", {})

    def given_up(job_: Any, seconds: int, why: str | None) -> Any:
        moment = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)
        found = trouble_of(job_, [refused], moment, timedelta(minutes=15), lambda node: why if node == "k1" else None)
        return (found.cause, found.detail) if found else None

    assert given_up(body, 25, "cordoned") == (Cause.NODE_FAIL, "k1: cordoned")
    assert given_up(body, 15, "cordoned") is None
    assert given_up(body, 25, None) is None
    assert given_up(queued, 25, "cordoned") is None
    assert given_up(body, 901, None) == (Cause.NODE_FAIL, "Unschedulable: no")


def test_a_lease_is_overdue_when_all_its_members_ran_that_long() -> None:
    body = job_of(lease_of("a", "true", ("k1", "k2"), limit_ms=25_000), ZONE, "i", {})
    both = read(job(2), pod(0, running=True), pod(1, running=True))
    one = read(job(2), pod(0, running=True), pod(1, phase="Pending"))
    moment = datetime(2026, 6, 1, 12, 0, 26, tzinfo=UTC)

    assert overdue(body, both, moment)
    assert not overdue(body, both, moment - timedelta(seconds=1))
    assert not overdue(body, one, moment + timedelta(days=1))


STATUSES = st.builds(
    MemberStatus,
    rank=st.integers(0, 9),
    phase=st.sampled_from(list(MemberPhase)),
    boot_id=st.none() | st.just(BOOT),
    started_at=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    started_ms=st.none() | st.integers(0, 2**45),
    ended_ms=st.none() | st.integers(0, 2**45),
    exit_code=st.none() | st.integers(-64, 255),
    cause=st.none() | st.sampled_from(list(Cause)),
    detail=st.none() | st.text(),
)


@given(members=st.lists(STATUSES, max_size=4))
def test_an_end_that_was_kept_is_read_back_as_it_was(members: list[MemberStatus]) -> None:
    kept = {"metadata": {"annotations": {"yisuan/end": end_text(members)}}, "spec": {"completions": 1}}
    assert read(kept, pod(running=True)) == tuple(members)


@given(cause=st.sampled_from(list(Cause)), detail=st.none() | st.text())
def test_a_stop_is_read_back_to_the_second(cause: Cause, detail: str | None) -> None:
    stop = Stop(cause=cause, at=NOW, detail=detail)
    assert stop_of({"metadata": {"annotations": {STOP: stop_text(stop)}}}) == stop


@given(first=st.text(min_size=1, max_size=120), second=st.text(min_size=1, max_size=120))
def test_names_are_labels_and_differ_where_leases_do(first: str, second: str) -> None:
    assert LABEL.fullmatch(name_of(first))
    assert len(name_of(first)) <= NAME_MAX
    assert (name_of(first) == name_of(second)) == (first == second)


def test_names_that_would_be_alike_differ() -> None:
    assert name_of("job-a-1") == "job-a-1"
    assert len({name_of(one) for one in ("job_a.1", "job-a.1", "job-a-1", "JOB-A-1", "job_a-1")}) == 5


def test_the_same_lease_gives_the_same_job() -> None:
    lease = lease_of("a", "run $HOME $$ $(date)", ("k1", "k2"), envs={"B": "$(A)", "A": "1"})
    first, second = (json.dumps(job_of(lease, ZONE, "i", {"nvidia.com/gpu": "2"})) for _ in range(2))

    assert first == second
    container = json.loads(first)["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][1] == "run $$HOME $$$$ $$(date)"  # a kubelet would read $(A) and $$ as its own
    assert {"name": "B", "value": "$$(A)"} in container["env"]


def test_a_job_cannot_say_who_it_is() -> None:
    spec = {"RANK": "9", "YISUAN_LEASE": "mine", "MASTER_ADDR": "evil", "WORLD_SIZE": "7", "OWN": "x"}
    pod_spec = job_of(lease_of("a", "true", envs=spec), ZONE, "i", {})["spec"]["template"]["spec"]
    env = pod_spec["containers"][0]["env"]
    found = {entry["name"]: entry.get("value") for entry in env}

    assert len(found) == len(env)
    assert found["OWN"] == "x"
    assert (found["RANK"], found["YISUAN_LEASE"], found["WORLD_SIZE"]) == (None, "a.1", "1")
    assert found["MASTER_ADDR"] != "evil"
    assert not any("VISIBLE" in name for name in found)


def test_where_pods_go_depends_on_the_nodes() -> None:
    def spec(*nodes: str, **options: Any) -> Any:
        return job_of(lease_of("a", "true", nodes), replace(ZONE, **options), "i", {})["spec"]

    one, same, two = spec("k1"), spec("k1", "k1"), spec("k1", "k2")
    assert "metadata.name" in json.dumps(one["template"]["spec"]["affinity"])
    assert one["template"]["spec"]["affinity"] == same["template"]["spec"]["affinity"]
    assert "affinity" not in two["template"]["spec"]
    assert two["template"]["spec"]["schedulingGates"]
    assert spec("k1", "k2", kueue_queue="q")["suspend"]
    assert "suspend" not in two
    claim = spec("k1", work_claim="nas")["template"]["spec"]
    assert claim["volumes"][0]["persistentVolumeClaim"] == {"claimName": "nas"}
    assert claim["containers"][0]["volumeMounts"][0]["subPath"] == "a"


def test_the_image_and_command_are_the_variants_where_it_has_them() -> None:
    lease = lease_of("a", "entry")
    chip = next(iter(load_catalog()))
    variants = {chip.stack: Variant(run="torchrun x", image="own:2", envs={"V": "1"})}
    lease = replace(lease, spec=replace(lease.spec, variants=variants))
    container = job_of(lease, ZONE, "own:2", {})["spec"]["template"]["spec"]["containers"][0]

    assert container["args"][1] == "torchrun x"
    assert {"name": "V", "value": "1"} in container["env"]


def test_members_of_unlike_size_are_told() -> None:
    lease = lease_of("a", "true", ("k1", "k2"))
    members = (lease.placement.members[0], replace(lease.placement.members[1], devices=("x", "y")))
    assert uneven(lease) is None
    assert uneven(replace(lease, placement=replace(lease.placement, members=members))) == [1, 2]


def test_a_service_goes_with_its_job_and_a_tombstone_has_no_pods() -> None:
    service = service_of("a.1", ZONE, {"metadata": {"uid": "u"}})
    assert service["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert service["spec"]["selector"] == {"yisuan/lease": name_of("a.1")}
    assert tombstone_of("a.1", ZONE, "{}")["spec"]["activeDeadlineSeconds"] == 0


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="namespce: no option"):
        KubernetesBackend("zone", namespce="x")


# --- nodes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8", 8),
        ("63500m", 63.5),
        ("512Gi", 512 << 30),
        ("1k", 1000),
        ("1e3", 1000),
        ("1.5Mi", 3 << 19),
        (4, 4),
        ("2E", 2e18),
    ],
)
def test_quantities_are_read_in_their_units(text: str | int, amount: float) -> None:
    assert quantity(text) == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "x", "1KB"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        quantity(text)


def node(name: str = "n", amounts: Any = None, labels: Any = None, notes: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels or {}, "annotations": notes or {}},
        "spec": spec,
        "status": {"allocatable": amounts or {}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def one(body: Any, pods: Any = (), **options: Any) -> Any:
    found, unknown = found_nodes([body], pods, replace(ZONE, **options), load_catalog())
    return (found[0].vendor, found[0].model, found[0].devices) if found else [u.why for u in unknown]


H800 = {"nvidia.com/gpu.product": "NVIDIA-H800"}


@pytest.mark.parametrize(
    ("body", "options", "told"),
    [
        (node(amounts={"nvidia.com/gpu": "8"}, labels=H800), {}, ("nvidia", "H800", 8)),
        (node(amounts={"nvidia.com/gpu": "80"}, labels=H800), {"plugin": "hami"}, ("nvidia", "H800", 8)),
        (
            node(
                amounts={"nvidia.com/gpu": "20"},
                labels=H800,
                notes={
                    "hami.io/node-nvidia-register": "GPU-1,10,81559,100,NVIDIA-H800,0,true:GPU-2,10,81559,100,x,0,true:"
                },
            ),
            {"plugin": "hami", "slots": 5},
            ("nvidia", "H800", 2),
        ),
        (
            node(
                amounts={"nvidia.com/gpu": "30"},
                labels=H800,
                notes={"hami.io/node-nvidia-register": '[{"id": "a"}, {"id": "b"}, {"id": "c"}]'},
            ),
            {"plugin": "hami"},
            ("nvidia", "H800", 3),
        ),
        (node(amounts={"huawei.com/Ascend910B3": "80"}), {}, ("ascend", "Ascend910B3", 8)),  # HAMi's own name
        (
            node(amounts={"cambricon.com/mlu": "4"}),
            {"models": {"cambricon.com/mlu": "MLU590"}},
            ("cambricon", "MLU590", 4),
        ),
        (node(amounts={"cpu": "4"}), {}, []),
        (node(amounts={"nvidia.com/gpu": "0"}, labels=H800), {}, []),
        (node(amounts={"nvidia.com/mig-1g.10gb": "7"}, labels=H800), {}, []),
        (node(amounts={"nvidia.com/gpu": "8"}), {}, ["the catalogue has no such model; name it in `models`"]),
        (
            node(amounts={"nvidia.com/gpu": "8"}, labels={"nvidia.com/gpu.product": "NVIDIA-H800-SHARED"}),
            {},
            ("nvidia", "H800", 8),
        ),
    ],
)
def test_a_nodes_devices_are_told_whatever_they_are_called(body: Any, options: Any, told: Any) -> None:
    assert one(body, **options) == told


def holder(owner: str | None, amount: str = "3", phase: str = "Running", finalizers: Any = ("yisuan/observed",)) -> Any:
    labels = {"app.kubernetes.io/managed-by": "yisuan", "app.kubernetes.io/instance": owner} if owner else {}
    container = {"resources": {"limits": {"nvidia.com/gpu": amount}}}
    return {
        "metadata": {"labels": labels, "finalizers": list(finalizers)},
        "spec": {"nodeName": "n", "containers": [container], "initContainers": []},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("pods", "left"),
    [
        ([holder(None)], 5),
        ([holder("zone")], 8),
        ([holder("other-zone")], 5),
        ([holder(None, phase="Succeeded")], 8),
        ([holder("zone", finalizers=())], 5),  # of a lease that is over: nobody of ours holds it any more
        ([holder(None, "6"), holder(None, "6")], 0),
    ],
)
def test_only_what_others_hold_is_left_out(pods: Any, left: int) -> None:
    assert one(node(amounts={"nvidia.com/gpu": "8"}, labels=H800), pods) == ("nvidia", "H800", left)


def test_a_pod_asks_for_what_its_node_calls_the_devices() -> None:
    own = node(amounts={"huawei.com/Ascend910B3": "80"})
    assert devices_of(own, "ascend", "Ascend910B3", 2, ZONE) == {
        "huawei.com/Ascend910B3": "2",
        "huawei.com/Ascend910B3-core": "100",
    }
    assert devices_of(node(amounts={"huawei.com/Ascend310P": "4"}), "ascend", "Ascend310P3", 1, ZONE) == {
        "huawei.com/Ascend310P": "1"
    }
    assert devices_of(None, "nvidia", "H800", 4, ZONE) == {"nvidia.com/gpu": "4"}
    assert devices_of(None, "nvidia", "H800", 4, replace(ZONE, plugin="hami")) == {
        "nvidia.com/gpu": "4",
        "nvidia.com/gpucores": "100",
    }
    assert devices_of(None, "nvidia", "H800", 4, replace(ZONE, resources={"H800": "a.b/c"})) == {"a.b/c": "4"}
    assert devices_of(None, "nobody", "X", 4, ZONE) == {}
