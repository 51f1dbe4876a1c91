"""The service fixture of the route tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.service import Service, running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """See tests/api/service.py."""
    with running(tmp_path) as made:
        yield made
