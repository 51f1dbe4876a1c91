"""A Kubernetes control plane of its own: etcd, API server, controller manager and scheduler as processes, on free ports.

    with Plane() as plane:
        plane.kubeconfig   # a file; its user may do everything

`sh tests/kubernetes/build` puts the programs where this looks for them; without them NoPlane says so. No node is there at
first: tests/kubernetes/kubelet.py runs pods as processes, `kwok()` lets nodes of any number say that their pods run.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

HERE = Path(__file__).resolve().parent
TOKEN = "test-admin"
READY_S = 60


class NoPlane(Exception):
    """No control plane can be had here; the message says why."""


def programs() -> Path:
    """The folder of the built programs. NoPlane if they are not there."""
    done = subprocess.run(["sh", str(HERE / "build"), "--where"], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    missing = [name for name in ("etcd", "kube-apiserver", "kube-scheduler") if not (folder / name).exists()]
    if missing:
        raise NoPlane(f"{', '.join(missing)} not built: run `sh tests/kubernetes/build` once")
    return folder


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Plane:
    """One control plane in a temporary folder. start() returns when it is ready; stop() leaves nothing behind."""

    def __init__(self, folder: Path | None = None, *, node_grace_s: int = 6) -> None:
        """node_grace_s: how long a node may be silent before it counts as lost."""
        self.programs = programs()
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self.kubeconfig = self.folder / "kubeconfig"
        self.node_grace_s = node_grace_s
        self.port = free_port()
        self.address = f"https://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._http = httpx.Client(verify=False, timeout=30)  # noqa: S501 - its own certificate, on this host

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Everything runs and the API server answers that it is ready."""
        etcd, peer = free_port(), free_port()
        self._keys()
        self.run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync=true",
            "--log-level=error",
        )
        self.run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            f"--service-account-issuer={self.address}",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        )
        wait_for(self.ready, READY_S, lambda: f"the API server is not ready: {self.said('kube-apiserver')}")
        self._write_kubeconfig()
        common = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        self.run(
            "kube-controller-manager",
            *common,
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--node-monitor-grace-period={self.node_grace_s}s",
            "--node-monitor-period=1s",
            "--node-eviction-rate=100",
            "--secondary-node-eviction-rate=100",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-job-syncs=10",
        )
        self.run("kube-scheduler", *common, "--kube-api-qps=500", "--kube-api-burst=1000")
        there = "/api/v1/namespaces/default/serviceaccounts/default"  # no pod is admitted before
        wait_for(lambda: self.ask("GET", there).status_code == 200, READY_S, lambda: "the default account is missing")

    def kwok(self) -> None:
        """Nodes annotated `kwok.x-k8s.io/node: fake` are Ready and their pods run, as kwok.yaml says; see `fake_nodes`."""
        self.run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={HERE / 'kwok.yaml'}",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
        )

    def fake_nodes(self, count: int, resources: Mapping[str, int], prefix: str = "fake") -> None:
        """So many nodes for kwok exist afterwards, each with these devices; returns when the last is Ready."""
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "110"} | {key: str(n) for key, n in resources.items()}
        status = {"capacity": amounts, "allocatable": amounts}

        def add(number: int) -> None:
            name = f"{prefix}-{number:05d}"
            labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
            meta = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
            self.make("/api/v1/nodes", {"metadata": meta, "status": status})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(count)))
        last = f"/api/v1/nodes/{prefix}-{count - 1:05d}"

        def ready() -> bool:
            node = self.get(last)
            conditions = node["status"].get("conditions", ())
            return not node["spec"].get("taints") and any(c["type"] == "Ready" for c in conditions)

        wait_for(ready, READY_S, lambda: f"{last} is not ready: {self.said('kwok')}")

    def stop(self) -> None:
        """Every process has ended; what they wrote is gone if the folder was ours."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        self._http.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def kill(self, name: str) -> None:
        """The process is gone at once, as by kill -9."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def again(self, name: str) -> None:
        """A killed process runs again with the same command."""
        self._spawn(name)
        if name == "kube-apiserver":
            wait_for(self.ready, READY_S, lambda: f"the API server is not ready: {self.said(name)}")

    # --- asking it ----------------------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str
    ) -> httpx.Response:
        """One request as the administrator, past every client under test."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        content = None if body is None else json.dumps(body)
        return self._http.request(method, self.address + path, content=content, headers=headers, params=query)

    def get(self, path: str, **query: str) -> Any:
        """The object or list at a path; httpx.HTTPStatusError where there is none."""
        return self.ask("GET", path, **query).raise_for_status().json()

    def make(self, path: str, body: Mapping[str, Any]) -> Any:
        """The object exists afterwards; one of its name that is there already is left alone."""
        answer = self.ask("POST", path, body)
        return answer.json() if answer.status_code == 409 else answer.raise_for_status().json()

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Merge-patched."""
        return self.ask("PATCH", path, body, kind="application/merge-patch+json").raise_for_status().json()

    def namespace(self, name: str, **labels: str) -> str:
        """A namespace in which pods are admitted; labels: such as the pod security level."""
        self.make("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_for(lambda: self.ask("GET", account).status_code == 200, READY_S, lambda: f"{account} is missing")
        return name

    def ready(self) -> bool:
        """Does the API server say that it is ready?"""
        process = self.processes["kube-apiserver"]
        if process.poll() is not None:
            raise NoPlane(f"the API server ended with {process.returncode}: {self.said('kube-apiserver')}")
        try:
            return self.ask("GET", "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def said(self, name: str) -> str:
        """The last words of a program."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    # --- its parts ----------------------------------------------------------------------------------------------------

    def run(self, name: str, *arguments: str) -> None:
        """The program runs with these arguments and its output in <folder>/<name>.log."""
        self._commands[name] = [str(self.programs / name), *arguments]
        self._spawn(name)

    def _spawn(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                start_new_session=True,
            )

    def _keys(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n", encoding="utf-8")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / "accounts.key").write_bytes(private)
        (self.folder / "accounts.pub").write_bytes(public)

    def _write_kubeconfig(self) -> None:
        authority = b64encode((self.folder / "certificates" / "apiserver.crt").read_bytes()).decode()
        cluster = {"server": self.address, "certificate-authority-data": authority}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(body), encoding="utf-8")


def wait_for(holds: Callable[[], object], seconds: float, why: Callable[[], str]) -> None:
    """Returns once `holds` is true; AssertionError with `why` when it is not within the seconds."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(why())
        time.sleep(0.05)


@functools.cache
def shared() -> Plane:
    """One control plane for all tests of a process, stopped when it ends; tests keep apart by namespaces and node names."""
    plane = Plane()
    atexit.register(plane.stop)
    plane.start()
    return plane
