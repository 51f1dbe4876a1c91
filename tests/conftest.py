"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.platform import Platform, make_platform
from tests.postgres import database_url, postgres, postgres_url  # noqa: F401 - fixtures
from tests.ray.cluster import ray_cluster  # noqa: F401 - fixture

settings.register_profile("yisuan", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("yisuan")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where YISUAN_ENGINES names an engine, a test that is skipped because it is not there has failed."""
    report = yield
    asked = [name for name in os.environ.get("YISUAN_ENGINES", "").split(",") if name]
    if (
        report.skipped
        and call.when == "setup"
        and any(f"tests/{n}/" in item.nodeid or f"[{n}]" in item.nodeid for n in asked)
    ):
        report.outcome, report.longrepr = "failed", f"YISUAN_ENGINES names it, so it must be there: {report.longrepr}"
    return report


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A small platform; see tests/platform.py."""
    made = make_platform(tmp_path)
    yield made
    made.database.close()
