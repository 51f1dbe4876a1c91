"""Explain tree: the nodes of an explanation and the arithmetic they show. Pure; reading is metering/explain_records.py.

From the top down: amount → clause → parameter → arithmetic → record → evidence. A number is recomputed where it is shown,
a stored record is hashed again where it is shown; `mismatch` and `verified` say what came of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metering.amount import BASIS_POINTS, MS_PER_HOUR, PERMILLE, ceiling_fen, fee_fen, largest_remainder

KINDS = ("amount", "amounts", "clause", "parameter", "arithmetic", "record", "evidence", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One step. title: an amount id, clause number, parameter key, formula name, `stream:seq`, or a note's code.

    facts: JSON values of the kind (see docs/schemas/explanation.json). verified: for a record, whether its stored content
    gives its stored hash and its neighbours agree; None where nothing is stored. problem: why not, in English.
    """

    kind: str
    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    verified: bool | None = None
    problem: str | None = None
    children: tuple[Node, ...] = ()

    def document(self) -> dict[str, Any]:
        """The node and all below it as plain values."""
        found: dict[str, Any] = {"kind": self.kind, "title": self.title, **self.facts}
        if self.verified is not None:
            found["verified"] = self.verified
        if self.problem is not None:
            found["problem"] = self.problem
        return {**found, "children": [child.document() for child in self.children]}

    def walk(self) -> Iterator[Node]:
        """The node, then every node below it, in the order shown."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def mismatch(self) -> bool:
        return bool(self.facts.get("mismatch", False))

    @property
    def broken(self) -> tuple[Node, ...]:
        """Every node below (and this one) that does not hold: altered records, numbers that come out otherwise."""
        return tuple(node for node in self.walk() if node.verified is False or node.mismatch)


def amount(identity: str, shown: int, recomputed: int | None, children: Iterable[Node], unit: str = "fen") -> Node:
    """A number as it is shown. recomputed: what its arithmetic gives now; None where nothing can be recomputed."""
    facts = {
        "value": shown,
        "unit": unit,
        "recomputed": recomputed,
        "mismatch": recomputed is not None and recomputed != shown,
    }
    problem = f"shown {shown}, recomputed {recomputed}" if facts["mismatch"] else None
    return Node(kind="amount", title=identity, facts=facts, problem=problem, children=tuple(children))


def amounts(identity: str, children: Iterable[Node]) -> Node:
    """Several numbers under one id, such as a settlement's totals."""
    return Node(kind="amounts", title=identity, children=tuple(children))


def note(code: str, facts: Mapping[str, Any] | None = None, children: Iterable[Node] = ()) -> Node:
    """What is neither a number nor a record: a reason's code, or that something cannot be recomputed here."""
    return Node(kind="note", title=code, facts={"facts": dict(facts or {})}, children=tuple(children))


def arithmetic(formula: str, text: str, result: int, children: Iterable[Node] = ()) -> Node:
    """A formula with its real numbers. text: the computation without its result; result: what it gives."""
    facts = {"text": f"{text} = {result}", "result": result}
    return Node(kind="arithmetic", title=formula, facts=facts, children=tuple(children))


# --- formulas -----------------------------------------------------------------------------------------------------


def fee(price: int, devices: int, ms: int, share: int) -> Node:
    """Design §5 rule 1: half_up(fen per device-hour × devices × ms × permille ÷ (3600000 ms × 1000‰))."""
    text = f"half_up({price} × {devices} × {ms} × {share} / ({MS_PER_HOUR} × {PERMILLE}))"
    return arithmetic("fee", text, fee_fen(price, devices * ms, share))


def device_time(devices: int, ms: int) -> Node:
    """devices × milliseconds."""
    return arithmetic("device_time", f"{devices} × {ms}", devices * ms)


def total(formula: str, terms: Sequence[int]) -> Node:
    """A sum; long ones are shown by their first and last terms."""
    shown = [str(t) if t >= 0 else f"({t})" for t in terms]
    if len(shown) > 12:
        shown = [*shown[:8], f"… ({len(terms) - 10} more)", *shown[-2:]]
    return arithmetic(formula, " + ".join(shown) or "0", sum(terms))


def difference(formula: str, left: int, right: int) -> Node:
    """left − right."""
    return arithmetic(formula, f"{left} - {right}", left - right)


def least(formula: str, bounds: Mapping[str, int]) -> Node:
    """The smallest of named bounds, fen."""
    text = ", ".join(f"{name} {fen}" for name, fen in bounds.items())
    return arithmetic(formula, f"min({text})", min(bounds.values()))


