"""Many processes on one database: routes anywhere, one loop, answers never old, readiness that is true, an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from api import leadership
from api.app import create_app
from api.cli import app as cli
from api.local_jobs import LocalJobs
from api.migrations import known_revisions
from api.problems import Problem
from api.published import Published, Round
from api.settings import Settings
from api.standby import Either, Standby
from api.wiring import Services, WrongKey, assemble, build
from scheduler.database import Database
from scheduler.election import LeadLost
from scheduler.lease import LeaseId
from scheduler.schema import counters, devices, nodes
from tests.api.service import JOB, PROVIDER, Service, running
from tests.fakes import ScriptedBackend, SetClock
from tests.postgres import NoPostgres, Server, running_postgres

WAIT_S = 60.0


def another(service: Service, directory: Path, **more: Any) -> Services:
    """One more process on the service's database, with its own data directory and the shared key."""
    settings = service.services.settings
    given = {
        "data_dir": directory,
        "database_url": settings.database_url,
        "checkpoint_key": settings.data_dir / "checkpoint.key",
        "identity": "another",
    }
    return assemble(Settings(**{**given, **more}), clock=service.clock, backends={"local": service.backend})


@contextlib.contextmanager
def replica(service: Service, directory: Path, **more: Any) -> Iterator[tuple[Services, Any]]:
    services = another(service, directory, **more)
    yield services, TestClient(create_app(services))
    services.close()


# --- routes anywhere ----------------------------------------------------------------------------------------------


def test_a_replica_serves_and_writes_what_routes_write_and_the_loop_goes_on(tmp_path: Path, database_url: str) -> None:
    """It never led; what the loop writes is fenced, what routes write is not."""
    with running(tmp_path, database_url) as service, replica(service, tmp_path / "r", role="api") as (there, client):
        service.client, here = client, service.client
        job = service.submit()
        assert there.election.epoch is None
        service.client = here
        assert service.get("firm", f"/v1/jobs/{job}").json()["id"] == job
        service.run_to_end(job)
        headers = service.headers("firm")
        assert client.get(f"/v1/jobs/{job}", headers=headers).json()["state"] == "SUCCEEDED"
        with pytest.raises(LeadLost), there.books.write():
            pass


def test_a_post_repeated_at_another_replica_has_one_effect(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path, postgres_url) as service, replica(service, tmp_path / "r") as (_, client):
        first = service.post("firm", "/v1/jobs", JOB, key="same", kind="application/yaml")
        headers = service.headers("firm", Idempotency_Key="same", Content_Type="application/yaml")
        again = client.post("/v1/jobs", content=JOB, headers=headers)
        assert again.status_code == 201
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"


def test_replicas_of_one_database_seal_with_one_key(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path, postgres_url) as service:
        with pytest.raises(WrongKey, match="sealed by"):
            another(service, tmp_path / "r", checkpoint_key=None)
        another(service, tmp_path / "r").close()


def test_output_that_is_on_another_host_is_not_shown_as_none(service: Service) -> None:
    """Where the loop's local jobs live is in the database; a replica with another data directory says so."""
    shown = LocalJobs(service.backend, service.services.database, "there")
    assert shown.logs(LeaseId("a.1"), 0, offset=0, limit=1) == b"", "no loop with local jobs has led: nothing to say"
    with service.services.database.write() as tx:
        assert leadership.move_home(tx, "here")
    with pytest.raises(Problem, match="LOGS_ELSEWHERE"):
        shown.logs(LeaseId("a.1"), 0, offset=0, limit=1)
    assert (
        LocalJobs(service.backend, service.services.database, "here").logs(LeaseId("a.1"), 0, offset=0, limit=1) == b""
    )


# --- one loop -----------------------------------------------------------------------------------------------------


def test_the_next_loop_goes_on_with_what_the_first_one_began(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path, postgres_url) as service:
        job = service.submit()
        service.services.loop.tick()
        there = another(service, tmp_path / "r")
        assert not there.lead()
        service.services.resign()
        assert there.lead()
        there.loop.tick()
        service.clock.advance(600)
        service.backend.end(f"{job}.1", 0)
        there.loop.tick()
        assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "SUCCEEDED"
        assert service.backend.launches == [f"{job}.1"]
        there.close()


