"""Election: which of many processes is the loop of a database, and the number that fences off the ones before it.

    try_lead() -> epoch | None   the epoch while this process leads, None while another does; ask again at any time
    still() -> bool              nobody else can lead now, as far as this host's own clock can tell
    resign()                     another may lead at once

Three ways to elect, one rule for what an epoch is: a number that only grows, kept in `counters`, written when a process
begins to lead. Database.fenced(fence_of(election)) reads it inside every write transaction, after the writers' lock is
had, so a process that another one has followed commits nothing, however late it wakes.

FileElection: an exclusive lock on a file beside a SQLite database. It ends with the process; a process that is stopped
and not dead keeps it, as it keeps SQLite's own write lock.
AdvisoryElection: PostgreSQL's session lock. The server ends a session that has said nothing for SESSION_IDLE_S, which
frees the lock of a process that is frozen, of a host without power and of a network that is cut, by one rule and by one
clock. A TCP keepalive alone would not: the kernel of a frozen process goes on answering it.
LeaseElection: scheduler/kubernetes_lease.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from filelock import FileLock, Timeout
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from scheduler.database import WRITER_LOCK, Database
from scheduler.schema import counters

log = structlog.get_logger("election")

EPOCH = "loop_epoch"
LEADER_LOCK = 0x79697375616E02  # beside scheduler.database.WRITER_LOCK
SESSION_IDLE_S = 5.0  # the server ends the leader's session when it has heard nothing for so long
SILENT = ("idle_session_timeout", "idle_in_transaction_session_timeout")
PULSE_S = 1.0  # so often the leader says that it lives
MARGIN_S = 1.0  # before the server gives the lead away the leader has stopped trusting that it has it


class LeadLost(OperationalError):
    """Another process has become the loop of this database; what this one was about to do is not done.

    To this process the database is as good as away, so whatever outlives a database that is away outlives this too.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, None, RuntimeError(message))


class Election(Protocol):
    """Who is the loop. `epoch`: of this process's last term; kept when the lead is lost, so that the fence stands."""

    epoch: int | None

    def try_lead(self) -> int | None: ...

    def still(self) -> bool: ...

    def resign(self) -> None: ...


def fence_of(election: Election) -> Callable[[Connection], None]:
    """A fence for Database.fenced: LeadLost in a transaction begun when another process leads, or none ever led here."""

    def check(tx: Connection) -> None:
        if election.epoch is None or epoch_of(tx) != election.epoch:
            raise LeadLost(f"the loop's epoch is {epoch_of(tx)}, this process was given {election.epoch}")

    return check


def epoch_of(tx: Connection) -> int:
    """The epoch of the newest leader; 0 before the first."""
    return int(tx.execute(select(counters.c.value).where(counters.c.name == EPOCH)).scalar() or 0)


def write_epoch(tx: Connection, epoch: int) -> bool:
    """The epoch is the newest one afterwards; False, and nothing written, if it is not newer than the one there."""
    before = epoch_of(tx)
    if epoch <= before:
        return False
    if before == 0:
        tx.execute(insert(counters).values(name=EPOCH, value=epoch))
    else:
        tx.execute(update(counters).where(counters.c.name == EPOCH).values(value=epoch))
    return True


