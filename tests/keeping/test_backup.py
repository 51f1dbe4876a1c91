"""Backup and restore: one moment, every hash, across stores and revisions; damage is named and nothing half-done."""

from __future__ import annotations

import json
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import MetaData, insert, select
from typer.testing import CliRunner

import api.schema
from api import keeping
from api.cli import app
from api.keeping import Damaged, NotOurs, Occupied, Unlawful, backup, restore, verify
from api.migrations import config_of, known_revisions, revision_of, upgrade
from metering import checkpoint
from metering.audit import Report, audit_connection
from metering.parameters import load_policies
from metering.rule import load_rules
from metering.schema import checkpoints
from scheduler import journal
from scheduler.database import Database
from scheduler.schema import counters, job_events
from tests.fakes import NOON
from tests.keeping.test_platform import live_through
from tests.platform import make_platform
from tests.postgres import Server

EVENT = {"job": "j", "at_ms": 2**52, "event": "e", "state_to": "PENDING", "facts": '{"名":"\\u0000"}'}
Target = Callable[[str], str]


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """The address of a new database of a kind, without any table."""
    made: list[tuple[Server, str]] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'target-{len(list(tmp_path.iterdir()))}.db'}"
        server: Server = request.getfixturevalue("postgres")
        made.append((server, server.create("template0")))
        return server.url(made[-1][1])

    yield make
    for server, name in made:
        server.drop(name)


def lived(tmp_path: Path, url: str) -> Database:
    """A database in which jobs ran and were settled, with bytes, floats, and two checkpoints inside and outside."""
    platform = make_platform(tmp_path, url=url)
    with platform.database.write() as tx:
        checkpoint.take(tx, tmp_path / "checkpoints.jsonl", NOON)
    live_through(platform)
    with platform.database.write() as tx:
        checkpoint.take(tx, tmp_path / "checkpoints.jsonl", NOON)
        row = {"principal": "p", "key": "k", "fingerprint": "f", "body": bytes(range(256)), "created_at_ms": 1}
        tx.execute(insert(api.schema.idempotency), row)
    return platform.database


