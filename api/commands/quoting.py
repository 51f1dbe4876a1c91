"""Quoting: what a job would take, cost and wait for, before it is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from api.commands.connection import connect
from api.commands.console import Column, Output, emit, language, section, show, word
from api.commands.jobs import Format, job_text


def quote(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Job file (YAML).")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="REGION=SIZE", help="Where inputs lie, e.g. hebei=2TiB; may be repeated."),
    ] = None,
    output: Format = Output.TABLE,
) -> None:
    """Every pool it could run in: start, time, cost after the voucher; and what another choice would change.

    A start is an interval: when leases end as predicted, and when all run to their limit and all who go first stay first.
    """
    with connect("firm") as client:
        query = "&".join(f"data={_plain(one)}" for one in data or ())
        found = client.post("/v1/quotes" + (f"?{query}" if query else ""), text=job_text(file))
    if output in (Output.JSON, Output.YAML):
        emit(found, output)
        return
    show([_row(one, found["best"]) for one in found["options"]], COLUMNS, output)
    if output is Output.TABLE:
        _tell(found)


def _plain(text: str) -> str:
    from urllib.parse import quote as escaped

    return escaped(text, safe="")


def _row(one: Mapping[str, Any], best: str | None) -> dict[str, Any]:
    """One option as a row: the figures of the predicted time where there is one, else of the time limit."""
    cost = one["expected"] or one["at_most"]
    return {
        **{name: one[name] for name in ("pool", "model", "region", "devices", "promised", "code", "carbon_g")},
        "asked": word("quote.accepts")
        if one["accepts"]
        else word("quote.best_one" if one["pool"] == best else "quote.asked"),
        "earliest_start": one["earliest_start"],
        "latest_start": one["latest_start"],
        "duration_ms": one["predicted_ms"] or one["time_limit_ms"],
        "gross_fen": cost["gross_fen"],
        "draw_fen": cost["draw_fen"],
        "net_fen": cost["net_fen"],
        "shadow_permille": one["shadow_price"]["permille"],
        "transfer_ms": one["transfer_ms"] or None,
        "transfer_fen": one["transfer_fen"] or None,
    }


def _moment(value: Any) -> str:
    from api.texts import moment

    return moment(value)


def _money(value: Any) -> str:
    from api.texts import money

    return money(value)


def _duration(value: Any) -> str:
    from api.texts import duration

    return duration(value, language())


def _reason(value: Any) -> str:
    from api.texts import known

    short = f"pending.short.{value}"
    return word(short) if known(short) else str(value)


COLUMNS = (
    Column(key="pool", title="column.pool"),
    Column(key="model", title="column.model"),
    Column(key="region", title="column.region"),
    Column(key="devices", title="column.devices", number=True),
    Column(key="asked", title="quote.column.asked"),
    Column(key="earliest_start", title="quote.column.earliest", shown=_moment),
    Column(key="latest_start", title="quote.column.latest", shown=_moment),
    Column(key="promised", title="quote.column.promised", shown=lambda value: word("yes" if value else "no")),
    Column(key="duration_ms", title="quote.column.time", shown=_duration, number=True),
    Column(key="gross_fen", title="quote.column.gross", shown=_money, number=True),
    Column(key="draw_fen", title="quote.column.draw", shown=_money, number=True),
    Column(key="net_fen", title="quote.column.net", shown=_money, number=True),
    Column(key="shadow_permille", title="quote.column.shadow", shown=lambda value: f"{value / 1000:g}", number=True),
    Column(key="transfer_ms", title="quote.column.moving", shown=_duration, number=True),
    Column(key="transfer_fen", title="quote.column.moving_cost", shown=_money, number=True),
    Column(key="carbon_g", title="quote.column.carbon", shown=lambda value: f"{value / 1000:.1f}", number=True),
    Column(key="code", title="column.reason", shown=_reason),
)


def _tell(found: Mapping[str, Any]) -> None:
    """What the planner would do, why the job would wait, and what else could be done."""
    best = next((one for one in found["options"] if one["pool"] == found["best"] and not one["accepts"]), None)
    if best is None:
        typer.echo(word("quote.best.none"))
    else:
        net = (best["expected"] or best["at_most"])["net_fen"]
        started = best["latest_start"] or best["earliest_start"]
        typer.echo(word("quote.best", model=best["model"], pool=best["pool"], start_at=started, net_fen=net))
        if not best["promised"]:
            typer.echo(word("quote.best.not_promised"))
    if found["pending"]:
        from api.texts import pending_words

        reason, counts, _ = pending_words(found["pending"], language())
        section(word("page.job.why"))
        typer.echo(f"{reason}  [{found['pending']['code']}]")
        for line in counts:
            typer.echo(f"  · {line}")
    if found["instead"]:
        section(word("quote.instead"))
        for one in found["instead"]:
            typer.echo(f"  → {_counterfactual(one)}")
    if found["saved"]:
        saved = found["saved"]
        typer.echo(word("quote.saved", region=saved["against"], pool=saved["pool"], spared_fen=saved["fen"]))
    for field in found.get("not_supported") or ():
        typer.echo(word("quote.not_supported", field=field))


def _counterfactual(one: Mapping[str, Any]) -> str:
    """Accept Ascend910B3 (ascend): start 2026-06-01 12:00:00, 2 h 0 min earlier, ¥80.00 less."""
    first = word(
        "quote.accept" if one["accepts"] else "quote.take", model=one["model"], pool=one["pool"], start_at=one["start"]
    )
    parts = [first]
    for name, fact, more, less in (
        ("earlier_ms", "by_duration_ms", "quote.earlier", "quote.later"),
        ("less_fen", "by_fen", "quote.less", "quote.more"),
        ("carbon_less_g", "by_kg", "quote.cleaner", "quote.dirtier"),
    ):
        value = one[name]
        if value:
            size = f"{abs(value) / 1000:.1f}" if name == "carbon_less_g" else abs(value)
            parts.append(word(more if value > 0 else less, **{fact: size}))
    return ("，" if language() == "zh" else ", ").join(parts)
