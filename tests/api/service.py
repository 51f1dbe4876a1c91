"""A platform behind its routes: temporary SQLite, scripted backend, set clock, one key per role and tenant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stdnum.cn import uscc

from api.app import create_app
from api.auth import mint_key
from api.settings import Settings
from api.wiring import Services, build
from tests.api.browser import TestClient
from tests.fakes import ScriptedBackend, SetClock

PROVIDER, FIRM, OTHER = (
    base + uscc.calc_check_digit(base) for base in ("91110302MA0YDEMA0", "91110302MA0YDEMA1", "91110302MA0YDEMA2")
)
JOB = "name: train\nnodes: 1\ntime_limit: 2h\nresources: {accelerators: Ascend910B3:8}\nentrypoint: 'true'\n"
COUNTER = itertools.count()


@dataclass
class Service:
    """What a test needs to ask and to look."""

    services: Services
    client: Any
    clock: SetClock
    backend: ScriptedBackend
    keys: dict[str, str] = field(default_factory=dict)

    def headers(self, who: str | None, **more: str) -> dict[str, str]:
        found = {"Authorization": f"Bearer {self.keys[who]}"} if who else {}
        return found | {name.replace("_", "-"): value for name, value in more.items()}

    def get(self, who: str | None, path: str, **more: str) -> Any:
        return self.client.get(path, headers=self.headers(who, **more))

    def post(
        self, who: str | None, path: str, body: Any = None, *, key: str | None = None, kind: str = "application/json"
    ) -> Any:
        import json

        headers = self.headers(who, Idempotency_Key=key or f"k{next(COUNTER)}", Content_Type=kind)
        content = body if isinstance(body, str | bytes) else json.dumps({} if body is None else body)
        return self.client.post(path, content=content, headers=headers)

    def submit(self, who: str = "firm", text: str = JOB) -> str:
        answer = self.post(who, "/v1/jobs", text, kind="application/yaml")
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run_to_end(self, job: str, seconds: float = 3600) -> None:
        """The job runs for so long and is settled."""
        self.services.loop.tick()
        self.services.loop.tick()
        self.clock.advance(seconds)
        self.backend.end(f"{job}.1", 0)
        self.services.loop.tick()


@contextmanager
def running(directory: Path, url: str = "") -> Iterator[Service]:
    """Two firms with their right claimed, two pools of two simulated nodes, enrolled through the routes.

    url: a database to use instead of a new SQLite one in `directory`.
    """
    clock = SetClock()
    backend = ScriptedBackend(clock)
    settings = Settings(data_dir=directory / "data", ledger="demo", database_url=url)
    services = build(settings, clock=clock, backends={"local": backend})
    service = Service(services, TestClient(create_app(services)), clock, backend)
    tenants = {"provider": PROVIDER, "firm": FIRM, "other": OTHER}
    with services.database.write() as tx:
        for name in ("provider", "firm", "other", "operator", "reviewer", "finance", "auditor", "agent"):
            role = "firm" if name == "other" else name
            service.keys[name] = mint_key(tx, name=name, role=role, tenant=tenants.get(name), now=clock.now())
    enrol(service)
    yield service
    services.close()


def enrol(service: Service) -> None:
    def made(who: str, path: str, body: Any) -> None:
        answer = service.post(who, path, body)
        assert answer.status_code == 201, answer.text

    since = {"from": "2024-03-28T00:00:00+08:00", "to": None}
    made("operator", "/v1/providers", {"id": PROVIDER, "name": "provider"})
    made("operator", "/v1/sites", {"id": "bj1", "provider": PROVIDER, "name": "site", "region": "beijing"})
    for fact in ("energy_review", "energy_report"):
        made("operator", "/v1/facts", {"subject_kind": "site", "subject": "bj1", "fact": fact, **since})
    for pool, vendor, model, price in (("ascend", "ascend", "Ascend910B3", 2000), ("h800", "nvidia", "H800", 1800)):
        body = {"id": pool, "provider": PROVIDER, "site": "bj1", "region": "beijing", "vendor": vendor, "model": model}
        made("operator", "/v1/pools", {**body, "source": "simulated", "price_fen_per_device_hour": price})
        for number in (1, 2):
            node = {"id": f"{pool}-{number}", "pool": pool, "simulated": {"model": model, "count": 8}}
            made("operator", "/v1/nodes", node)
    for who, firm in (("firm", FIRM), ("other", OTHER)):
        made("operator", "/v1/firms", {"id": firm, "name": who})
        made("operator", "/v1/facts", {"subject_kind": "firm", "subject": firm, "fact": "eligible", **since})
        made(who, "/v1/vouchers", {})
