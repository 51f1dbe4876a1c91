"""Leases started per second on Kubernetes, beside bare Job creation with the same client on the same API server, in one run.

The control plane is real (`sh tests/kubernetes/build`), its nodes are kwok's. Both sides make the same Job spec, one after the
other in turns of a block each, so that what the controllers do meanwhile weighs on both alike. Bare: `create_namespaced_job` of
the official client, and nothing else. Ours: `KubernetesBackend.launch`. Told beside it: what a lease costs until nothing more is
asked for it, which is its Service, and for a gang the pinning of each pod, both made while it is observed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from adapters.catalog import load_catalog
from scheduler.backends.kubernetes import KubernetesBackend
from scheduler.backends.kubernetes_objects import image_of, job_of
from tests.kubernetes.harness import resource
from tests.kubernetes.leases import lease_of
from tests.kubernetes.plane import NoPlane, Plane

BLOCK, BLOCKS, TARGET = 25, 8, 0.70
NODES = 40


def measure(nodes: int) -> dict[str, Any]:
    """{gang, bare_per_s, ours_per_s, ratio, ratio_target, ...}: medians over blocks, for leases of one and of two members."""
    from kubernetes.client import BatchV1Api

    chip = next(iter(load_catalog()))
    with Plane() as plane:
        plane.kwok()
        plane.fake_nodes(nodes, {resource(): 8})
        found = []
        for gang in (1, 2):
            ours_at, bare_at = plane.namespace(f"ours-{gang}"), plane.namespace(f"bare-{gang}")
            backend = KubernetesBackend("zone", kubeconfig=str(plane.kubeconfig), namespace=ours_at, image="job:1")
            backend.cluster_nodes.all()
            create: Any = BatchV1Api(backend.api._connected()).create_namespaced_job
            ours_s, bare_s, whole_s = [], [], []
            for block in range(BLOCKS + 1):  # the first warms up
                numbers = range(block * BLOCK, (block + 1) * BLOCK)
                leases = [_lease(number, gang, nodes) for number in numbers]
                image = image_of(leases[0], backend.settings) or ""
                bodies = [job_of(lease, backend.settings, image, {resource(): "1"}) for lease in leases]
                since = time.perf_counter()
                for body in bodies:
                    create(bare_at, body)
                between = time.perf_counter()
                for lease in leases:
                    refusal = backend.launch(lease)
                    assert refusal is None, refusal
                launched = time.perf_counter()
                _attend(backend, leases)
                bare_s.append(between - since)
                ours_s.append(launched - between)
                whole_s.append(time.perf_counter() - between)
            jobs = len(plane.get(f"/apis/batch/v1/namespaces/{ours_at}/jobs")["items"])
            assert jobs == BLOCK * (BLOCKS + 1), jobs
            backend.close()
            rates = [BLOCK / statistics.median(times[1:]) for times in (bare_s, ours_s, whole_s)]
            found.append(
                {
                    "members": gang,
                    "bare_per_s": round(rates[0], 1),
                    "ours_per_s": round(rates[1], 1),
                    "ratio": round(rates[1] / rates[0], 2),
                    "ratio_target": TARGET,
                    "attended_per_s": round(rates[2], 1),
                    "leases": BLOCK * BLOCKS,
                }
            )
    return {"model": chip.model, "nodes": nodes, "rows": found}


def _attend(backend: KubernetesBackend, leases: list[Any]) -> None:
    """Until every member of every lease has begun, as the loop does it: each lease looked at once a round."""
    waiting = [lease.id for lease in leases]
    while waiting:
        seen = backend.observe(waiting)
        waiting = [one.lease for one in seen if not one.all_running_or_done]
        time.sleep(0.05)


def _lease(number: int, gang: int, nodes: int) -> Any:
    names = tuple(f"fake-{(number + rank) % nodes:05d}" for rank in range(gang))
    return lease_of(f"job-{number}", "true", names)


def main(argv: list[str] | None = None) -> None:
    """-o json prints the figures alone; --nodes N sets how many nodes kwok plays."""
    argv = sys.argv[1:] if argv is None else argv
    nodes = int(argv[argv.index("--nodes") + 1]) if "--nodes" in argv else NODES
    try:
        found = measure(nodes)
    except NoPlane as problem:
        sys.exit(str(problem))
    if "json" in argv:
        print(json.dumps(found))
        return
    for row in found["rows"]:
        print(
            f"{row['members']} member(s): {row['ours_per_s']} leases/s beside {row['bare_per_s']} bare Jobs/s,"
            f" {row['ratio']:.0%} (target {TARGET:.0%}); {row['attended_per_s']}/s with Service and pinning;"
            f" {row['leases']} each, {nodes} nodes"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