def test_a_deposed_loop_does_nothing_and_stands_by(tmp_path: Path, postgres_url: str) -> None:
    """Its session is gone and another leads: nothing is launched, nothing written, and it knows after that round."""
    with running(tmp_path, postgres_url) as service, replica(service, tmp_path / "r") as (there, _):
        job = service.submit()
        end_sessions(postgres_url)
        assert there.lead()
        with pytest.raises(LeadLost):
            service.services.loop.tick()
        assert service.backend.launches == []
        assert service.services.loop.on_tick is not None
        service.services.loop.on_tick(0.0)
        assert service.services.lost.is_set()
        there.loop.tick()
        assert service.backend.launches == [f"{job}.1"]


def end_sessions(url: str) -> None:
    """As a restart of the server does."""
    other = Database(url)
    with other.read() as tx:
        tx.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    other.close()


def test_a_loop_does_not_lead_while_local_jobs_run_under_another_directory(service: Service) -> None:
    """It could not see them, and would start them a second time."""
    database = service.services.database
    with database.write() as tx:
        assert leadership.move_home(tx, "here")
    job = service.submit()
    service.services.loop.tick()
    with database.write() as tx:
        assert not leadership.move_home(tx, "there")
        assert leadership.local_home(tx) == "here"
    service.run_to_end(job)
    with database.write() as tx:
        assert leadership.move_home(tx, "there"), "nothing runs there any more"


def test_a_standby_leads_when_the_leader_resigns_and_resigns_when_told_to_end(
    tmp_path: Path, database_url: str
) -> None:
    with running(tmp_path, database_url) as service:
        data = service.services.settings.data_dir if database_url.startswith("sqlite") else tmp_path / "r"
        there = another(service, data)
        stop = threading.Event()
        thread = threading.Thread(target=Standby(there).run, args=(stop,))
        thread.start()
        try:
            assert there.election.epoch is None
            service.services.resign()
            until = time.monotonic() + WAIT_S
            while there.loop.ticked_at is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            with there.database.read() as tx:
                leader = leadership.leader_of(tx)
            assert leader is not None
            assert leader.who == "another"
        finally:
            stop.set()
            thread.join(WAIT_S)
        assert not thread.is_alive()
        assert service.services.lead(), "it was given up at once"
        there.close()


def test_either_is_set_by_each_of_two(tmp_path: Path) -> None:
    first, second = threading.Event(), threading.Event()
    both = Either(first, second)
    assert not both.is_set()
    assert not both.wait(0.0)
    second.set()
    assert both.is_set()
    assert both.wait(0.0)
    second.clear()
    first.set()
    assert both.is_set()
    assert both.wait(60)


# --- readiness ----------------------------------------------------------------------------------------------------


def why(client: Any) -> list[str]:
    """The reasons a process gives; none if it is ready."""
    answer = client.get("/readyz")
    if answer.status_code == 200:
        return []
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "NOT_READY"
    return [one["code"] for one in answer.json()["errors"]]


def test_every_process_knows_whether_the_loop_is_alive(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url) as service, replica(service, tmp_path / "r", role="api") as (_, client):
        assert why(client) == ["READY_LOOP"]
        service.services.loop.tick()
        assert service.services.loop.on_tick is not None
        service.services.loop.on_tick(0.0)
        assert why(client) == []
        loop = client.get("/readyz").json()["loop"]
        assert loop["who"] == service.services.settings.identity
        assert not loop["here"]
        assert service.get(None, "/readyz").json()["loop"]["here"]
        service.clock.advance(leadership.QUIET.total_seconds() + 1)
        assert why(client) == why(service.client) == ["READY_LOOP"]
        assert client.get("/healthz").status_code == 200


def test_a_takeover_that_takes_its_time_leaves_the_others_ready(tmp_path: Path, postgres_url: str) -> None:
    """10 s without a round are no reason to send nobody any request: the last round is the predecessor's."""
    with running(tmp_path, postgres_url) as service, replica(service, tmp_path / "r") as (there, client):
        service.services.loop.tick()
        assert service.services.loop.on_tick is not None
        service.services.loop.on_tick(0.0)
        service.services.resign()
        service.clock.advance(10)
        assert why(client) == []
        assert there.lead()
        assert why(client) == []


