"""Whatever head, network and platform do, a lease is submitted once, and its end is said once and for all.

The head here is a model with the guarantees that ray_head.py relies on: an entry is stored only where there is none of
that name, a package stays, a restart forgets everything and has another session.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.backends import ray as ray_backend
from scheduler.backends.ray import RayBackend
from scheduler.backends.ray_head import HeadAway
from scheduler.lease import Cause, LeaseId, MemberPhase, Observation
from tests.ray.leases import MODEL, lease_of

JOB = lease_of("job", "true", nodes=("n1", "n2"))
ABSENT, EXITED, LOST, STARTING = MemberPhase.ABSENT, MemberPhase.EXITED, MemberPhase.LOST, MemberPhase.STARTING
ROW = {"state": "ALIVE", "labels": {}, "resources_total": {"NPU": 4.0}}


class Model:
    """What the head holds, and how often it took each submission in all its sessions."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.packages: dict[str, bytes] = {}
        self.name, self.away, self.clock_ms = 0, False, 10**12
        self.answers_submission = self.takes_submission = True
        self.taken: Counter[str] = Counter()
        self.nodes_there = ("n1", "n2")

    def _up(self) -> None:
        if self.away:
            raise HeadAway("away")

    def session(self) -> str:
        self._up()
        return f"session{self.name}"

    def job(self, submission: str) -> Mapping[str, Any] | None:
        self._up()
        return self.entries.get(submission)

    def jobs(self) -> tuple[dict[str, Mapping[str, Any]], int]:
        self._up()
        return {name: dict(row) for name, row in self.entries.items()}, self.clock_ms

    def submit(self, submission: str, entrypoint: str, uri: str, metadata: Mapping[str, str]) -> None:
        self._up()
        assert uri.removeprefix("gcs://") in self.packages
        if self.takes_submission and submission not in self.entries:
            self.entries[submission] = {"status": "PENDING", "metadata": dict(metadata), "submission_id": submission}
            self.taken[submission] += 1
        if not (self.takes_submission and self.answers_submission):
            raise HeadAway("timed out")

    def put(self, name: str, content: bytes) -> str:
        self._up()
        self.packages[name] = content
        return f"gcs://{name}"

    def expire(self, name: str) -> None:
        self._up()

    def stop(self, submission: str) -> None:
        self._up()
        self.entries[submission]["status"] = "STOPPED"

    def delete(self, submission: str) -> None:
        self._up()
        self.entries.pop(submission, None)

    def driver_log(self, submission: str) -> str:
        self._up()
        return ""

    def nodes(self) -> list[Mapping[str, Any]]:
        self._up()
        return [{**ROW, "node_name": name, "node_id": name} for name in self.nodes_there]

    def file(self, *_: object, **__: object) -> bytes | None:
        self._up()
        return b""

    # --- what the driver does ---

    def tell(self, submission: str, *members: dict[str, Any]) -> None:
        told = [{"rank": rank, "node": f"n{rank + 1}", **member} for rank, member in enumerate(members)]
        self.entries[submission]["metadata"]["yisuan"] = json.dumps({"members": told, "report": None})


RUNNING_ROW = {"phase": "running", "started_ms": 10**12}
ENDED_ROW = {**RUNNING_ROW, "phase": "exited", "ended_ms": 10**12 + 5, "exit_code": 0}


def backend_over(head: Model, folder: Path, **given: Any) -> RayBackend:
    backend = RayBackend("zone", "http://head:8265", folder, models={"NPU": MODEL}, **given)
    backend.head = head  # type: ignore[assignment]
    return backend


def seen_by(backend: RayBackend) -> Observation:
    backend._listed = None  # as if LIST_S had passed
    (seen,) = backend.observe([JOB.id])
    return replace(seen, now_ms=None)


