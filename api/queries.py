"""Queries: what routes show, read-only. Every query about a tenant's things carries the tenant (None = may see all)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, select

from adapters.accelerator import Origin
from adapters.catalog import Catalog
from adapters.chain import timestamp
from adapters.device_problem import coded
from api.texts import pending_words, text
from metering import benchmark, standing
from metering import store as money
from metering.budget import VoucherBudget
from metering.evidence_pools import levels_of_pools
from metering.facts import holds_at
from metering.offer import capacity_of, listing_of
from metering.offer_evidence import evidence_of
from metering.parameters import Registry
from metering.schema import facts as fact_rows
from metering.schema import prices, rights
from metering.schema import settlements as settlement_rows
from metering.statement import TOTALS, lines_of
from scheduler import schema as work
from scheduler import store, view
from scheduler.clock import from_ms
from scheduler.lifecycle import State
from scheduler.progress import progress_of


def rows(tx: Connection, table: Table, wanted: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Every row whose columns have the wanted values (None = any), times as text, in order of the first column."""
    query = select(table)
    for name, value in wanted.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    return [_shown(row) for row in tx.execute(query.order_by(next(iter(table.c)))).mappings()]


def one(tx: Connection, table: Table, identity: str) -> dict[str, Any] | None:
    """The row of this id."""
    row = tx.execute(select(table).where(table.c.id == identity)).mappings().first()
    return dict(row) if row else None


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    """`*_at_ms` as `*_at`, a time; JSON columns as values."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("_at_ms") or key == "at_ms":
            found[key.removesuffix("_ms")] = timestamp(from_ms(value)) if value is not None else None
        elif key == "facts" and isinstance(value, str):
            found[key] = json.loads(value)
        else:
            found[key] = value
    return found


# --- jobs -----------------------------------------------------------------------------------------------------------


def jobs(tx: Connection, firm: str | None, state: State | None, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Jobs, newest first (ids are in order of time)."""
    table = work.jobs
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    if firm is not None:
        query = query.where(table.c.firm == firm)
    if state is not None:
        query = query.where(table.c.state == state.value)
    if after is not None:
        query = query.where(table.c.id < after)
    return [_job(row) for row in tx.execute(query).mappings()]


def job(tx: Connection, firm: str | None, identity: str) -> dict[str, Any] | None:
    """One job with its leases and cost; None if it is not there or another firm's."""
    row = store.job_row(tx, identity)
    if row is None or firm not in (None, row["firm"]):
        return None
    query = select(work.leases).where(work.leases.c.job == identity).order_by(work.leases.c.reserved_at_ms.desc())
    latest = tx.execute(
        select(settlement_rows).where(settlement_rows.c.job == identity).order_by(settlement_rows.c.number.desc())
    )
    settled = latest.mappings().first()
    return {
        **_job(row),
        "spec": json.loads(row["spec"]),
        "progress": _progress(progress_of(tx, identity)),
        "leases": [_lease(tx, lease) for lease in tx.execute(query).mappings()],
        "cost": {name: settled[name] for name in TOTALS} if settled else None,
    }


def array(tx: Connection, firm: str | None, identity: str) -> dict[str, Any] | None:
    """An array with its elements; None if it is not there or another firm's.

    state: RUNNING or PENDING while one has not ended; then SUCCEEDED if all did, else that of the first that did not.
    """
    found = store.array_jobs(tx, identity)
    if not found or firm not in (None, found[0]["firm"]):
        return None
    states = [State(row["state"]) for row in found]
    ended = all(state.terminal for state in states)
    state = State.RUNNING if any(state.holds_devices for state in states) else State.PENDING
    if ended:
        state = next((state for state in states if state is not State.SUCCEEDED), State.SUCCEEDED)
    elements = [_job(row) for row in found]
    kept = ("name", "firm", "queue", "priority", "submitted_at")
    return {
        "id": identity,
        **{k: elements[0][k] for k in kept},
        "state": state.value,
        "ended": ended,
        "parallel": found[0]["array_parallel"],
        "elements": [{k: each[k] for k in ("id", "array_index", "state", "held_by", "pending")} for each in elements],
    }


