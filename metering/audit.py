"""Audit: every law recomputed from the first record, on a database or on an export of one. Reads only.

Nothing stored is believed: chains are rehashed, balances replayed from transfers, settlements settled again from their
own cases, and each figure shown to anyone is compared with what it derives from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, inspect, select, text
from sqlalchemy.exc import OperationalError

from adapters.chain import canonical, digest, instant
from metering import audit_events, audit_programmes, audit_tranches, checkpoint
from metering.case import CaseError, settle_document
from metering.ledger import AccountId, Balance, BrokenBooks, Code, Phase, Transfer, bounded, ledger_of, replay
from metering.parameters import Registry, load_policies
from metering.rule import Rule, load_rules
from metering.schema import accounts, holds, prices, settlement_lines, settlements, transfers
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.journal import head, rows, verify
from scheduler.schema import job_events, jobs, lease_devices, leases, metadata, pools, usage_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One law: held, or broken first at `record`."""

    law: str
    ok: bool
    record: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """ok only if every law holds. records: how many were read."""

    ok: bool
    records: int
    laws: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        return {
            "version": 1,
            "ok": self.ok,
            "records": self.records,
            "laws": [
                {"law": f.law, "ok": f.ok, **({} if f.ok else {"record": f.record, "problem": f.problem})}
                for f in self.laws
            ],
        }


Broken = tuple[str, str]  # (record, problem)


def audit(path: Path | str, *, parameters: Path | None = None, checkpoints: Sequence[Path] = ()) -> Report:
    """Recompute everything in a SQLite database, a JSON-lines export or a PostgreSQL database (postgresql://...).

    checkpoints: files of checkpoints that lie elsewhere; `checkpoints.jsonl` beside a file counts by itself. Raises
    NotAuditable with a reason when the path is none of the three, and naming the checkpoint file that is none.
    """
    for file in checkpoints:
        _readable(file)
    with _open(path) as tx:
        beside = [] if _is_url(path) else [Path(path).parent / "checkpoints.jsonl"]
        known = {file.resolve() for file in checkpoints}
        files = [*checkpoints, *(f for f in beside if f.exists() and f.resolve() not in known)]
        return audit_connection(tx, files, load_policies(parameters), load_rules())


def _readable(file: Path) -> None:
    """Nothing, when every line of the file is a checkpoint and there is one; else NotAuditable."""
    if not file.is_file():
        raise NotAuditable(f"checkpoints {file}: no such file")
    try:
        lines = checkpoint.read_file(file)
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        raise NotAuditable(f"checkpoints {file}: {problem}") from None
    for number, line in enumerate(lines, start=1):
        heads = line.get("heads") if isinstance(line, dict) else None
        pairs = heads.values() if isinstance(heads, dict) else [None]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs) or "sha256" not in line:
            raise NotAuditable(f"checkpoints {file}: line {number} is not a checkpoint")
    if not any(line["heads"] for line in lines):
        raise NotAuditable(f"checkpoints {file}: holds no checkpoint, so it shows nothing")


def audit_connection(
    tx: Connection, checkpoint_files: Sequence[Path], registry: Registry, rules: Sequence[Rule]
) -> Report:
    """The same on an open connection."""
    laws: list[tuple[str, Callable[[], Broken | None]]] = [
        (f"chain of {stream}", partial(_chain, tx, table)) for stream, table in checkpoint.STREAMS.items()
    ]
    laws += [
        ("checkpoints", lambda: _checkpoints(tx, checkpoint_files)),
        ("transfer bodies match their ids", lambda: _bodies(tx)),
        ("balances replay from the first transfer; no room below zero; holds resolved once", lambda: _balances(tx)),
        ("debits equal credits", lambda: _double_entry(tx)),
        ("holds agree with pending transfers", lambda: _holds(tx)),
        ("settlements recompute from their cases", lambda: _settlements(tx, registry, rules)),
        ("each class within its ceiling", lambda: _ceilings(tx)),
        ("settled usage is recorded usage", lambda: _usage(tx)),
        ("posted money equals settled money", lambda: _posted(tx)),
        ("no device leased twice at any instant", lambda: _exclusive(tx)),
        ("leases agree with their reservation", lambda: _leases(tx)),
        ("job states follow the story", lambda: _stories(tx)),
        ("pool prices are recorded prices", lambda: _prices(tx)),
        *audit_tranches.laws(tx),
        *audit_programmes.laws(tx),
        *audit_events.laws(tx),
    ]
    found = []
    for law, check in laws:
        try:
            broken = check()
        except (KeyError, TypeError, ValueError, AssertionError) as problem:
            broken = (law, f"unreadable: {problem}")
        found.append(
            Finding(
                law=law, ok=broken is None, record=broken[0] if broken else None, problem=broken[1] if broken else None
            )
        )
    records = sum(head(tx, stream)[0] for stream in checkpoint.STREAMS)
    return Report(ok=all(f.ok for f in found), records=records, laws=tuple(found))