def boot_s() -> float:
    """Seconds since boot, sleep included: a host that slept must not believe that no time has passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FileElection:
    """The process that holds an exclusive lock on `path` leads; one host."""

    def __init__(self, database: Database, path: Path) -> None:
        self.database = database
        self.path = path
        self.epoch: int | None = None
        self._lock = FileLock(path, timeout=0, thread_local=False)

    def try_lead(self) -> int | None:
        """The lock is had and a new epoch written, or another process has it."""
        if self._lock.is_locked:
            return self.epoch
        try:
            self._lock.acquire()
        except Timeout:
            return None
        try:
            with self.database.write() as tx:
                epoch = epoch_of(tx) + 1
                write_epoch(tx, epoch)
        except BaseException:
            self._lock.release()
            raise
        self.epoch = epoch
        return epoch

    def still(self) -> bool:
        """The kernel keeps the lock for as long as the process has it."""
        return self._lock.is_locked

    def resign(self) -> None:
        self.epoch = None
        self._lock.release()


class Pulse:
    """A thread that renews a lead every PULSE_S, and how long the lead is certain by this host's own clock.

    renew: raises when the lead could not be renewed. valid_s: after a renewal was sent, the lead is nobody else's for so
    long. The instant of sending counts, not that of the answer: the other side cannot have begun to count before it.
    """

    def __init__(self, renew: Callable[[], None], valid_s: float, *, period_s: float = PULSE_S) -> None:
        self.renew, self.valid_s, self.period_s = renew, valid_s, period_s
        self.certain_until = 0.0
        self._stop = threading.Event()
        self._beating = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, sent_at: float) -> None:
        """The lead was had by an act sent at this boot_s(); it is renewed from now on."""
        self.certain_until = sent_at + self.valid_s
        self._thread = threading.Thread(target=self._run, name="lead", daemon=True)
        self._thread.start()

    def certain(self) -> bool:
        return not self._stop.is_set() and boot_s() < self.certain_until

    def stop(self) -> None:
        """Nothing is certain and nothing renewed any more. Waits for a renewal that is under way, for valid_s at most."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self.valid_s)

    def beat(self) -> bool:
        """Renewed now; False, and nothing is certain any more, if it could not be."""
        with self._beating:
            sent_at = boot_s()
            try:
                self.renew()
            except Exception as problem:  # noqa: BLE001 - whatever it was, the lead was not renewed
                log.warning("lead_not_renewed", problem=f"{type(problem).__name__}: {problem}".partition("\n")[0])
                if boot_s() >= self.certain_until or isinstance(problem, DBAPIError):
                    self._stop.set()
                    return False
            else:
                self.certain_until = sent_at + self.valid_s
            return True

    def _run(self) -> None:
        while not self._stop.wait(self.period_s) and self.beat():
            pass


class AdvisoryElection:
    """The process whose session holds LEADER_LOCK leads; any number of hosts on one PostgreSQL server (14 or later).

    The session is a connection of its own that does nothing but to renew; a pooler that shares sessions between clients
    (pgbouncer in transaction mode) must not stand between.
    """

    def __init__(self, database: Database, *, idle_s: float = SESSION_IDLE_S) -> None:
        self.database = database
        self.idle_s = idle_s
        self.epoch: int | None = None
        self._session: Connection | None = None
        self._pulse: Pulse | None = None
        self._guard = threading.Lock()

    def try_lead(self) -> int | None:
        """The session lock is had, the server says so now, and its epoch is written; or another has it. OperationalError if the server is
        away. After a lost session the lead is taken back under a new epoch where nobody was quicker."""
        with self._guard:
            if self._pulse is not None and self._pulse.certain() and self._pulse.beat():
                return self.epoch
            self._drop()
            session = self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                sent_at = boot_s()
                epoch = self._elect(session)
            except BaseException:
                _end(session)
                raise
            if epoch is None:
                session.close()
                return None
            self._session, self.epoch = session, epoch
            self._pulse = Pulse(self._renew, self.idle_s - MARGIN_S, period_s=min(PULSE_S, self.idle_s / 4))
            self._pulse.start(sent_at)
            return epoch

    def _elect(self, session: Connection) -> int | None:
        # One statement: at no moment is the lock had by a session that may be silent for longer.
        silent = [f"set_config('{name}', '{round(self.idle_s * 1000)}', false)" for name in SILENT]
        elected = f"SELECT CASE WHEN pg_try_advisory_lock({LEADER_LOCK}) THEN {' || '.join(silent)} END"
        if session.exec_driver_sql(elected).scalar_one() is None:
            return None
        # On the very session that holds the lock: if the server has ended it meanwhile, this cannot commit either.
        session.exec_driver_sql("BEGIN")
        session.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
        epoch = epoch_of(session) + 1
        write_epoch(session, epoch)
        session.exec_driver_sql("COMMIT")
        return epoch

    def _renew(self) -> None:
        session = self._session
        if session is None:
            raise LeadLost("the session was given up")
        session.exec_driver_sql("SELECT 1")

    def still(self) -> bool:
        """The server heard from the session so lately that it cannot have given the lock away."""
        return self._pulse is not None and self._pulse.certain()

    def resign(self) -> None:
        with self._guard:
            self.epoch = None
            self._drop()

    def _drop(self) -> None:
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.stop()
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(SQLAlchemyError):  # at once, not when the server has noticed that we are gone
                session.exec_driver_sql(f"SELECT pg_advisory_unlock({LEADER_LOCK})")
            _end(session)


def _end(session: Connection) -> None:
    """The server's session ends, and its locks with it; one that went back to the pool would keep them."""
    with contextlib.suppress(SQLAlchemyError):
        session.invalidate()
    with contextlib.suppress(SQLAlchemyError):
        session.close()
