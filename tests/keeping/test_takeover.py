"""Who is the loop: three elections with one contract, and the fence that no deposed loop gets past."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from scheduler import journal
from scheduler.backends.kubernetes_api import ClusterApi
from scheduler.database import Database
from scheduler.election import (
    AdvisoryElection,
    Election,
    FileElection,
    LeadLost,
    Pulse,
    boot_s,
    epoch_of,
    fence_of,
    write_epoch,
)
from scheduler.guard import Guarded
from scheduler.kubernetes_lease import LeaseElection
from scheduler.lease import LeaseId
from scheduler.schema import job_events, leases
from tests.kubernetes.plane import NoPlane, Plane
from tests.platform import Platform, job_text

ROOT = Path(__file__).parents[2]
EVENT = {"job": "j", "at_ms": 2**52, "event": "e", "state_to": "PENDING", "facts": "{}"}
NAMES = itertools.count(1)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    """A control plane for the elections by Lease objects."""
    try:
        made = Plane()
    except NoPlane as reason:
        pytest.skip(str(reason))
    with made:
        yield made


@pytest.fixture(params=["file", "advisory", "lease"])
def elect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], tuple[Database, Election]]]:
    """A process more on the same database, each time it is called; all of the same kind."""
    kind, number, made = request.param, next(NAMES), []
    if kind == "lease":
        pytest.importorskip("kubernetes", reason="no Kubernetes client: install yisuan[kubernetes]")
    url = request.getfixturevalue("postgres_url") if kind == "advisory" else _sqlite(tmp_path)
    api = ClusterApi(str(request.getfixturevalue("plane").kubeconfig)) if kind == "lease" else None

    def one() -> tuple[Database, Election]:
        database = Database(url)
        election: Election
        if kind == "file":
            election = FileElection(database, tmp_path / "loop.lock")
        elif kind == "advisory":
            election = AdvisoryElection(database)
        else:
            assert api is not None
            holder = f"loop-{next(NAMES)}"
            election = LeaseElection(database, api, namespace="default", name=f"loop-of-{number}", holder=holder)
        made.append((database, election))
        return database, election

    yield one
    for database, election in made:
        election.resign()
        database.close()


def _sqlite(tmp_path: Path) -> str:
    from api.migrations import upgrade

    url = f"sqlite:///{tmp_path / 'yisuan.db'}"
    database = Database(url)
    upgrade(database)
    database.close()
    return url


Elect = Callable[[], tuple[Database, Election]]


def test_one_process_leads_and_asking_again_changes_nothing(elect: Elect) -> None:
    (database, first), (_, second) = elect(), elect()
    assert not first.still()
    epoch = first.try_lead()
    assert epoch
    assert first.still()
    assert first.try_lead() == epoch
    assert second.try_lead() is None
    assert not second.still()
    with database.read() as tx:
        assert epoch_of(tx) == epoch


def test_who_resigns_is_followed_at_once_and_by_a_greater_epoch(elect: Elect) -> None:
    (_, first), (_, second) = elect(), elect()
    before = first.try_lead()
    first.resign()
    assert not first.still()
    after = second.try_lead()
    assert before
    assert after
    assert after > before
    assert first.try_lead() is None
    second.resign()
    again = first.try_lead()
    assert again
    assert again > after


def test_resigning_without_the_lead_takes_it_from_nobody(elect: Elect) -> None:
    (_, first), (_, second) = elect(), elect()
    assert first.try_lead()
    second.resign()
    assert first.try_lead() is not None
    assert second.try_lead() is None


def test_a_deposed_loop_commits_nothing_and_routes_do(elect: Elect) -> None:
    """The fence is in the transaction: it holds whatever the deposed process believes."""
    (database, first), (other, second) = elect(), elect()
    fenced = database.fenced(fence_of(first))
    assert first.try_lead()
    with fenced.write() as tx:
        journal.append(tx, job_events, EVENT)
    believed = first.epoch
    first.resign()
    assert second.try_lead()
    first.epoch = believed
    with pytest.raises(LeadLost), fenced.write() as tx:
        journal.append(tx, job_events, EVENT)
    with database.write() as tx:  # a route of the deposed process
        journal.append(tx, job_events, EVENT)
    with other.fenced(fence_of(second)).write() as tx:
        assert journal.append(tx, job_events, EVENT) == 3


def test_who_never_led_is_fenced_off(elect: Elect) -> None:
    database, election = elect()
    with pytest.raises(LeadLost), database.fenced(fence_of(election)).write():
        pass


def test_of_many_that_ask_at_once_one_leads(elect: Elect) -> None:
    many = [elect()[1] for _ in range(5)]
    start, found = threading.Barrier(len(many)), []

    def ask(election: Election) -> None:
        start.wait(WAIT_S)
        found.append(election.try_lead())

    threads = [threading.Thread(target=ask, args=(election,)) for election in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([epoch for epoch in found if epoch is not None]) == 1
    assert sum(election.still() for election in many) == 1


def test_an_epoch_that_comes_late_is_not_written(database_url: str) -> None:
    """A process that got its number, froze, and wakes after another one got a greater one."""
    database = Database(database_url)
    with database.write() as tx:
        assert write_epoch(tx, 5)
        assert not write_epoch(tx, 5)
        assert not write_epoch(tx, 4)
        assert epoch_of(tx) == 5
        assert write_epoch(tx, 9)
    database.close()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_a_lost_session_is_noticed_and_the_lead_taken_back_where_nobody_was_quicker(postgres_url: str) -> None:
    first, other = Database(postgres_url), Database(postgres_url)
    election = AdvisoryElection(first)
    before = election.try_lead()
    _end_leader(other)
    after = election.try_lead()
    assert before is not None
    assert after == before + 1
    assert AdvisoryElection(other).try_lead() is None
    election.resign()
    for database in (first, other):
        database.close()


def test_a_loop_whose_session_ended_is_fenced_off_once_another_leads(postgres_url: str) -> None:
    first, second, other = Database(postgres_url), Database(postgres_url), Database(postgres_url)
    old, new = AdvisoryElection(first), AdvisoryElection(second)
    fenced = first.fenced(fence_of(old))
    assert old.try_lead()
    _end_leader(other)
    with fenced.write() as tx:  # nobody took over: no harm done
        journal.append(tx, job_events, EVENT)
    assert new.try_lead()
    with pytest.raises(LeadLost), fenced.write() as tx:
        journal.append(tx, job_events, EVENT)
    assert old.try_lead() is None
    assert not old.still()
    new.resign()
    for database in (first, second, other):
        database.close()


FROZEN = """
import sys, threading
from scheduler.database import Database
from scheduler.election import AdvisoryElection, fence_of
database = Database(sys.argv[1], writer_idle_s=1.5)
election = AdvisoryElection(database, idle_s=1.5)
books = database.fenced(fence_of(election))
assert election.try_lead() == 1
with books.write() as tx:
    tx.exec_driver_sql("UPDATE counters SET value = value + 100 WHERE name = 'loop_epoch'")
    print("leads", flush=True)
    sys.stdin.readline()