def _chain(tx: Connection, table: Any) -> Broken | None:
    broken = verify(tx, table)
    return (broken.record, broken.problem) if broken else None


def _checkpoints(tx: Connection, files: Sequence[Path]) -> Broken | None:
    return checkpoint.broken(tx, files)


def _transfers(tx: Connection) -> Iterator[tuple[str, Transfer, Mapping[Any, Any]]]:
    for row in rows(tx, transfers):
        transfer = Transfer(
            id=row["id"],
            phase=Phase(row["phase"]),
            code=Code(row["code"]),
            debit=AccountId(row["debit"]),
            credit=AccountId(row["credit"]),
            amount_fen=row["amount_fen"],
            **{k: row[k] for k in ("pending_id", "job", "lease", "settlement", "cites")},
        )
        yield f"transfers:{row['seq']}", transfer, row


def _bodies(tx: Connection) -> Broken | None:
    for name, transfer, row in _transfers(tx):
        if digest(transfer.body()) != row["body_sha256"]:
            return name, f"transfer {transfer.id} does not match its body hash"
    return None


def _balances(tx: Connection) -> Broken | None:
    numbers = {}

    def each() -> Iterator[Transfer]:
        for name, transfer, _ in _transfers(tx):
            numbers[transfer.id] = name
            yield transfer

    try:
        replayed = replay(each())
    except BrokenBooks as broken:
        return numbers[broken.transfer], broken.problem
    stored = {row["id"]: row for row in tx.execute(select(accounts)).mappings()}
    for account in sorted({*replayed, *stored}):
        row = stored.get(account)
        if row is None:
            return f"accounts:{account}", "account row missing"
        if bool(row["bounded"]) != bounded(AccountId(account)) or row["ledger"] != ledger_of(AccountId(account)):
            return f"accounts:{account}", "ledger or bound is not the account's own"
        expected = replayed.get(AccountId(account), Balance())
        for name in ("debits_posted", "debits_pending", "credits_posted", "credits_pending"):
            if row[name] != getattr(expected, name):
                return f"accounts:{account}", f"{name} is {row[name]}, transfers say {getattr(expected, name)}"
    return None


def _double_entry(tx: Connection) -> Broken | None:
    sums: dict[str, list[int]] = {}
    for row in tx.execute(select(accounts)).mappings():
        total = sums.setdefault(row["ledger"], [0, 0])
        total[0] += row["debits_posted"] - row["credits_posted"]
        total[1] += row["debits_pending"] - row["credits_pending"]
    for ledger, (posted, pending) in sorted(sums.items()):
        if posted or pending:
            return f"ledger:{ledger}", f"debits exceed credits by {posted} posted, {pending} pending"
    return None


def _holds(tx: Connection) -> Broken | None:
    resolved: dict[str, str] = {}
    pending: dict[str, int] = {}
    for _, transfer, _ in _transfers(tx):
        if transfer.phase is Phase.PENDING:
            pending[transfer.id] = transfer.amount_fen
        elif transfer.pending_id is not None:
            resolved[transfer.pending_id] = transfer.phase.value
    words = {"post": "posted", "void": "voided", "expire": "expired"}
    for row in tx.execute(select(holds)).mappings():
        name = f"holds:{row['lease']}:{row['year']}:{row['generation']}"
        contract, issued = (
            f"hold:{row['lease']}:{row['year']}:{row['generation']}:{kind}" for kind in ("contract", "tranche")
        )
        source = "tranche" if issued in pending else "pool"
        for kind in ("firm", source, *(("contract",) if contract in pending else ())):
            key = f"hold:{row['lease']}:{row['year']}:{row['generation']}:{kind}"
            if pending.pop(key, 0) != row["amount_fen"]:
                return name, f"amount {row['amount_fen']} is not what transfer {key} holds"
            state = words.get(resolved.get(key, ""), "held") if row["amount_fen"] else "voided"
            if state != row["state"]:
                return name, f"says {row['state']}, transfers say {state}"
    for key in sorted(pending):
        return key, "pending transfer without a hold"
    return None


