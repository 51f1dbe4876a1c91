"""The audit finds a one-fen edit, a removed middle record and a removed tail, and names the record."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from metering import checkpoint
from metering.audit import NotAuditable, audit, write_export
from tests.platform import job_text, make_platform

FEN_COLUMNS = [
    ("transfers", "amount_fen"),
    ("settlements", "fee_fen"),
    ("settlements", "payable_fen"),
    ("settlement_lines", "fee_fen"),
    ("settlement_lines", "deduction_fen"),
    ("settlement_lines", "payable_fen"),
    ("usage_records", "price_fen_per_device_hour"),
    ("prices", "fen_per_device_hour"),
    ("leases", "price_fen_per_device_hour"),
    ("pools", "price_fen_per_device_hour"),
    ("holds", "amount_fen"),
    ("accounts", "debits_posted"),
    ("accounts", "credits_posted"),
]
CHAINED = ["transfers", "usage_records", "settlements", "settlement_lines", "job_events", "facts", "prices"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two settled jobs and a checkpoint, in the table and in a file beside it."""
    directory = tmp_path_factory.mktemp("audit")
    platform = make_platform(directory)
    for name, accelerators in (("a", "Ascend910B3:8"), ("b", "H800:8")):
        job = platform.submit(name, job_text(name, accelerators))
        platform.loop.tick()
        platform.clock.advance(3600)
        platform.beat()
        platform.backend.end(f"{job}.1", 0)
        platform.loop.tick()
    with platform.database.write() as tx:
        assert checkpoint.take(tx, directory / "checkpoints.jsonl", platform.clock.now())
        assert not checkpoint.take(tx, directory / "checkpoints.jsonl", platform.clock.now()), "nothing moved"
    platform.database.close()
    return directory


@pytest.fixture
def copy(audited: Path, tmp_path: Path) -> Path:
    shutil.copytree(audited, tmp_path / "copy")
    return tmp_path / "copy"


def tamper(directory: Path, *statements: str) -> None:
    connection = sqlite3.connect(directory / "yisuan.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_untouched_database_holds_every_law(copy: Path) -> None:
    report = audit(copy / "yisuan.db")

    assert report.ok, [finding for finding in report.laws if not finding.ok]
    assert report.records > 20


@pytest.mark.parametrize(("table", "column"), FEN_COLUMNS)
def test_one_edited_fen_is_found_and_its_record_named(copy: Path, table: str, column: str) -> None:
    tamper(copy, f"UPDATE {table} SET {column} = {column} + 1 WHERE rowid = (SELECT max(rowid) FROM {table})")  # noqa: S608
    report = audit(copy / "yisuan.db")

    broken = [finding for finding in report.laws if not finding.ok]
    assert not report.ok
    assert any(finding.record and table in finding.record for finding in broken), broken


@pytest.mark.parametrize("table", CHAINED)
def test_a_removed_middle_record_is_found(copy: Path, table: str) -> None:
    tamper(copy, f"DELETE FROM {table} WHERE seq = 2")  # noqa: S608
    report = audit(copy / "yisuan.db")

    assert f"{table}:2" in {finding.record for finding in report.laws if not finding.ok}


@pytest.mark.parametrize("table", CHAINED)
def test_a_tail_cut_off_after_a_checkpoint_is_found_even_if_the_head_is_rewritten(copy: Path, table: str) -> None:
    """Whoever cuts the tail and moves the head back still meets the checkpoint."""
    tamper(
        copy,
        f"DELETE FROM {table} WHERE seq = (SELECT max(seq) FROM {table})",  # noqa: S608
        f"UPDATE chain_heads SET seq = seq - 1, hash = (SELECT hash FROM {table} ORDER BY seq DESC LIMIT 1) "  # noqa: S608
        f"WHERE stream = '{table}'",
        "DELETE FROM checkpoints",
    )
    report = audit(copy / "yisuan.db")

    (law,) = [finding for finding in report.laws if finding.law == "checkpoints"]
    assert not law.ok
    assert law.record is not None
    assert law.record.startswith(f"{table}:")


def test_a_tail_cut_off_without_a_checkpoint_is_found_by_the_head(copy: Path) -> None:
    (copy / "checkpoints.jsonl").unlink()
    tamper(copy, "DELETE FROM checkpoints", "DELETE FROM transfers WHERE seq = (SELECT max(seq) FROM transfers)")

    assert not audit(copy / "yisuan.db").ok


def _edit_export(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")


def test_an_export_is_audited_like_its_database(copy: Path) -> None:
    """Clean as written; with a line removed, broken."""
    from scheduler.database import Database

    database = Database(f"sqlite:///{copy / 'yisuan.db'}")
    export = copy / "export.jsonl"
    with database.read() as tx:
        assert write_export(tx, export) > 20
    database.close()
    assert audit(export).ok

    _edit_export(export, lambda lines: [line for line in lines if '"seq":2' not in line])
    assert not audit(export).ok


@pytest.mark.parametrize("content", [b"", b"not json\n", b"[1]\n", b'{"table":"nothing","row":{}}\n'])
def test_a_file_that_is_neither_is_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)

    with pytest.raises(NotAuditable):
        audit(path)


def test_a_foreign_sqlite_database_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE t (a)")
    connection.commit()
    connection.close()

    with pytest.raises(NotAuditable, match="transfers"):
        audit(tmp_path / "other.db")
