"""A vendor's tool answers in time or is ended with all that it started."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from adapters.adapter import AdapterError
from adapters.command import run_tool


def test_the_answer_is_what_the_tool_printed() -> None:
    assert run_tool([sys.executable, "-c", "print('910B3')"]) == "910B3\n"


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(AdapterError, match="no-such-smi: cannot be started"):
        run_tool(["no-such-smi", "info"])


def test_a_failing_tool_shows_its_code_and_words() -> None:
    with pytest.raises(AdapterError, match="exit code 3; it said: 'no driver'"):
        run_tool([sys.executable, "-c", "import sys; sys.stderr.write('no driver'); sys.exit(3)"])


def test_a_hanging_tool_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {note}; wait"

    with pytest.raises(AdapterError, match=r"no answer within 0.4 s; killed"):
        run_tool(["/bin/sh", "-c", script], deadline_s=0.4)

    pid = int(note.read_text())
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.02)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_bytes_that_are_not_text_do_not_break_the_answer() -> None:
    answer = run_tool([sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'a\\xffb')"])

    assert answer == "a\ufffdb"
