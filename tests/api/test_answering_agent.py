"""A real `yisuan serve` and a real `yisuan agent` on a node whose library is the stub: the challenge is answered with no human act."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.adapters.nvml_stub import Host, build
from tests.api.service import PROVIDER
from tests.api.test_agent_command import free_port

LONG_S = 90.0  # far above a slow machine
# The command in a process whose bus has what the stub lists: no test machine has the cards.
AGENT = """
import sys
from adapters import pci
functions = tuple(
    pci.PciDevice(bdf=f"0000:{0x1B + i:02x}:00.0", vendor_id=0x10DE, device_id=0x2324, class_code=0x0302, driver="nvidia")
    for i in range(2)
)
pci.scan, pci.is_bare_metal = lambda *_: functions, lambda *_: True
from api.cli import main
main(sys.argv[1:])
"""


class Zone:
    """A platform in a process of its own, with a live ledger."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.server = f"http://127.0.0.1:{self.port}"
        self.keys: dict[str, str] = {}
        words = ["serve", "--port", str(self.port), "--data-dir", str(folder / "data")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", *words],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            env={**os.environ, "YISUAN_LANG": "en", "YISUAN_CHALLENGE_HOURS": "24"},
        )  # fmt: skip
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        until(lambda: len(re.findall(r"yk_[\w-]+", "".join(self.said))) >= 3)
        self.keys["operator"] = re.findall(r"yk_[\w-]+", "".join(self.said))[0]
        until(lambda: self.ask("GET", "/healthz"))

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)

    def ask(self, method: str, path: str, body: Any = None, who: str = "operator") -> Any:
        headers = {"Authorization": f"Bearer {self.keys[who]}", "Idempotency-Key": uuid.uuid4().hex}
        given = None if method == "GET" else body or {}
        answer = httpx.request(method, self.server + path, json=given, headers=headers, timeout=20)
        assert answer.is_success, answer.text
        return answer.json()


def until(wanted: Callable[[], Any]) -> Any:
    end, wait = time.monotonic() + LONG_S, threading.Event()
    while time.monotonic() < end:
        try:
            found = wanted()
        except httpx.HTTPError:
            found = None
        if found:
            return found
        wait.wait(0.1)
    raise AssertionError("it never came")


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    made = Zone(tmp_path)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(LONG_S)


def card(index: int) -> dict[str, Any]:
    return {
        "uuid": f"GPU-{index}", "index": index, "vendor": "nvidia", "model_raw": "NVIDIA H800", "model": "H800",
        "source": "library",
    }  # fmt: skip


def enrol_node(zone: Zone) -> str:
    """A pool of one node with two H800, a key of role agent bound to it, and an enrolment code."""
    zone.ask("POST", "/v1/providers", {"id": PROVIDER, "name": "provider"})
    zone.ask("POST", "/v1/sites", {"id": "bj1", "provider": PROVIDER, "name": "site", "region": "beijing"})
    pool = {"id": "h800", "provider": PROVIDER, "site": "bj1", "region": "beijing", "vendor": "nvidia", "model": "H800"}
    zone.ask("POST", "/v1/pools", {**pool, "source": "library", "price_fen_per_device_hour": 1800})
    zone.ask("POST", "/v1/nodes", {"id": "n1", "pool": "h800", "devices": [card(0), card(1)]})
    zone.keys["agent"] = zone.ask("POST", "/v1/keys", {"name": "n1", "role": "agent", "node": "n1"})["key"]
    return str(zone.ask("POST", "/v1/agents/enrolments", {"site": "bj1", "node": "n1"})["code"])


def test_a_running_agent_answers_the_running_platform_by_itself(
    zone: Zone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch)
    host.hold(2)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build().parent))
    code = enrol_node(zone)
    state = str(tmp_path / "agent")
    words = ["agent", "--node", "n1", "--server", zone.server, "--dir", state]
    subprocess.run([sys.executable, "-c", AGENT, *words, "--enrol", code], check=True, capture_output=True)
    assert {row["level"] for row in zone.ask("GET", "/v1/evidence")["items"]} <= {0, 1}

    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, *words, "--key", zone.keys["agent"], "--period", "0.5"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: {row["level"] for row in zone.ask("GET", "/v1/evidence")["items"]} == {3})
    finally:
        agent.terminate()
        _, said = agent.communicate(timeout=LONG_S)
    assert agent.returncode == 0, said
    asked = zone.ask("GET", "/v1/agents/n1/challenges")["items"]
    assert [one["outcome"] for one in asked if one["kind"] == "statement"] == ["ANSWERED"]
    shown = zone.ask("GET", "/v1/evidence/GPU-0")
    assert (shown["level"], shown["because"]) == (3, ["NODE_SIGNED"])
