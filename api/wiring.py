"""Wiring: the composition root. Settings in, everything a process needs out."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from filelock import FileLock
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from adapters.catalog import Catalog, load_catalog
from api.migrations import upgrade
from api.settings import Settings
from api.telemetry import Telemetry
from metering import checkpoint, events, listing, model_voucher, reconciliation, rooms
from metering.budget import VoucherBudget
from metering.parameters import ParameterError, load_origin_register, load_policies
from metering.parameters.frozen import FrozenChanged, check_at_start
from metering.rule import load_rules
from metering.store import ledger_mark, open_ledger
from scheduler.backends.confinement import protect_process
from scheduler.backends.local import LocalBackend
from scheduler.clock import Clock, SystemClock
from scheduler.database import Database, LeadLost
from scheduler.loop import Loop
from scheduler.ports import Backend
from scheduler.region_file import read_region_file
from scheduler.registry import load_policy

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routes, pages and the loop share. lock: held while this process may write leases of the data directory."""

    settings: Settings
    database: Database
    clock: Clock
    catalog: Catalog
    budget: VoucherBudget
    backends: Mapping[str, Backend]
    loop: Loop
    telemetry: Telemetry
    lock: FileLock
    key: checkpoint.Key

    def seal(self, tx: Connection, reason: str, now: datetime) -> str:
        """Seal every record now, in the table and the file outside the database, as the last act of `tx`; the root."""
        sealed = checkpoint.seal(tx, self.settings.data_dir / "checkpoints.jsonl", now, reason, self.key)
        return str(sealed["merkle_root"])

    def close(self) -> None:
        """A last checkpoint, then everything this process holds is let go."""
        try:
            with self.database.write() as tx:
                checkpoint.take(tx, self.settings.data_dir / "checkpoints.jsonl", self.clock.now())
        except (LeadLost, OperationalError) as problem:  # the database is another's now, or gone: nothing is lost by it
            log.warning("no_last_checkpoint", problem=str(problem))
        self.database.close()
        self.lock.release()


def build(settings: Settings, *, clock: Clock | None = None, backends: Mapping[str, Backend] | None = None) -> Services:
    """A platform on its data directory, migrated and with its ledger opened.

    Raises filelock.Timeout if another one runs on the directory, AnotherLeads if one elsewhere runs on its database.
    """
    clock = clock or SystemClock()
    data_dir = settings.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    lock = FileLock(data_dir / "loop.lock", timeout=0)
    lock.acquire()
    protect_process()
    database = Database(settings.database_url)
    upgrade(database)
    if not database.lead():
        lock.release()
        database.close()
        raise AnotherLeads(f"another process is the loop of {database.engine.url!r}")
    registry = load_policies(settings.parameters_dir)
    try:
        check_at_start(registry, settings.parameters_dir, data_dir / "frozen-memory.json", clock.now())
    except (FrozenChanged, ParameterError):
        lock.release()
        database.close()
        raise
    budget = VoucherBudget(
        registry, load_rules(), load_origin_register(settings.parameters_dir), settings.voucher_policy
    )
    with database.write() as tx:
        mark = settings.ledger or ledger_mark(tx) or "live"
        refusal = open_ledger(
            tx, mark=mark, policy=settings.voucher_policy, pool_fen=budget.policy.pool_fen, now=clock.now()
        )
        model_voucher.open_pools(tx, budget.policy, clock.now())
    if refusal is not None:
        lock.release()
        database.close()
        raise WrongLedger(f"the ledger in {data_dir} is marked {refusal.facts['is']}, not {settings.ledger}")
    if settings.pages_open and mark != "demo":
        lock.release()
        database.close()
        raise WrongLedger(f"pages_open needs a ledger marked demo; the one in {data_dir} is marked {mark}")
    settings = settings.model_copy(update={"ledger": mark})
    if backends is None:
        local = LocalBackend(
            data_dir / "local",
            private=(data_dir,),
            path=settings.job_path,
            confinement=settings.confinement,
            assignments=data_dir / "assignments",
        )
        backends = {"local": local}
    telemetry = Telemetry(database, clock)
    key = checkpoint.load_key(data_dir / "checkpoint.key")
    last, probed = [clock.now()], [clock.now() - timedelta(seconds=PROBE_EVERY_S)]

    def on_tick(seconds: float) -> None:
        telemetry.ticked(seconds)
        now = clock.now()
        try:
            if not database.lead():  # the server restarted, and another process was quicker
                raise LeadLost(f"another process is the loop of {database.engine.url!r}")
            if (now - last[0]).total_seconds() >= CHECKPOINT_EVERY_S:
                last[0] = now
                with database.write() as tx:
                    checkpoint.keep(tx, data_dir / "checkpoints.jsonl", now, key)
            if (now - probed[0]).total_seconds() >= PROBE_EVERY_S:
                with database.write() as tx:
                    listing.probe(tx, budget.policy.zone, now)
                    rooms.raise_alerts(tx, budget.policy, now)
                    events.watch(tx, now)
                    yesterday = now.astimezone(budget.policy.zone).date() - timedelta(days=1)
                    if probed[0].astimezone(budget.policy.zone).date() == yesterday:
                        reconciliation.reconcile(tx, yesterday, now)
                probed[0] = now
        except OperationalError as problem:  # the server is away; the next tick finds it again
            log.warning("database_away", problem=str(problem.orig))
        except LeadLost as problem:
            log.error("lead_lost", problem=str(problem))
            signal.raise_signal(signal.SIGTERM)  # ends this process in order; nothing of it is written any more

    loop = Loop(
        database,
        budget,
        load_policy(settings.policy),
        backends,
        clock,
        zone=str(budget.policy.zone),
        on_tick=on_tick,
        moves_per_hour=settings.moves_per_hour,
    )
    if (regions := data_dir / "regions.yaml").is_file():
        loop.dispatch.regions = read_region_file(regions)
    return Services(
        settings=settings,
        database=database,
        clock=clock,
        catalog=load_catalog(),
        budget=budget,
        backends=backends,
        loop=loop,
        telemetry=telemetry,
        lock=lock,
        key=key,
    )


CHECKPOINT_EVERY_S = (
    5.0  # a tail cut off later than this after it was written is found by the file outside the database
)


PROBE_EVERY_S = 60.0  # the platform's own look at every listed device: subsidy evidence, and silent agents


class AnotherLeads(Exception):
    """Another process already runs the loop of this database, on its own data directory or machine."""


class WrongLedger(Exception):
    """The data directory holds a ledger of the other kind; demo and live money never share one."""
