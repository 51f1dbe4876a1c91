"""A library in a process of its own: late, gone, raving or refusing, it costs one question and never us."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.adapter import AdapterError
from adapters.deadline import DeadlineError, LibraryDied, Worker

ROOT = Path(__file__).parents[2]


class Library:
    """What the child holds."""

    def __init__(self, *, refuses: bool = False) -> None:
        if refuses:
            raise AdapterError("no driver here")

    def add(self, a: int, b: int) -> int:
        print("the library prints what it likes", flush=True)
        return a + b

    def pid(self) -> int:
        return os.getpid()

    def hang(self) -> None:
        signal.pause()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        os._exit(7)

    def refuse(self) -> None:
        raise AdapterError("not supported")

    def fail(self) -> None:
        raise ZeroDivisionError

    def rave(self) -> object:
        return object()


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def make(**arguments: Any) -> Worker:
        path = os.pathsep.join([str(ROOT), *sys.path])
        worker = Worker(
            "tests.adapters.test_deadline:Library", arguments, ask_s=0.5, open_s=20, environment={"PYTHONPATH": path}
        )
        started.append(worker)
        return worker

    yield make
    for worker in started:
        worker.close()


def test_answers_come_back_whatever_the_library_prints(start: Callable[..., Worker]) -> None:
    worker = start()

    assert [worker.ask("add", 2, number) for number in range(3)] == [2, 3, 4]
    assert worker.ask("pid") == worker.ask("pid") != os.getpid()


def test_a_hanging_call_is_ended_and_the_next_question_finds_another_process(start: Callable[..., Worker]) -> None:
    worker = start()
    before = worker.ask("pid")
    began = time.monotonic()

    with pytest.raises(DeadlineError, match="hang: the driver gave no answer"):
        worker.ask("hang", deadline_s=0.2)

    assert time.monotonic() - began < 15
    assert worker.ask("pid") != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


@pytest.mark.parametrize(("method", "said"), [("die", "signal SIGKILL"), ("leave", "exit code 7")])
def test_a_library_that_ends_its_process_is_told_and_replaced(
    start: Callable[..., Worker], method: str, said: str
) -> None:
    worker = start()

    with pytest.raises(LibraryDied, match=said):
        worker.ask(method)

    assert worker.ask("add", 1, 1) == 2


def test_what_the_library_raises_is_told_in_its_words_and_ends_nothing(start: Callable[..., Worker]) -> None:
    worker = start()
    before = worker.ask("pid")

    for method, said in (
        ("refuse", "not supported"),
        ("fail", "ZeroDivisionError"),
        ("absent", "absent"),
        ("rave", "JSON"),
    ):
        with pytest.raises(AdapterError, match=said):
            worker.ask(method)

    assert worker.ask("pid") == before


def test_an_object_that_cannot_be_made_says_why_at_every_question(start: Callable[..., Worker]) -> None:
    worker = start(refuses=True)

    for _ in range(2):
        with pytest.raises(AdapterError, match="no driver here"):
            worker.ask("add", 1, 1)


def test_a_worker_that_is_closed_leaves_no_process(start: Callable[..., Worker]) -> None:
    worker = start()
    child = worker.ask("pid")

    worker.close()

    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
