"""What is written of a fault names where it happened and no value that was at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from api.logs import write_plainly


@pytest.fixture
def defaults() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def connect(password: str) -> None:
    raise ConnectionError(f"no server for a password of {len(password)} letters")


@pytest.mark.usefixtures("defaults")
def test_a_traceback_tells_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    write_plainly()
    secret = "-".join(("h", "u", "s", "h"))
    try:
        connect(secret)
    except ConnectionError:
        structlog.get_logger("test").exception("tick_failed", job="job_1")
    printed, said = capsys.readouterr()

    assert printed == "", "what a command prints is for programs"
    assert "tick_failed" in said
    assert "job_1" in said
    assert "no server for a password of 7 letters" in said
    assert "in connect" in said
    assert secret not in said
    assert "\x1b" not in said
