"""Command: a vendor's tool, run with a deadline in a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from adapters.adapter import AdapterError

DEADLINE_S = 20.0  # npu-smi takes seconds on a full server; a wedged driver never answers
REAP_S = 2.0  # a process stuck in the kernel cannot be reaped; we stop waiting for it
SHOWN = 300  # characters of a tool's answer that go into an error


def run_tool(arguments: Sequence[str], *, deadline_s: float = DEADLINE_S) -> str:
    """What the tool printed on stdout, as text.

    The tool and all it started are gone when this returns or raises.

    AdapterError when the tool is absent, exits with other than 0, or is not done after deadline_s seconds (it
    and its process group are then killed). Runs in the C locale; bytes that are not UTF-8 are replaced.
    """
    name = arguments[0]
    try:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise AdapterError(f"{name}: cannot be started: {error.strerror}; is the vendor's driver installed?") from error
    try:
        out, err = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        raise AdapterError(f"{name}: no answer within {deadline_s:g} s; killed") from error
    finally:
        _end(process)
    text = out.decode("utf-8", errors="replace")
    if process.returncode != 0:
        said = (err.decode("utf-8", errors="replace").strip() or text.strip())[:SHOWN]
        raise AdapterError(f"{name}: exit code {process.returncode}; it said: {said!r}")
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the tool's process group and reap the tool."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        # In uninterruptible sleep it outlives even this; the kernel ends it when the driver lets go.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=REAP_S)
