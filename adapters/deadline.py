"""Deadline: a vendor's library in a process of its own, which is killed when a call does not return.

A wedged driver blocks a call in the kernel, where no thread can be ended, and a faulty library ends the whole process.
So the library lives in a child: it is asked one question at a time, as a line of JSON each way, and a child that is
late or gone is replaced at the next question. A child stuck in uninterruptible sleep outlives the kill; it is left
behind, and the kernel ends it when the driver lets go.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from adapters.adapter import AdapterError

OPEN_S = 20.0  # the first touch of a driver without persistence initialises every device, which takes seconds
ASK_S = 5.0  # one device's readings take milliseconds
REAP_S = 0.5
LIMIT_BYTES = 8 * 1024 * 1024  # an answer longer than this is none


class DeadlineError(AdapterError):
    """The library did not answer in time; its process was killed."""


class LibraryDied(AdapterError):
    """The library ended its process, by a crash or an exit of its own."""


class Worker:
    """Asks an object that lives in a child process.

    target: `module:Class`; arguments: its keyword arguments, plain JSON values. The child starts at the first question
    and after every loss. Safe from any thread; questions wait for each other. python: another interpreter than this one.
    """

    def __init__(
        self,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        open_s: float = OPEN_S,
        ask_s: float = ASK_S,
        environment: Mapping[str, str] | None = None,
        python: str | None = None,
    ) -> None:
        self._target = target
        self._arguments = dict(arguments or {})
        self._open_s = open_s
        self._ask_s = ask_s
        self._environment = dict(environment or {})
        self._python = python or sys.executable
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._lock = threading.Lock()

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any:
        """The value that the object's method returned, as JSON gives it back.

        AdapterError with the object's own words when it raised one; DeadlineError when no answer came within
        deadline_s (the child is then gone); LibraryDied when the child ended. The first question of a child may take
        open_s more.
        """
        with self._lock:
            fresh = self._process is None
            process = self._process or self._start()
            until = time.monotonic() + (self._ask_s if deadline_s is None else deadline_s)
            until += self._open_s if fresh else 0
            question = json.dumps({"method": method, "arguments": arguments}) + "\n"
            try:
                self._send(process, question)
                answer = self._receive(process, until, method)
            except (DeadlineError, LibraryDied):
                self._end()
                raise
        if "error" in answer:
            raise AdapterError(str(answer["error"]))
        return answer.get("value")

    def close(self) -> None:
        """The child is gone; the next question starts another."""
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        self._buffer = b""
        self._process = subprocess.Popen(
            [self._python, "-m", "adapters.deadline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self._environment},
        )
        self._send(self._process, json.dumps({"target": self._target, "arguments": self._arguments}) + "\n")
        return self._process

    def _send(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None  # a pipe, as opened
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except OSError:
            raise self._death(process) from None

    def _receive(self, process: subprocess.Popen[bytes], until: float, method: str) -> Mapping[str, Any]:
        assert process.stdout is not None  # a pipe, as opened
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = until - time.monotonic()
                if left <= 0 or not ready.select(left):
                    raise DeadlineError(
                        f"{method}: the driver gave no answer within its deadline; its reader was killed"
                    )
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._death(process)
                self._buffer += piece
                if len(self._buffer) > LIMIT_BYTES:
                    raise LibraryDied(f"{method}: an answer of more than {LIMIT_BYTES} bytes")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise LibraryDied(f"{method}: an answer that is none: {line[:80]!r}")
        return answer

    def _death(self, process: subprocess.Popen[bytes]) -> LibraryDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_S)
        code = process.returncode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return LibraryDied(f"the library ended the process that reads it, {how}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_S)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be half gone
            self._end()


def serve() -> None:
    """The child's loop: builds the object that the first line names and answers a line with a line until end of input.

    What the library prints goes nowhere: answers have a descriptor of their own.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    held: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "target" in request:
                module, _, name = request["target"].partition(":")
                held = getattr(importlib.import_module(module), name)(**request["arguments"])
                continue
            if held is None:
                raise AdapterError("the library could not be prepared")
            answer = {"value": getattr(held, request["method"])(*request["arguments"])}
            json.dumps(answer)  # what is no plain value is the object's fault, told like any other
        except Exception as error:  # noqa: BLE001  every failure is the asker's to judge
            answer = {"error": str(error) or type(error).__name__}
            if "target" in request:
                held = _Refusing(answer["error"])
                continue
        data = (json.dumps(answer) + "\n").encode()
        while data:
            data = data[os.write(answers, data) :]


class _Refusing:
    """Stands in for an object that could not be built, and says why at every question."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise AdapterError(self._reason)


if __name__ == "__main__":
    serve()
