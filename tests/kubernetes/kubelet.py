"""A kubelet for tests: it runs a pod's container as a process of this host, and says of it what a kubelet would.

    with Kubelet(plane, {"n1": {"nvidia.com/gpu": 8}}) as kubelet: ...

Pods bound to its nodes run their first container's command, with its environment and an empty folder instead of every
volume (values that name a mount path are changed to the folder). Phases, exit codes, start and end, deletion with grace and
logs through the API server are as from a real one. Images are not looked at, but for one that begins with `missing/`: it
cannot be pulled. A kubelet's isolation is not here: it is for commands that a test wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlparse

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kubernetes.plane import TOKEN, Plane, free_port, wait_for

READY = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
BEAT_S = 1.0
STRATEGIC = "application/strategic-merge-patch+json"


class Kubelet:
    """Some nodes of one control plane, until closed. resources: of each node beside cpu and memory, in its own units."""

    def __init__(
        self,
        plane: Plane,
        nodes: Mapping[str, Mapping[str, int]],
        labels: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.plane, self.nodes, self.labels = plane, nodes, labels or {}
        self.lost: set[str] = set()
        self.folder = Path(tempfile.mkdtemp(prefix="kubelet-", dir=plane.folder))
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # by the pod's uid
        self._seen: dict[str, threading.Event] = {}  # by uid: set when the pod is to end
        self._pods: dict[str, Any] = {}
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server = self._logs_server()

    def __enter__(self) -> Self:
        for name in self.nodes:
            self._register(name)
        self._begin(self._server.serve_forever)
        self._begin(self._beat)
        self._begin(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Its processes have ended and its nodes are gone from the cluster, if that still answers."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        for uid in list(self._processes):
            self._kill(uid, signal.SIGKILL)
        for event in list(self._seen.values()):
            event.set()
        for thread in self._threads:
            thread.join(10)
        for name in self.nodes:
            with contextlib.suppress(httpx.HTTPError):
                self.plane.ask("DELETE", f"/api/v1/nodes/{name}")

    def lose(self, node: str) -> None:
        """The node says nothing any more, and its processes die with it."""
        self.lost.add(node)
        for uid, pod in list(self._pods.items()):
            if pod["spec"].get("nodeName") == node:
                self._kill(uid, signal.SIGKILL)

    def find(self, node: str) -> None:
        """The node is back, empty, and says of its pods that they died."""
        self.lost.discard(node)
        for uid, pod in list(self._pods.items()):
            if pod["spec"].get("nodeName") == node and uid not in self._processes and uid in self._seen:
                self._ended(pod, 137, _now(), _now())

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _register(self, name: str) -> None:
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti"}
        amounts |= {key: str(amount) for key, amount in self.nodes[name].items()}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **self.labels.get(name, {})}
        self.plane.make("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        status = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [READY | {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }
        path = f"/api/v1/nodes/{name}"
        self.plane.ask("PATCH", f"{path}/status", {"status": status}, kind=STRATEGIC).raise_for_status()

        def untainted() -> bool:
            return not self.plane.get(path)["spec"].get("taints")

        wait_for(untainted, 30, lambda: f"{name} is still tainted")

    def _beat(self) -> None:
        """The node's lease is renewed, and its Ready condition when it had been lost."""
        silent: set[str] = set()
        while not self._closed.is_set():
            for name in self.nodes:
                if name in self.lost:
                    silent.add(name)
                    continue
                with contextlib.suppress(httpx.HTTPError):
                    self._renew(name)
                    if name in silent or not self._is_ready(name):
                        self._register(name)
                        silent.discard(name)
            self._closed.wait(BEAT_S)

    def _is_ready(self, name: str) -> bool:
        """False also where the cluster had given the node up while its API server was away."""
        conditions = self.plane.get(f"/api/v1/nodes/{name}")["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _renew(self, name: str) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": at}
        kind = "application/merge-patch+json"
        if self.plane.ask("PATCH", f"{leases}/{name}", {"spec": spec}, kind=kind).status_code == 404:
            self.plane.ask("POST", leases, {"metadata": {"name": name}, "spec": spec})

    # --- pods ---------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        while not self._closed.is_set():
            with contextlib.suppress(httpx.HTTPError, KeyError, json.JSONDecodeError):
                listed = self.plane.get("/api/v1/pods")
                for pod in listed["items"]:
                    self._attend(pod)
                for uid in set(self._seen) - {pod["metadata"]["uid"] for pod in listed["items"]}:
                    self._forget(uid)  # deleted while nobody watched
                query = {
                    "watch": "1",
                    "resourceVersion": listed["metadata"]["resourceVersion"],
                    "timeoutSeconds": "600",
                }
                with (
                    httpx.Client(verify=False, timeout=httpx.Timeout(5, read=1)) as http,  # noqa: S501
                    http.stream("GET", f"{self.plane.address}/api/v1/pods", params=query, headers=headers) as answer,
                ):
                    for line in self._lines(answer):
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            self._attend(event["object"])
                        elif event["type"] == "DELETED":
                            self._forget(event["object"]["metadata"]["uid"])
                        else:
                            break
            self._closed.wait(0.05)

    def _lines(self, answer: httpx.Response) -> Iterator[str]:
        with contextlib.suppress(httpx.ReadTimeout):
            yield from answer.iter_lines()

    def _attend(self, pod: Any) -> None:
        node, uid = pod["spec"].get("nodeName"), pod["metadata"]["uid"]
        if node not in self.nodes or node in self.lost:
            return
        self._pods[uid] = pod
        if uid not in self._seen and pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        fresh = uid not in self._seen
        if fresh:
            self._seen[uid] = threading.Event()
            self._begin(self._live, pod)
        if pod["metadata"].get("deletionTimestamp"):
            self._seen[uid].set()

    def _forget(self, uid: str) -> None:
        if uid in self._seen:
            self._seen[uid].set()
        self._kill(uid, signal.SIGKILL)

    def _live(self, pod: Any) -> None:
        """The whole life of one pod, in a thread of its own."""
        uid, container = pod["metadata"]["uid"], pod["spec"]["containers"][0]
        if container["image"].startswith("missing/"):
            state = {}
            for reason in ("ErrImagePull", "ImagePullBackOff"):
                state = {"waiting": {"reason": reason, "message": f"no such image {container['image']}"}}
                self._say(pod, "Pending", state)
                if self._seen[uid].wait(0.2):
                    break
            self._seen[uid].wait()
            self._say(pod, "Failed", state)
            self._gone(pod)
            return
        if self._seen[uid].is_set():
            self._say(pod, "Failed", None)
            self._gone(pod)
            return
        started = _now()
        process = self._run(pod, container)
        self._processes[uid] = process
        self._say(pod, "Running", {"running": {"startedAt": started}})
        while process.poll() is None and not self._seen[uid].wait(0.02):
            pass
        if process.poll() is None:
            self._kill(uid, signal.SIGTERM, group=False)
            grace = self._pods[uid]["metadata"].get("deletionGracePeriodSeconds", 30)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.05, grace))
        self._kill(uid, signal.SIGKILL)
        code = process.wait()
        if self._closed.is_set() or pod["spec"]["nodeName"] in self.lost:
            del self._processes[uid]
            return
        self._ended(pod, code if code >= 0 else 128 - code, started, _now())
        del self._processes[uid]
        self._seen[uid].wait()
        self._gone(pod)

    def _run(self, pod: Any, container: Any) -> subprocess.Popen[bytes]:
        work = self.folder / pod["metadata"]["uid"]
        work.mkdir()
        mounts = {mount["mountPath"]: str(work) for mount in container.get("volumeMounts", [])}
        found = {"PATH": os.environ["PATH"], "HOSTNAME": pod["spec"].get("hostname", pod["metadata"]["name"])}
        for entry in container.get("env", []):
            value = _expanded(entry.get("value", ""), found)
            if "valueFrom" in entry:
                value = _field(pod, entry["valueFrom"]["fieldRef"]["fieldPath"])
            for path, folder in mounts.items():
                value = folder + value[len(path) :] if value == path or value.startswith(path + "/") else value
            found[entry["name"]] = value
        with (self.folder / f"{pod['metadata']['uid']}.log").open("wb") as output:
            return subprocess.Popen(
                [_expanded(word, found) for word in (*container.get("command", []), *container.get("args", []))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=found,
                cwd=work,
                start_new_session=True,
            )

    def _kill(self, uid: str, number: int, *, group: bool = True) -> None:
        process = self._processes.get(uid)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(process.pid, number)

    def _ended(self, pod: Any, code: int, started: str, finished: str) -> None:
        reason = "Completed" if code == 0 else "Error"
        state = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": finished}
        self._say(pod, "Succeeded" if code == 0 else "Failed", {"terminated": state})

    def _say(self, pod: Any, phase: str, state: Any) -> None:
        container = pod["spec"]["containers"][0]
        told: dict[str, Any] = {"phase": phase, "hostIP": "127.0.0.1", "podIP": "127.0.0.1"}
        told["startTime"] = pod.setdefault("started", _now())
        ready = "True" if phase == "Running" else "False"
        told["conditions"] = [
            {"type": kind, "status": ready, "lastTransitionTime": _now()} for kind in ("Ready", "ContainersReady")
        ]
        if state is not None:
            one = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
            told["containerStatuses"] = [one | {"ready": phase == "Running", "state": state}]
        for _ in range(100):
            with contextlib.suppress(httpx.HTTPError):
                answer = self.plane.ask("PATCH", f"{_path(pod)}/status", {"status": told}, kind=STRATEGIC)
                if answer.status_code < 500:
                    return
            if self._closed.wait(0.2):
                return

    def _gone(self, pod: Any) -> None:
        """The API server may drop the pod: what a kubelet says last of one that was deleted."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        if pod["spec"]["nodeName"] not in self.lost:
            with contextlib.suppress(httpx.HTTPError):
                self.plane.ask("DELETE", _path(pod), body)

    def _begin(self, act: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=act, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    # --- logs ---------------------------------------------------------------------------------------------------------

    def _logs_server(self) -> ThreadingHTTPServer:
        kubelet = self

        class Logs(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts, query = urlparse(self.path).path.split("/"), parse_qs(urlparse(self.path).query)
                pods = [
                    p for p in list(kubelet._pods.values()) if parts[1] == "containerLogs" and _named(p) == parts[2:4]
                ]
                path = kubelet.folder / f"{pods[-1]['metadata']['uid']}.log" if pods else None
                body = path.read_bytes() if path and path.exists() else b""
                if "limitBytes" in query:
                    body = body[: int(query["limitBytes"][0])]
                self.send_response(200 if pods else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Logs)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(self.folder / "serving.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return server


def _named(pod: Any) -> list[str]:
    return [pod["metadata"]["namespace"], pod["metadata"]["name"]]


def _path(pod: Any) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _field(pod: Any, path: str) -> str:
    if path.startswith("metadata.annotations['"):
        return str(pod["metadata"]["annotations"].get(path[22:-2], ""))
    found = pod
    for part in path.split("."):
        found = found.get(part, {})
    return str(found)


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """$(NAME) of a known variable is its value, $$ is one dollar, all else stands (k8s.io/kubernetes third_party expansion)."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]*)\)", one, text)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificate(path: Path) -> Path:
    """A self-signed one for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
