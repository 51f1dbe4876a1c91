"""The scripts that run before a process, as the container runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.chart.chart import CHART


def run(script: str, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with every absolute path of it below `root`."""
    text = (CHART / "files" / script).read_text(encoding="utf-8").replace('"/etc/yisuan', f'"{root}/etc/yisuan')
    env = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=env, check=False)


def test_the_data_directory_is_private_and_has_the_configuration(tmp_path: Path) -> None:
    given, data = tmp_path / "etc" / "yisuan" / "config", tmp_path / "var" / "data"
    given.mkdir(parents=True)
    (given / "clusters.yaml").write_text("clusters: []\n")
    for _ in range(2):
        done = run("prepare.py", tmp_path, YISUAN_DATA_DIR=str(data))
        assert done.returncode == 0, done.stderr
        assert (data.stat().st_mode & 0o777, (data / "clusters.yaml").read_text()) == (0o700, "clusters: []\n")
        assert not (data / "regions.yaml").exists()
    (given / "clusters.yaml").unlink()
    (given / "regions.yaml").write_text("regions: []\n")
    assert run("prepare.py", tmp_path, YISUAN_DATA_DIR=str(data)).returncode == 0
    assert sorted(path.name for path in data.iterdir()) == ["regions.yaml"]


def test_a_file_of_the_operators_own_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "clusters.yaml").write_text("mine")
    (tmp_path / "etc" / "yisuan" / "config").mkdir(parents=True)
    assert run("prepare.py", tmp_path, YISUAN_DATA_DIR=str(data)).returncode == 0
    assert (data / "clusters.yaml").read_text() == "mine"


def test_a_node_gets_its_own_key_and_no_other(tmp_path: Path) -> None:
    keys, run_dir = tmp_path / "etc" / "yisuan" / "keys", tmp_path / "run"
    keys.mkdir(parents=True)
    run_dir.mkdir()
    (keys / "here.n1").write_text("yk_one\n")
    (keys / "here.n2").write_text("yk_two\n")
    for _ in range(2):  # the container may run again
        done = run("key.py", tmp_path, YISUAN_NODE="here.n1", YISUAN_DATA_DIR=str(run_dir))
        assert done.returncode == 0, done.stderr
    file = run_dir / "keys.json"
    assert json.loads(file.read_text()) == {"keys": {"agent": "yk_one"}}
    assert file.stat().st_mode & 0o777 == 0o400


def test_the_agent_finds_the_key_there(tmp_path: Path) -> None:
    from api.client import find_access

    (tmp_path / "keys.json").write_text(json.dumps({"keys": {"agent": "yk_one"}}))
    access = find_access("agent", {"YISUAN_SERVER": "http://x", "YISUAN_DATA_DIR": str(tmp_path)}, home=tmp_path)
    assert access.key == "yk_one"


def test_a_node_without_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc" / "yisuan" / "keys").mkdir(parents=True)
    done = run("key.py", tmp_path, YISUAN_NODE="here.n3", YISUAN_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "no entry here.n3" in done.stderr
