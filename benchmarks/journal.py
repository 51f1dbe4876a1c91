"""Jobs from submit to settled per second on SQLite, beside the bare commit rate of the same disk in the same run."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from scheduler.schema import jobs
from tests.platform import Platform, job_text, make_platform

JOBS = 60


def measure() -> dict[str, Any]:
    """{jobs_per_s, commits_per_s (bare, synchronous=FULL), commits_per_job, late_over_early (cost growth)}."""
    with tempfile.TemporaryDirectory() as directory:
        platform = make_platform(Path(directory))
        commits = count_commits(platform)
        halves = []
        for half in range(2):
            began = time.perf_counter()
            for number in range(JOBS // 2):
                one(platform, f"h{half}n{number}")
            halves.append(time.perf_counter() - began)
        assert {row["state"] for row in platform.rows(jobs)} == {"SUCCEEDED"}
        per_job = commits[0] / JOBS
        platform.database.close()
        bare = bare_commits(Path(directory) / "bare.db")
    rate = JOBS / sum(halves)
    return {
        "jobs": JOBS,
        "jobs_per_s": round(rate, 1),
        "commits_per_s": round(bare, 1),
        "commits_per_job": round(per_job, 1),
        "of_ceiling": round(rate * per_job / bare, 2),
        "late_over_early": round(halves[1] / halves[0], 2),
    }


def one(platform: Platform, name: str) -> None:
    job = platform.submit(name, job_text(name))
    platform.loop.tick()
    platform.clock.advance(60)
    platform.beat()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()


def count_commits(platform: Platform) -> list[int]:
    from sqlalchemy import event

    counted = [0]

    @event.listens_for(platform.database.engine, "commit")
    def _count(connection: Any) -> None:
        counted[0] += connection.get_execution_options().get("yisuan_write", False)

    return counted


def bare_commits(path: Path, seconds: float = 2.0) -> float:
    """One-row transactions per second with the same durability and nothing else."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (a)")
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")
        done += 1
    return done / (time.perf_counter() - began)