def _progress(row: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    shown = _shown(row)
    return {k: shown[k] for k in ("at", "steps", "total_steps", "checkpointed_at", "checkpointed_steps")}


def _job(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = _shown(row)
    pending = json.loads(row["pending"]) if row["pending"] else None
    if pending is not None:
        pending["text"] = {lang: pending_words(pending, lang)[0] for lang in ("zh", "en")}
        pending["since"] = timestamp(from_ms(pending["since"])) if isinstance(pending.get("since"), int) else None
    kept = (
        "id",
        "name",
        "firm",
        "queue",
        "priority",
        "state",
        "attempt",
        "submitted_at",
        "ended_at",
        "exit_code",
        "cause",
        "held_by",
        "deadline_at",
        "array_id",
        "array_index",
    )
    return {
        **{k: shown[k] for k in kept},
        "spec_sha256": row["spec_sha256"],
        "ended": State(row["state"]).terminal,
        "cancel_requested": row["cancel_requested_at_ms"] is not None,
        "pending": pending,
    }


def _lease(tx: Connection, row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = _shown(row)
    kept = ("id", "pool", "backend", "model", "source", "device_count", "price_fen_per_device_hour", "reserved_at",
            "started_at", "released_at", "cause", "exit_code")  # fmt: skip
    members = [{"rank": m.rank, "node": m.node, "devices": list(m.devices)} for m in view.members_of(tx, row["id"])]
    return {**{k: shown[k] for k in kept}, "members": members}


def story(tx: Connection, identity: str, after: int) -> list[dict[str, Any]]:
    """A job's events from after this position on."""
    return [
        {
            **{k: e[k] for k in ("seq", "event", "state_from", "state_to", "lease", "facts")},
            "at": timestamp(from_ms(e["at_ms"])),
        }
        for e in store.story(tx, identity)
        if e["seq"] > after
    ]


# --- the zone -------------------------------------------------------------------------------------------------------


def nodes(tx: Connection, provider: str | None) -> list[dict[str, Any]]:
    """Nodes with their devices."""
    query = select(work.nodes).join(work.pools, work.pools.c.id == work.nodes.c.pool).order_by(work.nodes.c.id)
    if provider is not None:
        query = query.where(work.pools.c.provider == provider)
    by_node: dict[str, list[dict[str, Any]]] = {}
    kept = ("uuid", "idx", "vendor", "model", "model_raw", "serial", "pci_bdf", "memory_total_bytes", "driver_version",
            "health", "health_code", "source", "evidence_level")  # fmt: skip
    for row in tx.execute(select(work.devices).order_by(work.devices.c.node, work.devices.c.idx)).mappings():
        said = json.loads(row["problems"])
        device = {**{k: row[k] for k in kept}, "problems": said, "problems_told": [_told(one) for one in said]}
        device |= {"partition": json.loads(row["partition"] or "null"), "leasable": bool(row["leasable"])}
        by_node.setdefault(row["node"], []).append(device)
    return [
        {**_shown(row), "schedulable": bool(row["schedulable"]), "devices": by_node.get(row["id"], [])}
        for row in tx.execute(query).mappings()
    ]


def _told(said: str) -> dict[str, Any]:
    """A problem of a device as a code with facts, and its text in both languages; the adapter's own words stay a fact."""
    problem = coded(said)
    code = f"device.problem.{problem.code}"
    return {
        "code": problem.code,
        "facts": dict(problem.facts),
        "text": {lang: text(code, problem.facts, lang) for lang in ("zh", "en")},
    }


def facts(tx: Connection) -> list[dict[str, Any]]:
    """Every dated fact, in the order of record."""
    return [
        {
            **{k: row[k] for k in ("seq", "subject_kind", "subject", "fact", "recorded_by")},
            "from": timestamp(from_ms(row["from_ms"])),
            "to": timestamp(from_ms(row["to_ms"])) if row["to_ms"] is not None else None,
            "evidence": json.loads(row["evidence"]),
            "withdraws": row["withdraws_seq"],
            "recorded_at": timestamp(from_ms(row["recorded_at_ms"])),
        }
        for row in tx.execute(select(fact_rows).order_by(fact_rows.c.seq)).mappings()
    ]


def listings(tx: Connection, budget: VoucherBudget, catalog: Catalog, now: Any) -> list[dict[str, Any]]:
    """One listing per listed pool."""
    held = {
        row.device for row in tx.execute(select(work.lease_devices.c.device).where(work.lease_devices.c.released == 0))
    }
    by_pool: dict[str, list[dict[str, Any]]] = {}
    oldest = int(now.timestamp() * 1000) - int(view.SILENT_AFTER.total_seconds() * 1000)
    query = select(work.devices.c.uuid, work.devices.c.health, work.nodes.c.pool, work.nodes.c.id.label("node"),
                   work.nodes.c.schedulable, work.nodes.c.heartbeat_at_ms)  # fmt: skip
    query = query.where(work.devices.c.leasable == 1)
    for row in tx.execute(query.join(work.nodes, work.nodes.c.id == work.devices.c.node)):
        usable = bool(row.schedulable) and row.health != "failed" and (row.heartbeat_at_ms or 0) >= oldest
        by_pool.setdefault(row.pool, []).append({"node": row.node, "held": row.uuid in held, "usable": usable})
    found = []
    measured = benchmark.measured(benchmark.latest(tx), catalog)
    levels = levels_of_pools(tx, now)
    for pool in tx.execute(select(work.pools).where(work.pools.c.listed == 1).order_by(work.pools.c.id)).mappings():
        origin = budget.origin(pool["vendor"], pool["model"], now)
        shown = evidence_of(pool, levels.get(pool["id"], ()), budget.policy, budget.register, now)
        papers = holds_at(standing.eligible_intervals(tx, "site", pool["site"]), now)
        billed_as = Origin(shown["billed_as"])
        rate = (budget.policy.rate_bp(billed_as, now) or 0) if budget.policy.in_force_at(now) else 0
        found.append(
            listing_of(_shown(pool), origin, catalog.get(pool["model"]), by_pool.get(pool["id"], []), rate, papers)
            | {"evidence": shown}
            | benchmark.beside(
                catalog.get(pool["model"]), measured.get(pool["id"]), whole=pool["source"] == "simulated"
            )
        )
    return found


def listing_history(tx: Connection, pool: str) -> list[dict[str, Any]]:
    """When the pool was listed, and every price it had."""
    row = one(tx, work.pools, pool)
    if row is None:
        return []
    query = select(prices).where(prices.c.pool == pool).order_by(prices.c.seq)
    priced = [
        {
            "event": "priced",
            "from": timestamp(from_ms(p["from_ms"])),
            "fen_per_device_hour": p["fen_per_device_hour"],
            "hash": p["hash"],
        }
        for p in tx.execute(query).mappings()
    ]
    return [{"event": "listed", "from": timestamp(from_ms(row["created_at_ms"]))}, *priced]


def capacity(tx: Connection, budget: VoucherBudget, catalog: Catalog, now: Any) -> dict[str, Any]:
    """Devices and nominal PFLOPS over all listings."""
    return capacity_of(listings(tx, budget, catalog, now))


def policies(registry: Registry) -> list[dict[str, Any]]:
    """Every policy loaded."""
    return [
        {
            "id": policy.id,
            "number": policy.number,
            "title": {"zh": policy.title_zh, "en": policy.title_en},
            "status": policy.status,
            "bundle_sha256": policy.bundle_sha256,
            "pool_fen": {str(y): fen for y, fen in policy.pool_fen.items()},
            "firm_cap_fen": {str(y): fen for y, fen in policy.firm_cap_fen.items()},
            "clauses": [
                {"number": c.number, "gist": {"zh": c.gist_zh, "en": c.gist_en}} for c in policy.clauses.values()
            ],
        }
        for policy in registry.policies.values()
    ]


# --- money ----------------------------------------------------------------------------------------------------------


def text_years(found: Mapping[str, Mapping[int, int]]) -> dict[str, dict[str, int]]:
    """Rooms with years as JSON keys."""
    return {kind: {str(year): fen for year, fen in sorted(years.items())} for kind, years in found.items()}


def vouchers(tx: Connection, firm: str | None) -> list[dict[str, Any]]:
    """Rights with their rooms."""
    return [
        {**right, "rooms": text_years(money.rooms(tx, right["firm"]))}
        for right in rows(tx, rights, {"firm": firm})
        for right in [{k: right[k] for k in ("id", "firm", "programme", "policy", "claimed_at")}]
    ]


def usage(
    tx: Connection, firm: str | None, provider: str | None, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Usage records in chain order."""
    table = work.usage_records
    query = select(table).order_by(table.c.seq).limit(limit)
    for name, value in (("firm", firm), ("provider", provider)):
        if value is not None:
            query = query.where(table.c[name] == value)
    if after is not None:
        query = query.where(table.c.seq > int(after))
    kept = ("seq", "lease", "job", "firm", "provider", "site", "pool", "vendor", "model", "source", "kind", "cause",
            "devices", "share_permille", "price_fen_per_device_hour", "hash")  # fmt: skip
    return [
        {
            **{k: row[k] for k in kept},
            "start": timestamp(from_ms(row["start_ms"])),
            "end": timestamp(from_ms(row["end_ms"])),
            "device_ms": row["devices"] * (row["end_ms"] - row["start_ms"]),
        }
        for row in tx.execute(query).mappings()
    ]


def settlements(
    tx: Connection, firm: str | None, job: str | None, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Settlements in chain order, without their lines."""
    table = settlement_rows
    query = select(table).order_by(table.c.seq).limit(limit)
    for name, value in (("firm", firm), ("job", job)):
        if value is not None:
            query = query.where(table.c[name] == value)
    if after is not None:
        query = query.where(table.c.seq > int(after))
    return [_settlement(row) for row in tx.execute(query).mappings()]


def settlement(tx: Connection, firm: str | None, identity: str) -> dict[str, Any] | None:
    """One settlement with its lines and its case."""
    query = select(settlement_rows).where(settlement_rows.c.id == identity)
    row = tx.execute(query).mappings().first()
    if row is None or firm not in (None, row["firm"]):
        return None
    return {**_settlement(row), "lines": lines_of(tx, identity), "case": json.loads(row["case_json"])}


def _settlement(row: Mapping[Any, Any]) -> dict[str, Any]:
    kept = ("seq", "id", "job", "firm", "number", "policy", "bundle_sha256", "spec_sha256", "voucher", "hash")
    return {
        **{k: row[k] for k in kept},
        "final": bool(row["final"]),
        "settled_at": timestamp(from_ms(row["settled_at_ms"])),
        "notices": json.loads(row["notices"]),
        "totals": {name: row[name] for name in TOTALS},
    }
