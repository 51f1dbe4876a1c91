"""Explain settlement: a settlement's and a statement's numbers, down to usage, price and evidence. Reads only.

Everything is worked out again from the case that the settlement keeps, in two ways: by `yisuan settle` itself, and by the
arithmetic shown (metering/explain_tree.py). A stored number that differs from either is a mismatch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from sqlalchemy import select

from adapters.accelerator import Origin
from adapters.chain import instant
from metering import explain_tree as tree
from metering.case import CaseError, settle_document
from metering.explain_records import Reader, ruled
from metering.explain_records import clause as clause_node
from metering.explain_tree import Class, Item, Node, Worked, Year
from metering.parameters import Policy
from metering.parameters.policy import FIRM_CAP, IN_FORCE, POOL
from metering.programme_schema import price_corrections
from metering.rule import Rule, load_rules
from metering.schema import prices, rights, settlement_lines, settlements
from metering.settlement import REASONS
from metering.year import year_start
from scheduler.clock import from_ms, to_ms
from scheduler.schema import job_events, usage_records

TOTALS = ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")
LINE = ("fee_fen", "deduction_fen", "payable_fen", "device_ms", "rate_bp")
UNITS = {"device_ms": "ms", "rate_bp": "basis_point"}
DEEP = 20  # a statement over more jobs shows each job's own sum and record; each can be explained by its own id
EXCLUSIONS = frozenset(REASONS[:3])  # the reasons that leave a line outside every class; the others are rooms


@dataclass(frozen=True)
class Story:
    """One settlement as read: its row, its lines, and what they come to when worked out again."""

    reader: Reader
    row: Mapping[Any, Any]
    lines: tuple[Mapping[Any, Any], ...]

    @cached_property
    def case(self) -> dict[str, Any]:
        """The case kept with the settlement; {} if it is no longer JSON."""
        try:
            found = json.loads(self.row["case_json"])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def policy(self) -> Policy | None:
        """The policy it was settled under, if this installation holds exactly that bundle."""
        policy = self.reader.policy(self.row["policy"])
        return policy if policy is not None and policy.bundle_sha256 == self.row["bundle_sha256"] else None

    @cached_property
    def settled(self) -> dict[str, Any] | None:
        """What `yisuan settle` gives for the case now; None if the bundle is another or the case no longer one."""
        if self.policy is None:
            return None
        try:
            return settle_document(self.row["case_json"], self.reader.registry, _rules())
        except (CaseError, ValueError, LookupError):
            return None

    @cached_property
    def worked(self) -> Worked | None:
        """The same by the arithmetic shown; None if the case no longer matches the lines."""
        try:
            items = _items(self.case["usage"], self.settled["lines"] if self.settled else self._stored())
            caps = {"pool": self.policy.pool_fen, "firm": self.policy.firm_cap_fen} if self.policy else {}
            return tree.work(items, self.case["rooms"], {"pool": {}, "firm": {}, **caps})
        except (KeyError, ValueError, TypeError, LookupError):
            return None

    def _stored(self) -> list[dict[str, Any]]:
        return [{**line, "start_ms": line["start_ms"], "reasons": json.loads(line["reasons"])} for line in self.lines]

    # --- totals -----------------------------------------------------------------------------------------------------

    def total(self, name: str, *, deep: bool = True) -> Node:
        """One of the settlement's totals; not deep: its arithmetic and record, without what is below."""
        identity = f"{self.row['id']}#{name}"
        record = self.record()
        if self.worked is None:
            return tree.amount(identity, self.row[name], None, (tree.note("explain.not_recomputed"), record))
        value = self._agreed(name, self.worked.totals[name])
        children: list[Node] = [self._total_arithmetic(name, self.worked)]
        if not deep:
            return tree.amount(identity, self.row[name], value, [*children, record])
        if name == "payable_fen":
            children += [self.total("fee_fen"), self.total("deduction_fen")]
        elif name == "ceiling_fen":
            children += [node for year in self.worked.years for one in year.classes for node in self._class(one)]
        else:
            if name == "deduction_fen":
                children += [self._year(year) for year in self.worked.years]
            children += [self.line(index, name) for index in range(len(self.lines))]
        return tree.amount(identity, self.row[name], value, [*children, record])

    def _total_arithmetic(self, name: str, worked: Worked) -> Node:
        totals = worked.totals
        if name == "fee_fen":
            return tree.total("sum_of_lines", [item.fee_fen for item in worked.items])
        if name == "deduction_fen":
            return tree.total("sum_of_lines", worked.deductions)
        if name == "ceiling_fen":
            return tree.total("sum_of_classes", [one.ceiling for year in worked.years for one in year.classes])
        return tree.difference("payable", totals["fee_fen"], totals["deduction_fen"])

    def _agreed(self, name: str, value: int) -> int:
        """The arithmetic's value, unless `yisuan settle` gives another: then that one, so that it shows."""
        given = self.settled["totals"][name] if self.settled else value
        return int(given)

    def record(self) -> Node:
        """The settlement's own record with the numbers it states and the case's hashes."""
        show = ("job", "number", "final", "settled_at_ms", "policy", "bundle_sha256", "spec_sha256", "voucher", *TOTALS)
        return self.reader.record(settlements, self.row, show)

    # --- lines ------------------------------------------------------------------------------------------------------

    def line(self, index: int, name: str) -> Node:
        """A number of line `index` (from 0)."""
        row = self.lines[index]
        identity = f"{self.row['id']}/{index + 1}#{name}"
        show = ("settlement", "number", "lease", "provider", "model", "origin", "start_ms", "end_ms", "year", *LINE)
        record = self.reader.record(settlement_lines, row, show)
        worked = self.worked
        if worked is None or index >= len(worked.items):
            return self._amount(identity, name, row, None, (tree.note("explain.not_recomputed"), record))
        item = worked.items[index]
        parts: dict[str, Callable[[], tuple[int, list[Node]]]] = {
            "fee_fen": lambda: (item.fee_fen, [self._fee(item), *self._priced(row), *self._used(row)]),
            "device_ms": lambda: (item.devices * item.ms, [tree.device_time(item.devices, item.ms), *self._used(row)]),
            "rate_bp": lambda: (item.rate_bp, self._rate(index, worked)),
            "deduction_fen": lambda: (worked.deductions[index], self._deduction(index, worked)),
            "payable_fen": lambda: (
                item.fee_fen - worked.deductions[index],
                [
                    tree.difference("payable", item.fee_fen, worked.deductions[index]),
                    self.line(index, "fee_fen"),
                    self.line(index, "deduction_fen"),
                ],
            ),
        }
        value, children = parts[name]()
        if self.settled is not None and index < len(self.settled["lines"]):
            value = int(self.settled["lines"][index][name])
        return self._amount(identity, name, row, value, [*children, record, self.record()])

    def _amount(
        self, identity: str, name: str, row: Mapping[Any, Any], value: int | None, children: Sequence[Node]
    ) -> Node:
        return tree.amount(identity, row[name], value, children, unit=UNITS.get(name, "fen"))

    def _fee(self, item: Item) -> Node:
        return tree.fee(item.price, item.devices, item.ms, item.share)

    def _used(self, row: Mapping[Any, Any]) -> list[Node]:
        """The usage records that cover the line."""
        table = usage_records
        query = select(table).where(
            table.c.lease == row["lease"], table.c.end_ms >= row["start_ms"], table.c.start_ms <= row["end_ms"]
        )
        show = ("lease", "pool", "model", "kind", "cause", "devices", "share_permille", "start_ms", "end_ms",
                "price_fen_per_device_hour")  # fmt: skip
        found = [
            r
            for r in self.reader.tx.execute(query.order_by(table.c.seq)).mappings()
            if (r["end_ms"] > row["start_ms"] and r["start_ms"] < row["end_ms"]) or row["start_ms"] == row["end_ms"]
        ]
        return self.reader.records(table, found, show)

    def _priced(self, row: Mapping[Any, Any]) -> list[Node]:
        """The reservation that fixed the lease's price, and the pool's price record in force then."""
        query = select(job_events).where(job_events.c.lease == row["lease"], job_events.c.event == "reserved")
        reserved = self.reader.tx.execute(query).mappings().first()
        if reserved is None:
            return []
        found = [self.reader.record(job_events, reserved, ("job", "lease", "at_ms", "event", "facts"))]
        try:
            pool = json.loads(reserved["facts"]).get("pool")
        except ValueError:
            return found
        query = select(prices).where(prices.c.pool == pool, prices.c.from_ms <= reserved["at_ms"])
        query = query.where(prices.c.recorded_at_ms <= reserved["at_ms"])
        price = self.reader.tx.execute(query.order_by(prices.c.from_ms.desc(), prices.c.seq.desc())).mappings().first()
        if price is not None:
            show = ("pool", "model", "fen_per_device_hour", "from_ms", "recorded_by")
            found.append(self.reader.record(prices, price, show))
        query = select(price_corrections).where(price_corrections.c.lease == row["lease"])
        query = query.where(price_corrections.c.recorded_at_ms <= self.row["settled_at_ms"])
        corrected = self.reader.tx.execute(query.order_by(price_corrections.c.seq)).mappings()
        return [
            *found,
            *(self.reader.record(price_corrections, one, ("lease", "fen_per_device_hour")) for one in corrected),
        ]

    # --- the voucher ------------------------------------------------------------------------------------------------

    def _rate(self, index: int, worked: Worked) -> list[Node]:
        row = self.lines[index]
        if not worked.items[index].draws:
            return self._excluded(index)
        if self.policy is None:
            return [tree.note("explain.bundle_unknown", {"bundle_sha256": self.row["bundle_sha256"]})]
        dated = self.policy.rate_rows(Origin(row["origin"]))
        return ruled(self.policy, dated.key, dated.row_at(from_ms(row["start_ms"])))

    def _deduction(self, index: int, worked: Worked) -> list[Node]:
        place = worked.place(index)
        if place is None:
            return self._excluded(index)
        year, one = place
        fees = [worked.items[member].fee_fen for member in one.members]
        part = sum(worked.deductions[member] for member in one.members)
        rank = year.classes.index(one)
        return [
            *self._rate(index, worked),
            self._year(year),
            tree.share_of("class_share", year.deduction, [c.ceiling for c in year.classes], rank),
            tree.share_of("line_share", part, fees, one.members.index(index)),
            *self._standing(self.lines[index]),
        ]

    def _class(self, one: Class) -> list[Node]:
        worked = tree.ceiling(one.fees, one.rate_bp)
        if self.policy is None:
            return [worked]
        dated = self.policy.rate_rows(Origin.DOMESTIC if one.domestic else Origin.FOREIGN)
        at = year_start(one.year, self.policy.zone)
        first = self.lines[one.members[0]] if one.members[0] < len(self.lines) else None
        row = dated.row_at(from_ms(first["start_ms"]) if first is not None else at)
        return [*ruled(self.policy, dated.key, row), worked]

    def _year(self, year: Year) -> Node:
        """min(ceiling, rooms), with the ceilings it adds up and the caps the rooms began as."""
        children = [tree.ceiling(one.fees, one.rate_bp) for one in year.classes]
        if self.policy is not None:
            at = year_start(year.year, self.policy.zone)
            for key in (FIRM_CAP, POOL):
                children += ruled(self.policy, key, self.policy.parameters[key].row_at(at))
        node = tree.least("deduction_of_year", year.bounds)
        return Node(kind=node.kind, title=node.title, facts={**node.facts, "year": year.year}, children=tuple(children))

    def _excluded(self, index: int) -> list[Node]:
        """Why the line draws nothing: reasons, their clauses, and the facts that would have to say otherwise."""
        row = self.lines[index]
        reasons = _listed(row["reasons"])
        found = [tree.note(reason, {"firm": self.row["firm"]}) for reason in reasons]
        if self.row["voucher"] != "drawn":
            found.append(tree.note(f"explain.voucher.{self.row['voucher']}"))
        if self.policy is not None:
            found += [clause_node(self.policy, number) for number in _listed(row["clauses"])]
            if "POLICY_NOT_IN_FORCE" in reasons:
                at = from_ms(row["start_ms"])
                found += ruled(self.policy, IN_FORCE, self.policy.parameters[IN_FORCE].row_at(at))
        return [*found, *self._standing(row)]

    def _standing(self, row: Mapping[Any, Any]) -> list[Node]:
        """The firm's right, and every fact about the firm, the firm with the provider, and the site."""
        reader, firm = self.reader, self.row["firm"]
        query = select(rights).where(rights.c.firm == firm).order_by(rights.c.seq)
        show = ("firm", "programme", "policy", "claimed_at_ms", "claimed_by")
        found = [reader.record(rights, right, show) for right in reader.tx.execute(query).mappings()]
        site = next((e.get("site") for e in self.case.get("usage", ()) if e.get("lease") == row["lease"]), None)
        subjects = [("firm", firm), ("relation", f"{firm}|{row['provider']}"), *([("site", str(site))] if site else [])]
        papers = {kind: reader.evidence(kind, subject) for kind, subject in subjects}
        if self.policy is None:
            return [*found, *(leaf for each in papers.values() for leaf in each)]
        numbers = {"firm": "4.1", "relation": "4.1", "site": "4.2"}
        return [
            *found,
            *(clause_node(self.policy, numbers[kind], leaves) for kind, leaves in papers.items() if leaves),
        ]