def greatest(formula: str, amounts: Mapping[str, int]) -> Node:
    """The largest of named amounts, fen."""
    text = ", ".join(f"{name} {fen}" for name, fen in amounts.items())
    return arithmetic(formula, f"max({text})", max(amounts.values()))


def ceiling(fees: int, rate_bp: int) -> Node:
    """Design §5 rule 2: ⌊Σ fee × basis points / 10000⌋."""
    return arithmetic("ceiling", f"floor({fees} × {rate_bp} / {BASIS_POINTS})", ceiling_fen(fees, rate_bp))


def share_of(formula: str, whole: int, weights: Sequence[int], index: int) -> Node:
    """Design §5 rule 4: part `index` of `whole` by largest remainder on `weights`."""
    parts = largest_remainder(whole, weights)
    weighed = sum(weights)
    quota, rest = divmod(whole * weights[index], weighed) if weighed else (0, 0)
    text = f"largest_remainder: {whole} × {weights[index]} / {weighed} = {quota} + {rest}/{weighed}, rounded"
    return arithmetic(formula, text, parts[index])


# --- a settlement worked out --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A line's own inputs. draws: False where something excludes it from the voucher."""

    price: int
    devices: int
    ms: int
    share: int
    domestic: bool
    rate_bp: int
    year: int
    draws: bool

    @property
    def fee_fen(self) -> int:
        return int(fee_fen(self.price, self.devices * self.ms, self.share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """Lines of one origin class, rate and year. members: their places; ceiling in fen (design §5 rule 2)."""

    domestic: bool
    rate_bp: int
    year: int
    members: tuple[int, ...]
    fees: int
    ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Year:
    """A year's deduction: the least of its bounds (design §5 rule 3), the ceiling first."""

    year: int
    classes: tuple[Class, ...]
    bounds: Mapping[str, int]
    deduction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """A settlement from its items: every part of design §5 rules 1 to 4. deductions: per item, fen."""

    items: tuple[Item, ...]
    years: tuple[Year, ...]
    deductions: tuple[int, ...]

    @property
    def totals(self) -> dict[str, int]:
        """fee_fen, ceiling_fen, deduction_fen, payable_fen."""
        fees, taken = sum(item.fee_fen for item in self.items), sum(self.deductions)
        ceilings = sum(one.ceiling for year in self.years for one in year.classes)
        return {"fee_fen": fees, "ceiling_fen": ceilings, "deduction_fen": taken, "payable_fen": fees - taken}

    def place(self, index: int) -> tuple[Year, Class] | None:
        """The year and class of an item; None for one that draws nothing."""
        return next(((y, c) for y in self.years for c in y.classes if index in c.members), None)


def work(items: Sequence[Item], rooms: Mapping[str, Any], caps: Mapping[str, Mapping[int, int]]) -> Worked:
    """The settlement of the items within `rooms` (of a settle case); a year that rooms lack has the policy's cap.

    rooms: {pool: {YYYY: fen}, firm: {YYYY: fen}, contract?, tranche?}. A second derivation beside settle(): the two are
    compared wherever a number is explained.
    """
    members: dict[tuple[int, bool, int], list[int]] = {}
    for index, item in enumerate(items):
        if item.draws:
            members.setdefault((item.year, item.domestic, item.rate_bp), []).append(index)
    running = {name: int(rooms[name]) for name in ("contract", "tranche") if rooms.get(name) is not None}
    deductions = [0] * len(items)
    years = []
    for year in sorted({key[0] for key in members}):
        classes = []
        for (_, domestic, rate), mine in ((k, v) for k, v in members.items() if k[0] == year):
            fees = sum(items[index].fee_fen for index in mine)
            limit = int(ceiling_fen(fees, rate))
            classes.append(
                Class(domestic=domestic, rate_bp=rate, year=year, members=tuple(mine), fees=fees, ceiling=limit)
            )
        bounds = {"ceiling": sum(one.ceiling for one in classes)}
        for name in ("firm", "pool"):
            given = rooms.get(name, {})
            bounds[name] = int(given.get(f"{year:04d}", given.get(str(year), caps[name].get(year, 0))))
        bounds |= running
        deduction = min(bounds.values())
        running = {name: left - deduction for name, left in running.items()}
        for one, part in zip(classes, largest_remainder(deduction, [c.ceiling for c in classes]), strict=True):
            shares = largest_remainder(part, [items[index].fee_fen for index in one.members])
            for index, share in zip(one.members, shares, strict=True):
                deductions[index] = share
        years.append(Year(year=year, classes=tuple(classes), bounds=bounds, deduction=deduction))
    return Worked(items=tuple(items), years=tuple(years), deductions=tuple(deductions))