def _settlements(tx: Connection, registry: Registry, rules: Sequence[Rule]) -> Broken | None:
    numbers: dict[str, int] = {}
    for row in rows(tx, settlements):
        name = f"settlements:{row['seq']}"
        numbers[row["job"]] = numbers.get(row["job"], 0) + 1
        if row["number"] != numbers[row["job"]]:
            return name, f"number {row['number']} of {row['job']} where {numbers[row['job']]} is due"
        policy = registry.policy(row["policy"])
        if policy.bundle_sha256 != row["bundle_sha256"]:
            continue  # settled under another parameter bundle, which this installation does not hold
        try:
            out = settle_document(row["case_json"], registry, rules)
        except CaseError as bad:
            return name, f"case cannot be settled: {bad}"
        for total, value in out["totals"].items():
            if row[total] != value:
                return name, f"{total} is {row[total]}, the case gives {value}"
        query = select(settlement_lines).where(settlement_lines.c.settlement == row["id"])
        stored = list(tx.execute(query.order_by(settlement_lines.c.number)).mappings())
        if len(stored) != len(out["lines"]):
            return name, f"{len(stored)} lines stored, the case gives {len(out['lines'])}"
        for line, given in zip(stored, out["lines"], strict=True):
            for key, value in given.items():
                if _stored(line, key) != value:
                    return f"settlement_lines:{line['seq']}", f"{key} is {_stored(line, key)}, the case gives {value}"
    return None


def _stored(line: Mapping[Any, Any], key: str) -> Any:
    if key in ("reasons", "clauses"):
        return json.loads(line[key])
    if key in ("start", "end"):
        from adapters.chain import timestamp
        from scheduler.clock import from_ms

        return timestamp(from_ms(line[f"{key}_ms"]))
    return line[key]


def _ceilings(tx: Connection) -> Broken | None:
    """Rule 2 and 4 of the design, without the settlement code: no class above ⌊Σ fee × rate / 10000⌋ of its lines."""
    classes: dict[tuple[str, str, int, int], list[int]] = {}
    for row in rows(tx, settlement_lines):
        name = f"settlement_lines:{row['seq']}"
        if (
            row["payable_fen"] < 0
            or row["deduction_fen"] < 0
            or row["fee_fen"] != row["deduction_fen"] + row["payable_fen"]
        ):
            return name, "fee is not deduction plus payable, or one is negative"
        origin = "domestic" if row["origin"] == "domestic" else "foreign"
        sums = classes.setdefault((row["settlement"], origin, row["rate_bp"], row["year"]), [0, 0])
        sums[0] += row["fee_fen"]
        sums[1] += row["deduction_fen"]
        if row["deduction_fen"] and not row["rate_bp"]:
            return name, "deduction on a line with no rate"
    for (settlement, origin, rate, year), (fee, deduction) in classes.items():
        if deduction > fee * rate // 10000:
            return settlement, f"class {origin} {rate} bp {year}: {deduction} fen deducted of {fee * rate // 10000}"
    return None


def _usage(tx: Connection) -> Broken | None:
    """Every settled entry is covered by usage records of its lease, and a job's last settlement covers them all."""
    recorded: dict[str, dict[str, int]] = {}
    names: dict[str, str] = {}
    for row in rows(tx, usage_records):
        if row["kind"] in ("run", "lost"):
            mine = recorded.setdefault(row["job"], {})
            mine[row["lease"]] = mine.get(row["lease"], 0) + row["devices"] * (row["end_ms"] - row["start_ms"])
            names[row["lease"]] = f"usage_records:{row['seq']}"
        if row["kind"] != "run" and row["price_fen_per_device_hour"]:
            return f"usage_records:{row['seq']}", f"{row['kind']} is recorded at a price"
    last: dict[str, Mapping[Any, Any]] = {}
    for row in rows(tx, settlements):
        last[row["job"]] = row
    for job, leases_of in recorded.items():
        if job not in last:
            return names[next(iter(leases_of))], "usage was never settled"
        settled: dict[str, int] = {}
        for entry in json.loads(last[job]["case_json"])["usage"]:
            length = to_ms(instant(entry["end"])) - to_ms(instant(entry["start"]))
            settled[entry["lease"]] = settled.get(entry["lease"], 0) + entry["devices"] * length
        if settled != leases_of:
            return f"settlements:{last[job]['seq']}", f"settled device time {settled} is not recorded {leases_of}"
    return None


