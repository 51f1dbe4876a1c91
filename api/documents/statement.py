"""Statements 对账单 as sheets: a job's, line by line, and a firm's over a period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.documents.sheet import Desk, Fact, Kind, Sheet, Table, content_hash

LINE_COLUMNS = (
    ("lease", Kind.TEXT),
    ("model", Kind.TEXT),
    ("origin", Kind.TEXT),
    ("start", Kind.MOMENT),
    ("end", Kind.MOMENT),
    ("device_ms", Kind.HOURS),
    ("fee_fen", Kind.MONEY),
    ("rate_bp", Kind.PERCENT),
    ("deduction_fen", Kind.MONEY),
    ("payable_fen", Kind.MONEY),
    ("reasons", Kind.TEXT),
    ("clauses", Kind.TEXT),
)
SUMMED = ("device_ms", "fee_fen", "deduction_fen", "payable_fen")


def job_sheet(found: Mapping[str, Any], *, language: str, at: datetime, demo: bool) -> Sheet:
    """A job's statement (metering.statement.job_statement): every fen with its rate, reason and clause."""
    desk = Desk(language)
    tables = [lines_table(desk, found["lines"])]
    if found["unbilled"]:
        tables.append(_unbilled(desk, found["unbilled"]))
    return Sheet(
        kind="job_statement",
        title=desk.word("document.title.job_statement"),
        number=found["settlement"],
        issued_at=at,
        language=language,
        facts=(
            desk.fact("job", found["job"]),
            desk.fact("name", found["name"]),
            desk.fact("firm", found["firm"]),
            *settled_facts(desk, found),
            *total_facts(desk, found["totals"]),
        ),
        tables=tuple(tables),
        notes=tuple(desk.said(notice) for notice in found["notices"]),
        hashes=(
            (desk.word("document.hash.bundle"), found["bundle_sha256"]),
            (desk.word("document.hash.spec"), found["spec_sha256"]),
            (desk.word("document.hash.content"), content_hash(found)),
        ),
        demo=demo,
    )


def firm_sheet(found: Mapping[str, Any], *, language: str, at: datetime, demo: bool) -> Sheet:
    """A firm's statement over a period (metering.statement.firm_statement): jobs, origins, and the rooms left."""
    desk = Desk(language)
    jobs = [
        {**job, **job["totals"], "final": desk.word("document.final" if job["final"] else "document.interim")}
        for job in found["jobs"]
    ]
    totals = {name: found["totals"][name] for name in ("fee_fen", "deduction_fen", "payable_fen")}
    money = [(name, Kind.MONEY) for name in totals]
    hours = {"device_ms": sum(sums["device_ms"] for sums in found["by_origin"].values())}
    origins = [{"origin": desk.said(f"origin.{name}"), **sums} for name, sums in sorted(found["by_origin"].items())]
    rooms = [
        {"room": desk.word(f"document.room.{kind}"), "year": year, "left_fen": fen}
        for kind, years in found["rooms"].items()
        for year, fen in sorted(years.items())
    ]
    listed = [("job", Kind.TEXT), ("name", Kind.TEXT), ("settled_at", Kind.MOMENT), ("final", Kind.TEXT), *money]
    tables = [
        desk.table("document.table.jobs", jobs, listed, totals),
        desk.table(
            "document.table.origins",
            origins,
            [("origin", Kind.TEXT), ("device_ms", Kind.HOURS), *money],
            hours | totals,
        ),
    ]
    if rooms:
        columns = [("room", Kind.TEXT), ("year", Kind.TEXT), ("left_fen", Kind.MONEY)]
        tables.append(desk.table("document.table.rooms", rooms, columns))
    return Sheet(
        kind="firm_statement",
        title=desk.word("document.title.firm_statement"),
        number=f"statement:{found['firm']}:{_day(found['from'])}:{_day(found['to'])}",
        issued_at=at,
        language=language,
        facts=(
            desk.fact("firm", found["firm"]),
            desk.fact("firm_name", found["name"]),
            desk.fact("from", found["from"], Kind.MOMENT),
            desk.fact("to", found["to"], Kind.MOMENT),
            *total_facts(desk, found["totals"]),
        ),
        tables=tuple(tables),
        notes=(desk.word("document.note.latest"),),
        hashes=((desk.word("document.hash.content"), content_hash(found)),),
        demo=demo,
    )


def _day(at: str | None) -> str:
    return at[:10] if at else "open"


def settled_facts(desk: Desk, found: Mapping[str, Any]) -> tuple[Fact, ...]:
    """When it was settled, whether for good, and under what."""
    return (
        desk.fact("settled_at", found["settled_at"], Kind.MOMENT),
        desk.fact("state", desk.word("document.final" if found["final"] else "document.interim")),
        desk.fact("voucher", desk.said(f"voucher.{found['voucher']}")),
        desk.fact("policy", found["policy"]),
    )


def total_facts(desk: Desk, totals: Mapping[str, int]) -> tuple[Fact, ...]:
    """Fee, deduction and payable."""
    return tuple(desk.fact(name, totals[name], Kind.MONEY) for name in ("fee_fen", "deduction_fen", "payable_fen"))


def lines_table(desk: Desk, lines: Sequence[Mapping[str, Any]]) -> Table:
    """Settlement lines with their sums; reasons in words, clauses by number."""
    rows = [
        {
            **line,
            "origin": desk.said(f"origin.{line['origin']}"),
            "reasons": desk.listed(line["reasons"]),
            "clauses": ", ".join(line["clauses"]),
        }
        for line in lines
    ]
    totals = {name: sum(line[name] for line in lines) for name in SUMMED}
    return desk.table("document.table.lines", rows, LINE_COLUMNS, totals)


def _unbilled(desk: Desk, items: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        {
            **item,
            "kind": desk.said(f"usage.{item['kind']}"),
            "cause": None if item["cause"] is None else desk.said(f"cause.{item['cause']}"),
        }
        for item in items
    ]
    columns = (
        ("lease", Kind.TEXT), ("model", Kind.TEXT), ("kind", Kind.TEXT), ("cause", Kind.TEXT), ("devices", Kind.COUNT),
        ("start", Kind.MOMENT), ("end", Kind.MOMENT), ("device_ms", Kind.HOURS),
    )  # fmt: skip
    return desk.table("document.table.unbilled", rows, columns, {"device_ms": sum(item["device_ms"] for item in items)})