def test_a_process_that_is_about_to_end_is_not_ready_and_answers_on(service: Service) -> None:
    service.services.loop.tick()
    assert why(service.client) == []
    service.services.draining.set()
    assert why(service.client) == ["READY_STOPPING"]
    assert service.get("firm", "/v1/jobs").status_code == 200


@pytest.mark.parametrize(("word", "expected"), [(None, ["READY_SCHEMA"]), (int(known_revisions()[-1]), [])])
def test_a_process_is_ready_on_a_newer_schema_only_where_that_allows_it(
    service: Service, word: int | None, expected: list[str]
) -> None:
    """The new version has migrated while this one serves."""
    service.services.loop.tick()
    with service.services.database.write() as tx:
        tx.exec_driver_sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        if word is not None:
            tx.execute(counters.insert().values(name="schema_compatible_from:9999", value=word))
    assert why(service.client) == expected
    if not expected:
        service.run_to_end(service.submit())


def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    try:
        with running_postgres() as server:
            url = server.url(server.create())
            clock = SetClock()
            services = build(Settings(data_dir=tmp_path, ledger="demo", database_url=url), clock=clock,
                             backends={"local": ScriptedBackend(clock)})  # fmt: skip
            client = TestClient(create_app(services))
            services.loop.tick()
            assert why(client) == []
            server.kill()
            assert why(client) == ["READY_DATABASE"]
            assert client.get("/healthz").status_code == 200
            services.close()
    except NoPostgres as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


def test_doctor_says_who_leads_and_when_it_has_ended(tmp_path: Path, database_url: str) -> None:
    environment = {"YISUAN_DATA_DIR": str(tmp_path / "data"), "YISUAN_DATABASE_URL": database_url, "YISUAN_LANG": "en"}

    def told() -> str:
        return CliRunner().invoke(cli, ["doctor"], env=environment).output

    assert "none has run on this database yet" in told()
    backend = ScriptedBackend(SetClock())
    settings = Settings(data_dir=tmp_path / "data", ledger="demo", database_url=database_url, identity="first")
    services = build(settings, backends={"local": backend})
    assert services.loop.on_tick is not None
    services.loop.on_tick(0.0)
    assert "✓ loop first, since" in told()
    services.close()
    assert "loop: none; first ended in order" in told()


@pytest.mark.parametrize("command", [["migrate"], ["serve"], ["loop"]])
def test_a_command_of_an_older_version_says_that_the_database_is_newer(
    tmp_path: Path, database_url: str, command: list[str]
) -> None:
    database = Database(database_url)
    with database.write() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    environment = {"YISUAN_DATA_DIR": str(tmp_path / "data"), "YISUAN_DATABASE_URL": database_url}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "yisuan"), "--lang", "en", *command],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "belongs to a newer version" in done.stderr
    assert "9999" in done.stderr


# --- what is published --------------------------------------------------------------------------------------------


def free(client: Any, pool: str = "ascend") -> int:
    items = client.get("/v1/listings").json()["items"]
    return next(int(item["devices_free"]) for item in items if item["id"] == pool)


def test_no_answer_of_any_replica_is_older_than_its_request(tmp_path: Path, database_url: str) -> None:
    """Whoever commits, through the platform or past it, the next answer everywhere has it."""
    with running(tmp_path, database_url) as service, replica(service, tmp_path / "r", role="api") as (there, client):
        for expected in (8, 0):
            assert free(client) == free(service.client) == expected + 8
            service.submit()
            service.services.loop.tick()
        assert free(client) == free(service.client) == 0
        tag = client.get("/v1/listings").headers["etag"]
        assert client.get("/v1/listings", headers={"If-None-Match": tag}).status_code == 304
        with service.services.database.write() as tx:
            tx.execute(devices.delete().where(devices.c.node == "h800-1"))
        assert client.get("/v1/listings", headers={"If-None-Match": tag}).status_code == 200
        assert free(client, "h800") == 8
        assert there.election.epoch is None


