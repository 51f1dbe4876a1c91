"""What the chart starts does start: its commands with its variables, on this host, with its folders moved to a temporary one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.chart.chart import CHART, Thing, named, pod_of, rendered
from tests.kubernetes.plane import free_port, wait_for

START_S = 90
PROGRAMS = Path(sys.executable).parent


class Host:
    """A folder in place of `/`. Where a path or a port of the pod stands in a word, the host's stands instead."""

    def __init__(self, root: Path, changes: Mapping[str, str]) -> None:
        self.root = root
        self.changes = {**changes, **{path: f"{root}{path}" for path in ("/var/lib/", "/etc/yisuan", "/run/yisuan")}}

    def moved(self, word: str) -> str:
        for old, new in self.changes.items():
            word = word.replace(old, new) if word.startswith(old) or f"={old}" in word else word
        return word

    def environment(self, container: Thing, node: str = "n1") -> dict[str, str]:
        """The container's variables, $(NAME) in them resolved as a kubelet does."""
        found = {"PATH": f"{PROGRAMS}:/usr/bin:/bin"}
        for one in container["env"]:
            value = one.get("value", node)  # told by the pod's own fields: a name
            for name, known in found.items():
                value = value.replace(f"$({name})", known)
            found[one["name"]] = self.moved(value)
        return {name: value for name, value in found.items() if name not in ("LD_LIBRARY_PATH", "K8S_NODE")}

    def script(self, container: Thing, *arguments: str, node: str = "n1") -> subprocess.CompletedProcess[str]:
        """A container that runs a script of the chart's, to its end."""
        text = container["args"][0].replace('"/etc/yisuan', f'"{self.root}/etc/yisuan')
        env = self.environment({"env": container.get("env", [])}, node)
        command = [sys.executable, "-c", text, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)

    @contextlib.contextmanager
    def process(self, container: Thing, node: str = "n1") -> Iterator[subprocess.Popen[bytes]]:
        """A container's process, ended with SIGTERM as a kubelet does; it must end by itself and well."""
        env = self.environment(container, node)
        words = [self.moved(word) for word in container["command"]]
        words = [
            word.replace(f"$({name})", value)
            for word in words
            for name, value in [("YISUAN_NODE", env.get("YISUAN_NODE", ""))]
        ]
        with (self.root / "said").open("ab") as said:
            process = subprocess.Popen(words, env=env, cwd=self.root, stdout=said, stderr=said)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(45) in (0, -signal.SIGTERM), self.said()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def said(self) -> str:
        return (self.root / "said").read_text(encoding="utf-8", errors="replace")[-3000:]


def answers(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address, timeout=10).status_code == 200
    return False


def test_the_trial_starts_is_ready_and_ends_in_order(tmp_path: Path) -> None:
    pytest.importorskip("kubernetes", reason="the trial runs jobs in its own cluster: install yisuan[kubernetes]")
    things = rendered("trial")
    pod = pod_of(named(things, "Deployment"))
    assert pod is not None
    port = free_port()
    host = Host(tmp_path, {"8080": str(port), "0.0.0.0": "127.0.0.1"})  # noqa: S104 - the pod's address
    config = tmp_path / "etc" / "yisuan" / "config"
    config.mkdir(parents=True)
    (tmp_path / "var" / "lib" / "yisuan").mkdir(parents=True)
    for name, text in named(things, "ConfigMap", "yisuan-config")["data"].items():
        (config / name).write_text(text, encoding="utf-8")

    prepared = host.script(pod["spec"]["initContainers"][0])
    assert prepared.returncode == 0, prepared.stderr
    container = pod["spec"]["containers"][0]
    address = f"http://127.0.0.1:{port}"
    with host.process(container) as process:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            wait_for(lambda path=path: process.poll() is not None or answers(address + path), START_S, host.said)  # type: ignore[misc]
            assert process.poll() is None, host.said()
        test = pod_of(named(things, "Pod"))
        assert test is not None
        done = host.script(test["spec"]["containers"][0], address)
        assert done.returncode == 0, done.stderr
        assert "yisuan_loop_leads 1.0" in httpx.get(address + "/metrics").text
    assert (tmp_path / "var" / "lib" / "yisuan" / "data" / "clusters.yaml").is_symlink()


def test_an_agent_starts_with_its_own_key_and_gives_metrics(tmp_path: Path) -> None:
    """The platform is away; the agent runs and says so."""
    pod = pod_of(named(rendered("production"), "DaemonSet", "yisuan-agent-nvidia"))
    assert pod is not None
    port, away = free_port(), free_port()
    changes = {"9837": str(port), "0.0.0.0": "127.0.0.1", "http://": f"http://127.0.0.1:{away}/"}  # noqa: S104
    host = Host(tmp_path, changes)
    keys = tmp_path / "etc" / "yisuan" / "keys"
    for folder in (keys, tmp_path / "run" / "yisuan", tmp_path / "var" / "lib"):
        folder.mkdir(parents=True)
    (keys / "here.n1").write_text("yk_one\n")

    taken = host.script(pod["spec"]["initContainers"][0])
    assert taken.returncode == 0, taken.stderr
    address = f"http://127.0.0.1:{port}/metrics"
    with host.process(pod["spec"]["containers"][0]) as process:
        wait_for(lambda: process.poll() is not None or answers(address), START_S, host.said)
        assert process.poll() is None, host.said()
        wait_for(lambda: "yisuan_agent_delivering 0.0" in httpx.get(address).text, 30, host.said)


def test_the_scripts_of_the_pods_are_whole() -> None:
    """A block of YAML keeps a script's own indentation."""
    for path in (CHART / "files").glob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
