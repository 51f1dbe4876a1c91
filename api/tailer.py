"""Tailer: one thread that watches the event journal, however many clients are watching it."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import OperationalError

from scheduler.database import Database
from scheduler.journal import head

log = structlog.get_logger("tailer")
PERIOD_S = 0.25


class Tailer:
    """`latest` is the position of the newest event that is known; it only grows. The thread starts on first use."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.latest = 0
        self._started = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Make sure that somebody is watching."""
        with self._started:
            if self._thread is None:
                self.latest = self._read()
                self._thread = threading.Thread(target=self._run, name="tailer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(PERIOD_S)
            try:
                self.latest = max(self.latest, self._read())
            except OperationalError as problem:  # the server is away; whoever watches here goes on when it is back
                log.warning("database_away", problem=str(problem.orig))

    def _read(self) -> int:
        with self.database.read() as tx:
            return head(tx, "job_events")[0]