"""


def test_a_frozen_leader_is_followed_and_what_it_was_writing_is_gone(postgres_url: str) -> None:
    """SIGSTOP inside a transaction: its kernel goes on answering, but the server hears nothing and gives both locks away."""
    code = [sys.executable, "-c", FROZEN, postgres_url]
    child = subprocess.Popen(code, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"leads\n"
        os.kill(child.pid, 19)
        database = Database(postgres_url)
        election = AdvisoryElection(database)
        until = time.monotonic() + WAIT_S
        while election.try_lead() is None:
            assert time.monotonic() < until, "nobody follows a frozen loop"
            time.sleep(0.05)
        assert election.epoch == 2
        os.kill(child.pid, 18)
        _, said = child.communicate(b"\n", timeout=WAIT_S)
        assert child.returncode != 0
        assert b"OperationalError" in said
        with database.read() as tx:
            assert epoch_of(tx) == 2
        election.resign()
        database.close()
    finally:
        child.kill()
        child.wait()


def test_a_leader_stops_trusting_its_lead_before_the_server_gives_it_away(postgres_url: str) -> None:
    """The renewals fail to come (a network that is cut): by its own clock alone it is not certain any more."""
    database = Database(postgres_url)
    election = AdvisoryElection(database, idle_s=1.5)
    assert election.try_lead()
    assert election._pulse is not None
    election._pulse.renew = _never  # as an answer that does not come
    until = time.monotonic() + WAIT_S
    while election.still():
        assert time.monotonic() < until
        time.sleep(0.01)
    second = Database(postgres_url)
    assert AdvisoryElection(second).try_lead() is None, "the server still holds the lock for it"
    election.resign()
    for each in (database, second):
        each.close()


def _never() -> None:
    threading.Event().wait(1.2)


def _end_leader(database: Database) -> None:
    """The session that holds the leader's lock is ended by the server, and gone when this returns."""
    with database.read() as tx:
        ended = tx.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        assert list(ended.scalars()) == [True]


