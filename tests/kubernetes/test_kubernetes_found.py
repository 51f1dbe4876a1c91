"""What a real cluster's nodes are found to have: devices of every vendor, held ones, cordon, drain, taints, silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.backends.kubernetes import KubernetesBackend
from scheduler.discovery import FoundNode
from tests.kubernetes.harness import fresh_namespace, plane
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.plane import Plane, wait_for

NODES = {
    "h1": {"nvidia.com/gpu": 8},
    "h2": {"nvidia.com/gpu": 8},
    "n1": {"huawei.com/Ascend910": 8},
    "n2": {"huawei.com/Ascend910B3": 80, "huawei.com/Ascend910B3-memory": 524288},  # HAMi: ten shares a device
    "c1": {"cambricon.com/mlu": 4},
    "p1": {},
}
LABELS = {
    "h1": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"},
    "h2": {"nvidia.com/gpu.product": "NVIDIA-H800", "topology.kubernetes.io/zone": "z2"},
    "n1": {"accelerator": "huawei-Ascend910", "node.kubernetes.io/npu.chip.name": "910B3"},
}


@pytest.fixture(scope="module")
def nodes(cluster: Plane) -> Iterator[Kubelet]:
    prefixed = {f"found-{name}": amounts for name, amounts in NODES.items()}
    with Kubelet(cluster, prefixed, {f"found-{name}": labels for name, labels in LABELS.items()}) as kubelet:
        yield kubelet


@pytest.fixture
def backend(nodes: Kubelet) -> Iterator[KubernetesBackend]:
    options: dict[str, Any] = {"namespace": fresh_namespace(), "models": {"cambricon.com/mlu": "MLU590"}}
    made = KubernetesBackend("zone", kubeconfig=str(plane().kubeconfig), **options)
    yield made
    made.close()


def found(backend: KubernetesBackend) -> dict[str, FoundNode]:
    return {n.name.removeprefix("found-"): n for n in backend.nodes() if n.name.startswith("found-")}


def test_nodes_are_told_with_vendor_model_and_count(backend: KubernetesBackend) -> None:
    told = {name: (n.vendor, n.model, n.devices, n.schedulable) for name, n in found(backend).items()}

    assert told == {
        "h1": ("nvidia", "H100", 8, True),
        "h2": ("nvidia", "H800", 8, True),
        "n1": ("ascend", "Ascend910B3", 8, True),
        "n2": ("ascend", "Ascend910B3", 8, True),
        "c1": ("cambricon", "MLU590", 4, True),
    }
    assert found(backend)["h2"].rack == "z2"
    assert (found(backend)["h1"].cpu_milli, found(backend)["h1"].memory_bytes) == (64_000, 512 << 30)


def test_what_pods_of_others_hold_is_left_out_until_they_end(backend: KubernetesBackend, nodes: Kubelet) -> None:
    namespace = nodes.plane.namespace("others")
    body = {
        "metadata": {"name": "other"},
        "spec": {
            "nodeName": "found-h1",
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "a",
                    "image": "a",
                    "command": ["sleep", "60"],
                    "resources": {"limits": {"nvidia.com/gpu": "3"}},
                }
            ],
        },
    }
    nodes.plane.make(f"/api/v1/namespaces/{namespace}/pods", body)
    wait_for(lambda: found(backend)["h1"].devices == 5, 20, lambda: "nobody noticed")
    nodes.plane.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/other", gracePeriodSeconds="0")
    wait_for(lambda: found(backend)["h1"].devices == 8, 20, lambda: "they are still held")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"unschedulable": True}, "cordoned"),
        ({"taints": [{"key": "maintenance", "effect": "NoSchedule"}]}, "taint maintenance:NoSchedule"),
        ({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule", "value": "present"}]}, None),
        ({"taints": [{"key": "busy", "effect": "PreferNoSchedule"}]}, None),
    ],
)
def test_a_node_that_takes_no_pods_is_told_with_the_clusters_word(
    backend: KubernetesBackend, nodes: Kubelet, change: dict[str, Any], why: str | None
) -> None:
    path = "/api/v1/nodes/found-h2"
    assert found(backend)["h2"].schedulable
    nodes.plane.patch(path, {"spec": change})
    try:
        version = int(nodes.plane.get(path)["metadata"]["resourceVersion"])

        def caught_up() -> bool:
            (mine,) = backend.cluster_nodes.of("found-h2")
            return int(mine["metadata"]["resourceVersion"]) >= version

        wait_for(caught_up, 20, lambda: "the change is not seen")
        assert (found(backend)["h2"].schedulable, found(backend)["h2"].why) == (why is None, why)
    finally:
        nodes.plane.patch(path, {"spec": {"unschedulable": None, "taints": None}})


def test_a_silent_node_is_not_ready(backend: KubernetesBackend, nodes: Kubelet) -> None:
    nodes.lose("found-c1")
    try:
        wait_for(lambda: not found(backend)["c1"].schedulable, 40, lambda: "it still counts as ready")
    finally:
        nodes.find("found-c1")
    wait_for(lambda: found(backend)["c1"].schedulable, 40, lambda: "it did not come back")