@cache
def _rules() -> tuple[Rule, ...]:
    return load_rules()


def _listed(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def _items(usage: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Each line's inputs: price, devices and share of the entry it was cut from, in the order of both."""
    items, place = [], 0
    for line in lines:
        start, end = (_ms(line, name) for name in ("start", "end"))
        while not _covers(usage[place], line, start, end):
            place += 1
        entry = usage[place]
        reasons = set(line["reasons"])
        items.append(
            Item(
                price=int(entry["price_fen_per_device_hour"]),
                devices=int(entry["devices"]),
                ms=end - start,
                share=int(entry.get("share_permille", 1000)),
                domestic=line["origin"] == Origin.DOMESTIC.value,
                rate_bp=int(line["rate_bp"]),
                year=int(line["year"]),
                draws=int(line["rate_bp"]) > 0 and not reasons & EXCLUSIONS,
            )
        )
    return items


def _ms(line: Mapping[str, Any], name: str) -> int:
    stored = line.get(f"{name}_ms")
    return int(stored) if stored is not None else to_ms(instant(line[name]))


def _covers(entry: Mapping[str, Any], line: Mapping[str, Any], start: int, end: int) -> bool:
    same = entry["lease"] == line["lease"] and entry["model"] == line["model"]
    return same and to_ms(instant(entry["start"])) <= start and end <= to_ms(instant(entry["end"]))


def read_story(reader: Reader, identity: str) -> Story | None:
    """The settlement of this id; None if there is none."""
    row = reader.tx.execute(select(settlements).where(settlements.c.id == identity)).mappings().first()
    return None if row is None else story_of(reader, row)


def story_of(reader: Reader, row: Mapping[Any, Any]) -> Story:
    """A settlement's row with its lines in order."""
    query = select(settlement_lines).where(settlement_lines.c.settlement == row["id"])
    return Story(reader, row, tuple(reader.tx.execute(query.order_by(settlement_lines.c.number)).mappings()))


# --- statements ---------------------------------------------------------------------------------------------------


def latest(reader: Reader, *, job: str | None = None, firm: str | None = None) -> list[Mapping[Any, Any]]:
    """The last settlement of the job, or of each of the firm's jobs, in chain order of its first."""
    found: dict[str, Mapping[Any, Any]] = {}
    query = select(settlements).where(settlements.c.job == job if job is not None else settlements.c.firm == firm)
    for row in reader.tx.execute(query.order_by(settlements.c.seq)).mappings():
        found[row["job"]] = row
    return list(found.values())


def statement_total(reader: Reader, identity: str, rows: Sequence[Mapping[Any, Any]], name: str) -> Node:
    """A total of a statement over these settlements: their sum, each explained below; of very many, only by its record."""
    stories = [story_of(reader, row).total(name, deep=len(rows) <= DEEP) for row in rows]
    values = [node.facts["recomputed"] for node in stories]
    shown = sum(row[name] for row in rows)
    if any(value is None for value in values):
        return tree.amount(f"{identity}#{name}", shown, None, (tree.note("explain.not_recomputed"), *stories))
    summed = tree.total("sum_of_jobs", [int(value) for value in values])
    return tree.amount(f"{identity}#{name}", shown, summed.facts["result"], (summed, *stories))
