"""The platform end to end on both stores: the same acts give the same records, bill and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import app
from api.settings import Settings
from api.wiring import AnotherLeads, build
from metering.audit import audit_connection
from metering.parameters import load_policies
from metering.rule import load_rules
from metering.schema import CHAINED as MONEY
from metering.schema import settlements
from metering.store import trial_balance
from scheduler.database import Database
from scheduler.election import AdvisoryElection
from scheduler.schema import CHAINED as WORK
from scheduler.schema import leases
from tests.api.service import running
from tests.fakes import ScriptedBackend, SetClock
from tests.platform import Platform, job_text, make_platform


def live_through(platform: Platform) -> None:
    """One job ends well, one fails, one is never placed, one runs over a settlement."""
    good = platform.submit("good", job_text("good"))
    bad = platform.submit("bad", job_text("bad", accelerators="H800:4"))
    platform.submit("never", job_text("never", accelerators="Ascend910B3:8", nodes=9))
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(1800)
    platform.beat()
    platform.backend.end(f"{bad}.1", 3)
    platform.loop.tick()
    platform.clock.advance(1801)
    platform.beat()
    platform.backend.end(f"{good}.1", 0)
    platform.loop.tick()


def record_of(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = {name: platform.rows(table) for name, table in sorted({**WORK, **MONEY}.items())}
    with platform.database.read() as tx:
        found["balance"] = trial_balance(tx)
        report = audit_connection(tx, [], load_policies(), load_rules())
    assert report.ok, [law for law in report.laws if not law.ok]
    return found


def test_both_stores_keep_the_very_same_record(tmp_path: Path, postgres_url: str) -> None:
    """Hashes included: a chain written on one is the chain written on the other."""
    one, two = make_platform(tmp_path), make_platform(tmp_path, url=postgres_url)
    for platform in (one, two):
        live_through(platform)
    found = [record_of(platform) for platform in (one, two)]
    assert len(one.rows(settlements)) >= 2, "the flow settles"
    assert found[0] == found[1]
    one.database.close()
    two.database.close()


def test_routes_and_loop_work_on_both_stores(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url) as service:
        job = service.submit()
        service.run_to_end(job)
        assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "SUCCEEDED"
        lines = service.get("firm", f"/v1/statements/jobs/{job}")
        assert lines.status_code == 200, lines.text
        assert len(service.get("operator", "/v1/jobs").json()["items"]) == 1
        trial = service.get("auditor", "/v1/ledger").json()
        assert trial["balanced"]


def test_audit_reads_a_served_database(tmp_path: Path, postgres_url: str) -> None:
    platform = make_platform(tmp_path, url=postgres_url)
    live_through(platform)
    plain = postgres_url.replace("postgresql+psycopg", "postgresql")

    done = CliRunner().invoke(app, ["audit", plain])
    assert done.exit_code == 0, done.output
    export = tmp_path / "export.jsonl"
    assert CliRunner().invoke(app, ["audit", plain, "--export", str(export)]).exit_code == 0
    assert CliRunner().invoke(app, ["audit", str(export)]).exit_code == 0

    with platform.database.write() as tx:
        tx.exec_driver_sql("UPDATE accounts SET debits_posted = debits_posted + 1 WHERE id LIKE 'capsrc:%%'")
    assert CliRunner().invoke(app, ["audit", plain]).exit_code == 1
    platform.database.close()


def test_audit_of_an_empty_or_absent_served_database_says_so(postgres: Any) -> None:
    from metering.audit import NotAuditable, audit

    name = postgres.create("template0")
    with pytest.raises(NotAuditable, match="no table `transfers`"):
        audit(postgres.url(name))
    postgres.drop(name)
    with pytest.raises(NotAuditable, match="does not exist"):
        audit(postgres.url("nowhere"))


def test_a_second_platform_on_the_same_database_refuses_to_start(tmp_path: Path, postgres_url: str) -> None:
    """Each has its own data directory, so the lock file does not stop it; the database does."""

    def start(name: str) -> Any:
        clock = SetClock()
        settings = Settings(
            data_dir=tmp_path / name, ledger="demo", database_url=postgres_url, checkpoint_key=tmp_path / "key"
        )
        return build(settings, clock=clock, backends={"local": ScriptedBackend(clock)})

    first = start("one")
    with pytest.raises(AnotherLeads):
        start("two")
    first.close()
    second = start("two")
    second.close()


def test_the_loop_survives_a_database_that_went_away_for_a_moment(tmp_path: Path, postgres_url: str) -> None:
    """Every session is ended, as a restart does; the next tick finds the server again and the lead with it."""
    with running(tmp_path, postgres_url) as service:
        job = service.submit()
        other = Database(postgres_url)
        with other.read() as tx:
            tx.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert service.services.loop.on_tick is not None
        service.services.loop.on_tick(0.0)
        assert AdvisoryElection(other).try_lead() is None
        other.close()
        service.run_to_end(job)
        assert len(service.services.database.url) > 0
        with service.services.database.read() as tx:
            assert tx.execute(leases.select()).mappings().one()["released_at_ms"] is not None
