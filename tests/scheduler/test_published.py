"""The schemas under docs/schemas are those the code gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.published import SCHEMAS

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_the_code_s(name: str) -> None:
    """Write it again with: json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False)."""
    assert json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) == SCHEMAS[name]()
