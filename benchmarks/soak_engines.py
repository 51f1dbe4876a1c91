"""What runs the members of a soak: how the zone is told of it, what of it breaks and heals, and what of it is still there."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks.soak_client import World
from benchmarks.soak_nemesis import Proxy
from metering import store as money
from scheduler import places
from scheduler.database import Database
from tests.fakes import simulated_device
from tests.platform import PROVIDER

UP_S = 90.0
STARTS = 4


class Engine(Protocol):
    """What runs members: how the zone is told of it, what of it breaks, and what of it is still there."""

    world: World
    members_may_die: bool

    def clusters(self, folder: Path) -> list[dict[str, Any]]: ...

    def enrol(self, database: Database) -> None: ...

    def deeds(self) -> Mapping[str, Callable[[int], Callable[[], None] | None]]: ...

    def left(self) -> list[str]: ...

    def heal(self) -> None: ...

    def tend(self) -> None: ...


class Local:
    """Sixteen simulated devices of two vendors on this host."""

    members_may_die = False
    world = World(models=("Ascend910B3", "H800"), counts=(1, 2, 4), nodes=(2,), gap_s=1.6)

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        del stack, folder

    def clusters(self, folder: Path) -> list[dict[str, Any]]:
        del folder
        return []

    def enrol(self, database: Database) -> None:
        now = datetime.now(UTC)
        with database.write() as tx:
            for pool, vendor, model, fen in (
                ("ascend", "ascend", "Ascend910B3", 2000),
                ("h800", "nvidia", "H800", 1800),
            ):
                places.add_pool(
                    tx, id=pool, provider=PROVIDER, site="bj1", region="beijing", backend="local", vendor=vendor,
                    model=model, source="simulated", price_fen_per_device_hour=fen, now=now,
                )  # fmt: skip
                money.set_price(tx, pool=pool, model=model, fen=fen, start=now, by="soak", now=now)
                for number in (1, 2):
                    name = f"{pool}-{number}"
                    devices = [simulated_device(name, index, model, vendor) for index in range(4)]
                    places.add_node(tx, id=name, pool=pool, devices=devices, now=now)

    def deeds(self) -> Mapping[str, Callable[[int], Callable[[], None] | None]]:
        return {}

    def left(self) -> list[str]:
        return []

    def heal(self) -> None:
        """Nothing of it breaks."""

    def tend(self) -> None:
        """Nothing to do."""


class Ray:
    """A head and two further raylets of four devices each; the platform reaches the head through a door that can be cut."""

    members_may_die = True
    model = "Ascend910B4"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        from tests.ray.cluster import Cluster

        self.world = World(models=(self.model,), counts=(1, 2, 4), nodes=(2,), gap_s=14.0, longest_s=10.0)
        self.cluster = stack.enter_context(Cluster())
        self.cluster.add("n2")
        self.proxy = Proxy(self.cluster.dashboard)
        stack.callback(self.proxy.close)
        self.folder = folder

    def clusters(self, folder: Path) -> list[dict[str, Any]]:
        options = {
            "address": f"http://127.0.0.1:{self.proxy.port}",
            "models": {"NPU": self.model},
            "python": sys.executable,
            "work": str(folder / "work"),
            "owner": "soak",
        }
        return [_cluster("r", "ray", {self.model: 1200}, options)]

    def enrol(self, database: Database) -> None:
        """Its pools come by themselves."""

    def deeds(self) -> Mapping[str, Callable[[int], Callable[[], None] | None]]:
        return {"kill_raylet": self._kill, "cut_head": self._cut}

    def _kill(self, _dice: int) -> Callable[[], None] | None:
        if "n2" not in self.cluster.raylets:
            return None
        self.cluster.kill("n2")
        return self.heal_raylet

    def heal_raylet(self) -> None:
        if "n2" in self.cluster.raylets:
            return
        until = time.monotonic() + UP_S
        while "n2" in self.cluster.nodes() and time.monotonic() < until:
            time.sleep(0.2)
        for _ in range(STARTS):
            try:
                self.cluster.add("n2")
                return
            except RuntimeError:  # Ray itself gives a node 30 s to start, which a busy host may need more than once
                self.cluster.kill("n2")
        raise RuntimeError(f"the raylet did not start {STARTS} times: {self.cluster.folder}")

    def _cut(self, _dice: int) -> Callable[[], None]:
        self.proxy.cut()
        return self.proxy.mend

    def left(self) -> list[str]:
        answer = httpx.get(f"{self.cluster.address}/api/jobs/", trust_env=False, timeout=20).json()
        over = ("SUCCEEDED", "STOPPED", "FAILED")
        return [f"Ray job {row['submission_id']} {row['status']}" for row in answer if row["status"] not in over]

    def heal(self) -> None:
        self.proxy.mend()
        self.heal_raylet()

    def tend(self) -> None:
        """Nothing to do."""


class Kubernetes:
    """The control plane of tests/kubernetes with three nodes of four devices, reached through a door that can be cut."""

    members_may_die = True
    namespace = "soak"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        from tests.kubernetes.kubelet import Kubelet
        from tests.kubernetes.plane import Plane

        self.world = World(models=("H800",), counts=(1, 2, 4), nodes=(2, 3), gap_s=3.0, longest_s=8.0)
        self.plane = stack.enter_context(Plane())
        self.plane.namespace(self.namespace, **{"pod-security.kubernetes.io/enforce": "restricted"})
        names = ("k1", "k2", "k3")
        labels = {"nvidia.com/gpu.product": "NVIDIA-H800"}
        self.kubelet = stack.enter_context(
            Kubelet(self.plane, {name: {"nvidia.com/gpu": 4} for name in names}, dict.fromkeys(names, labels))
        )
        self.proxy = Proxy(self.plane.port)
        stack.callback(self.proxy.close)
        body = json.loads(self.plane.kubeconfig.read_text(encoding="utf-8"))
        body["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.proxy.port}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(body), encoding="utf-8")

    def clusters(self, folder: Path) -> list[dict[str, Any]]:
        del folder
        options = {
            "kubeconfig": str(self.kubeconfig),
            "namespace": self.namespace,
            "image": "registry.invalid/job:1",
            "lost_after_s": 3,
        }
        return [_cluster("east", "kubernetes", {"H800": 1800}, options)]

    def enrol(self, database: Database) -> None:
        """Its pools come by themselves."""

    def deeds(self) -> Mapping[str, Callable[[int], Callable[[], None] | None]]:
        return {"kill_apiserver": self._kill, "cut_apiserver": self._cut, "lose_node": self._lose}

    def _kill(self, _dice: int) -> Callable[[], None] | None:
        if "kube-apiserver" not in self.plane.processes:
            return None
        self.plane.kill("kube-apiserver")
        return self._start

    def _start(self) -> None:
        if "kube-apiserver" not in self.plane.processes:
            self.plane.again("kube-apiserver")
        for name in (
            "kube-controller-manager",
            "kube-scheduler",
        ):  # each ends when it could not reach the API server long enough
            if self.plane.processes[name].poll() is not None:
                self.plane.kill(name)
                self.plane.again(name)

    def _cut(self, _dice: int) -> Callable[[], None]:
        self.proxy.cut()
        return self.proxy.mend

    def _lose(self, dice: int) -> Callable[[], None] | None:
        name = list(self.kubelet.nodes)[dice % len(self.kubelet.nodes)]
        if self.kubelet.lost:
            return None
        self.kubelet.lose(name)
        return lambda: self.kubelet.find(name)

    def left(self) -> list[str]:
        at = f"/namespaces/{self.namespace}"
        found = []
        for job in self.plane.get(f"/apis/batch/v1{at}/jobs")["items"]:
            kinds = {one["type"] for one in job["status"].get("conditions", ()) if one["status"] == "True"}
            if not kinds & {"Complete", "Failed"}:
                found.append(f"Job {job['metadata']['name']} {sorted(kinds)}")
        for pod in self.plane.get(f"/api/v1{at}/pods")["items"]:
            held = [one for one in pod["metadata"].get("finalizers", ()) if one.startswith("yisuan/")]
            if held or pod["status"].get("phase") in ("Pending", "Running"):
                found.append(f"pod {pod['metadata']['name']} {pod['status'].get('phase')} {held}")
        return [*found, *(f"process {pid} of a pod" for pid in self.kubelet.pids())]

    def heal(self) -> None:
        self.proxy.mend()
        self._start()
        for name in list(self.kubelet.lost):
            self.kubelet.find(name)
        self.tend()

    def tend(self) -> None:
        """A node that counts as silent because the API server was away says again that it is ready, as a kubelet goes on doing."""
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            for node in self.plane.get("/api/v1/nodes")["items"]:
                name, conditions = node["metadata"]["name"], node["status"].get("conditions", ())
                silent = any(one["type"] == "Ready" and one["status"] == "Unknown" for one in conditions)
                if silent and name not in self.kubelet.lost:
                    self.kubelet._register(name)


ENGINES: Mapping[str, Callable[[ExitStack, Path], Engine]] = {"local": Local, "ray": Ray, "kubernetes": Kubernetes}


def _cluster(name: str, backend: str, prices: Mapping[str, int], options: Mapping[str, Any]) -> dict[str, Any]:
    place = {"provider": PROVIDER, "site": "bj1", "region": "beijing"}
    return {"name": name, "backend": backend, **place, "prices": dict(prices), "options": dict(options)}
