"""What a lease is in a cluster: one Indexed Job and one headless Service, both named by the lease. Pure.

Where its pods run. A Job has one pod template, and a lease says which rank runs on which node. If all ranks run on one node the
template names it. Else the pods are made with a scheduling gate: kube-scheduler does not look at them until `pin` has written
each index's own node into its pod and opened the gate. So index = rank = the node that the lease names for it, exactly; a
template with all nodes and an anti-affinity would have left it to kube-scheduler which rank lands where, and then the story of a
lost node would name another. A lease for a Kueue queue is made suspended and pinned nowhere: Kueue chooses.

How it ends. The Job has no retries of its own (backoffLimit 0): a member that fails, and one that the cluster disrupts, fails
the Job, and the Job's controller ends the others, whether the platform runs or not. Stopping is `activeDeadlineSeconds: 0`: the
controller ends what runs, and a Job that has not begun never will. A pod keeps a finalizer of ours, so that the record of its
end is there however it ended, until the platform has taken it (`forget`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.catalog import load_catalog
from scheduler.job import Variant
from scheduler.lease import Lease
from scheduler.stopping import grace_of

OURS = "yisuan"  # field manager, app.kubernetes.io/managed-by, and the prefix of our keys
LEASE = f"{OURS}/lease"  # label: the objects' name; annotation: the lease's id as it is
NODES, LIMIT, STOP, END = f"{OURS}/nodes", f"{OURS}/limit-ms", f"{OURS}/stop", f"{OURS}/end"
GATE, FINALIZER = f"{OURS}/pin", f"{OURS}/observed"
INDEX = "batch.kubernetes.io/job-completion-index"  # label and annotation of an Indexed Job's pods
QUEUE = "kueue.x-k8s.io/queue-name"
HOME, SHM = "/work", "/dev/shm"  # noqa: S108 - paths in the container
PORT = 29500  # MASTER_PORT: every pod has an address of its own; torchrun's default
NAME_MAX = 50  # of 63 letters of a DNS label; pods' host names end in their index
PLAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

# Runs the setup, then the job; passes the wanted signal ($3) on when the cluster says SIGTERM, to all of the job's processes
# where the image has setsid. A shell that is a container's first process has no default for SIGTERM: without a trap it is deaf.
RUNNER = """\
asked= child= signal=$3
trap 'asked=1; [ -z "$child" ] || kill -s "$signal" -- "$group$child" 2>/dev/null || :' TERM
if command -v setsid >/dev/null 2>&1; then own=setsid group=-; else own= group=; fi
run() {
  $own /bin/sh -c "$1" & child=$!
  while wait "$child"; code=$?; [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do :; done
  child=
}
if [ -n "$1" ]; then run "$1"; [ "$code" -eq 0 ] || exit "$code"; fi
[ -z "$asked" ] || exit 143
run "$2"
exit "$code"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is the same for every lease of a cluster. cluster: its name in the clusters file.

    image: where a job's variant names none. run_as: user and group of every container, never 0. work_claim: a volume claim
    that keeps jobs' directories over attempts; None = an empty directory per attempt. kueue_queue: a local queue that
    leases are handed to. cpu_milli, memory_mib: asked per device. allowance_s: image pull, start and queueing beyond the
    time limit until the cluster itself ends a lease. lost_after_s: how long a silent node's pods may stay. keep_s: how long
    the Job of an ended lease and its logs stay. slots: how many shares HAMi tells per device (its deviceSplitCount).
    resources, models: the cluster's own words, model -> resource name and resource name -> model.
    """

    cluster: str
    namespace: str = "default"
    plugin: str = "official"
    image: str | None = None
    pull_secret: str | None = None
    run_as: int = 10001
    work_claim: str | None = None
    kueue_queue: str | None = None
    cpu_milli: int | None = None
    memory_mib: int | None = None
    allowance_s: int = 3600
    start_limit_s: int = 900
    lost_after_s: int = 30
    keep_s: int = 86_400
    slots: int = 10
    resources: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


def name_of(lease: str) -> str:
    """The name of a lease's objects: a DNS label, different for different leases. The lease's own id where that is one."""
    if len(lease) <= NAME_MAX and PLAIN.fullmatch(lease):
        return lease
    plain = re.sub(r"[^a-z0-9]+", "-", lease.lower()).strip("-")[: NAME_MAX - 11].strip("-")
    return f"{plain or 'lease'}-{hashlib.sha256(lease.encode()).hexdigest()[:10]}"


def node_of(name: str, cluster: str) -> str:
    """A node's name in its cluster; in the zone it is `<cluster>.<name>`."""
    return name.removeprefix(f"{cluster}.")


def selector(settings: Settings) -> str:
    """What finds all of this cluster's leases, and nobody else's."""
    return f"app.kubernetes.io/managed-by={OURS},app.kubernetes.io/instance={name_of(settings.cluster)}"


def labels_of(lease: str, settings: Settings) -> dict[str, str]:
    """Of every object of the lease."""
    return {
        "app.kubernetes.io/name": "lease",
        "app.kubernetes.io/instance": name_of(settings.cluster),
        "app.kubernetes.io/managed-by": OURS,
        "app.kubernetes.io/part-of": OURS,
        LEASE: name_of(lease),
    }


def image_of(lease: Lease, settings: Settings) -> str | None:
    """What the placed model's variant names, else the cluster's default."""
    variant = _variant(lease)
    return (variant.image if variant else None) or settings.image


def nodes_of(lease: Lease, settings: Settings) -> list[str]:
    """The cluster's name of each rank's node."""
    return [node_of(member.node, settings.cluster) for member in lease.placement.members]


def job_of(lease: Lease, settings: Settings, image: str, devices: Mapping[str, str]) -> dict[str, Any]:
    """The Job. devices: resource names and amounts of each member. The same lease gives the same Job."""
    name, nodes = name_of(lease.id), nodes_of(lease, settings)
    queue = {QUEUE: settings.kueue_queue} if settings.kueue_queue else {}
    told = {LEASE: lease.id, NODES: json.dumps(nodes), LIMIT: str(lease.spec.time_limit_ms)}
    limit_s = -(-lease.spec.time_limit_ms // 1000) + settings.allowance_s
    spec: dict[str, Any] = {
        "completions": len(nodes),
        "parallelism": len(nodes),
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]
        },
        "activeDeadlineSeconds": limit_s,
        "ttlSecondsAfterFinished": settings.keep_s,
        "template": _template(lease, settings, image, devices),
    }
    if settings.kueue_queue:
        spec["suspend"] = True
    meta = {"name": name, "labels": labels_of(lease.id, settings) | queue, "annotations": told}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def service_of(lease: str, settings: Settings, job: Mapping[str, Any]) -> dict[str, Any]:
    """The headless Service that gives `<name>-<rank>.<name>` an address; it goes with its Job."""
    name = name_of(lease)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels_of(lease, settings), "ownerReferences": [owner]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # members meet before any of them is ready
            "selector": {LEASE: name},
            "ports": [{"name": "rendezvous", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def tombstone_of(lease: str, settings: Settings, stop: str) -> dict[str, Any]:
    """The Job of a lease that was stopped before it was launched: it never has a pod, and keeps the name."""
    container = {"name": "none", "image": "none", "securityContext": _confined()}
    template = {
        "metadata": {"labels": labels_of(lease, settings)},
        "spec": _pod(settings) | {"containers": [container]},
    }
    meta = {"name": name_of(lease), "labels": labels_of(lease, settings), "annotations": {LEASE: lease, STOP: stop}}
    spec = {
        "completions": 1,
        "parallelism": 1,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "activeDeadlineSeconds": 0,
        "ttlSecondsAfterFinished": settings.keep_s,
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def pin_of(node: str) -> dict[str, Any]:
    """What is merged into a gated pod: it runs on the node, and kube-scheduler may see it."""
    return {"spec": {"schedulingGates": [], "affinity": {"nodeAffinity": _on(node)}}}


def is_gated(pod: Mapping[str, Any]) -> bool:
    """Does the pod wait for `pin_of`?"""
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or ())


def pinned(job: Mapping[str, Any]) -> list[str]:
    """The node of each rank, as the Job was made with them."""
    found: list[str] = json.loads(job["metadata"]["annotations"][NODES])
    return found


def index_of(pod: Mapping[str, Any]) -> int:
    """The rank of an Indexed Job's pod."""
    meta = pod["metadata"]
    return int((meta.get("labels") or {}).get(INDEX) or (meta.get("annotations") or {}).get(INDEX) or 0)


# --- the pod ----------------------------------------------------------------------------------------------------------


def _template(lease: Lease, settings: Settings, image: str, devices: Mapping[str, str]) -> dict[str, Any]:
    name, nodes = name_of(lease.id), nodes_of(lease, settings)
    checkpoint = lease.spec.checkpoint
    signal = ((checkpoint.signal if checkpoint else None) or "SIGTERM").removeprefix("SIG")
    asked = dict(devices)
    count = len(lease.placement.members[0].devices)
    if settings.cpu_milli is not None:
        asked["cpu"] = f"{settings.cpu_milli * count}m"
    if settings.memory_mib is not None:
        asked["memory"] = f"{settings.memory_mib * count}Mi"
    container = {
        "name": "job",
        "image": image,
        "command": ["/bin/sh", "-c", _literal(RUNNER), "job"],
        "args": [_literal(lease.spec.setup or ""), _literal(_command(lease)), signal],
        "workingDir": HOME,
        "env": _environment(lease, settings),
        "resources": {"limits": asked, "requests": asked},
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": "work", "mountPath": HOME} | ({"subPath": name_of(lease.job)} if settings.work_claim else {}),
            {"name": "shm", "mountPath": SHM},
        ],
    }
    kept: dict[str, Any] = {"persistentVolumeClaim": {"claimName": settings.work_claim}}
    pod = _pod(settings) | {
        "containers": [container],
        "subdomain": name,
        "terminationGracePeriodSeconds": max(1, -(-grace_of(lease.spec) // 1000)),
        "tolerations": _tolerations(devices, settings),
        "volumes": [
            {"name": "work"} | (kept if settings.work_claim else {"emptyDir": {}}),
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if not settings.kueue_queue:
        if len(set(nodes)) == 1:
            pod["affinity"] = {"nodeAffinity": _on(nodes[0])}
        else:
            pod["schedulingGates"] = [{"name": GATE}]
    return {"metadata": {"labels": labels_of(lease.id, settings), "finalizers": [FINALIZER]}, "spec": pod}


def _pod(settings: Settings) -> dict[str, Any]:
    """What the pod security level `restricted` wants, and that a job learns nothing of the cluster."""
    found: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as,
            "runAsGroup": settings.run_as,
            "fsGroup": settings.run_as,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.pull_secret:
        found["imagePullSecrets"] = [{"name": settings.pull_secret}]
    return found


def _confined() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _on(node: str) -> dict[str, Any]:
    """Required; by the node's own name, which kube-scheduler looks up at once, whatever the labels say."""
    field_ = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field_]}]}}