def rows_of(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with database.read() as tx:
        found = MetaData()
        found.reflect(tx)
        return {
            name: sorted((tuple(row) for row in tx.execute(select(table))), key=repr)
            for name, table in sorted(found.tables.items())
        }


def bring_back(file: Path, database: Database, outside: Path) -> tuple[keeping.Kept, Report]:
    return restore(file, database, checkpoints=outside, registry=load_policies(), rules=load_rules())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_restored_equals_what_was_kept(tmp_path: Path, database_url: str, target: Target, kind: str) -> None:
    """All four ways between the two stores: every table, every value, every hash; and the audit holds."""
    source = lived(tmp_path, database_url)
    file, outside = tmp_path / "b.zip", tmp_path / "restored.jsonl"
    kept = backup(source, file, checkpoints=tmp_path / "checkpoints.jsonl", now=NOON)
    assert file.stat().st_mode & 0o077 == 0, "keys and bills are in it"

    copy = Database(target(kind))
    again, report = bring_back(file, copy, outside)
    assert report.ok
    assert again == kept == verify(file)
    assert rows_of(copy) == rows_of(source)
    assert outside.read_bytes() == (tmp_path / "checkpoints.jsonl").read_bytes()
    assert len(checkpoint.read_file(outside)) == 2
    with copy.write() as tx:  # life goes on: chains, and PostgreSQL's own counters, continue after the last number
        journal.append(tx, job_events, EVENT)
        checkpoint.take(tx, outside, NOON)
    with copy.read() as tx:
        assert list(tx.execute(select(checkpoints.c.id).order_by(checkpoints.c.id)).scalars()) == [1, 2, 3]
    source.close()
    copy.close()


def test_a_backup_is_one_moment_while_a_writer_commits(tmp_path: Path, database_url: str, target: Target) -> None:
    """Each write moves a chain and a counter together; in no archive do they differ, and the writer is not held up."""
    database, writer = Database(database_url), Database(database_url)
    with database.write() as tx:
        tx.execute(insert(counters).values(name="n", value=0))
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            with writer.write() as tx:
                value = tx.execute(select(counters.c.value).where(counters.c.name == "n")).scalar_one()
                tx.execute(counters.update().where(counters.c.name == "n").values(value=value + 1))
                journal.append(tx, job_events, EVENT)
            written.set()

    def inside(_table: str, _rows: int) -> None:
        """Between two tables of a backup the writer commits at least once more."""
        written.clear()
        assert written.wait(30), "the backup holds the writer up"

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            file = tmp_path / f"{number}.zip"
            backup(database, file, checkpoints=tmp_path / "none.jsonl", now=NOON, progress=inside)
            with zipfile.ZipFile(file) as archive:
                events = archive.read("tables/job_events.jsonl").count(b"\n") - 1
                kept = [json.loads(line) for line in archive.read("tables/counters.jsonl").splitlines()[1:]]
                heads = [json.loads(line) for line in archive.read("tables/chain_heads.jsonl").splitlines()[1:]]
            assert kept == [["n", events]]
            assert [head[:2] for head in heads if head[0] == "job_events"] == [["job_events", events]][: bool(events)]
    finally:
        stop.set()
        thread.join()
    database.close()
    writer.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    database = lived(tmp_path, _migrated(tmp_path))
    backup(database, tmp_path / "a.zip", checkpoints=tmp_path / "checkpoints.jsonl", now=NOON)
    database.close()
    return tmp_path / "a.zip"


def _migrated(tmp_path: Path, revision: str = "head") -> str:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    command.upgrade(config_of(database), revision)
    database.close()
    return database.url


def test_any_damaged_byte_is_refused(archive: Path) -> None:
    """Members, headers, directory and seal alike."""
    good = archive.read_bytes()
    chance = random.Random(7)
    places = {0, len(good) - 1, len(good) - 65, *(chance.randrange(len(good)) for _ in range(150))}
    for place in sorted(places):
        archive.write_bytes(good[:place] + bytes([good[place] ^ (1 << chance.randrange(8))]) + good[place + 1 :])
        with pytest.raises(Damaged):
            verify(archive)
    for size in (0, 10, len(good) // 2, len(good) - 1):
        archive.write_bytes(good[:size])
        with pytest.raises(Damaged):
            verify(archive)


def test_the_damaged_member_is_named_and_nothing_is_restored(archive: Path, tmp_path: Path, target: Target) -> None:
    good = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("tables/transfers.jsonl")
    place = info.header_offset + info.compress_size // 2
    archive.write_bytes(good[:place] + bytes([good[place] ^ 8]) + good[place + 1 :])
    database = Database(target("sqlite"))
    with pytest.raises(Damaged) as found:
        bring_back(archive, database, tmp_path / "restored.jsonl")
    assert found.value.member == "tables/transfers.jsonl"
    assert rows_of(database) == {}
    assert not (tmp_path / "restored.jsonl").exists()
    database.close()


def rewrite(archive: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """A forger's archive: members changed, hashes, counts and seal made right again."""
    import hashlib

    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    changed = {name: change(name, data) for name, data in members.items()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in changed.items():
            if data is None:
                continue
            out.writestr(name, data)
            manifest["members"][name]["sha256"] = hashlib.sha256(data).hexdigest()
        out.writestr("manifest.json", json.dumps(manifest))
        out.comment = b"0" * 64
    whole = archive.read_bytes()[:-64]
    archive.write_bytes(whole + hashlib.sha256(whole).hexdigest().encode())


def test_a_forged_archive_fails_the_audit_and_leaves_nothing(archive: Path, tmp_path: Path, target: Target) -> None:
    """Hashes made right again do not help: the chains and the books are recomputed before the commit."""
    rewrite(archive, lambda name, data: data.replace(b"2000000000", b"2000000001") if "transfers" in name else data)
    verify(archive)
    for kind in ("sqlite", "postgresql"):
        database = Database(target(kind))
        with pytest.raises(Unlawful, match="chain of transfers"):
            bring_back(archive, database, tmp_path / "restored.jsonl")
        assert rows_of(database) == {}
        database.close()
    assert not (tmp_path / "restored.jsonl").exists()


@pytest.mark.parametrize(
    ("member", "replace", "problem"),
    [
        ("tables/counters.jsonl", lambda data: None, "do not agree"),
        ("tables/counters.jsonl", lambda data: b"", "columns"),
        ("tables/counters.jsonl", lambda data: data.replace(b'"value"', b'"worth"'), "columns"),
        ("tables/firms.jsonl", lambda data: data + data.splitlines(keepends=True)[1], "cannot be stored"),
        ("tables/firms.jsonl", lambda data: data + b"[1,2]\n", "cannot be stored"),
        ("tables/firms.jsonl", lambda data: data + b"not json\n", "cannot be stored"),
        ("tables/firms.jsonl", lambda data: data.splitlines(keepends=True)[0], "the manifest says"),
        ("schema.json", lambda data: b"[]", "not an object"),
    ],
)
def test_a_malformed_archive_says_which_member(
    archive: Path, tmp_path: Path, target: Target, member: str, replace: Callable[[bytes], bytes | None], problem: str
) -> None:
    rewrite(archive, lambda name, data: replace(data) if name == member else data)
    database = Database(target("sqlite"))
    with pytest.raises(Damaged, match=problem) as found:
        bring_back(archive, database, tmp_path / "restored.jsonl")
    assert found.value.member == member
    assert rows_of(database) == {}
    database.close()


def test_an_archive_of_an_unknown_revision_is_refused(archive: Path, tmp_path: Path, target: Target) -> None:
    rewrite(archive, lambda name, data: data.replace(b'"revision":"', b'"revision":"9') if "schema" in name else data)
    database = Database(target("sqlite"))
    with pytest.raises(NotOurs, match="this version knows 0001"):
        bring_back(archive, database, tmp_path / "restored.jsonl")
    database.close()


def test_an_occupied_target_is_refused(archive: Path, tmp_path: Path, database_url: str) -> None:
    database = Database(database_url)
    with database.write() as tx:
        tx.execute(insert(counters).values(name="n", value=1))
    before = rows_of(database)
    with pytest.raises(Occupied, match="counters"):
        bring_back(archive, database, tmp_path / "restored.jsonl")
    assert rows_of(database) == before
    database.close()


def test_checkpoints_of_another_history_are_not_written_over(archive: Path, tmp_path: Path, target: Target) -> None:
    outside = tmp_path / "theirs.jsonl"
    outside.write_text("{}\n")
    database = Database(target("sqlite"))
    with pytest.raises(Occupied, match=r"theirs\.jsonl"):
        bring_back(archive, database, outside)
    assert outside.read_text() == "{}\n"
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_revision_is_brought_to_this_one(tmp_path: Path, target: Target, kind: str) -> None:
    first = known_revisions()[0]
    source = Database(_migrated(tmp_path, first))
    with source.write() as tx:
        for number in range(1200):  # more than one batch
            tx.exec_driver_sql("INSERT INTO counters (name, value) VALUES (?, ?)", (f"n{number}", number))
    kept = backup(source, tmp_path / "old.zip", checkpoints=tmp_path / "none.jsonl", now=NOON)
    assert kept.revision == first
    copy = Database(target(kind))
    bring_back(tmp_path / "old.zip", copy, tmp_path / "restored.jsonl")
    with copy.read() as tx:
        assert revision_of(tx) == known_revisions()[-1]
        assert len(list(tx.execute(select(counters)))) == 1200
    upgrade(copy)
    source.close()
    copy.close()


def test_a_backup_is_never_written_over_nor_left_half_made(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    before = archive.read_bytes()
    with pytest.raises(FileExistsError):
        backup(database, archive, checkpoints=tmp_path / "none.jsonl", now=NOON)
    assert archive.read_bytes() == before

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "_write_rows", full)
    with pytest.raises(OSError, match="No space"):
        backup(database, tmp_path / "new.zip", checkpoints=tmp_path / "none.jsonl", now=NOON)
    assert [path.name for path in tmp_path.iterdir() if "new.zip" in path.name] == []
    database.close()


def test_a_database_that_was_never_migrated_is_not_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'e.db'}")
    with pytest.raises(NotOurs):
        backup(database, tmp_path / "e.zip", checkpoints=tmp_path / "none.jsonl", now=NOON)
    assert not (tmp_path / "e.zip").exists()
    database.close()


def test_the_commands_keep_and_bring_back(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lived(tmp_path, postgres_url)
    file = tmp_path / "b.zip"
    run = CliRunner().invoke
    monkeypatch.setenv("YISUAN_DATABASE_URL", postgres_url)
    assert run(app, ["backup", str(file), "--data-dir", str(tmp_path)]).exit_code == 0
    monkeypatch.delenv("YISUAN_DATABASE_URL")

    done = run(app, ["restore", str(file), "--data-dir", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    copy = Database(f"sqlite:///{tmp_path / 'new' / 'yisuan.db'}")
    assert rows_of(copy) == rows_of(source)
    with copy.read() as tx:
        outside = [tmp_path / "new" / "checkpoints.jsonl"]
        assert audit_connection(tx, outside, load_policies(), load_rules()).ok
    copy.close()
    source.close()
    failure: Any = run(app, ["restore", str(file), "--data-dir", str(tmp_path / "new")]).exception
    assert failure.code == 2, "occupied"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    failure = run(app, ["restore", str(file), "--data-dir", str(tmp_path / "other")]).exception
    assert failure.code == 1, "damaged"
