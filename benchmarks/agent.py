"""What a real `yisuan agent` costs its host: memory and share of a core with 16 simulated devices, read every 15 s.

The agent is a process of its own with its command line, its spool, its signatures and its metrics, which are scraped as
often as the devices are read; the platform is a server that takes everything. Costs of starting are counted apart. Its
children (libraries are asked in processes of their own) count as its own; a simulated device has none.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

DEVICES, PERIOD_S, RUN_S = 16, 15, 75
MEMORY_MIB, CORE_PERCENT = 120, 2.0
BEGUN_S = 60.0


def measure() -> dict[str, Any]:
    """{rss_mib, rss_target_mib, cpu_percent, cpu_target_percent, start_cpu_s, seconds, ...} of one agent."""
    with tempfile.TemporaryDirectory() as folder, platform() as (port, taken):
        metrics, began = free_port(), time.monotonic()
        child = start(Path(folder), port, metrics)
        try:
            while taken["/v1/agents/samples"] == 0:
                if child.poll() is not None or time.monotonic() - began > BEGUN_S:
                    raise RuntimeError("the agent has sent nothing; is its command line right?")
                time.sleep(0.05)
            began_s, before = time.monotonic() - began, cost(child.pid)
            since, peak, scraped = time.monotonic(), 0, 0
            while time.monotonic() - since < RUN_S:
                if time.monotonic() - since >= scraped * PERIOD_S:
                    scrape(metrics)
                    scraped += 1
                peak = max(peak, memory(child.pid))
                time.sleep(0.5)
            used, seconds = cost(child.pid) - before, time.monotonic() - since
        finally:
            child.terminate()
            child.wait(30)
    return {
        "devices": DEVICES,
        "period_s": PERIOD_S,
        "seconds": round(seconds, 1),
        "rss_mib": round(peak / 2**20, 1),
        "rss_target_mib": MEMORY_MIB,
        "cpu_percent": round(100 * used / seconds, 2),
        "cpu_target_percent": CORE_PERCENT,
        "start_s": round(began_s, 2),
        "start_cpu_s": round(before, 2),
        "reports": taken["/v1/agents/samples"],
        "event_batches": taken["/v1/usage-events"],
        "scrapes": scraped,
        "ended": child.returncode,
    }


def start(folder: Path, port: int, metrics: int) -> subprocess.Popen[bytes]:
    """The agent's process, with a key as if it were enrolled and one allocation that holds half of the devices."""
    from adapters.assignment import Assignment, write_assignment
    from adapters.witness import load_key
    from api.commands.agent import ENROLLED

    load_key(folder / "state")
    (folder / "state" / ENROLLED).write_text('{"key": "k", "node": "n1", "site": "s"}\n', encoding="utf-8")
    declared = {"version": 1, "devices": [{"node": "n1", "model": "H800", "count": DEVICES}]}
    (folder / "declared.json").write_text(json.dumps(declared), encoding="utf-8")
    half = tuple(f"sim:n1:{index}" for index in range(DEVICES // 2))
    write_assignment(folder / "assignments", Assignment(allocation="job_a.1", devices=half, pids=(os.getpid(),)))
    words = [str(Path(sys.executable).parent / "yisuan"), "agent", "--node", "n1", "--period", str(PERIOD_S)]
    words += ["--server", f"http://127.0.0.1:{port}", "--key", "yk_bench", "--dir", str(folder / "state")]
    words += ["--assignments", str(folder / "assignments"), "--declare", str(folder / "declared.json")]
    words += ["--metrics-port", str(metrics)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def platform() -> Iterator[tuple[int, dict[str, int]]]:
    """(port, how often each path was posted to) of a server that takes everything."""
    taken = {"/v1/agents/heartbeat": 0, "/v1/agents/samples": 0, "/v1/usage-events": 0}

    class Taker(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken[self.path] += 1
            items = [{"id": event["id"], "status": "accepted"} for event in body.get("events", []) if "id" in event]
            answer = json.dumps({"items": items}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], taken
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def scrape(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        if b"hw_gpu_memory_limit_bytes" not in answer.read():
            raise RuntimeError("the agent's metrics have no devices")


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def memory(pid: int) -> int:
    """Resident bytes of the process and its children."""
    return sum(process.memory_info().rss for process in family(pid))


def cost(pid: int) -> float:
    """Seconds of processor time of the process and its children, ended ones too."""
    total = 0.0
    for process in family(pid):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total