def _tolerations(devices: Mapping[str, str], settings: Settings) -> list[dict[str, Any]]:
    """Nodes are often tainted with their own resource's name to keep other pods away; a silent node's pods are given up."""
    ours = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in sorted(devices)]
    silent = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": settings.lost_after_s}
    return [*ours, *({"key": f"node.kubernetes.io/{why}"} | silent for why in ("not-ready", "unreachable"))]


def _environment(lease: Lease, settings: Settings) -> list[dict[str, Any]]:
    """The names of scheduler/backends/local.py, and NODE_RANK. No visibility variables: the device plugin gives whole devices."""
    chip, variant = load_catalog().get(lease.placement.model), _variant(lease)
    name, checkpoint = name_of(lease.id), lease.spec.checkpoint
    world = str(len(lease.placement.members))
    found = {
        "HOME": HOME,
        "LANG": "C.UTF-8",
        **lease.spec.envs,
        **(variant.envs if variant else {}),
        "YISUAN_JOB": lease.job,
        "YISUAN_LEASE": lease.id,
        "YISUAN_MODEL": lease.placement.model,
        "YISUAN_DEVICES": str(len(lease.placement.members[0].devices)),
        "YISUAN_WORLD_SIZE": world,
        "YISUAN_PROGRESS": f"{HOME}/progress-{lease.id}.json",
        "WORLD_SIZE": world,
        "LOCAL_RANK": "0",
        "MASTER_ADDR": f"{name}-0.{name}.{settings.namespace}.svc",
        "MASTER_PORT": str(PORT),
    }
    if chip is not None:
        found["YISUAN_VENDOR"] = chip.vendor
    if checkpoint is not None:
        found["YISUAN_CHECKPOINT"] = checkpoint.path if checkpoint.path.startswith("/") else f"{HOME}/{checkpoint.path}"
        if checkpoint.interval_ms is not None:
            found["YISUAN_CHECKPOINT_INTERVAL_S"] = str(checkpoint.interval_ms // 1000)
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    own = [{"name": key, "valueFrom": index} for key in ("RANK", "NODE_RANK", "YISUAN_RANK")]
    ours = {entry["name"] for entry in own}
    return [*own, *({"name": k, "value": _literal(v)} for k, v in sorted(found.items()) if k not in ours)]


def _command(lease: Lease) -> str:
    variant = _variant(lease)
    missing = "echo no entrypoint, and no variant for this model >&2; exit 126"
    return (variant.run if variant else None) or lease.spec.entrypoint or missing


def _variant(lease: Lease) -> Variant | None:
    chip = load_catalog().get(lease.placement.model)
    return lease.spec.variants.get(chip.stack) if chip else None


def _literal(text: str) -> str:
    """A kubelet reads $(NAME) in commands and values as its own, and $$ as one dollar."""
    return text.replace("$", "$$")


def uneven(lease: Lease) -> list[int] | None:
    """The devices of each member where they are not all as many: one template cannot ask for that. None where it can."""
    counts = [len(member.devices) for member in lease.placement.members]
    return counts if len(Counter(counts)) > 1 else None