def _posted(tx: Connection) -> Broken | None:
    moved: dict[str, dict[str, int]] = {}
    signs = {Code.DRAW: ("draw", 1), Code.REVERSE_DRAW: ("draw", -1), Code.FEE: ("fee", 1), Code.REVERSE_FEE: ("fee", -1),
             Code.SUBSIDY: ("subsidy", 1), Code.REVERSE_SUBSIDY: ("subsidy", -1)}  # fmt: skip
    for _, transfer, _ in _transfers(tx):
        if transfer.job is None or transfer.code not in signs or transfer.phase not in (Phase.POSTED, Phase.POST):
            continue
        name, sign = signs[transfer.code]
        room = transfer.debit if transfer.code is Code.DRAW else transfer.credit
        if name == "draw":
            name = "contract" if room.startswith("room:contract:") else room.split(":")[0]
            name = "pool" if name == "tranche" else name  # what was issued to the firm left the pool before
        sums = moved.setdefault(transfer.job, {})
        sums[name] = sums.get(name, 0) + sign * transfer.amount_fen
    last = {row["job"]: row for row in rows(tx, settlements)}
    for job in sorted({*moved, *last}):
        row = last.get(job)
        name = f"settlements:{row['seq']}" if row else f"jobs:{job}"
        deduction, payable = (row["deduction_fen"], row["payable_fen"]) if row else (0, 0)
        wanted = {"fee": payable, "subsidy": deduction, "room": deduction, "pool": deduction}
        if "contract" in moved.get(job, {}):
            wanted["contract"] = deduction
        for what, fen in wanted.items():
            if moved.get(job, {}).get(what, 0) != fen:
                return name, f"{moved.get(job, {}).get(what, 0)} fen moved as {what}, {fen} settled"
    return None


def _exclusive(tx: Connection) -> Broken | None:
    query = (
        select(lease_devices.c.device, leases.c.id, leases.c.reserved_at_ms, leases.c.released_at_ms)
        .join(leases, leases.c.id == lease_devices.c.lease)
        .order_by(lease_devices.c.device, leases.c.reserved_at_ms, leases.c.id)
    )
    before: Any = None
    for row in tx.execute(query):
        same = before is not None and before.device == row.device
        if same and (before.released_at_ms is None or before.released_at_ms > row.reserved_at_ms):
            return f"leases:{row.id}", f"device {row.device} was still leased to {before.id}"
        before = row
    return None


def _leases(tx: Connection) -> Broken | None:
    reserved = {row["lease"]: json.loads(row["facts"]) for row in rows(tx, job_events) if row["event"] == "reserved"}
    counts: dict[str, int] = {}
    for device in tx.execute(select(lease_devices.c.lease)):
        counts[device.lease] = counts.get(device.lease, 0) + 1
    for row in tx.execute(select(leases)).mappings():
        facts = reserved.get(row["id"])
        if facts is None:
            return f"leases:{row['id']}", "no reservation in the journal"
        stored = (row["price_fen_per_device_hour"], row["device_count"], row["model"], row["pool"])
        told = (facts["price_fen_per_device_hour"], facts["devices"], facts["model"], facts["pool"])
        if stored != told or counts.get(row["id"], 0) != row["device_count"]:
            return f"leases:{row['id']}", f"{stored} is not what was reserved, {told}"
    for usage in rows(tx, usage_records):
        facts = reserved.get(usage["lease"])
        if facts is None:
            return f"usage_records:{usage['seq']}", f"lease {usage['lease']} was never reserved"
        if usage["kind"] == "run" and usage["price_fen_per_device_hour"] != facts["price_fen_per_device_hour"]:
            return f"usage_records:{usage['seq']}", "priced otherwise than reserved"
    return None


