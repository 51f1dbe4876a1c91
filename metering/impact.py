"""Impact: what usage draws under one set of parameters and what the same usage would draw under another. Pure.

    compare(samples, before, after, rules) -> Comparison         one policy against another, per firm and in total
    affected(samples, before, after, rules) -> tuple[Affected]   whose settlement an edited registry would change

Nothing is posted or stored, and a policy of any status may be tried: `settle_under` takes the policy as an object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from adapters.chain import timestamp
from metering.case import CaseError, settle_document
from metering.parameters.policy import Policy, Registry
from metering.parameters.worked import Worked
from metering.rule import Rule

VERSION = 1
Years = dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Usage to settle again: a case of `yisuan settle`. name: of its file, or the id of its settlement."""

    name: str
    firm: str
    case: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Fen under the first policy and under the other. difference_fen: what the firm draws more, negative for less."""

    cases: int = 0
    fee_fen: int = 0
    deduction_fen: int = 0
    deduction_against_fen: int = 0

    @property
    def difference_fen(self) -> int:
        return self.deduction_against_fen - self.deduction_fen

    @property
    def outcome(self) -> str:
        """gains | loses | same: what the other policy means for whoever pays."""
        return "same" if self.difference_fen == 0 else "gains" if self.difference_fen > 0 else "loses"

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def document(self) -> dict[str, Any]:
        """The sums with what is left to pay under each, as plain values."""
        return {
            "cases": self.cases,
            "fee_fen": self.fee_fen,
            "deduction_fen": self.deduction_fen,
            "deduction_against_fen": self.deduction_against_fen,
            "payable_fen": self.fee_fen - self.deduction_fen,
            "payable_against_fen": self.fee_fen - self.deduction_against_fen,
            "difference_fen": self.difference_fen,
            "outcome": self.outcome,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The same usage under two policies. by_case in the order of the samples, by_firm in order of id."""

    before: Policy
    after: Policy
    start: datetime | None
    end: datetime | None
    by_case: tuple[tuple[Sample, Sums], ...]
    by_firm: Mapping[str, Sums]
    total: Sums

    def document(self) -> dict[str, Any]:
        """The output of `yisuan policy simulate` as plain values."""
        return {
            "version": VERSION,
            "policy": self.before.id,
            "against": self.after.id,
            "bundle_sha256": {"policy": self.before.bundle_sha256, "against": self.after.bundle_sha256},
            "from": None if self.start is None else timestamp(self.start),
            "to": None if self.end is None else timestamp(self.end),
            "cases": [
                {"case": sample.name, "firm": sample.firm, **{k: v for k, v in sums.document().items() if k != "cases"}}
                for sample, sums in self.by_case
            ],
            "firms": [{"firm": firm, **sums.document()} for firm, sums in self.by_firm.items()],
            "total": self.total.document(),
        }


def sample_of(name: str, text: str | bytes, registry: Registry, rules: Sequence[Rule]) -> Sample:
    """The case in a file's text, checked as strictly as `yisuan settle` does; CaseError for what is not exactly one."""
    every = Registry({id: replace(policy, status="active") for id, policy in registry.policies.items()})  # noqa: A001
    settle_document(text, every, rules)
    case = json.loads(text)
    return Sample(name=name, firm=case["firm"]["id"], case=case)


def settle_under(case: Mapping[str, Any], policy: Policy, rules: Sequence[Rule]) -> dict[str, Any]:
    """The output document of the case as if it named this policy, whatever the policy's status; CaseError if it is bad."""
    alone = Registry({policy.id: replace(policy, status="active")})
    return settle_document(json.dumps({**case, "policy": policy.id}), alone, rules)


def clip(case: Mapping[str, Any], start: datetime | None, end: datetime | None) -> dict[str, Any]:
    """The case with only its usage within [start, end); None = open. An entry without length stays if it begins there."""
    kept = []
    for entry in case["usage"]:
        first, last = (datetime.fromisoformat(entry[name]).astimezone(UTC) for name in ("start", "end"))
        begins = first if start is None else max(first, start)
        ends = last if end is None else min(last, end)
        if begins < ends or (first == last == begins == ends and first != end):
            kept.append({**entry, "start": timestamp(begins), "end": timestamp(ends)})
    return {**case, "usage": kept}


@dataclass(slots=True)
class _Carried:
    """What earlier cases drew less under the other policy, by year: it is still in the rooms of the later ones."""

    pool: Years = field(default_factory=dict)
    firm: dict[str, Years] = field(default_factory=dict)

    def add(self, firm: str, spared: Years) -> None:
        for year, fen in spared.items():
            self.pool[year] = self.pool.get(year, 0) + fen
            mine = self.firm.setdefault(firm, {})
            mine[year] = mine.get(year, 0) + fen