# --- the pulse ----------------------------------------------------------------------------------------------------


def test_certainty_counts_from_when_the_renewal_was_sent() -> None:
    pulse = Pulse(_never, 0.2)
    pulse.certain_until = boot_s() + 60
    assert pulse.beat()
    assert not pulse.certain(), "the answer took longer than the lead lasts"


def test_one_failed_renewal_ends_nothing_that_is_still_certain() -> None:
    def fail() -> None:
        raise ConnectionError

    pulse = Pulse(fail, 0.2)
    pulse.certain_until = boot_s() + 60
    assert pulse.beat()
    assert pulse.certain()
    pulse.certain_until = boot_s() - 1
    assert not pulse.beat()


# --- the guard ----------------------------------------------------------------------------------------------------


class Told:
    """An election of a test's own will."""

    def __init__(self) -> None:
        self.epoch: int | None = 1
        self.certain = True

    def try_lead(self) -> int | None:
        return self.epoch

    def still(self) -> bool:
        return self.certain

    def resign(self) -> None:
        self.epoch = None


def guarded(platform: Platform, after: Callable[[], None] = lambda: None) -> tuple[Guarded, Told]:
    """The platform's backend behind a guard; after: what happens while a launch is under way."""
    told = Told()
    with platform.database.write() as tx:
        write_epoch(tx, 1)

    class Slow:
        name = "local"

        def __getattr__(self, name: str) -> Any:
            return getattr(platform.backend, name)

        def launch(self, lease: Any) -> Any:
            refusal = platform.backend.launch(lease)
            after()
            return refusal

    return Guarded(Slow(), told, platform.database), told


@pytest.mark.parametrize("how", ["by its own clock", "by the database"])
def test_nothing_is_done_at_a_backend_without_the_lead(platform: Platform, how: str) -> None:
    guard, told = guarded(platform)
    if how == "by the database":
        with platform.database.write() as tx:
            write_epoch(tx, 2)
    else:
        told.certain = False
    deeds: list[Callable[[], object]] = [
        lambda: guard.launch(None),  # type: ignore[arg-type]
        lambda: guard.stop(LeaseId("a.1"), grace_ms=0, signal=None),
        lambda: guard.forget(LeaseId("a.1")),
    ]
    for deed in deeds:
        with pytest.raises(LeadLost):
            deed()
    assert platform.backend.launches == []


def test_a_launch_of_a_lease_that_was_over_meanwhile_is_taken_back(platform: Platform) -> None:
    """The one deed a frozen loop can still do: the lease was released while it slept between the look and the launch."""
    job = platform.submit("late", job_text("late"))
    guard, told = guarded(platform, lambda: _released(platform, told))
    platform.loop.dispatch.backends = {"local": guard}
    platform.loop.tick()
    assert platform.backend.stops == [(f"{job}.1", 0, None)]


def test_a_launch_of_a_lease_that_still_holds_is_the_next_loop_s_to_keep(platform: Platform) -> None:
    """Launching twice is launching once: it is left to run."""
    platform.submit("kept", job_text("kept"))
    guard, told = guarded(platform, lambda: setattr(told, "certain", False))
    platform.loop.dispatch.backends = {"local": guard}
    platform.loop.tick()
    assert len(platform.backend.launches) == 1
    assert platform.backend.stops == []


def _released(platform: Platform, told: Told) -> None:
    told.certain = False
    with platform.database.write() as tx:
        assert tx.execute(leases.update().values(released_at_ms=1)).rowcount == 1
