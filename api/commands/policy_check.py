"""Policy check: a folder of parameters against what has begun, and the settlements that it would change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from api.commands.connection import connect
from api.commands.console import REFUSED, USAGE, Column, Failure, Output, emit, section, show, talk, word

if TYPE_CHECKING:
    from metering.impact import Sample
    from metering.parameters import Registry
    from metering.parameters.frozen import Baseline


def load(directory: Path | None) -> Registry:
    """The policies of a folder, None: the built-in ones; what the loader refuses is bad input (2)."""
    from metering.parameters import ParameterError, load_policies

    try:
        return load_policies(directory)
    except ParameterError as problem:
        raise Failure(word("cli.policy.parameters"), why=str(problem), code=USAGE) from None


def read_samples(files: Sequence[Path], registry: Registry, advance: Callable[[int], None] | None) -> list[Sample]:
    """The cases of files, each checked as `yisuan settle` does; a Failure names the file that is none."""
    from metering.case import CaseError
    from metering.impact import sample_of
    from metering.rule import load_rules

    rules, found = load_rules(), []
    for number, path in enumerate(files, start=1):
        try:
            found.append(sample_of(path.name, path.read_bytes(), registry, rules))
        except (OSError, CaseError) as problem:
            raise Failure(word("cli.file.unreadable", path=str(path)), why=str(problem), code=USAGE) from None
        if advance is not None:
            advance(number)
    return found


def approval_of(force: bool, approved_by: str | None) -> str | None:
    """Who approved; None: nothing is forced. One without the other is a usage error."""
    named = (approved_by or "").strip()
    if force is not bool(named):
        raise Failure(word("cli.policy.approval"), do="--force --approved-by NAME", code=USAGE)
    return named or None


def check(
    directory: Path,
    baseline: Path | None,
    in_use: Path | None,
    files: Sequence[Path],
    approval: str | None,
    output: Output,
    *,
    write: bool,
) -> None:
    from metering.impact import affected
    from metering.parameters import HERE
    from metering.parameters.frozen import FILE, changes, freeze, wanting_people, write_baseline
    from metering.rule import load_rules

    registry, now = load(directory), datetime.now(UTC)
    own = directory / FILE
    known = _baseline(baseline or (own if own.is_file() else HERE / FILE))
    found = changes(registry, known, now)
    wanting = [{"policy": source, "key": key, "from": start} for source, key, start in wanting_people(registry)]
    touched: list[dict[str, Any]] = []
    if found:
        current = load(in_use)
        samples = read_samples(files, current, None) if files else _stored()
        touched = [item.document() for item in affected(samples, current, registry, load_rules())]
    _not_their_own(registry, found, approval)
    unmet = _unmet(directory, registry)
    ok = not wanting and not unmet and (not found or approval is not None)
    report = {
        "version": 1,
        "parameters": str(directory),
        "ok": ok,
        "changes": [change.document() for change in found],
        "affected": touched,
        "without_two_people": wanting,
        "cases_unmet": unmet,
        "approved_by": approval if found else None,
    }
    if output in (Output.JSON, Output.YAML):
        emit(report, output)
    else:
        _tell(report, output)
    if not ok:
        raise typer.Exit(REFUSED)
    if write:
        write_baseline(own, freeze(registry, known, now, approved_by=approval))


def _baseline(file: Path) -> Baseline:
    from metering.parameters import ParameterError
    from metering.parameters.frozen import read_baseline

    try:
        return read_baseline(file)
    except ParameterError as problem:
        raise Failure(word("cli.policy.parameters"), why=str(problem), code=USAGE) from None


def _unmet(directory: Path, registry: Registry) -> list[dict[str, Any]]:
    """Worked cases of the folder that do not come out as written."""
    from metering.impact import unmet
    from metering.parameters import ParameterError
    from metering.parameters.worked import load_worked
    from metering.rule import load_rules

    rules, found = load_rules(), []
    try:
        for name, policy in registry.policies.items():
            for worked in load_worked(directory / name if (directory / name).is_dir() else directory, name):
                found += [
                    {"policy": name, "case": worked.name, "problem": said} for said in unmet(worked, policy, rules)
                ]
    except ParameterError as problem:
        raise Failure(word("cli.policy.parameters"), why=str(problem), code=USAGE) from None
    return found


def _stored() -> list[Sample]:
    """Each job's latest settlement on the server."""
    from metering.impact import Sample

    with connect("finance") as client:
        items = client.items("/v1/policies/cases", limit=200)
        return [Sample(name=item["id"], firm=item["firm"], case=item["case"]) for item in items]


def _not_their_own(registry: Registry, found: Sequence[Any], approval: str | None) -> None:
    """Whoever recorded a changed value cannot approve it; a Failure otherwise."""
    if approval is None:
        return
    recorded = {
        row.recorded_by.casefold()
        for change in found
        if change.source in registry.policies and change.key in registry.policies[change.source].own
        for row in registry.policies[change.source].own[change.key].rows
        if row.recorded_by is not None and row.start == change.start
    }
    if approval.casefold() in recorded:
        raise Failure(word("cli.policy.own_approval", name=approval))


def _tell(report: Mapping[str, Any], output: Output) -> None:
    named = (Column(key="policy", title="column.policy"), Column(key="key", title="policy.column.parameter"))
    when = Column(key="from", title="policy.column.from")
    if output is Output.CSV:
        plain = ("what", "policy", "key", "from", "was", "now")
        show(report["changes"], tuple(Column(key=key, title=key) for key in plain), output)
        return
    from api.texts import money

    if report["changes"]:
        section(word("policy.changes"))
        columns = (
            Column(key="what", title="policy.column.change", shown=lambda what: word(f"policy.change.{what}")),
            *named,
            when,
            Column(key="was", title="policy.column.was", number=True),
            Column(key="now", title="policy.column.now", number=True),
        )
        show(report["changes"], columns, output)
        section(word("policy.affected"))
        amount = partial(Column, shown=money, number=True)
        settled = (
            Column(key="settlement", title="policy.column.case"),
            Column(key="firm", title="column.firm"),
            amount(key="deduction_before_fen", title="policy.column.was"),
            amount(key="deduction_after_fen", title="policy.column.now"),
            amount(key="difference_fen", title="policy.column.difference"),
        )
        show(report["affected"], settled, output)
    if report["without_two_people"]:
        section(word("policy.without_two_people"))
        show(report["without_two_people"], (*named, when), output)
    if report["cases_unmet"]:
        section(word("policy.cases_unmet"))
        worked = (
            Column(key="case", title="policy.column.case"),
            Column(key="problem", title="policy.column.change"),
        )
        show(report["cases_unmet"], (named[0], *worked), output)
    count = len(report["changes"]) + len(report["without_two_people"]) + len(report["cases_unmet"])
    if report["ok"] and report["approved_by"]:
        talk(word("cli.policy.accepted", name=report["approved_by"], count=count))
    else:
        talk(word("cli.policy.ok") if report["ok"] else word("cli.policy.refused", count=count))