def _stories(tx: Connection) -> Broken | None:
    last: dict[str, str] = {}
    for row in rows(tx, job_events):
        if row["state_from"] != last.get(row["job"]):
            return f"job_events:{row['seq']}", f"job {row['job']} was {last.get(row['job'])}, not {row['state_from']}"
        last[row["job"]] = row["state_to"]
    for job in tx.execute(select(jobs.c.id, jobs.c.state, jobs.c.spec, jobs.c.spec_sha256)):
        if last.get(job.id) != job.state:
            return f"jobs:{job.id}", f"state {job.state}, its story says {last.get(job.id)}"
        if digest(json.loads(job.spec)) != job.spec_sha256:
            return f"jobs:{job.id}", "the job file does not match its hash"
        last.pop(job.id)
    for job_id in sorted(last):
        return f"jobs:{job_id}", "the job row is missing, its story is not"
    return None


def _prices(tx: Connection) -> Broken | None:
    listed: dict[str, set[int]] = {}
    for row in rows(tx, prices):
        listed.setdefault(row["pool"], set()).add(row["fen_per_device_hour"])
    for pool in tx.execute(select(pools.c.id, pools.c.price_fen_per_device_hour)):
        if pool.price_fen_per_device_hour not in listed.get(pool.id, set()):
            return f"pools:{pool.id}", f"price {pool.price_fen_per_device_hour} was never recorded"
    return None


# --- opening ------------------------------------------------------------------------------------------------------


class NotAuditable(Exception):
    """The file is neither a database of ours nor an export of one."""


def _is_url(path: Path | str) -> bool:
    return str(path).startswith(("postgresql://", "postgresql+psycopg://"))


@contextmanager
def _served(url: str) -> Iterator[Connection]:
    database = Database(url)
    try:
        with database.read() as tx:
            if not inspect(tx).has_table("transfers"):
                raise NotAuditable(f"{database.engine.url!r}: a PostgreSQL database, but it has no table `transfers`")
            yield tx
    except OperationalError as problem:
        raise NotAuditable(f"{database.engine.url!r}: {problem.orig}") from None
    finally:
        database.close()


def _open(path: Path | str) -> Any:
    if _is_url(path):
        return _served(str(path))
    path = Path(path)
    if not path.is_file():
        raise NotAuditable(f"{path}: no such file")
    with path.open("rb") as stream:
        database = stream.read(16) == b"SQLite format 3\x00"
    if database:
        engine = create_engine(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true")
        if not inspect(engine).has_table("transfers"):
            raise NotAuditable(f"{path}: a SQLite database, but it has no table `transfers`; is it yisuan.db?")
        connection = engine.connect()
        connection.exec_driver_sql("BEGIN")  # one moment, though the platform may run on
        return connection
    return _load_export(path)


def write_export(tx: Connection, file: Path) -> int:
    """Every table as JSON lines `{"table", "row"}`; returns how many rows. The form `audit` reads besides a database."""
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for table in metadata.sorted_tables:
            if table.name in ("api_keys", "sessions", "idempotency", "samples"):
                continue  # secrets and readings are not evidence
            for row in tx.execute(select(table)).mappings():
                out.write(canonical({"table": table.name, "row": dict(row)}).decode() + "\n")
                count += 1
    return count


def export_database(path: Path | str, file: Path) -> int:
    """Write the database at `path` as an export; NotAuditable if it is none."""
    with _open(path) as tx:
        return write_export(tx, file)


def _load_export(path: Path) -> Connection:
    engine = create_engine("sqlite://")
    connection = engine.connect()
    metadata.create_all(connection)
    connection.execute(text("PRAGMA ignore_check_constraints = ON"))  # a forged export must be read to be reported
    for index in ("one_lease_per_device", "resolved_once", "usage_once"):
        connection.execute(text(f"DROP INDEX {index}"))
    number = 0
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                entry = json.loads(line)
                table = metadata.tables[entry["table"]]
                connection.execute(table.insert().values(**entry["row"]))
            except Exception as problem:  # noqa: BLE001 - whatever a forged line does, it is named
                raise NotAuditable(f"{path}: line {number} is not a row of an export: {problem}") from None
    if number == 0:
        raise NotAuditable(f"{path}: empty")
    return connection
