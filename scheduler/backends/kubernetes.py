"""Kubernetes backend: a lease is an Indexed Job with a headless Service in an existing cluster; every call may be repeated.

All knowledge is in the cluster: the Job's annotations say what the lease is, why it was stopped and, once forgotten, how it
ended; its pods say the rest. A restarted platform reads the same and says the same. What the objects hold and why:
kubernetes_objects.py. How they are read: kubernetes_status.py. Reading costs no request: kubernetes_mirror.py.

Exactly once. A Job's name is the lease's, so there is at most one. launch creates it; where it is there already it is applied
to (server-side apply, no force): again is no change, and a Job that was stopped meanwhile is in conflict over its deadline and
stays stopped. stop on a lease that was never launched makes a Job of that name that can have no pods, which a late launch
finds. A Job stays `keep_s` after its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from adapters.catalog import load_catalog
from scheduler.backends import kubernetes_nodes, kubernetes_objects, kubernetes_status
from scheduler.backends.kubernetes_api import APPLY, MERGE, ClusterApi, Refused, Unreachable
from scheduler.backends.kubernetes_mirror import Mirror
from scheduler.backends.kubernetes_objects import FINALIZER, LEASE, STOP, Settings, index_of, name_of
from scheduler.backends.kubernetes_status import Stop
from scheduler.clock import to_ms
from scheduler.discovery import FoundNode
from scheduler.lease import Cause, Lease, LeaseId, MemberPhase, MemberStatus, Observation
from scheduler.refusal import Refusal

log = structlog.get_logger("kubernetes")
MANAGER = {"fieldManager": kubernetes_objects.OURS, "fieldValidation": "Strict"}
STOPPER = {"fieldManager": f"{kubernetes_objects.OURS}-stop"}
LOG_MAX = 1 << 30  # bytes the API server is asked for at most


class KubernetesBackend:
    """scheduler.ports.Backend and scheduler.discovery.Discovery for one cluster.

    cluster: its name in the zone; nodes are `<cluster>.<node>` there. kubeconfig, context: both None = the pod's own account or
    the user's default. The other options are those of kubernetes_objects.Settings.
    """

    name = "kubernetes"

    def __init__(
        self,
        cluster: str,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        **options: Any,
    ) -> None:
        known = [field.name for field in fields(Settings)]
        for key in options:
            if key not in known:
                raise ValueError(f"{key}: no option of a Kubernetes cluster; known are {', '.join(known)}")
        self.settings = Settings(cluster=cluster, **options)
        self.api = ClusterApi(kubeconfig, context)
        self.clock = clock
        at = self.settings.namespace
        ours = kubernetes_objects.selector(self.settings)
        self._jobs_path = f"/apis/batch/v1/namespaces/{at}/jobs"
        self._pods_path = f"/api/v1/namespaces/{at}/pods"
        self._services_path = f"/api/v1/namespaces/{at}/services"
        self.jobs = Mirror(self.api, self._jobs_path, selector=ours, key=_lease_label)
        self.pods = Mirror(self.api, self._pods_path, selector=ours, key=_lease_label)
        self.cluster_nodes = Mirror(self.api, "/api/v1/nodes", essence=kubernetes_nodes.essence)
        self.changed = self.cluster_nodes.changed  # set when `nodes` may answer otherwise than it did
        self._served: set[str] = set()  # leases whose Service is there
        self._confirmed: dict[str, list[Any]] = {}  # pods of Jobs that are over, as listed once
        self._lock = threading.Lock()

    # --- the port -----------------------------------------------------------------------------------------------------

    def launch(self, lease: Lease) -> Refusal | None:
        """Its Job is there; a lease that ran, runs or was stopped is left as it is. Its Service follows with the first look.

        Refusals: SHARE_NOT_SUPPORTED, IMAGE_REQUIRED, UNEVEN_MEMBERS, NO_RESOURCE_NAME, CLUSTER_REFUSED (the API server's own
        reason in words).
        """
        if not lease.spec.request.whole:
            return Refusal(code="SHARE_NOT_SUPPORTED", facts={"backend": self.settings.cluster})
        image = kubernetes_objects.image_of(lease, self.settings)
        if image is None:
            return Refusal(
                code="IMAGE_REQUIRED", facts={"model": lease.placement.model, "cluster": self.settings.cluster}
            )
        counts = kubernetes_objects.uneven(lease)
        if counts is not None:
            return Refusal(code="UNEVEN_MEMBERS", facts={"devices": counts})
        devices = self._devices(lease)
        if not devices:
            return Refusal(
                code="NO_RESOURCE_NAME", facts={"model": lease.placement.model, "cluster": self.settings.cluster}
            )
        try:
            job = self._made(self._jobs_path, kubernetes_objects.job_of(lease, self.settings, image, devices))
        except Refused as problem:
            job = self._job(lease.id)
            if job is None:
                return self._no(problem)
        self.jobs.note(job)
        return None

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:  # noqa: ARG002 - it is in the pods
        """The Job may have no pods from now on, and those it has end: signal, grace, SIGKILL. The first request stands.

        The signal is the one that the job declared, which its runner sends on; so is the grace, but a shorter one here
        shortens it.
        """
        self.stop_for(lease, Cause.CANCELLED, None, grace_ms=grace_ms)

    def stop_for(self, lease: LeaseId, cause: Cause, detail: str | None, *, grace_ms: int | None = None) -> None:
        """As `stop`, with why: kept with the Job, and what its members end with."""
        job = self._job(lease)
        text = kubernetes_status.stop_text(Stop(cause=cause, at=self.clock(), detail=detail))
        if job is None:
            with contextlib.suppress(Refused):  # made meanwhile: the next call finds it
                body = kubernetes_objects.tombstone_of(lease, self.settings, text)
                self.jobs.note(self.api.request("POST", self._jobs_path, body, query=STOPPER))
            return
        if kubernetes_status.stop_of(job) is not None or kubernetes_status.is_over(job):
            return
        version = job["metadata"]["resourceVersion"]
        change: dict[str, Any] = {
            "metadata": {"resourceVersion": version, "annotations": {STOP: text}},
            "spec": {"activeDeadlineSeconds": 0},
        }
        if job["spec"].get(
            "suspend"
        ):  # its queue never saw it through: it is not the queue's any more, and ends at once
            change["spec"]["suspend"] = False
            change["metadata"]["labels"] = {kubernetes_objects.QUEUE: None}
        path = f"{self._jobs_path}/{job['metadata']['name']}"
        try:
            self.jobs.note(self.api.request("PATCH", path, change, kind=MERGE, query=STOPPER))
        except Refused as problem:
            if problem.status != 409:
                raise Unreachable(f"{path}: {problem}") from problem
            return  # changed meanwhile, as by its controller: the loop asks again
        self._shorten(job, grace_ms)

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        """What the Jobs and pods say. Pods that wait for their node are given it; leases over their time are told to stop."""
        now = self.clock()
        found = []
        for lease in leases:
            job, pods = self._seen(lease)
            members = self._members(job, pods, now)
            if job is not None and members:
                self._attend(lease, job, pods, members, now)
            members = members or (MemberStatus(rank=0, phase=MemberPhase.ABSENT),)
            found.append(Observation(lease=lease, members=members, now_ms=to_ms(now)))
        return tuple(found)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        """Bytes [offset, offset + limit) of what a member wrote; empty past the end and where its node has them no more.

        The API has no offset, so what is before it is asked for too, and thrown away.
        """
        _, pods = self._seen(lease)
        mine = [pod for pod in pods if index_of(pod) == rank and pod["spec"].get("nodeName")]
        if not mine or limit <= 0:
            return b""
        last = min(LOG_MAX, max(0, offset) + limit)
        path = f"{self._pods_path}/{mine[-1]['metadata']['name']}/log"
        try:
            text = self.api.read("GET", path, query={"container": "job", "limitBytes": str(last)})
        except (Refused, Unreachable) as problem:
            log.info("no_logs", lease=lease, problem=str(problem))
            return b""
        return text[max(0, offset) : last]

    def forget(self, lease: LeaseId) -> None:
        """The Job keeps how its members ended, and its pods may go. Job, Service, pods and logs go `keep_s` after the end."""
        job, pods = self._seen(lease)
        members = self._members(job, pods, self.clock())
        if job is not None and kubernetes_objects.END not in (job["metadata"].get("annotations") or {}):
            told = {"metadata": {"annotations": {kubernetes_objects.END: kubernetes_status.end_text(members)}}}
            path = f"{self._jobs_path}/{job['metadata']['name']}"
            with _unless_gone():
                self.jobs.note(self.api.request("PATCH", path, told, kind=MERGE, query=STOPPER))
        for pod in pods:
            self._release(pod)
        self._served.discard(lease)
        self._confirmed.pop(name_of(lease), None)

    # --- discovery ----------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[FoundNode]:
        """The nodes with devices that the catalogue knows. Unreachable (a ConnectionError) while nobody answers."""
        self.changed.clear()
        running = {"fieldSelector": "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"}
        try:
            pods = [pod for page in self.api.pages("/api/v1/pods", running) for pod in page["items"]]
        except Refused as problem:
            raise Unreachable(f"pods of the cluster: {problem}") from problem
        found, unknown = kubernetes_nodes.found_nodes(self.cluster_nodes.all(), pods, self.settings, load_catalog())
        for one in unknown:
            log.warning(
                "devices_unknown", cluster=self.settings.cluster, node=one.node, resource=one.resource, why=one.why
            )
        return found

    def close(self) -> None:
        """No thread and no connection is left; the cluster stays as it is."""
        for mirror in (self.jobs, self.pods, self.cluster_nodes):
            mirror.close()
        self.api.close()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _made(self, path: str, body: Mapping[str, Any]) -> Any:
        """The object as it is there now: created, or, where it was there before, the same one applied to."""
        try:
            return self.api.request("POST", path, body, query=MANAGER)
        except Refused as problem:
            if problem.reason != "AlreadyExists":
                raise
        return self.api.request("PATCH", f"{path}/{body['metadata']['name']}", body, kind=APPLY, query=MANAGER)

    def _no(self, problem: Refused) -> Refusal:
        facts = {"cluster": self.settings.cluster, "reason": problem.reason, "message": problem.message}
        return Refusal(code="CLUSTER_REFUSED", facts=facts)

    def _job(self, lease: str) -> Any:
        """The lease's Job as it is now, past the mirror; None if there is none."""
        try:
            return self.api.request("GET", f"{self._jobs_path}/{name_of(lease)}")
        except Refused as problem:
            if problem.status == 404:
                return None
            raise Unreachable(str(problem)) from problem

    def _devices(self, lease: Lease) -> dict[str, str]:
        chip, member = load_catalog().get(lease.placement.model), lease.placement.members[0]
        if chip is None:
            return {}
        name = kubernetes_objects.node_of(member.node, self.settings.cluster)
        node = next(iter(self.cluster_nodes.of(name)), None)
        return kubernetes_nodes.devices_of(node, chip.vendor, chip.model, len(member.devices), self.settings)

    def _seen(self, lease: str) -> tuple[Any, list[Any]]:
        """The lease's Job and pods. Where a Job that is over has fewer pods than members they are asked for once more:
        the two watches do not run in step."""
        name = name_of(lease)
        pods = self.pods.of(name)
        job = next(iter(self.jobs.of(name)), None)
        if job is None or not kubernetes_status.is_over(job):
            return job, pods
        if len({index_of(pod) for pod in pods}) < kubernetes_status.ranks_of(job, pods):
            if name not in self._confirmed:
                page = self.api.request("GET", self._pods_path, query={"labelSelector": f"{LEASE}={name}"})
                self._confirmed[name] = page["items"]
            known = {pod["metadata"]["uid"]: pod for pod in (*self._confirmed[name], *pods)}
            pods = sorted(known.values(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return job, pods

    def _members(self, job: Any, pods: Sequence[Any], now: datetime) -> tuple[MemberStatus, ...]:
        boot = f"kubernetes:{self.settings.cluster}"
        return kubernetes_status.members_of(job, pods, boot=boot, now=now, answers=self._answers)

    def _answers(self, node: str) -> bool | None:
        known = self.cluster_nodes.of(node)
        return kubernetes_nodes.is_ready(known[0]) if known else None

    def _closed(self, node: str) -> str | None:
        known = self.cluster_nodes.of(node)
        return kubernetes_nodes.closed(known[0]) if known else "no such node any more"

    def _attend(
        self, lease: LeaseId, job: Any, pods: Sequence[Any], members: Sequence[MemberStatus], now: datetime
    ) -> None:
        """What a lease needs from us while it lives. A cluster that does not answer is asked the next time."""
        if kubernetes_status.stop_of(job) is not None or kubernetes_status.is_over(job):
            return
        try:
            if lease not in self._served and not self._serve(lease, job):
                return
            for pod in pods:
                if kubernetes_objects.is_gated(pod) and not pod["metadata"].get("deletionTimestamp"):
                    self._pin(job, pod)
            if kubernetes_status.overdue(job, members, now):
                self.stop_for(lease, Cause.TIME_LIMIT, None)
                return
            limit = timedelta(seconds=self.settings.start_limit_s)
            trouble = kubernetes_status.trouble_of(job, pods, now, limit, self._closed)
            if trouble is not None:
                self.stop_for(lease, trouble.cause, trouble.detail)
        except (Refused, Unreachable) as problem:
            log.warning("not_attended", lease=lease, problem=str(problem))

    def _serve(self, lease: LeaseId, job: Any) -> bool:
        """Its Service is there, so its members find each other; a lease that cannot have one is stopped."""
        try:
            self._made(self._services_path, kubernetes_objects.service_of(lease, self.settings, job))
        except Refused as problem:
            self.stop_for(lease, Cause.LAUNCH_FAILED, f"no Service: {problem.message}")
            return False
        self._served.add(lease)
        return True

    def _pin(self, job: Any, pod: Any) -> None:
        node = kubernetes_objects.pinned(job)[index_of(pod)]
        path = f"{self._pods_path}/{pod['metadata']['name']}"
        with _unless_gone():
            self.pods.note(self.api.request("PATCH", path, kubernetes_objects.pin_of(node), kind=MERGE))

    def _shorten(self, job: Any, grace_ms: int | None) -> None:
        """Pods whose own grace is longer than the one asked for are given the shorter one."""
        own = job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        wanted = None if grace_ms is None else max(1, -(-grace_ms // 1000))  # 0 would drop pods that still run
        if wanted is None or wanted >= own:
            return
        running = {
            "labelSelector": f"{LEASE}={job['metadata']['name']}",
            "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
        }
        with _unless_gone():
            self.api.request("DELETE", self._pods_path, {"gracePeriodSeconds": wanted}, query=running)

    def _release(self, pod: Any) -> None:
        """The pod's end is known and kept: it may go when it is deleted."""
        meta = pod["metadata"]
        rest = [one for one in meta.get("finalizers") or () if one != FINALIZER]
        if len(rest) == len(meta.get("finalizers") or ()):
            return
        test = {"op": "test", "path": "/metadata/finalizers", "value": meta["finalizers"]}
        change = [test, {"op": "replace", "path": "/metadata/finalizers", "value": rest}]
        path = f"{self._pods_path}/{meta['name']}"
        with _unless_gone():
            try:
                self.api.request("PATCH", path, change, kind="application/json-patch+json")
            except Refused as problem:
                if problem.status != 422:  # its controller took its own away meanwhile
                    raise
                fresh = self.api.request("GET", path)
                if fresh["metadata"].get("finalizers") != meta["finalizers"]:
                    self._release(fresh)


@contextlib.contextmanager
def _unless_gone() -> Any:
    """What is not there any more needs nothing."""
    try:
        yield
    except Refused as problem:
        if problem.status != 404:
            raise Unreachable(str(problem)) from problem


def _lease_label(thing: Mapping[str, Any]) -> str:
    return str((thing["metadata"].get("labels") or {}).get(LEASE, ""))
