"""The whole platform on a real Ray cluster: a clusters file, pools found, jobs placed, run and billed; a lost node's job again."""

from __future__ import annotations

import sys
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
from scheduler.schema import jobs, leases, nodes, pools, usage_records
from tests.platform import FIRM, PROVIDER
from tests.ray.cluster import Cluster
from tests.ray.leases import MODEL, until_not


@dataclass
class Zone:
    """A platform whose one cluster is real."""

    services: Services
    lookout: Lookout
    ray: Cluster

    def submit(self, name: str, run: str, *, nodes: int = 1, extra: str = "") -> str:
        text = (
            f"name: train\nnodes: {nodes}\ntime_limit: 1h\nresources: {{accelerators: '{MODEL}:4'}}\n"
            f"entrypoint: {run!r}\nmoney: {{voucher: none}}\n{extra}"
        )
        with self.services.database.write() as tx:
            store.submit(tx, job=JobId(name), firm=FIRM, spec=parse_job(text), now=datetime.now(UTC))
        return name

    def state(self, job: str) -> str:
        with self.services.database.read() as tx:
            return str(tx.execute(select(jobs.c.state).where(jobs.c.id == job)).scalar_one())

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        end, looked = time.monotonic() + seconds, 0.0
        while not holds():
            assert time.monotonic() < end, [(row["id"], row["state"], row["cause"]) for row in self.rows(jobs)]
            if time.monotonic() - looked > 2:
                self.lookout.look(self.lookout.clusters[0])
                looked = time.monotonic()
            self.services.loop.tick()
            time.sleep(0.1)

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.services.database.read() as tx:
            return [dict(row) for row in tx.execute(select(table)).mappings()]


@pytest.fixture
def zone(ray_cluster: Cluster, tmp_path: Path) -> Iterator[Zone]:
    ray_cluster.add("n2")
    body = {
        "name": "r",
        "backend": "ray",
        "provider": PROVIDER,
        "site": "bj1",
        "region": "beijing",
        "prices": {MODEL: 1200},
        "options": {
            "address": ray_cluster.address,
            "models": {"NPU": MODEL},
            "python": sys.executable,
            "work": str(tmp_path / "work"),
            "owner": f"p{tmp_path.name}",
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
        money.enrol_site(tx, id="bj1", provider=PROVIDER, name="site", region="beijing", now=now)
    yield Zone(services, Lookout(services, clusters), ray_cluster)
    services.close()
    backends["r"].close()
    ray_cluster.clear()
    if "n2" in ray_cluster.raylets:
        ray_cluster.kill("n2")
    until_not(lambda: "n2" in ray_cluster.nodes())


def test_a_ray_cluster_becomes_a_pool_and_its_jobs_are_run_and_billed(zone: Zone) -> None:
    gang, bad = zone.submit("job-gang", "sleep 2; echo $RANK", nodes=2), zone.submit("job-bad", "exit 3")
    zone.until(lambda: (zone.state(gang), zone.state(bad)) == ("SUCCEEDED", "FAILED"))
    (run,) = (row for row in zone.rows(usage_records) if row["kind"] == "run" and row["job"] == gang)
    (lease,) = (row["id"] for row in zone.rows(leases) if row["job"] == gang)

    assert [row["id"] for row in zone.rows(pools)] == [f"r-{MODEL.lower()}"]
    assert sorted(row["id"] for row in zone.rows(nodes)) == ["r.n1", "r.n2"]
    assert (run["devices"], run["price_fen_per_device_hour"]) == (8, 1200)
    assert 1500 <= run["end_ms"] - run["start_ms"] <= 10_000
    assert zone.services.backends["r"].logs(lease, 1, offset=0, limit=100) == b"1\n"


def test_a_job_whose_raylet_dies_goes_on_from_its_checkpoint_elsewhere(zone: Zone) -> None:
    holder = zone.submit("job-holder", "while [ ! -e done ]; do sleep 0.2; done")
    zone.until(lambda: zone.state(holder) == "RUNNING")
    run = "if [ -e saved ]; then echo goes on; else touch saved; sleep 600; fi"
    moved = zone.submit("job-moved", run, extra="retry: {on_events: [node_fail], limit: 1}\n")
    zone.until(lambda: zone.state(moved) == "RUNNING")
    backend: Any = zone.services.backends["r"]
    (first,) = (row["id"] for row in zone.rows(leases) if row["job"] == moved)
    node_of = {lease: backend.records.read(lease)["members"][0]["node"] for lease in (first, f"{holder}.1")}
    lost, kept = (moved, holder) if node_of[first] == "n2" else (holder, moved)
    if lost == holder:
        pytest.skip("the head's own node took the second job")
    zone.ray.kill("n2")
    Path(backend.work, kept, "done").touch()
    zone.until(lambda: zone.state(moved) == "SUCCEEDED", seconds=150)
    ended = {row["id"]: row["cause"] for row in zone.rows(leases)}
    kinds = [(row["kind"], row["cause"]) for row in zone.rows(usage_records) if row["lease"] == first]

    assert ended[first] == "node_fail"
    assert kinds == [("lost", "node_fail")]
    assert zone.state(holder) == "SUCCEEDED"
    (second,) = (lease for lease in ended if lease.startswith(moved) and lease != first)
    assert backend.logs(second, 0, offset=0, limit=100) == b"goes on\n"
