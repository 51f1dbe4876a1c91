"""Checkpoints that lie elsewhere: a tail cut off with everything that knew of it is found by a file kept outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from api.cli import main
from metering.audit import NotAuditable, audit, export_database
from metering.checkpoint import keep, load_key, take
from scheduler.database import Database
from tests.platform import Platform, job_text, make_platform


def run(*arguments: str) -> int:
    """One command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def settle(directory: Path, url: str | None = None) -> tuple[Platform, Path]:
    """A platform with one settled job, and a file of checkpoints that is nowhere near its database."""
    platform = make_platform(directory, url=url)
    outside = directory / "elsewhere"
    outside.mkdir()
    file = outside / "kept.jsonl"
    job = platform.submit("a", job_text("a"))
    platform.loop.tick()
    platform.clock.advance(60)
    platform.beat()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    with platform.database.write() as tx:
        keep(tx, file, platform.clock.now(), load_key(outside / "key"))
        platform.clock.advance(10)
    return platform, file


@contextmanager
def forger(url: str) -> Iterator[Connection]:
    """Whoever can write anything in the database."""
    database = Database(url)
    try:
        with database.write() as tx:
            if url.startswith("sqlite"):
                query = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                statements = [f"DROP TRIGGER {name}" for name in tx.execute(query).scalars().all()]
            else:
                statements = [f"ALTER TABLE {name} DISABLE TRIGGER USER" for name in ("facts", "checkpoints")]
            for statement in statements:
                tx.execute(text(statement))
            yield tx
    finally:
        database.close()


def cut(tx: Connection) -> int:
    """The last fact is gone, with its chain's head and every checkpoint in the database; its position."""
    last = int(tx.execute(text("SELECT max(seq) FROM facts")).scalar_one())
    before = tx.execute(text("SELECT hash FROM facts WHERE seq = :seq"), {"seq": last - 1}).scalar_one()
    tx.execute(text("DELETE FROM facts WHERE seq = :seq"), {"seq": last})
    tx.execute(
        text("UPDATE chain_heads SET seq = :seq, hash = :hash WHERE stream = 'facts'"),
        {"seq": last - 1, "hash": before},
    )
    tx.execute(text("DELETE FROM checkpoints"))
    return last


def test_a_tail_cut_after_a_checkpoint_is_found(database_url: str, tmp_path: Path) -> None:
    """On SQLite and on PostgreSQL: without the file the books look whole."""
    platform, file = settle(tmp_path, database_url)
    platform.database.close()
    where = database_url.removeprefix("sqlite:///")
    assert audit(where, checkpoints=[file]).ok
    with forger(database_url) as tx:
        last = cut(tx)

    assert audit(where).ok, "the database alone does not tell"
    found = next(law for law in audit(where, checkpoints=[file]).laws if not law.ok)
    assert (found.law, found.record) == ("checkpoints", f"facts:{last}")


def test_an_export_is_held_against_the_file_too(tmp_path: Path) -> None:
    platform, file = settle(tmp_path)
    platform.database.close()
    with forger(f"sqlite:///{tmp_path / 'yisuan.db'}") as tx:
        last = cut(tx)
    export_database(tmp_path / "yisuan.db", tmp_path / "export.jsonl")

    assert audit(tmp_path / "export.jsonl").ok
    found = next(law for law in audit(tmp_path / "export.jsonl", checkpoints=[file]).laws if not law.ok)
    assert found.record == f"facts:{last}"


def test_the_file_of_another_platform_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, _ = settle(tmp_path / "one")
    two, other = settle(tmp_path / "two")
    with two.database.write() as tx:
        take(tx, other, two.clock.now())
    for platform in (one, two):
        platform.database.close()
    found = next(law for law in audit(tmp_path / "one" / "yisuan.db", checkpoints=[other]).laws if not law.ok)

    assert found.law == "checkpoints"
    assert "platform's key" in str(found.problem) or "kept.jsonl" in f"{found.record}{found.problem}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("", "holds no checkpoint"),
        ("[]\n[]\n", "line 1 is not a checkpoint"),
        ('{"a": 1}\n{"a": 1}\n', "line 1 is not a checkpoint"),
        ("not json\n{}\n", "line 1 is not JSON"),
        ('{"heads": {"facts": 3}, "sha256": "x"}\n', "line 1 is not a checkpoint"),
        ("\xff\xfe", "codec can't decode"),
    ],
)
def test_what_is_no_file_of_checkpoints_is_named(
    tmp_path: Path, content: str | None, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, _ = settle(tmp_path)
    platform.database.close()
    file = tmp_path / "given.jsonl"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(NotAuditable, match=says) as raised:
        audit(tmp_path / "yisuan.db", checkpoints=[file])
    assert str(file) in str(raised.value)

    monkeypatch.setenv("YISUAN_LANG", "en")
    assert run("audit", str(tmp_path / "yisuan.db"), "--checkpoints", str(file)) == 2
    assert str(file) in capsys.readouterr().err


def test_the_command_takes_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform, file = settle(tmp_path)
    platform.database.close()
    copy = tmp_path / "copy.jsonl"
    shutil.copy(file, copy)

    database = str(tmp_path / "yisuan.db")
    assert run("audit", database, "--checkpoints", str(file), "--checkpoints", str(copy)) == 0
    with forger(f"sqlite:///{database}") as tx:
        last = cut(tx)
    assert run("audit", database, "--checkpoints", str(copy)) == 1
    assert f"facts:{last}" in capsys.readouterr().out
