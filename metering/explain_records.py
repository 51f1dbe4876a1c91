"""Explain records: stored records as leaves of an explanation, each hashed again from the store as it is read. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, select

from adapters.chain import GENESIS, link, timestamp
from metering.checkpoint import STREAMS
from metering.explain_tree import Node, note
from metering.parameters import Policy, Registry, Row, UnknownPolicy
from metering.schema import facts, transfers
from scheduler.clock import from_ms
from scheduler.journal import CHAIN_COLUMNS, head

SHOWN = 20  # of a long list of records that all hold, so many are shown; one that does not hold always is


@dataclass(frozen=True, slots=True)
class Reader:
    """An explanation being read: the connection, the parameters, and the leaves made so far (a record is read once)."""

    tx: Connection
    registry: Registry
    leaves: dict[tuple[str, int], Node] = field(default_factory=dict)

    # --- records --------------------------------------------------------------------------------------------------

    def record(
        self, table: Table, row: Mapping[Any, Any], show: Sequence[str] = (), *, children: Sequence[Node] = ()
    ) -> Node:
        """The leaf of a record just read, hashed again. show: the columns that matter here."""
        key = (table.name, int(row["seq"]))
        if key not in self.leaves:
            problem = self._problem(table, row)
            self.leaves[key] = Node(
                kind="record",
                title=f"{table.name}:{row['seq']}",
                facts={"stream": table.name, "seq": row["seq"], "hash": row["hash"]},
                verified=problem is None,
                problem=problem,
            )
        leaf = self.leaves[key]
        shown = {name: _shown(name, row[name]) for name in show}
        return Node(
            kind=leaf.kind,
            title=leaf.title,
            facts={**leaf.facts, "fields": shown},
            verified=leaf.verified,
            problem=leaf.problem,
            children=tuple(children),
        )

    def record_at(self, stream: str, seq: int, show: Sequence[str] = ()) -> Node | None:
        """The leaf of `stream:seq`; None if there is none."""
        table = STREAMS.get(stream)
        if table is None:
            return None
        row = self.tx.execute(select(table).where(table.c.seq == seq)).mappings().first()
        return None if row is None else self.record(table, row, show)

    def records(self, table: Table, rows: Sequence[Mapping[Any, Any]], show: Sequence[str]) -> list[Node]:
        """Leaves of many records: the altered ones and the newest SHOWN; a note counts the rest, hashed too."""
        cut = max(0, len(rows) - SHOWN)
        kept = [row for index, row in enumerate(rows) if index >= cut or _content_problem(table, row) is not None]
        hidden = len(rows) - len(kept)
        leaves = [self.record(table, row, show) for row in kept]
        return [*([note("explain.more_records", {"count": hidden})] if hidden else []), *leaves]

    def _problem(self, table: Table, row: Mapping[Any, Any]) -> str | None:
        altered = _content_problem(table, row)
        if altered is not None:
            return altered
        near = select(table.c.seq, table.c.hash, table.c.prev_hash).where(
            table.c.seq.in_((row["seq"] - 1, row["seq"] + 1))
        )
        found = {one.seq: one for one in self.tx.execute(near)}
        before, after = found.get(row["seq"] - 1), found.get(row["seq"] + 1)
        if row["seq"] > 1 and before is None:
            return "the record before it is missing"
        if row["prev_hash"] != (GENESIS if before is None else before.hash):
            return "does not follow the record before it"
        follows = (row["seq"], after.prev_hash) if after is not None else head(self.tx, table.name)
        if follows != (row["seq"], row["hash"]):
            return "the record after it, or the head of its chain, names another hash"
        return None

    # --- facts and transfers ----------------------------------------------------------------------------------------

    def evidence(self, subject_kind: str, subject: str) -> list[Node]:
        """Every fact on record about a subject, each with its evidence as it was recorded."""
        query = select(facts).where(facts.c.subject_kind == subject_kind, facts.c.subject == subject)
        show = ("subject", "fact", "from_ms", "to_ms", "withdraws_seq", "recorded_at_ms", "recorded_by")
        found = []
        for row in self.tx.execute(query.order_by(facts.c.seq)).mappings():
            try:
                content = json.loads(row["evidence"])
            except ValueError:
                content = row["evidence"]
            paper = Node(kind="evidence", title=f"facts:{row['seq']}", facts={"evidence": content})
            found.append(self.record(facts, row, show, children=(paper,)))
        return found

    def transfer(self, identity: str) -> tuple[Mapping[Any, Any], Node] | None:
        """A transfer by its id with its leaf."""
        row = self.tx.execute(select(transfers).where(transfers.c.id == identity)).mappings().first()
        return None if row is None else (row, self.record(transfers, row, TRANSFER))

    # --- clauses and parameters -------------------------------------------------------------------------------------

    def policy(self, identity: str) -> Policy | None:
        """The policy of this id, None where it is not loaded."""
        try:
            return self.registry.policy(identity)
        except UnknownPolicy:
            return None


TRANSFER = ("id", "phase", "code", "debit", "credit", "amount_fen")


def _content_problem(table: Table, row: Mapping[Any, Any]) -> str | None:
    body = {c.name: row[c.name] for c in table.columns if c.name not in CHAIN_COLUMNS}
    try:
        own = link(row["prev_hash"], {"seq": row["seq"], **body})
    except Exception as problem:  # noqa: BLE001 - a forged value may not even be JSON; that is what is reported
        return f"unreadable: {problem}"
    return None if own == row["hash"] else "content does not match its hash"


def _shown(name: str, value: Any) -> Any:
    return timestamp(from_ms(value)) if name.endswith("_ms") and name != "device_ms" and value is not None else value


def clause(policy: Policy, number: str, children: Sequence[Node] = ()) -> Node:
    """A clause with our gist of it in both languages."""
    found = policy.clauses.get(number)
    gist = {"zh": found.gist_zh, "en": found.gist_en} if found else None
    return Node(
        kind="clause",
        title=number,
        facts={"policy": policy.id, "notice": policy.number, "gist": gist},
        children=tuple(children),
    )


def parameter(policy: Policy, key: str, row: Row | None) -> Node:
    """A parameter's dated value with the bundle it stands in; row None: no value in force."""
    unit = policy.parameters[key].unit
    found: dict[str, Any] = {"policy": policy.id, "unit": unit, "bundle_sha256": policy.bundle_sha256, "value": None}
    if row is not None:
        found |= {
            "value": row.value,
            "valid_from": timestamp(row.start),
            "valid_to": timestamp(row.end) if row.end else None,
            "clauses": list(row.clauses),
            "status": row.status,
            "recorded_at": row.recorded_at,
        }
    return Node(kind="parameter", title=key, facts=found)


def ruled(policy: Policy, key: str, row: Row | None) -> list[Node]:
    """The clauses a parameter's row rests on, the parameter under the first of them."""
    held = parameter(policy, key, row)
    numbers = row.clauses if row is not None else ()
    if not numbers:
        return [held]
    return [clause(policy, numbers[0], (held,)), *(clause(policy, number) for number in numbers[1:])]
