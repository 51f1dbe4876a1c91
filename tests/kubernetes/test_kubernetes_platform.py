"""The whole platform on a real cluster: a clusters file, what is found, a job placed, run, ended, billed; a lost node's job again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from api.clusters import Lookout, backends_of, read_clusters
from api.settings import Settings
from api.wiring import Services, build
from metering import store as money
from scheduler import store
from scheduler.job import JobId
from scheduler.jobfile import parse_job
from scheduler.schema import devices, jobs, lease_devices, leases, nodes, pools, usage_records
from tests.kubernetes.harness import fresh_namespace, plane
from tests.kubernetes.kubelet import Kubelet
from tests.platform import FIRM, PROVIDER

LABELS = {"nvidia.com/gpu.product": "NVIDIA-H800"}


@dataclass
class Zone:
    """A platform whose one cluster is real."""

    services: Services
    lookout: Lookout
    kubelet: Kubelet
    over: threading.Event

    def look(self) -> Any:
        (cluster,) = self.lookout.clusters
        return self.lookout.look(cluster)

    def submit(self, name: str, text: str) -> str:
        with self.services.database.write() as tx:
            store.submit(tx, job=JobId(name), firm=FIRM, spec=parse_job(text), now=datetime.now(UTC))
        return name

    def state(self, job: str) -> str:
        with self.services.database.read() as tx:
            return str(tx.execute(select(jobs.c.state).where(jobs.c.id == job)).scalar_one())

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.told()
            self.services.loop.tick()
            time.sleep(0.1)

    def told(self) -> str:
        """What the platform and the cluster say now, for a test that waits in vain."""
        backend: Any = self.services.backends["east"]
        states = [(row["id"], row["state"], row["cause"]) for row in self.rows(jobs)]
        pods = self.kubelet.plane.get(f"/api/v1/namespaces/{backend.settings.namespace}/pods")["items"]
        taken = [(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["metadata"], pod["status"]) for pod in pods]
        found = self.kubelet.plane.get("/api/v1/nodes")["items"]
        closed = [(node["metadata"]["name"], node["spec"].get("taints")) for node in found]
        return f"{states}\n{taken}\n{closed}\n{backend.observe([lease['id'] for lease in self.rows(leases)])}"

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.services.database.read() as tx:
            return [dict(row) for row in tx.execute(select(table)).mappings()]


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    control = plane()
    body = {
        "name": "east",
        "backend": "kubernetes",
        "provider": PROVIDER,
        "site": "bj1",
        "region": "beijing",
        "prices": {"H800": 1800},
        "options": {
            "kubeconfig": str(control.kubeconfig),
            "namespace": fresh_namespace(),
            "image": "registry.invalid/job:1",
            "lost_after_s": 1,
        },
    }
    (tmp_path / "clusters.yaml").write_text(yaml.safe_dump({"clusters": [body]}), encoding="utf-8")
    clusters = read_clusters(tmp_path)
    backends: Any = backends_of(clusters, tmp_path)
    services = build(Settings(data_dir=tmp_path, ledger="live"), backends=backends)
    now = services.clock.now()
    with services.database.write() as tx:
        money.enrol_provider(tx, id=PROVIDER, name="provider", now=now)
        money.enrol_firm(tx, id=FIRM, name="firm", now=now)
    names = [f"east-{number}" for number in (1, 2, 3)]
    with Kubelet(control, {name: {"nvidia.com/gpu": 2} for name in names}, dict.fromkeys(names, LABELS)) as kubelet:
        stop = threading.Event()
        lookout = Lookout(services, clusters)
        yield Zone(services, lookout, kubelet, stop)
        stop.set()
        lookout.join()
        services.close()
        backends["east"].close()


def enrol_site(zone: Zone) -> None:
    with zone.services.database.write() as tx:
        now = zone.services.clock.now()
        money.enrol_site(tx, id="bj1", provider=PROVIDER, name="site", region="beijing", now=now)


def job_text(run: str, nodes: int = 1, extra: str = "") -> str:
    return (
        f"name: train\nnodes: {nodes}\ntime_limit: 1h\nresources: {{accelerators: 'H800:2'}}\nentrypoint: {run!r}\n"
        f"money: {{voucher: none}}\n{extra}"
    )


def test_a_cluster_becomes_a_pool_and_its_jobs_are_run_and_billed(zone: Zone) -> None:
    assert zone.look().code == "SITE_UNKNOWN"
    assert zone.rows(pools) == []
    enrol_site(zone)
    assert zone.look().pools == ("east-h800",)
    assert {row["id"] for row in zone.rows(nodes)} == {"east.east-1", "east.east-2", "east.east-3"}
    assert {row["source"] for row in zone.rows(devices)} == {"engine"}

    zone.lookout.start(zone.over)
    good, bad = (
        zone.submit("job-good", job_text("sleep 2; echo done", nodes=2)),
        zone.submit("job-bad", job_text("exit 3")),
    )
    zone.until(lambda: (zone.state(good), zone.state(bad)) == ("SUCCEEDED", "FAILED"))
    runs = [row for row in zone.rows(usage_records) if row["kind"] == "run"]
    assert {row["job"] for row in runs} == {good, bad}
    (run,) = (row for row in runs if row["job"] == good)
    assert (run["devices"], run["price_fen_per_device_hour"], run["pool"]) == (4, 1800, "east-h800")
    assert 1000 <= run["end_ms"] - run["start_ms"] <= 10_000
    logs = zone.services.backends["east"].logs
    leases = {row["lease"] for row in zone.rows(lease_devices) if row["lease"].startswith(good)}
    assert logs(leases.pop(), 1, offset=0, limit=100) == b"done\n"


def test_a_job_whose_node_is_lost_runs_again_elsewhere(zone: Zone) -> None:
    enrol_site(zone)
    zone.look()
    zone.lookout.start(zone.over)
    job = zone.submit("job-again", job_text("sleep 30", extra="retry: {on_events: [node_fail], limit: 1}\n"))
    zone.until(lambda: zone.state(job) == "RUNNING")
    (first,) = {row["node"] for row in zone.rows(lease_devices)}
    zone.kubelet.lose(first.removeprefix("east."))
    zone.until(lambda: len({row["lease"] for row in zone.rows(lease_devices)}) == 2 and zone.state(job) == "RUNNING")
    second = {row["node"] for row in zone.rows(lease_devices) if not row["released"]}

    assert second != {first}
    assert [row["price_fen_per_device_hour"] for row in zone.rows(usage_records) if row["kind"] == "lost"] == [0]
    zone.services.backends["east"].stop(f"{job}.2", grace_ms=1000, signal=None)  # type: ignore[arg-type]
