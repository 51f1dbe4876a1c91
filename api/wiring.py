"""Wiring: the composition root. Settings in, everything a process needs out."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from filelock import FileLock
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from adapters.catalog import Catalog, load_catalog
from api import leadership
from api.clusters import backends_of, read_clusters
from api.local_jobs import LocalJobs
from api.migrations import upgrade
from api.settings import Settings
from api.telemetry import Telemetry
from metering import checkpoint, events, evidence_challenge, listing, model_voucher, reconciliation, rooms
from metering.budget import VoucherBudget
from metering.parameters import load_origin_register, load_policies
from metering.parameters.frozen import check_at_start
from metering.rule import load_rules
from metering.store import ledger_mark, open_ledger
from scheduler.backends.confinement import protect_process
from scheduler.backends.local import LocalBackend
from scheduler.clock import Clock, SystemClock, to_ms
from scheduler.cluster_file import Cluster
from scheduler.database import WRITER_IDLE_S, Database
from scheduler.election import AdvisoryElection, Election, FileElection, LeadLost, fence_of
from scheduler.guard import Guarded
from scheduler.loop import Loop
from scheduler.ports import Backend
from scheduler.region_file import read_region_file
from scheduler.registry import load_policy

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routes, pages and the loop share.

    database: for routes, on every process alike. books: the same for the loop alone, where a write raises LeadLost once
    another process leads. home: the name of the data directory that local jobs run under; None without them. lost: set
    when this process was the loop and is no longer. draining: set when this process is about to end.
    """

    settings: Settings
    database: Database
    books: Database
    clock: Clock
    catalog: Catalog
    budget: VoucherBudget
    backends: Mapping[str, Backend]
    loop: Loop
    telemetry: Telemetry
    election: Election
    key: checkpoint.Key
    clusters: tuple[Cluster, ...]
    home: str | None
    lost: threading.Event
    draining: threading.Event

    def seal(self, tx: Connection, reason: str, now: datetime) -> str:
        """Seal every record now, in the table and the file outside the database, as the last act of `tx`; the root."""
        sealed = checkpoint.seal(tx, self.settings.data_dir / "checkpoints.jsonl", now, reason, self.key)
        return str(sealed["merkle_root"])

    def lead(self) -> bool:
        """This process is the database's loop afterwards and has said so; False while another one is, or while jobs run
        under another data directory's local backend."""
        if self.election.try_lead() is None:
            return False
        now, epoch = to_ms(self.clock.now()), self.election.epoch
        assert epoch is not None, "it has just been given"
        try:
            with self.books.write() as tx:
                if self.home is not None and not leadership.move_home(tx, self.home):
                    log.error("local_jobs_elsewhere", home=leadership.local_home(tx))
                    self.election.resign()
                    return False
                leadership.begins(tx, self.settings.identity, epoch, now)
        except BaseException:
            self.election.resign()
            raise
        self.lost.clear()
        log.info("leads", epoch=epoch, who=self.settings.identity)
        return True

    def resign(self) -> None:
        """A last checkpoint, then another process may lead at once. Nothing happens where this one does not lead."""
        if self.election.epoch is None:
            return
        try:
            with self.books.write() as tx:
                checkpoint.take(tx, self.settings.data_dir / "checkpoints.jsonl", self.clock.now())
                leadership.ends(tx)
        except OperationalError as problem:  # the database is another's now, or gone: nothing is lost by it
            log.warning("no_last_checkpoint", problem=str(problem))
        self.election.resign()

    def close(self) -> None:
        """Everything this process holds is let go."""
        self.resign()
        for backend in self.backends.values():
            if (close := getattr(backend, "close", None)) is not None:
                close()
        self.database.close()


def build(settings: Settings, *, clock: Clock | None = None, backends: Mapping[str, Backend] | None = None) -> Services:
    """assemble, and lead: the platform that is alone on its database. AnotherLeads if it is not."""
    services = assemble(settings, clock=clock, backends=backends)
    if not services.lead():
        services.close()
        raise AnotherLeads(f"another process is the loop of {services.database.engine.url!r}")
    return services


def assemble(
    settings: Settings, *, clock: Clock | None = None, backends: Mapping[str, Backend] | None = None
) -> Services:
    """A platform on its database, migrated and with its ledger opened, that does not lead yet. Any number may be.

    SchemaNewer if the database belongs to a version that this one cannot serve; WrongLedger; FrozenChanged.
    """
    data_dir = settings.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    protect_process()
    database = Database(settings.database_url, writer_idle_s=WRITER_IDLE_S)
    try:
        with FileLock(data_dir / "start.lock", timeout=START_S):  # what is made once here is made by one process
            return _assemble(settings, database, clock or SystemClock(), backends)
    except BaseException:
        database.close()
        raise


