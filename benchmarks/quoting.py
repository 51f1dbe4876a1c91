"""What one quote costs over HTTP in a large zone: the first, which reads the zone, and later ones, which read what changed.

    python -m benchmarks quoting [--nodes 10000] [--leases 10000] [--waiting 500] [--quotes 20] [-o json]

Processor time of the process, so that neighbours on the machine count for little. Between two quotes one job is submitted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.run import commit, machine

FIRM = "91110302MA0YDEMA1"
MODELS = (("Ascend910B3", "ascend"), ("H800", "nvidia"), ("H20-96GB", "nvidia"))
JOB = (
    "name: train\nnodes: {nodes}\ntime_limit: {hours}h\nresources: {{accelerators: {{any_of: ['Ascend910B3:{count}', "
    "'H800:{count}']}}}}\nentrypoint: 'true'\n"
)


def measure(nodes: int = 10_000, held: int = 10_000, waiting: int = 500, quotes: int = 20) -> dict[str, Any]:
    """The document of the command; figures in milliseconds of processor time."""
    from fastapi.testclient import TestClient
    from stdnum.cn import uscc

    from api.app import create_app
    from api.auth import mint_key
    from api.settings import Settings
    from api.wiring import build
    from metering import store as money

    load = os.getloadavg()[0]
    firm = FIRM[:-1] + uscc.calc_check_digit(FIRM[:-1])
    with tempfile.TemporaryDirectory() as folder:
        services = build(Settings(data_dir=Path(folder) / "data", ledger="demo", database_url=""))
        now = services.clock.now()
        with services.database.write() as tx:
            money.enrol_firm(tx, id=firm, name="firm", now=now)
            key = mint_key(tx, role="firm", tenant=firm, name="firm", now=now)
            _fill(tx, firm, nodes, held, waiting, now)
        client = TestClient(create_app(services))
        spent = []
        for number in range(quotes + 1):
            text = JOB.format(nodes=1 + number % 3, hours=1 + number % 5, count=8)
            headers = {
                "Authorization": f"Bearer {key}",
                "Idempotency-Key": f"q{number}",
                "Content-Type": "application/yaml",
            }
            began = time.process_time()
            answer = client.post("/v1/quotes", content=text, headers=headers)
            spent.append(1000 * (time.process_time() - began))
            assert answer.status_code == 200, answer.text
            headers["Idempotency-Key"] = f"j{number}"
            client.post("/v1/jobs", content=text, headers=headers)
        services.close()
    return {
        "nodes": nodes,
        "leases": held,
        "waiting": waiting,
        "first_cpu_ms": round(spent[0], 1),
        "later_cpu_ms": {"p50": round(statistics.median(spent[1:]), 1), "max": round(max(spent[1:]), 1)},
        "load": round(load, 2),
        "commit": commit(),
        "machine": machine(),
    }


def _fill(tx: Any, firm: str, count: int, held: int, waiting: int, now: Any) -> None:
    """Rows as the routes would write them, many at once: going through the routes would take minutes."""
    from scheduler import places, store
    from scheduler.clock import to_ms
    from scheduler.job import JobId
    from scheduler.jobfile import parse_job
    from scheduler.schema import devices, jobs, lease_devices, leases, nodes

    at = to_ms(now)
    for model, vendor in MODELS:
        places.add_pool(
            tx, id=model.lower(), provider="p", site="s", region="beijing", backend="local", vendor=vendor, model=model,
            source="simulated", price_fen_per_device_hour=2000, now=now,
        )  # fmt: skip
    rows, cards = [], []
    for number in range(count):
        model, vendor = MODELS[number % len(MODELS)]
        name = f"n{number:06}"
        rows.append({"id": name, "pool": model.lower(), "heartbeat_at_ms": at + 10**9, "created_at_ms": at})
        cards += [
            {
                "uuid": f"{name}/{i}", "node": name, "idx": i, "vendor": vendor, "model": model, "model_raw": model,
                "health": "ok", "source": "simulated", "evidence_level": 0,
            }
            for i in range(8)
        ]  # fmt: skip
    tx.execute(insert(nodes), rows)
    tx.execute(insert(devices), cards)
    spec = parse_job(JOB.format(nodes=1, hours=4, count=8))
    for number in range(waiting):
        store.submit(tx, job=JobId(f"job_w{number}"), firm=firm, spec=spec, now=now)
    text = tx.execute(jobs.select().limit(1)).mappings().one()
    runs, gangs, members = [], [], []
    for number in range(held):
        job, node = f"job_r{number}", rows[number % count]
        runs.append({**dict(text), "id": job, "state": "running", "attempt": 1})
        gangs.append(
            {
                "id": f"{job}.1", "job": job, "firm": firm, "queue": "default", "pool": node["pool"], "backend": "local",
                "model": node["pool"], "source": "simulated", "device_count": 8, "price_fen_per_device_hour": 2000,
                "time_limit_ms": 10**8, "based_on": 1, "reserved_at_ms": at, "started_at_ms": at,
            }
        )  # fmt: skip
        members += [
            {"lease": f"{job}.1", "device": f"{node['id']}/{i}", "node": node["id"], "rank": 0, "idx": i}
            for i in range(8)
        ]
    if held:
        tx.execute(insert(jobs), runs)
        tx.execute(insert(leases), gangs)
        tx.execute(insert(lease_devices), members)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quoting", description=(__doc__ or "").splitlines()[0])
    for name, usual in (("nodes", 10_000), ("leases", 10_000), ("waiting", 500), ("quotes", 20)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    asked = parser.parse_args(arguments)
    if asked.nodes < 1 or asked.quotes < 1 or not 0 <= asked.leases <= asked.nodes or asked.waiting < 1:
        parser.error("--nodes, --waiting and --quotes: at least 1; --leases: 0 to --nodes")
    found = measure(asked.nodes, asked.leases, asked.waiting, asked.quotes)
    if asked.output == "json":
        print(json.dumps(found))
        return 0
    later = found["later_cpu_ms"]
    print(
        f"{asked.nodes} nodes: first quote {found['first_cpu_ms']} ms of processor time, later ones p50 {later['p50']}, "
        f"max {later['max']}"
    )
    return 0
