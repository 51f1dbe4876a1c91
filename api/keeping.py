"""Keeping: one archive of a whole database, made while the platform runs, and a database made from one.

The archive is a ZIP file (APPNOTE 6.3.9, deflate, zip64) that is the same for every store, so that what SQLite kept
PostgreSQL takes and back. Its members, in order:

    checkpoints.jsonl     the heads that were written outside the database, whole lines only
    schema.json           {"format": 1, "revision", "made_at_ms"}
    tables/NAME.jsonl     the column names, then one array of values per row; bytes are {"base64": text}
    manifest.json         {"members": {NAME: {"sha256", "bytes"}}, "rows": {TABLE: count}}

The file's last 64 bytes (the ZIP comment) are the SHA-256 of everything before them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import DataError, IntegrityError

from api.migrations import known_revisions, revision_of, upgrade_within
from metering.audit import Report, audit_connection
from metering.parameters import Registry
from metering.rule import Rule
from scheduler.clock import to_ms
from scheduler.database import Database

FORMAT = 1
CHECKPOINTS, SCHEMA, MANIFEST = "checkpoints.jsonl", "schema.json", "manifest.json"
CHUNK = 1 << 20
ROWS_AT_ONCE = 500
SEAL = 64  # hex digits of a SHA-256

Progress = Callable[[str, int], None]  # table, rows so far


class Damaged(Exception):
    """The archive is not what was written. member: the first one that is wrong, or `archive` for the file around them."""

    def __init__(self, member: str, problem: str) -> None:
        self.member, self.problem = member, problem
        super().__init__(f"{member}: {problem}")


class Occupied(Exception):
    """The target holds records already; a restore never mixes two histories."""


class NotOurs(Exception):
    """What should be kept is no database of this platform, or its revision is one that this version does not know."""


class Unlawful(Exception):
    """The archive is whole, but the books in it break a law."""

    def __init__(self, report: Report) -> None:
        self.report = report
        first = next(law for law in report.laws if not law.ok)
        super().__init__(f"{first.law}: {first.record}: {first.problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an archive holds. rows: per table."""

    revision: str
    rows: dict[str, int]


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


# --- backup -------------------------------------------------------------------------------------------------------


def backup(
    database: Database, file: Path, *, checkpoints: Path, now: datetime, progress: Progress | None = None
) -> Kept:
    """`file` is an archive of one moment of the database, on the disk and read back; nothing is there if this raises.

    Memory does not grow with the database, and no writer waits. checkpoints: the file outside the database; it is read
    before the moment, so that no line claims a record that the archive does not hold. An existing `file` is kept:
    FileExistsError. NotOurs if the database was never migrated.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists; a backup is never written over")
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)  # mode 0600
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as raw:
            kept = _write(database, raw, checkpoints, now, progress)
            raw.write(_seal(raw, raw.tell()).encode())
            raw.flush()
            os.fsync(raw.fileno())
        with _opened(partial) as archive:
            _verify(archive)
        os.link(partial, file)  # unlike a rename, refuses to replace
    finally:
        partial.unlink()
    _sync_directory(file.parent)
    return kept


def _write(database: Database, raw: IO[bytes], checkpoints: Path, now: datetime, progress: Progress | None) -> Kept:
    members: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:

        @contextlib.contextmanager
        def member(name: str) -> Iterator[Writable]:
            with archive.open(name, "w", force_zip64=True) as out:
                hashing = _Hashing(out)
                yield hashing
            members[name] = {"sha256": hashing.sha256.hexdigest(), "bytes": hashing.bytes}

        with member(CHECKPOINTS) as out, contextlib.suppress(FileNotFoundError), checkpoints.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # a torn last line is no checkpoint
                    out.write(line)
        with database.read() as tx:
            revision = revision_of(tx)
            if revision is None:
                raise NotOurs(f"{database.engine.url!r} has no schema revision")
            with member(SCHEMA) as out:
                out.write(_line({"format": FORMAT, "revision": revision, "made_at_ms": to_ms(now)}))
            for table in _tables(tx):
                with member(_member_of(table.name)) as out:
                    counts[table.name] = _write_rows(tx, table, out, progress)
        document = {"members": members, "rows": counts}
        archive.writestr(MANIFEST, json.dumps(document, indent=1, sort_keys=True))
        archive.comment = b"0" * SEAL
    raw.seek(-SEAL, os.SEEK_END)
    return Kept(revision=revision, rows=counts)


def _write_rows(tx: Connection, table: Table, out: Writable, progress: Progress | None) -> int:
    out.write(_line([column.name for column in table.columns]))
    query = select(table).order_by(*table.primary_key.columns)
    count = 0
    for rows in tx.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}).partitions():
        for row in rows:
            out.write(_line([_plain(value) for value in row]))
        count += len(rows)
        if progress is not None:
            progress(table.name, count)
    return count


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _value(plain: Any) -> Any:
    return base64.b64decode(plain["base64"], validate=True) if isinstance(plain, dict) else plain


def _line(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class _Hashing:
    """Passes bytes on and remembers their hash and number."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out, self.sha256, self.bytes = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.out.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