def compare(
    samples: Iterable[Sample],
    before: Policy,
    after: Policy,
    rules: Sequence[Rule],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    in_sequence: bool = False,
) -> Comparison:
    """Every sample settled under both policies, its usage cut to [start, end).

    Rooms that a case gives are what was left of the first policy's caps, so the other one has them plus the difference
    of its caps. in_sequence: the samples came one after the other from the same rooms, and what one draws less under
    the other policy is left for the next; without it each stands alone, as in `yisuan settle`. Contract and tranche
    rooms stay as given. Raises CaseError, with the sample's name in facts["file"].
    """
    by_case: list[tuple[Sample, Sums]] = []
    by_firm: dict[str, Sums] = {}
    carried = _Carried()
    for sample in samples:
        case = clip(sample.case, start, end)
        if not case["usage"] and sample.case["usage"]:
            continue
        firm = carried.firm.get(sample.firm, {})
        other = {**case, "rooms": _rooms(case.get("rooms", {}), before, after, carried.pool, firm)}
        try:
            old, new = settle_under(case, before, rules), settle_under(other, after, rules)
        except CaseError as bad:
            raise CaseError(bad.code, {"file": sample.name, **bad.facts}) from bad
        sums = Sums(
            cases=1,
            fee_fen=old["totals"]["fee_fen"],
            deduction_fen=old["totals"]["deduction_fen"],
            deduction_against_fen=new["totals"]["deduction_fen"],
        )
        by_case.append((sample, sums))
        by_firm[sample.firm] = by_firm.get(sample.firm, Sums()).plus(sums)
        if in_sequence:
            carried.add(sample.firm, _spared(old, new))
    total = Sums()
    for sums in by_firm.values():
        total = total.plus(sums)
    return Comparison(
        before=before,
        after=after,
        start=start,
        end=end,
        by_case=tuple(by_case),
        by_firm=dict(sorted(by_firm.items())),
        total=total,
    )


def _rooms(given: Mapping[str, Any], before: Policy, after: Policy, pool: Years, firm: Years) -> dict[str, Any]:
    """The rooms of a case as the other policy would have left them; never below 0."""
    found = dict(given)
    for name, old, new, spared in (
        ("pool", before.pool_fen, after.pool_fen, pool),
        ("firm", before.firm_cap_fen, after.firm_cap_fen, firm),
    ):
        if name in given:
            found[name] = {
                year: max(0, fen + new.get(int(year), 0) - old.get(int(year), 0) + spared.get(int(year), 0))
                for year, fen in given[name].items()
            }
    return found


def _spared(old: Mapping[str, Any], new: Mapping[str, Any]) -> Years:
    found: Years = {}
    for sign, output in ((1, old), (-1, new)):
        for line in output["lines"]:
            found[line["year"]] = found.get(line["year"], 0) + sign * line["deduction_fen"]
    return found


# --- one edited registry against another --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A settlement that would come out otherwise. deduction_after_fen: None where it could not be settled at all."""

    name: str
    firm: str
    policy: str
    deduction_before_fen: int
    deduction_after_fen: int | None

    def document(self) -> dict[str, Any]:
        """The settlement as plain values; difference_fen is None where there is no amount after."""
        after = self.deduction_after_fen
        return {
            "settlement": self.name,
            "firm": self.firm,
            "policy": self.policy,
            "deduction_before_fen": self.deduction_before_fen,
            "deduction_after_fen": after,
            "difference_fen": None if after is None else after - self.deduction_before_fen,
        }


def affected(
    samples: Iterable[Sample], before: Registry, after: Registry, rules: Sequence[Rule]
) -> tuple[Affected, ...]:
    """The samples whose lines, amounts, reasons or clauses differ between the registries; the bundle's hash may differ.

    Raises CaseError for a case that is bad under the registry it was made with.
    """
    found = []
    for sample in samples:
        name = str(sample.case["policy"])
        old = settle_under(sample.case, before.policy(name), rules)
        try:
            new = settle_under(sample.case, after.policy(name), rules)
        except (CaseError, LookupError):
            new = None
        if new is None or {**old, "bundle_sha256": ""} != {**new, "bundle_sha256": ""}:
            found.append(
                Affected(
                    name=sample.name,
                    firm=sample.firm,
                    policy=name,
                    deduction_before_fen=old["totals"]["deduction_fen"],
                    deduction_after_fen=None if new is None else new["totals"]["deduction_fen"],
                )
            )
    return tuple(found)


# --- worked cases -------------------------------------------------------------------------------------------------


def unmet(worked: Worked, policy: Policy, rules: Sequence[Rule]) -> tuple[str, ...]:
    """What of the example does not come out as written, one sentence each; () when all does."""
    try:
        found = settle_under(worked.case, policy, rules)
    except CaseError as bad:
        return (str(bad),)
    wrong = [
        f"totals.{name} is {found['totals'][name]}, not {fen}"
        for name, fen in worked.totals.items()
        if found["totals"][name] != fen
    ]
    if len(found["lines"]) != len(worked.lines):
        wrong.append(f"{len(found['lines'])} lines, not {len(worked.lines)}")
    for index, (line, expected) in enumerate(zip(found["lines"], worked.lines, strict=False)):
        for name, value in expected.items():
            if line[name] != value:
                wrong.append(f"lines[{index}].{name} is {line[name]!r}, not {value!r}")
    if worked.notices is not None and found["notices"] != list(worked.notices):
        wrong.append(f"notices are {found['notices']}, not {list(worked.notices)}")
    return tuple(wrong)
