"""The `agent` command as a process: it keeps what it cannot send, serves metrics, and ends when it is told to."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.backlog import Backlog
from adapters.fault import FILE
from api.commands.agent import TELEMETRY, keep_in
from tests.api.test_cli import run

ROOT = Path(__file__).parents[2]
LONG_S = 60.0  # far above a slow machine


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    path = tmp_path / "declared.json"
    path.write_text(json.dumps({"version": 1, "devices": [{"node": "n1", "model": "H800", "count": 2}]}))
    return path


@pytest.fixture
def agent(tmp_path: Path, declared: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running agent whose platform is away, and its metrics port."""
    port = free_port()
    words = ["agent", "--node", "n1", "--server", f"http://127.0.0.1:{free_port()}", "--key", "yk_x", "--period", "0.2"]
    words += ["--dir", str(tmp_path / "state"), "--declare", str(declared), "--metrics-port", str(port)]
    words += ["--assignments", str(tmp_path / "assignments")]
    yisuan = str(Path(sys.executable).parent / "yisuan")
    child = subprocess.Popen([yisuan, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield child, port
    child.kill()
    child.communicate()


def scraped(port: int) -> dict[str, list[float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {f.name: [sample.value for sample in f.samples] for f in text_string_to_metric_families(text)}


def until(wanted: Any) -> Any:
    """What `wanted` gives once it gives anything; the test fails when it never does."""
    end, wait = time.monotonic() + LONG_S, threading.Event()
    while time.monotonic() < end:
        try:
            found = wanted()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        wait.wait(0.05)
    raise AssertionError("it never came")


def test_a_running_agent_is_metered_and_ends_cleanly_with_what_waits_on_disk(
    agent: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    child, port = agent
    waiting = until(lambda: (scraped(port).get("yisuan_agent_waiting_samples") or [0.0])[0])
    found = scraped(port)
    assert found["hw_gpu_memory_limit_bytes"] == [85899345920.0] * 2
    assert found["hw_status"] == [1.0, 0.0, 0.0] * 2
    assert found["yisuan_agent_delivering"] == [0.0]
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=LONG_S)

    assert child.returncode == 0, said
    assert Backlog(tmp_path / "state" / TELEMETRY).samples >= waiting
    assert str(tmp_path / "state") in said.splitlines()[-1], "it says what is left, and where"


def test_a_port_that_is_taken_and_a_file_that_declares_nothing_are_said(
    declared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("agent", "--node", "n1", "--key", "k", "--dir", str(tmp_path / "s"), "--declare", str(declared))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert run(*words, "--metrics-port", str(held.getsockname()[1])) != 0
    assert "127.0.0.1" in capsys.readouterr().err
    declared.write_text("{}")
    assert run(*words) == 2
    assert "expected" in capsys.readouterr().err


def test_faults_are_kept_for_this_boot_and_forgotten_when_asked(tmp_path: Path) -> None:
    from adapters.device_event import DeviceEvent, Severity
    from tests.adapters.recorded import AT

    _, faults = keep_in(tmp_path / "s")
    faults.note([DeviceEvent(uuid="a", at=AT, code="XID 79", severity=Severity.FATAL)])
    assert (tmp_path / "s" / FILE).stat().st_mode & 0o777 == 0o600
    assert keep_in(tmp_path / "s")[1]._worst
    assert not keep_in(tmp_path / "s", forget_faults=True)[1]._worst
    assert not keep_in(tmp_path / "s")[1]._worst


def test_the_unit_starts_what_the_command_takes() -> None:
    unit = (ROOT / "deploy" / "yisuan-agent.service").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    words = shlex.split(values["ExecStart"])
    done = subprocess.run(
        [str(Path(sys.executable).parent / "yisuan"), words[1], "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
    )  # fmt: skip

    assert words[1] == "agent"
    assert [word for word in words if word.startswith("--") and word not in done.stdout] == []
    assert words[words.index("--dir") + 1] == f"/var/lib/{values['StateDirectory']}"
    for hardened in ("NoNewPrivileges", "ProtectHome", "RestrictSUIDSGID", "ProtectKernelModules"):
        assert values[hardened] == "yes"
    assert (values["ProtectSystem"], values["CapabilityBoundingSet"], values["KillMode"]) == ("strict", "", "mixed")