def test_what_changes_with_time_alone_changes_in_time(service: Service) -> None:
    """Nothing is committed: nodes fall silent, a paper ends."""
    assert service.get(None, "/v1/listings").json()["items"][0]["energy_papers"]
    last = int(service.clock.now().timestamp() * 1000)
    with service.services.database.write() as tx:
        tx.execute(nodes.update().where(nodes.c.id == "ascend-1").values(heartbeat_at_ms=last - 59_000))
        tx.execute(nodes.update().where(nodes.c.id == "ascend-2").values(heartbeat_at_ms=last - 30_000))
    assert free(service.client) == 16
    service.clock.advance(1)
    assert free(service.client) == 16, "a minute is not yet over"
    service.clock.advance(0.001)
    assert free(service.client) == 8
    service.clock.advance(30)
    assert free(service.client) == 0
    until = service.clock.now() + timedelta(seconds=5)
    body = {"subject_kind": "site", "subject": "bj2", "fact": "energy_review", "from": "2024-03-28T00:00:00+08:00",
            "to": until.isoformat()}  # fmt: skip
    service.post("operator", "/v1/sites", {"id": "bj2", "provider": PROVIDER, "name": "s", "region": "beijing"})
    for fact in ("energy_review", "energy_report"):
        assert service.post("operator", "/v1/facts", {**body, "fact": fact}).status_code == 201
    pool = {"id": "paper", "provider": PROVIDER, "site": "bj2", "region": "beijing", "vendor": "nvidia", "model": "H800",
            "source": "simulated", "price_fen_per_device_hour": 1}  # fmt: skip
    assert service.post("operator", "/v1/pools", pool).status_code == 201

    def papers() -> bool:
        return bool(service.get(None, "/v1/listings/paper").json()["energy_papers"])

    assert papers()
    service.clock.advance(4.999)
    assert papers()
    service.clock.advance(0.001)
    assert not papers()


def test_the_listings_are_made_once_for_as_long_as_nothing_changes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: Published = service.client.app.state.published
    first = published.look()
    assert published.look() is first
    with service.services.database.write() as tx:
        tx.execute(counters.insert().values(name="n", value=1))
    assert published.look() is not first


def test_requests_that_come_together_are_answered_by_one_look_that_began_after_them() -> None:
    """Law: what answers a request was read after the request came. One that goes away takes nobody with it."""
    asked, looks = [0], []

    def look() -> Any:
        looks.append(asked[0])
        time.sleep(0.01)
        return looks[-1]

    async def one(round_: Round) -> tuple[int, Any]:
        asked[0] += 1
        return asked[0], await round_.join()

    async def all_of_them() -> list[Any]:
        round_ = Round(asyncio.get_running_loop(), look)
        tasks = []
        for number in range(60):
            tasks.append(asyncio.create_task(one(round_)))
            await asyncio.sleep(0.001)
            if number % 7 == 3:
                tasks[-1].cancel()
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        return found

    found = asyncio.run(all_of_them())
    answered = [one for one in found if not isinstance(one, BaseException)]
    assert len(answered) >= 60 - 9
    assert all(read >= came for came, read in answered)
    assert 1 < len(looks) < 60


def test_a_look_that_fails_fails_for_those_who_waited_for_it_and_nobody_else() -> None:
    outcomes = iter([ZeroDivisionError(), None])

    def look() -> Any:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    async def twice() -> list[Any]:
        round_ = Round(asyncio.get_running_loop(), look)
        first = await asyncio.gather(round_.join(), round_.join(), return_exceptions=True)
        found: list[Any] = [*first, await round_.join()]
        return found

    found = asyncio.run(twice())
    assert [type(one) for one in found] == [ZeroDivisionError, ZeroDivisionError, type(None)]


# --- those who watch ----------------------------------------------------------------------------------------------


def test_a_watcher_is_told_that_this_process_ends_and_where_it_may_go_on(service: Service) -> None:
    """Not a broken connection: an event of its own, after which the client comes again with the last id it had."""
    job = service.submit()
    service.services.draining.set()
    headers = service.headers("firm", Accept="text/event-stream")
    told = service.client.get(f"/v1/jobs/{job}/events", headers=headers).text
    assert told.endswith("event: closing\nretry: 500\ndata: {}\n\n")
    assert re.findall(r"^id: (\d+)$", told, re.MULTILINE), "what had happened was told before"


