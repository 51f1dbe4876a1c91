"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.platform import Platform, make_platform
from tests.postgres import database_url, postgres, postgres_url  # noqa: F401 - fixtures
from tests.ray.cluster import ray_cluster  # noqa: F401 - fixture

settings.register_profile("yisuan", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("yisuan")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A small platform; see tests/platform.py."""
    made = make_platform(tmp_path)
    yield made
    made.database.close()
