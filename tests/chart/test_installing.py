"""Install, upgrade, rollback, test, uninstall on a real control plane: real objects, real admission; kwok says that pods run."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chart.chart import CHART, tool, values_of
from tests.kubernetes.plane import NoPlane, Plane, wait_for

LABELS = {
    "nvidia.com/gpu.present": "true",
    "accelerator": "huawei-Ascend910",
    "node-role.kubernetes.io/infra": "",
}
NODES = 3
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"


class Zone:
    """A control plane with nodes, and helm and kubectl for it."""

    def __init__(self, plane: Plane, home: Path) -> None:
        self.plane, self.home = plane, home
        self._closed = threading.Event()
        self._ender = threading.Thread(target=self._end_jobs, daemon=True)

    def __enter__(self) -> Zone:
        self.plane.kwok()
        self.plane.fake_nodes(NODES, {"nvidia.com/gpu": 8}, prefix="chart")
        for number in range(NODES):
            self.plane.patch(f"/api/v1/nodes/chart-{number:05d}", {"metadata": {"labels": LABELS}})
        self.plane.make(CLASSES, {"metadata": {"name": "nvidia"}, "handler": "nvidia"})
        self._ender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._ender.join(10)

    def _end_jobs(self) -> None:
        """Pods that run to their end (of hooks) have ended well: kwok lets them run for ever."""
        while not self._closed.wait(0.3):
            try:
                pods = self.plane.get("/api/v1/pods", labelSelector="app.kubernetes.io/component in (migrate, test)")
                for pod in pods["items"]:
                    if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp"):
                        self._end(pod)
            except httpx.HTTPError:
                continue

    def _end(self, pod: Any) -> None:
        states = pod["status"]["containerStatuses"]
        done = [
            {**one, "ready": False, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}} for one in states
        ]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
        self.plane.patch(path, {"status": {"phase": "Succeeded", "containerStatuses": done}})

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": str(self.plane.kubeconfig)}
        return subprocess.run(
            [tool(name), *arguments], capture_output=True, text=True, env=env, timeout=300, check=False
        )

    def helm(self, *arguments: str) -> str:
        done = self.run("helm", *arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}\n{self.plane.said('kwok')[-300:]}"
        return done.stdout

    def volumes(self, *names: str, storage_class: str = "") -> None:
        """Volumes that claims can be bound to: nothing makes them here."""
        for name in names:
            spec = {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": storage_class,
                "hostPath": {"path": "/nowhere"},
            }
            self.plane.make("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})

    def left(self, release: str) -> set[str]:
        """Every object of every listable kind that has the release's label, as kind/name."""
        kinds = self.run("kubectl", "api-resources", "--verbs=list", "-o", "name").stdout.split()
        assert len(kinds) > 30
        kinds = [kind for kind in kinds if not kind.startswith(("events", "componentstatuses"))]
        asked = ("get", ",".join(kinds), "-A", "-l", f"app.kubernetes.io/instance={release}", "-o", "name")
        done = self.run("kubectl", *asked)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    for name in ("helm", "kubectl"):
        tool(name)
    try:
        plane = Plane(node_grace_s=60)  # kwok says every ten seconds that its nodes live
    except NoPlane as problem:
        pytest.skip(f"no control plane: {problem}")
    with plane, Zone(plane, tmp_path_factory.mktemp("home")) as made:
        yield made


PRODUCTION = [*values_of("production"), "--set", "clusters[0].options.namespace=prod-jobs"]


def deployment(zone: Zone, namespace: str, name: str) -> Any:
    return zone.plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")


