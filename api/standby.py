"""Standby: the loop of a process that may lead or not. It leads when nobody else does, and till it is told to end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import OperationalError

from api.clusters import Lookout
from api.embedded import EmbeddedAgents

if TYPE_CHECKING:
    from api.wiring import Services

log = structlog.get_logger("standby")
ASK_S = 0.5  # so often a process that stands by asks whether it may lead


class Standby:
    """run() is the whole life of a process's loop; a term is what lies between having the lead and losing it."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set: stand by, lead, stand by again. The lead is given up in order at the end."""
        waits = False
        while not stop.is_set():
            if self._leads():
                try:
                    self._term(stop)
                except Exception:  # a fault of the loop itself; whoever leads next starts from what is stored
                    log.exception("term_failed")
                    stop.wait(ASK_S)
                waits = False
            else:
                if not waits:
                    log.info("stands_by", who=self.services.settings.identity)
                waits = True
                stop.wait(ASK_S)

    def _leads(self) -> bool:
        try:
            return self.services.lead()
        except OperationalError as problem:  # the server is away; asked again
            log.warning("database_away", problem=str(problem.orig))
            return False

    def _term(self, stop: threading.Event) -> None:
        over = Either(stop, self.services.lost)
        try:
            beating = EmbeddedAgents(self.services).start(over)
        except Exception:  # nodes without a host of their own fall silent; the others must not wait for them
            log.exception("agents_not_started")
            beating = None
        looking = Lookout(self.services, self.services.clusters).start(over)
        try:
            self.services.loop.run(over, self.services.settings.tick_ms / 1000)
        finally:
            if self.services.lost.is_set():
                self.services.election.resign()
            else:
                self.services.resign()
            self.services.lost.set()  # also where the loop ended by itself: its agents end with it
            if beating is not None:
                beating.join()
            looking.join()


class Either(threading.Event):
    """Set when one of two is. wait() wakes at once for the first, and looks at the second when it has waited."""

    def __init__(self, first: threading.Event, second: threading.Event) -> None:
        super().__init__()
        self.first, self.second = first, second

    def is_set(self) -> bool:
        return self.first.is_set() or self.second.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self.first.wait(timeout) or self.second.is_set()
