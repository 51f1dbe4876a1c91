"""The rights that docs/kubernetes.md asks for are enough for a whole lease and for finding nodes, and open nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.backends.kubernetes import KubernetesBackend
from tests.kubernetes.harness import fresh_namespace
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.leases import ended, lease_of, running, until

PAGE = Path(__file__).parent.parent.parent / "docs" / "kubernetes.md"
RIGHTS = re.compile(r"```yaml rights\n(.*?)```", re.DOTALL)
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def allowed(kubelet: Kubelet, tmp_path: Path) -> Iterator[KubernetesBackend]:
    """A backend whose account has the page's rights and no others."""
    plane, namespace = kubelet.plane, fresh_namespace()
    match = RIGHTS.search(PAGE.read_text(encoding="utf-8"))
    assert match is not None
    role, nodes = yaml.safe_load_all(match[1])
    role["metadata"]["namespace"] = namespace
    nodes["metadata"]["name"] = f"nodes-{namespace}"
    account = {"kind": "ServiceAccount", "name": "loop", "namespace": namespace}
    plane.make(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "loop"}})
    plane.make(f"{RBAC}/namespaces/{namespace}/roles", role)
    plane.make(f"{RBAC}/clusterroles", nodes)
    for kind, body, path in (
        ("Role", role, f"{RBAC}/namespaces/{namespace}/rolebindings"),
        ("ClusterRole", nodes, f"{RBAC}/clusterrolebindings"),
    ):
        name = body["metadata"]["name"]
        reference = {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        plane.make(path, {"metadata": {"name": name}, "subjects": [account], "roleRef": reference})
    asked: Any = {"spec": {"expirationSeconds": 3600}}
    token = plane.make(f"/api/v1/namespaces/{namespace}/serviceaccounts/loop/token", asked)["status"]["token"]
    config = json.loads(plane.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
    made = KubernetesBackend("zone", kubeconfig=str(tmp_path / "kubeconfig"), namespace=namespace, image="job:1")
    yield made
    made.close()


def test_the_pages_rights_are_enough(allowed: KubernetesBackend, kubelet: Kubelet) -> None:
    lease, other = (
        lease_of("job-allowed", "echo hello; sleep 60", ("k1", "k2"), grace_ms=60_000),
        lease_of("job-b", "true"),
    )
    for one in (lease, lease, other):
        assert allowed.launch(one) is None
    until(allowed, lease, running)
    until(allowed, other, ended)
    assert allowed.logs(lease.id, 1, offset=0, limit=5) in (b"", b"hello")
    allowed.stop(lease.id, grace_ms=1000, signal=None)
    allowed.stop(lease_of("job-never", "true").id, grace_ms=0, signal=None)
    until(allowed, lease, ended)
    for one in (lease, other):
        allowed.forget(one.id)

    assert isinstance(allowed.nodes(), list)


def test_the_account_may_do_nothing_else(allowed: KubernetesBackend) -> None:
    from scheduler.backends.kubernetes_api import Refused

    namespace = allowed.settings.namespace
    for method, path in (
        ("GET", f"/api/v1/namespaces/{namespace}/secrets"),
        ("POST", f"/api/v1/namespaces/{namespace}/pods"),
        ("GET", "/api/v1/namespaces/default/configmaps"),
        ("DELETE", "/api/v1/nodes/k1"),
    ):
        with pytest.raises(Refused) as refused:
            allowed.api.request(method, path, {})
        assert refused.value.status == 403