def test_a_zone_is_installed_upgraded_taken_back_and_removed(zone: Zone) -> None:
    zone.plane.namespace("prod")
    zone.plane.namespace("prod-jobs")
    zone.volumes("prod-0", "prod-1", storage_class="fast")
    where = ("--namespace", "prod")
    patient = ("--wait", "--timeout", "3m")

    told = zone.helm("install", "yisuan", str(CHART), *where, *PRODUCTION, *patient)
    assert "NOT MADE: ServiceMonitor" in told
    assert deployment(zone, "prod", "yisuan-api")["status"]["readyReplicas"] == 3
    assert zone.plane.get("/apis/apps/v1/namespaces/prod/statefulsets/yisuan-loop")["status"]["readyReplicas"] == 2
    agents = zone.plane.get("/apis/apps/v1/namespaces/prod/daemonsets")["items"]
    scheduled = {one["metadata"]["name"]: one["status"]["desiredNumberScheduled"] for one in agents}
    assert len(scheduled) == 13
    assert {name for name, count in scheduled.items() if count} == {"yisuan-agent-ascend", "yisuan-agent-nvidia"}
    assert zone.plane.ask("GET", "/apis/batch/v1/namespaces/prod/jobs/yisuan-migrate").status_code == 404

    lease = zone.plane.get("/apis/coordination.k8s.io/v1/namespaces/prod/leases/yisuan-loop")
    assert lease["spec"] == {}, "scheduler.kubernetes_lease reads it"
    held = {"spec": {"holderIdentity": "yisuan-loop-0", "leaseTransitions": 4, "leaseDurationSeconds": 6}}
    zone.plane.patch("/apis/coordination.k8s.io/v1/namespaces/prod/leases/yisuan-loop", held)

    zone.helm("test", "yisuan", *where, "--timeout", "2m")

    before = zone.plane.get("/api/v1/namespaces/prod/services/yisuan")["spec"]["clusterIP"]
    changed = (
        "--set",
        "api.replicas=2",
        "--set",
        "settings.tickMs=500",
        "--set",
        "image.digest=",
        "--set",
        "image.tag=0.2.0",
    )
    zone.helm("upgrade", "yisuan", str(CHART), *where, *PRODUCTION, *changed, *patient)
    now = deployment(zone, "prod", "yisuan-api")
    assert (now["spec"]["replicas"], now["status"]["updatedReplicas"]) == (2, 2)
    assert now["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/zone/yisuan:0.2.0"
    assert zone.plane.get("/api/v1/namespaces/prod/services/yisuan")["spec"]["clusterIP"] == before
    lease = zone.plane.get("/apis/coordination.k8s.io/v1/namespaces/prod/leases/yisuan-loop")
    assert lease["spec"]["holderIdentity"] == "yisuan-loop-0", "an upgrade does not take the lead away"

    bad = zone.run("helm", "upgrade", "yisuan", str(CHART), *where, *PRODUCTION, "--set", "api.replicas=none")
    assert bad.returncode != 0
    assert "at '/api/replicas': got string, want integer" in bad.stderr

    zone.helm("rollback", "yisuan", "1", *where, *patient)
    now = deployment(zone, "prod", "yisuan-api")
    assert (now["spec"]["replicas"], now["status"]["readyReplicas"]) == (3, 3)
    assert "sha256:" in now["spec"]["template"]["spec"]["containers"][0]["image"]

    zone.helm("uninstall", "yisuan", *where, "--wait", "--timeout", "2m")
    kept = {"persistentvolumeclaim/data-yisuan-loop-0", "persistentvolumeclaim/data-yisuan-loop-1"}
    wait_for(lambda: zone.left("yisuan") == kept, 60, lambda: f"left: {sorted(zone.left('yisuan'))}")


def test_a_trial_leaves_nothing_and_passes_the_restricted_level(zone: Zone) -> None:
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    zone.plane.namespace("trial", **strict)
    zone.plane.namespace("yisuan-jobs")
    zone.volumes("trial-0")
    zone.helm("install", "demo", str(CHART), "-n", "trial", *values_of("trial"), "--wait", "--timeout", "2m")
    assert deployment(zone, "trial", "demo-yisuan-server")["status"]["readyReplicas"] == 1
    first = zone.left("demo")
    assert "serviceaccount/demo-yisuan-server" in first
    assert "clusterrole.rbac.authorization.k8s.io/trial-demo-yisuan-nodes" in first
    zone.helm("upgrade", "demo", str(CHART), "-n", "trial", *values_of("trial"), "--set", "settings.lang=zh", "--wait")
    zone.helm("uninstall", "demo", "-n", "trial", "--wait", "--timeout", "2m")
    wait_for(lambda: not zone.left("demo"), 60, lambda: f"left: {sorted(zone.left('demo'))}")


def test_the_books_of_a_trial_outlive_it_and_are_found_again(zone: Zone) -> None:
    zone.plane.namespace("kept")
    zone.volumes("kept-0")
    patient = ("-n", "kept", "--wait", "--timeout", "2m")
    claims = []
    for _ in range(2):
        zone.helm("install", "kept", str(CHART), *patient)
        claims.append(
            zone.plane.get("/api/v1/namespaces/kept/persistentvolumeclaims/kept-yisuan-data")["metadata"]["uid"]
        )
        zone.helm("uninstall", "kept", *patient)
        wait_for(
            lambda: zone.left("kept") == {"persistentvolumeclaim/kept-yisuan-data"}, 60, lambda: f"{zone.left('kept')}"
        )
    assert claims[0] == claims[1]


def test_production_without_agents_passes_the_restricted_level_and_keeps_no_volume_if_told(zone: Zone) -> None:
    zone.plane.namespace("strict", **{"pod-security.kubernetes.io/enforce": "restricted"})
    zone.plane.namespace("prod-jobs")
    zone.volumes("strict-0", "strict-1", storage_class="fast")
    none = ["--set-json", "agents.vendors=" + json.dumps({vendor: {"enabled": False} for vendor in vendors()})]
    more = [*PRODUCTION, *none, "--set", "loop.storage.keep=false"]
    zone.helm("install", "zone", str(CHART), "-n", "strict", *more, "--wait", "--timeout", "3m")
    assert deployment(zone, "strict", "zone-yisuan-api")["status"]["readyReplicas"] == 3
    zone.helm("uninstall", "zone", "-n", "strict", "--wait", "--timeout", "2m")
    wait_for(lambda: not zone.left("zone"), 60, lambda: f"left: {sorted(zone.left('zone'))}")


def vendors() -> list[str]:
    from adapters.kubernetes_names import TABLE

    return [names.vendor for names in TABLE]


def test_the_api_server_accepts_every_object_that_it_knows(zone: Zone) -> None:
    """Strict field validation by the server itself, of a release with a long name beside the others."""
    zone.plane.namespace("dry")
    zone.plane.namespace("prod-jobs")
    told = zone.helm("template", "a" * 53, str(CHART), "-n", "dry", *PRODUCTION)
    file = zone.home / "all.yaml"
    file.write_text(told, encoding="utf-8")
    done = zone.run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", str(file))
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