class Lives(RuleBasedStateMachine):
    """One lease on a head that may go away, forget, answer late or not, under a platform that may restart."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.head = Model()
        self.backend = backend_over(self.head, Path(self.folder.name))
        self.submission = f"yisuan-{JOB.id}"
        self.end: Observation | None = None
        self.acknowledged = self.stopped = self.ran_after_stop = False

    def teardown(self) -> None:
        self.folder.cleanup()

    def _try(self, act: Callable[[], Any]) -> bool:
        try:
            act()
        except ConnectionError:
            return False
        return True

    @rule()
    def launch(self) -> None:
        if self._try(lambda: self.backend.launch(JOB)):
            self.acknowledged = True

    @rule()
    def stop(self) -> None:
        if self._try(lambda: self.backend.stop(JOB.id, grace_ms=0, signal=None)):
            self.stopped = True

    @rule()
    def forget(self) -> None:
        self._try(lambda: self.backend.forget(JOB.id))

    @rule()
    def restart_platform(self) -> None:
        self.backend = backend_over(self.head, Path(self.folder.name))

    @rule(away=st.booleans())
    def go_away(self, away: bool) -> None:
        self.head.away = away

    @rule(takes=st.booleans(), answers=st.booleans())
    def lose_submissions(self, takes: bool, answers: bool) -> None:
        self.head.takes_submission, self.head.answers_submission = takes, answers

    @rule()
    def restart_head(self) -> None:
        self.head.entries, self.head.packages = {}, {}
        self.head.name += 1

    @rule(there=st.sampled_from([("n1", "n2"), ("n1",), ()]))
    def change_nodes(self, there: tuple[str, ...]) -> None:
        self.head.nodes_there = there

    @rule(late=st.integers(0, 20_000))
    def pass_time(self, late: int) -> None:
        self.head.clock_ms += late

    @precondition(lambda self: self.head.entries.get(self.submission, {}).get("status") == "PENDING")
    @rule()
    def start_driver(self) -> None:
        """A driver looks for the request before anything else."""
        row = self.head.entries[self.submission]
        row["status"] = "RUNNING"
        if row["metadata"]["yisuan_stop"] in self.head.packages:
            cancelled = {"phase": "exited", "cause": "cancelled"}
            self.head.tell(self.submission, cancelled, cancelled)
        else:
            self.ran_after_stop |= self.stopped
            self.head.tell(self.submission, RUNNING_ROW, RUNNING_ROW)

    @precondition(lambda self: self.head.entries.get(self.submission, {}).get("status") == "RUNNING")
    @rule(status=st.sampled_from(["SUCCEEDED", "FAILED", "STOPPED"]), tells=st.booleans())
    def end_driver(self, status: str, tells: bool) -> None:
        row = self.head.entries[self.submission]
        if tells and "running" in row["metadata"]["yisuan"]:
            self.head.tell(self.submission, ENDED_ROW, ENDED_ROW)
        row.update(status=status, end_time=self.head.clock_ms)

    @invariant()
    def it_is_taken_once(self) -> None:
        assert self.head.taken[self.submission] <= 1

    @invariant()
    def a_stop_that_was_heeded_keeps_it_from_running(self) -> None:
        assert not self.ran_after_stop

    @invariant()
    def its_end_is_said_once(self) -> None:
        try:
            seen = seen_by(self.backend)
        except ConnectionError:
            assert self.head.away or not self.end
            return
        if self.end is not None:
            assert seen == self.end
        if self.acknowledged:
            assert all(m.phase is not ABSENT for m in seen.members)
        if seen.all_ended:
            self.end = seen


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.fixture
def head() -> Model:
    return Model()


def test_a_job_the_head_forgot_is_not_submitted_again(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    head.entries.clear()
    head.name += 1
    backend.launch(JOB)

    assert head.taken.total() == 1
    assert [m.phase for m in seen_by(backend).members] == [LOST, LOST]


@pytest.mark.parametrize("looks_first", [True, False])
def test_a_submission_without_an_answer_may_have_run_before_the_head_was_restarted(
    head: Model, tmp_path: Path, looks_first: bool
) -> None:
    backend = backend_over(head, tmp_path)
    head.answers_submission = False
    with pytest.raises(ConnectionError):
        backend.launch(JOB)
    head.answers_submission = True
    head.entries.clear()
    head.name += 1
    if looks_first:
        assert [m.phase for m in seen_by(backend).members] == [LOST, LOST]
    assert backend.launch(JOB) is None

    assert head.taken.total() == 1
    assert [m.phase for m in seen_by(backend).members] == [LOST, LOST]


def test_a_submission_without_an_answer_that_never_arrived_is_absent_and_made_again(
    head: Model, tmp_path: Path
) -> None:
    backend = backend_over(head, tmp_path)
    head.takes_submission = False
    with pytest.raises(ConnectionError):
        backend.launch(JOB)
    head.takes_submission = True
    absent = seen_by(backend)
    backend.launch(JOB)

    assert [m.phase for m in absent.members] == [ABSENT, ABSENT]
    assert head.taken.total() == 1


def test_a_job_that_was_deleted_at_the_head_is_not_submitted_again(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    head.entries.clear()
    backend.launch(JOB)

    assert head.taken.total() == 1
    assert [m.phase for m in seen_by(backend).members] == [LOST, LOST]


def test_a_stop_between_two_tries_holds_for_the_second(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    head.takes_submission = False
    with pytest.raises(ConnectionError):
        backend.launch(JOB)
    backend.stop(JOB.id, grace_ms=0, signal=None)
    head.takes_submission = True
    backend.launch(JOB)

    assert head.entries[f"yisuan-{JOB.id}"]["metadata"]["yisuan_stop"] in head.packages


def test_an_entry_goes_when_its_lease_is_forgotten_and_ray_has_done_with_it(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    row = head.entries[f"yisuan-{JOB.id}"]
    head.tell(f"yisuan-{JOB.id}", ENDED_ROW, ENDED_ROW)
    row.update(status="SUCCEEDED", end_time=head.clock_ms)
    other = replace(JOB, id=LeaseId("other.1"))
    backend.launch(other)

    def listed_after(ms: int) -> bool:
        head.clock_ms += ms
        backend._listed = None
        backend.observe([other.id])
        return f"yisuan-{JOB.id}" in head.entries

    seen_by(backend)
    kept = listed_after(60_000)
    head.clock_ms = row["end_time"]
    backend.forget(JOB.id)
    assert (kept, listed_after(5_000), listed_after(1)) == (True, True, False)
    assert seen_by(backend).members[0].exit_code == 0


def test_a_job_that_was_stopped_first_is_never_submitted(head: Model, tmp_path: Path) -> None:
    backend_over(head, tmp_path).stop(JOB.id, grace_ms=0, signal=None)
    backend = backend_over(head, tmp_path)
    absent = seen_by(backend)
    backend.launch(JOB)

    assert [m.phase for m in absent.members] == [ABSENT]
    assert head.taken.total() == 0
    assert [(m.phase, m.cause) for m in seen_by(backend).members] == [(EXITED, Cause.CANCELLED)] * 2


def test_a_stop_the_head_did_not_hear_is_said_again_and_one_it_heard_is_not(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    stop = head.entries[f"yisuan-{JOB.id}"]["metadata"]["yisuan_stop"]
    head.away = True
    with pytest.raises(ConnectionError):
        backend.stop(JOB.id, grace_ms=7, signal="SIGUSR1")
    head.away = False
    backend.stop(JOB.id, grace_ms=8, signal="SIGTERM")
    said = head.packages.pop(stop)
    backend.stop(JOB.id, grace_ms=9, signal=None)

    assert json.loads(said) == {"signal": "SIGUSR1", "grace_ms": 7}
    assert stop not in head.packages


def test_a_job_that_ray_never_starts_is_given_up_and_can_never_start(
    head: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**12]
    monkeypatch.setattr(ray_backend, "_now_ms", lambda: now[0])
    backend = backend_over(head, tmp_path, start_timeout_ms=60_000)
    backend.launch(JOB)
    now[0] += 59_999
    in_time = seen_by(backend)
    now[0] += 1
    asked, late = seen_by(backend), seen_by(backend_over(head, tmp_path, start_timeout_ms=60_000))
    stop = head.entries[f"yisuan-{JOB.id}"]["metadata"]["yisuan_stop"]

    assert [m.phase for m in in_time.members] == [STARTING, STARTING]
    assert [m.phase for m in asked.members] == [STARTING, STARTING]
    assert [(m.phase, m.cause) for m in late.members] == [(LOST, Cause.LAUNCH_FAILED)] * 2
    assert late.members[0].detail == "Ray did not start its job in 60000 ms"
    assert stop in head.packages


def test_a_driver_that_heeds_no_stop_is_ended_by_ray(
    head: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**12]
    monkeypatch.setattr(ray_backend, "_now_ms", lambda: now[0])
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    head.entries[f"yisuan-{JOB.id}"]["status"] = "RUNNING"
    head.tell(f"yisuan-{JOB.id}", RUNNING_ROW, RUNNING_ROW)
    backend.stop(JOB.id, grace_ms=5000, signal=None)
    now[0] += 35_000
    before = seen_by(backend)
    now[0] += 1
    seen_by(backend)
    after = seen_by(backend)

    assert [m.phase for m in before.members] == [MemberPhase.RUNNING] * 2
    assert [(m.phase, m.detail) for m in after.members] == [(LOST, "the Ray job ended: STOPPED")] * 2


def test_an_entry_written_over_does_not_take_back_an_end(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path)
    backend.launch(JOB)
    head.entries[f"yisuan-{JOB.id}"]["status"] = "RUNNING"
    head.tell(f"yisuan-{JOB.id}", ENDED_ROW, RUNNING_ROW)
    first = seen_by(backend)
    head.entries[f"yisuan-{JOB.id}"]["metadata"].pop("yisuan")

    assert seen_by(backend_over(head, tmp_path)) == first


def test_one_list_answers_for_all_leases(head: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_over(head, tmp_path)
    lists = []
    real = head.jobs
    monkeypatch.setattr(head, "jobs", lambda: lists.append(1) or real())
    for number in range(5):
        lease = replace(JOB, id=LeaseId(f"job{number}.1"))
        backend.launch(lease)
    lists.clear()
    backend.observe([LeaseId(f"job{number}.1") for number in range(5)])

    assert len(lists) == 1


def test_the_records_are_of_their_owner_alone(head: Model, tmp_path: Path) -> None:
    backend = backend_over(head, tmp_path / "state")
    backend.launch(JOB)

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / f"{JOB.id}.json").stat().st_mode & 0o777 == 0o600
