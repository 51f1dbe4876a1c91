"""Demo service: the platform of `make demo` in one process: routes, pages, loop and the agents of its nodes."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adapters.accelerator import Accelerator
from adapters.agent import Agent
from adapters.registry import load_adapter
from api.app import create_app
from api.auth import mint_key, principal_of_key
from api.embedded import EmbeddedAgents, LocalPush, witness_of
from api.logs import write_plainly
from api.settings import Settings
from api.wiring import Services, build
from scheduler import places

AGENT_PERIOD_S = 2.0
KEYS = "keys.json"


class Running:
    """A platform that is up: how to reach it, whose keys there are, and which nodes it watches."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.url = url
        self.keys: dict[str, str] = {}
        self.real_devices: dict[str, tuple[Accelerator, ...]] = {}
        self._real: list[tuple[str, str]] = []
        self.stop = threading.Event()
        self._http = httpx.Client(base_url=url, timeout=30.0)
        self._load_keys()
        self.mint("operator", "operator", None)
        self.mint("auditor", "auditor", None)

    # --- keys -------------------------------------------------------------------------------------------------------

    @property
    def keys_path(self) -> Path:
        return self.services.settings.data_dir / KEYS

    def _load_keys(self) -> None:
        if self.keys_path.exists():
            self.keys = dict(json.loads(self.keys_path.read_text())["keys"])

    def mint(self, name: str, role: str, tenant: str | None) -> None:
        """The key of that name works; one from an earlier start is kept if it still does."""
        now = self.services.clock.now()
        with self.services.database.write() as tx:
            known = name in self.keys and principal_of_key(tx, self.keys[name], now) is not None
            if not known:
                self.keys[name] = mint_key(tx, name=f"demo-{name}", role=role, tenant=tenant, now=now)
        partial = self.keys_path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump({"server": self.url, "keys": self.keys}, out)
        partial.replace(self.keys_path)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def post(self, who: str, path: str, body: Any, key: str, content_type: str) -> Any:
        """The JSON answer of a POST; RuntimeError with the problem if it is refused."""
        headers = {"Authorization": f"Bearer {self.keys[who]}", "Idempotency-Key": key, "Content-Type": content_type}
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        return self._json(self._http.post(path, content=content, headers=headers))

    def get(self, who: str, path: str) -> Any:
        return self._json(self._http.get(path, headers={"Authorization": f"Bearer {self.keys[who]}"}))

    def get_text(self, who: str, path: str) -> str:
        return self._http.get(path, headers={"Authorization": f"Bearer {self.keys[who]}"}).text

    @staticmethod
    def _json(answer: httpx.Response) -> Any:
        if answer.is_error:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
        return answer.json()

    # --- agents -----------------------------------------------------------------------------------------------------

    def add_real_node(self, node: str, pool: str, devices: Sequence[Accelerator]) -> None:
        """This host's own devices as a node of a pool."""
        with self.services.database.write() as tx:
            refusal = places.add_node(tx, id=node, pool=pool, devices=devices, now=self.services.clock.now())
        if refusal is None:
            self._real.append((node, devices[0].vendor))

    def start_agents(self) -> None:
        """One agent a node: heartbeat and readings until the platform stops."""
        EmbeddedAgents(self.services).start(self.stop)
        push = LocalPush(self.services)
        for node, vendor in self._real:
            assignments = self.services.settings.data_dir / "assignments"
            witness = witness_of(self.services, node, assignments)
            agent = Agent(node, [load_adapter(vendor)], push, assignments, witness=witness)
            agent.beat(self.services.clock.now())
            threading.Thread(
                target=agent.run, args=(self.stop, AGENT_PERIOD_S), name=f"agent {node}", daemon=True
            ).start()

    def wait(self) -> None:
        """Until somebody interrupts."""
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


@contextmanager
def run_service(data_dir: Path, port: int) -> Iterator[Running]:
    """The platform is up inside the block, on this port or, where that is taken, on a free one."""
    write_plainly()
    port = _free_port(port)
    settings = Settings(
        data_dir=data_dir,
        ledger="demo",
        pages_open=True,
        port=port,
        job_path=os.environ.get("YISUAN_JOB_PATH")
        or f"{Path('.venv-jobs/bin').absolute()}:/usr/local/bin:/usr/bin:/bin",
    )
    services = build(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(services), host=settings.host, port=port, log_level="warning", timeout_graceful_shutdown=2
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    web = threading.Thread(target=server.run, name="http", daemon=True)
    web.start()
    running = Running(services, f"http://{settings.host}:{port}")
    loop = threading.Thread(target=services.loop.run, args=(running.stop, settings.tick_ms / 1000), name="loop")
    try:
        _until_up(running.url)
        loop.start()
        yield running
    finally:
        running.stop.set()
        if loop.is_alive():
            loop.join(timeout=10)
        server.should_exit = True
        web.join(timeout=5)
        services.close()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def _until_up(url: str) -> None:
    waiting = threading.Event()
    for _ in range(200):
        try:
            if httpx.get(f"{url}/healthz", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            waiting.wait(0.05)
    raise RuntimeError(f"the platform did not answer at {url}")
