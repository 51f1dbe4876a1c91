"""Fixtures of the real control plane: nodes k1 and k2 with four devices each, and backends in a namespace of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.harness import Backends, plane, resource
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.plane import Plane


@pytest.fixture(scope="session")
def cluster() -> Plane:
    """The shared control plane, or a skip that says why there is none."""
    return plane()


@pytest.fixture(scope="module")
def kubelet(cluster: Plane) -> Iterator[Kubelet]:
    """Two nodes whose pods run as processes here."""
    with Kubelet(cluster, {"k1": {resource(): 4}, "k2": {resource(): 4}}) as found:
        yield found


@pytest.fixture
def backends(kubelet: Kubelet) -> Iterator[Backends]:
    """Backends over one new namespace; its pods are gone afterwards."""
    made = Backends(start_limit_s=1, lost_after_s=1)
    yield made
    made.close()
    at = f"/namespaces/{made.namespace}"
    kubelet.plane.ask("DELETE", f"/apis/batch/v1{at}/jobs", propagationPolicy="Background")
    kubelet.plane.ask("DELETE", f"/api/v1{at}/pods", gracePeriodSeconds="0")
    for pod in kubelet.plane.get(f"/api/v1{at}/pods")["items"]:
        kubelet.plane.ask(
            "PATCH",
            f"/api/v1{at}/pods/{pod['metadata']['name']}",
            {"metadata": {"finalizers": None}},
            kind="application/merge-patch+json",
        )