def _assemble(settings: Settings, database: Database, clock: Clock, backends: Mapping[str, Backend] | None) -> Services:
    data_dir = settings.data_dir
    upgrade(database)
    registry = load_policies(settings.parameters_dir)
    check_at_start(registry, settings.parameters_dir, data_dir / "frozen-memory.json", clock.now())
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
        raise WrongLedger(f"the ledger in {data_dir} is marked {refusal.facts['is']}, not {settings.ledger}")
    if settings.pages_open and mark != "demo":
        raise WrongLedger(f"pages_open needs a ledger marked demo; the one in {data_dir} is marked {mark}")
    settings = settings.model_copy(update={"ledger": mark})
    home: str | None = None
    shown = backends
    clusters = read_clusters(data_dir)
    if backends is None:
        home = leadership.home_of(data_dir)
        local = LocalBackend(
            data_dir / "local",
            private=(data_dir,),
            path=settings.job_path,
            confinement=settings.confinement,
            assignments=data_dir / "assignments",
        )
        elsewhere = backends_of(clusters, data_dir)
        backends = {"local": local, **elsewhere}
        shown = {"local": LocalJobs(local, database, home), **elsewhere}
    key = checkpoint.load_key(settings.checkpoint_key or data_dir / "checkpoint.key")
    _check_key(database, key, settings)
    election = _election(settings, database)
    telemetry = Telemetry(database, clock, election.still)
    books, lost = database.fenced(fence_of(election)), threading.Event()
    told: list[tuple[int | None, datetime]] = [(None, clock.now())]
    last, probed = [clock.now()], [clock.now() - timedelta(seconds=PROBE_EVERY_S)]

    def on_tick(seconds: float) -> None:
        telemetry.ticked(seconds)
        now = clock.now()
        try:
            epoch = election.try_lead()
            if epoch is None:  # the session was lost, and another was quicker
                raise LeadLost(f"another process is the loop of {database.engine.url!r}")
            if told[0][0] != epoch or now - told[0][1] >= leadership.TELL_EVERY:
                told[0] = epoch, now
                with books.write() as tx:
                    leadership.ticked(tx, settings.identity, epoch, to_ms(now))
            if (now - last[0]).total_seconds() >= CHECKPOINT_EVERY_S:
                last[0] = now
                with books.write() as tx:
                    checkpoint.keep(tx, data_dir / "checkpoints.jsonl", now, key)
            if (now - probed[0]).total_seconds() >= PROBE_EVERY_S:
                with books.write() as tx:
                    listing.probe(tx, budget.policy.zone, now)
                    rooms.raise_alerts(tx, budget.policy, now)
                    events.watch(tx, now)
                    evidence_challenge.watch(tx, now)
                    yesterday = now.astimezone(budget.policy.zone).date() - timedelta(days=1)
                    if probed[0].astimezone(budget.policy.zone).date() == yesterday:
                        reconciliation.reconcile(tx, yesterday, now)
                probed[0] = now
        except LeadLost as problem:
            log.error("lead_lost", problem=str(problem.orig))
            lost.set()  # the loop ends, and this process stands by
        except OperationalError as problem:  # the server is away; the next tick finds it again
            log.warning("database_away", problem=str(problem.orig))

    loop = Loop(
        books,
        budget,
        load_policy(settings.policy),
        {name: Guarded(backend, election, database) for name, backend in backends.items()},
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
        books=books,
        clock=clock,
        catalog=load_catalog(),
        budget=budget,
        backends=shown or backends,
        loop=loop,
        telemetry=telemetry,
        election=election,
        key=key,
        clusters=clusters,
        home=home,
        lost=lost,
        draining=threading.Event(),
    )


def _election(settings: Settings, database: Database) -> Election:
    if settings.lease:
        from scheduler.backends.kubernetes_api import ClusterApi
        from scheduler.kubernetes_lease import LeaseElection

        namespace, _, name = settings.lease.partition("/")
        holder = f"{settings.identity}_{secrets.token_hex(4)}"  # a process that starts again is another one
        return LeaseElection(database, ClusterApi(), namespace=namespace, name=name, holder=holder)
    if database.postgresql:
        return AdvisoryElection(database)
    return FileElection(database, settings.data_dir / "loop.lock")


def _check_key(database: Database, key: checkpoint.Key, settings: Settings) -> None:
    """On a database that several hosts may share all of them seal with one key, or the audit would find two."""
    if not database.postgresql:
        return  # one host, one data directory; a key that was lost there is a finding, and for a person to judge
    with database.write() as tx:
        known = leadership.public_key(tx, key.public)
    if known != key.public:
        where = settings.checkpoint_key or settings.data_dir / "checkpoint.key"
        raise WrongKey(f"{where} has the public key {key.public}; the database is sealed by {known}")


CHECKPOINT_EVERY_S = (
    5.0  # a tail cut off later than this after it was written is found by the file outside the database
)


START_S = 120.0  # another process of this data directory may be migrating


PROBE_EVERY_S = 60.0  # the platform's own look at every listed device: subsidy evidence, and silent agents


class AnotherLeads(Exception):
    """Another process already runs the loop of this database, on its own data directory or machine."""


class WrongKey(Exception):
    """This process has another signing key than the database's other processes; what it seals would not hold."""


class WrongLedger(Exception):
    """The data directory holds a ledger of the other kind; demo and live money never share one."""