def test_the_tailer_outlives_a_database_that_is_away_for_a_moment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    tailer = service.client.app.state.tailer
    failures = iter([OperationalError("SELECT", None, RuntimeError("away"))] * 3)
    real = tailer._read

    def read() -> int:
        problem = next(failures, None)
        if problem is not None:
            raise problem
        return int(real())

    tailer.watch()
    monkeypatch.setattr(tailer, "_read", read)
    before = tailer.latest
    service.submit()
    until = time.monotonic() + WAIT_S
    while tailer.latest == before:
        assert time.monotonic() < until, "nobody watches any more"
        time.sleep(0.01)


# --- real processes -----------------------------------------------------------------------------------------------


@dataclass
class Up:
    """A `yisuan serve` of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ready(self) -> dict[str, Any]:
        """The answer of /readyz, once it is 200."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{self.url}/readyz")
                if answer.status_code == 200:
                    return dict(answer.json())
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """serve(name, role, url, **environment) → Up; every one of them is gone afterwards."""
    made: list[Up] = []

    def start(name: str, role: str, url: str, **more: str) -> Up:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        environment = {**os.environ, "YISUAN_DATABASE_URL": url, "YISUAN_DATA_DIR": str(tmp_path / "data"),
                       "YISUAN_IDENTITY": name, "YISUAN_LEDGER": "demo", "YISUAN_LANG": "en", **more}  # fmt: skip
        log = tmp_path / f"{name}.log"
        words = [str(Path(sys.executable).parent / "yisuan"), "serve", "--role", role, "--port", str(port)]
        with log.open("wb") as out:
            process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)
        made.append(Up(process, f"http://127.0.0.1:{port}", log))
        return made[-1]

    yield start
    for up in made:
        if up.process.poll() is None:
            up.process.kill()
        up.process.wait()


def test_processes_that_start_together_on_an_empty_database_are_one_platform(postgres: Server, serve: Any) -> None:
    """They migrate, open the ledger, mint the first keys and elect: each of it once."""
    name = postgres.create("template0")
    ups = [serve(f"p{number}", role, postgres.url(name)) for number, role in enumerate(["all", "all", "api"])]
    leaders = {up.ready()["loop"]["who"] for up in ups}
    assert len(leaders) == 1
    assert leaders < {"p0", "p1"}
    assert sum(up.log.read_text().count("operator") for up in ups) == 1, "one process minted and showed the keys"
    for up in ups:
        up.process.send_signal(signal.SIGTERM)
    assert [up.process.wait(WAIT_S) for up in ups] == [0, 0, 0]
    postgres.drop(name)


def test_the_end_of_the_leader_is_in_order(postgres_url: str, serve: Any) -> None:
    """SIGTERM: not ready at once though still listening, watchers are told, the lead goes to the other, exit 0."""
    old = serve("old", "all", postgres_url, YISUAN_DRAIN_S="3")
    assert old.ready()["loop"]["here"]
    new = serve("new", "all", postgres_url)
    assert not new.ready()["loop"]["here"]
    key = re.findall(r"yk_\S+", old.log.read_text())[0]
    old.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + WAIT_S
    while httpx.get(f"{old.url}/readyz").status_code == 200:
        assert time.monotonic() < until
    assert [one["code"] for one in httpx.get(f"{old.url}/readyz").json()["errors"]] == ["READY_STOPPING"]
    assert httpx.get(f"{old.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    while not new.ready()["loop"]["here"]:
        assert time.monotonic() < until
    assert old.process.wait(WAIT_S) == 0


def test_two_processes_share_a_sqlite_file_and_one_follows_the_other(tmp_path: Path, serve: Any) -> None:
    url = f"sqlite:///{tmp_path / 'yisuan.db'}"
    first = serve("first", "all", url)
    assert first.ready()["loop"]["here"]
    second = serve("second", "all", url)
    assert not second.ready()["loop"]["here"]
    first.process.kill()
    until = time.monotonic() + WAIT_S
    while not second.ready()["loop"]["here"]:
        assert time.monotonic() < until
        time.sleep(0.05)
