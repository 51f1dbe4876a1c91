"""A real Ray cluster on this host for tests: a head, further raylets, and ways to break them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

BIN = Path(sys.executable).parent
READY_S = 90.0


def require_ray() -> None:
    """Skips the test where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'yisuan[ray]'")
    if not (BIN / "ray").exists():
        pytest.skip(f"no `ray` beside {sys.executable}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Cluster:
    """Started by `with`; every process of it is gone afterwards. Node n1 is the head's."""

    def __init__(self, *, resources: str = '{"NPU": 4}', labels: str = "rack=r1") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="yr"))  # short: Ray's sockets lie below, and 107 bytes is the limit
        self.gcs, self.dashboard, self.client = free_ports(3)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.resources, self.labels = resources, labels
        self.raylets: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self.start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_head(self) -> None:
        """The head answers and lists its own node."""
        head = [
            "--head",
            f"--port={self.gcs}",
            f"--dashboard-port={self.dashboard}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={self.client}",
            f"--temp-dir={self.folder}/ray",
        ]
        self._start("n1", head, self.resources, self.labels)

    def add(self, name: str, *, resources: str | None = None) -> None:
        """A further raylet of this name is alive."""
        self._start(name, [f"--address=127.0.0.1:{self.gcs}"], resources or self.resources, self.labels)

    def kill(self, name: str) -> None:
        """The raylet and its agents are gone at once, as when their host loses power; its workers follow it."""
        launched = self.raylets.pop(name)
        below = _below(launched)
        raylets = [p for p in below if _name(p).startswith("raylet")]
        for process in [*raylets, *[p for p in below if p not in raylets]]:
            _signal(process, signal.SIGKILL if process in raylets or "agent" in _name(process).lower() else 0)
        launched.kill()
        launched.wait()

    def stop(self) -> None:
        """Nothing of the cluster lives."""
        everything = [p for launched in self.raylets.values() for p in _below(launched)]
        for launched in reversed(list(self.raylets.values())):
            launched.send_signal(signal.SIGTERM)
        for launched in self.raylets.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                launched.wait(20)
            launched.kill()
            launched.wait()
        for process in everything:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(everything, timeout=10)
        self.raylets.clear()

    def restart_head(self) -> None:
        """Another head answers at the same address, knowing nothing of the first."""
        self.stop()
        self.start_head()

    def clear(self) -> None:
        """The head lists no job: those that run are stopped."""
        with httpx.Client(base_url=self.address, trust_env=False, timeout=20) as head:
            until = time.monotonic() + READY_S
            while rows := [row for row in head.get("/api/jobs/").json() if row["submission_id"]]:
                for row in rows:
                    over = row["status"] in ("SUCCEEDED", "STOPPED", "FAILED")
                    path = f"/api/jobs/{row['submission_id']}"
                    head.delete(path) if over else head.post(f"{path}/stop")
                assert time.monotonic() < until, f"still there: {rows}"
                time.sleep(0.1)

    def holds(self, package: str) -> bool:
        """Whether the head has the package; asking keeps one that is there for 20 s more."""
        answer = httpx.get(f"{self.address}/api/packages/gcs/{package}", trust_env=False, timeout=20)
        return answer.status_code == 200

    def nodes(self) -> dict[str, str]:
        """Node id of every node that is alive, by name."""
        return {row["node_name"]: row["node_id"] for row in self._rows() if row["state"] == "ALIVE"}

    def address_of(self, name: str) -> str:
        """The IP address under which a node joined."""
        return next(str(row["node_ip"]) for row in self._rows() if row["node_name"] == name)

    def _rows(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.address}/api/v0/nodes", trust_env=False, timeout=20)
        return list(answer.json()["data"]["result"]["result"])

    def _start(self, name: str, arguments: Sequence[str], resources: str, labels: str) -> None:
        listen, grpc, metrics, runtime = free_ports(4)
        command = [
            str(BIN / "ray"),
            "start",
            *arguments,
            "--block",
            "--disable-usage-stats" if "--head" in arguments else "--num-gpus=0",
            f"--node-name={name}",
            "--num-cpus=4",
            "--object-store-memory=100000000",
            f"--resources={resources}",
            f"--labels={labels}",
            f"--dashboard-agent-listen-port={listen}",
            f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={metrics}",
            f"--runtime-env-agent-port={runtime}",
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "4",
            "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": "20",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.raylets[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError, TypeError):
                if sum(row["node_name"] == name and row["state"] == "ALIVE" for row in self._rows()) == 1:
                    return
            if self.raylets[name].poll() is not None:
                break
            time.sleep(0.2)
        said = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"node {name} is not there: {said}")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A head that all tests of the session share and leave as they found it."""
    require_ray()
    with Cluster() as made:
        yield made


def _below(launched: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        top = psutil.Process(launched.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _signal(process: psutil.Process, number: int) -> None:
    if number:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