# --- reading an archive -------------------------------------------------------------------------------------------


def verify(file: Path) -> Kept:
    """Every byte of the archive is what was written; Damaged names the first member that is not."""
    with _opened(file) as archive:
        return _verify(archive)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    with file.open("rb") as raw:
        try:
            archive = zipfile.ZipFile(raw)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as problem:
            raise Damaged("archive", str(problem)) from None
        with archive:
            yield archive


def _verify(archive: zipfile.ZipFile) -> Kept:
    damaged = None
    try:
        kept = _verify_members(archive)
    except Damaged as problem:  # a member's name says more than the seal does
        damaged = problem
    raw = archive.fp
    assert raw is not None, "open"
    size = raw.seek(0, os.SEEK_END)
    seal = _seal(raw, max(size - SEAL, 0))
    if damaged is not None:
        raise damaged
    raw.seek(max(size - SEAL, 0))
    if raw.read(SEAL) != seal.encode():
        raise Damaged("archive", "the file around the members was changed")
    return kept


def _verify_members(archive: zipfile.ZipFile) -> Kept:
    names = archive.namelist()
    manifest = _document(archive, MANIFEST)
    try:
        members, rows = dict(manifest["members"]), {str(k): int(v) for k, v in manifest["rows"].items()}
        expected = {name: str(entry["sha256"]) for name, entry in members.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise Damaged(MANIFEST, f"not a manifest: {problem!r}") from None
    for name in [*names, *expected]:
        if name != MANIFEST and (name not in names or name not in expected or names.count(name) > 1):
            raise Damaged(name, "the manifest and the archive do not agree on it")
    for name in names:
        if name == MANIFEST:
            continue
        sha256 = hashlib.sha256()
        for chunk in _chunks(archive, name):
            sha256.update(chunk)
        if sha256.hexdigest() != expected[name]:
            raise Damaged(name, "content does not match its hash")
    schema = _document(archive, SCHEMA)
    if schema.get("format") != FORMAT or not isinstance(schema.get("revision"), str):
        raise NotOurs(f"archive format {schema.get('format')!r}; this version reads {FORMAT}")
    return Kept(revision=schema["revision"], rows=rows)


def _document(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        found = json.loads(b"".join(_chunks(archive, name)))
    except ValueError as problem:
        raise Damaged(name, f"not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise Damaged(name, "not an object")
    return found


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with _member(archive, name) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A member's bytes; whatever a damaged one does to the reader is Damaged."""
    try:
        with archive.open(name) as stream:
            yield stream
    except KeyError:
        raise Damaged(name, "missing") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as problem:
        raise Damaged(name, str(problem) or type(problem).__name__) from None


def _seal(raw: IO[bytes], size: int) -> str:
    """SHA-256 of the first `size` bytes; the position is `size` afterwards."""
    sha256 = hashlib.sha256()
    raw.seek(0)
    left = size
    while left and (chunk := raw.read(min(CHUNK, left))):
        sha256.update(chunk)
        left -= len(chunk)
    return sha256.hexdigest()


# --- restore ------------------------------------------------------------------------------------------------------


def restore(
    file: Path,
    database: Database,
    *,
    checkpoints: Path,
    registry: Registry,
    rules: Sequence[Rule],
    progress: Progress | None = None,
) -> tuple[Kept, Report]:
    """The empty database holds what the archive holds, every hash as it was, at this version's schema, and audited.

    One transaction: on any exception the database is as before. Raises Damaged, Occupied, NotOurs or Unlawful.
    checkpoints: where the archive's checkpoint lines go; Occupied if the file is there.
    """
    with _opened(file) as archive:
        kept = _verify(archive)
        if kept.revision not in known_revisions():
            raise NotOurs(f"{file} has schema {kept.revision}; this version knows {', '.join(known_revisions())}")
        if checkpoints.exists():
            raise Occupied(f"{checkpoints} is another history's")
        partial = checkpoints.with_name(f".{checkpoints.name}.partial")
        try:
            with partial.open("wb") as out:
                for chunk in _chunks(archive, CHECKPOINTS):
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            with database.write() as tx:
                _refuse_occupied(tx, kept.revision)
                upgrade_within(tx, kept.revision)
                _read_tables(tx, archive, kept, progress)
                upgrade_within(tx)
                report = audit_connection(tx, [partial], registry, rules)
                if not report.ok:
                    raise Unlawful(report)
            if partial.stat().st_size:
                partial.chmod(0o600)
                partial.rename(checkpoints)
                _sync_directory(checkpoints.parent)
        finally:
            partial.unlink(missing_ok=True)
    return kept, report


def _refuse_occupied(tx: Connection, revision: str) -> None:
    found = revision_of(tx)
    if found not in (None, revision):
        raise Occupied(f"it has the tables of schema {found}, the archive those of {revision}")
    for table in _tables(tx):
        if tx.execute(select(table).limit(1)).first() is not None:
            raise Occupied(f"table {table.name} has rows")
        if found is None:
            raise Occupied(f"table {table.name} is not of this platform's making")


def _read_tables(tx: Connection, archive: zipfile.ZipFile, kept: Kept, progress: Progress | None) -> None:
    tables = _tables(tx)
    if sorted(table.name for table in tables) != sorted(kept.rows):
        raise Damaged(MANIFEST, f"its tables are not those of schema {kept.revision}")
    for table in tables:
        count = _read_rows(tx, archive, table, progress)
        if count != kept.rows[table.name]:
            raise Damaged(_member_of(table.name), f"{count} rows, the manifest says {kept.rows[table.name]}")
        if tx.dialect.name == "postgresql" and count:
            _advance_sequences(tx, table)


def _read_rows(tx: Connection, archive: zipfile.ZipFile, table: Table, progress: Progress | None) -> int:
    name, count = _member_of(table.name), 0
    with _member(archive, name) as stream:
        columns = json.loads(stream.readline() or b"null")
        if not isinstance(columns, list) or sorted(columns) != sorted(column.name for column in table.columns):
            raise Damaged(name, f"its columns are not those of table {table.name}")
        while lines := list(islice(stream, ROWS_AT_ONCE)):
            try:
                rows = [dict(zip(columns, map(_value, json.loads(line)), strict=True)) for line in lines]
                tx.execute(insert(table), rows)
            except (ValueError, TypeError, KeyError, IntegrityError, DataError) as problem:
                raise Damaged(name, f"rows {count + 1} to {count + len(lines)} cannot be stored: {problem}") from None
            count += len(lines)
            if progress is not None:
                progress(table.name, count)
    return count


def _advance_sequences(tx: Connection, table: Table) -> None:
    """PostgreSQL's own counters go on after the highest number restored."""
    for column in table.primary_key.columns:
        name = tx.execute(text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name}).scalar()
        if name is not None:
            highest = tx.execute(select(func.max(column))).scalar_one()
            tx.execute(text("SELECT setval(:name, :highest)"), {"name": name, "highest": highest})


def _tables(tx: Connection) -> list[Table]:
    """Every table the database has, as it has it (an old revision's too), referenced ones first."""
    found = MetaData()
    names = [name for name in inspect(tx).get_table_names() if name != "alembic_version"]
    found.reflect(tx, only=names)
    return found.sorted_tables


def _member_of(table: str) -> str:
    return f"tables/{table}.jsonl"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
