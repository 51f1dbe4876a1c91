"""A clusters file makes backends of a platform, and one that cannot be read keeps it from starting, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from api import clusters
from api.clusters import backends_of, read_clusters
from scheduler.cluster_file import ClusterFileError

FILE = """
clusters:
  - {name: east, backend: ray, provider: 91110000MA0000001C, site: s, region: beijing, prices: {H800: 1000},
     options: {address: "http://127.0.0.1:1"}}
"""


def start(data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", "--lang", "en", "serve", "--data-dir", str(data), "--port", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))


def test_a_file_that_cannot_be_read_keeps_the_platform_from_starting(tmp_path: Path) -> None:
    (tmp_path / "clusters.yaml").write_text(FILE.replace("region", "regoin"), encoding="utf-8")
    ended = start(tmp_path)

    assert ended.returncode == 2
    assert "regoin" in ended.stderr
    assert "region" in ended.stderr.replace("regoin", "")
    assert "Traceback" not in ended.stderr


def test_an_engine_whose_client_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusters.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(ClusterFileError, match=r"east.*yisuan\[ray\]"):
        backends_of(read_clusters(tmp_path), tmp_path)


def test_no_file_is_no_cluster(tmp_path: Path) -> None:
    assert backends_of(read_clusters(tmp_path), tmp_path) == {}
