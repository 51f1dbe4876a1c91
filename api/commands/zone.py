"""Zone: offers, nodes, pools, queues, review, snapshot."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.commands.connection import connect
from api.commands.console import Column, Output, emit, show, word
from api.commands.papers import Action, Reason, Words, listed, misuse, path, take, tell, told

Format = Annotated[Output, typer.Option("-o", "--output", help="Table for people; json, yaml or csv for programs.")]


def _money(value: Any) -> str:
    from api.texts import money

    return money(value)


def _moment(value: Any) -> str:
    from api.texts import moment

    return moment(value)


def _origin(value: Any) -> str:
    return word(f"origin.{value}")


def _flat(listing: dict[str, Any]) -> dict[str, Any]:
    """The listing with what a table shows of its evidence and of what was measured."""
    shown, measured = listing["evidence"], listing["measured"] or {}
    return {
        **listing,
        "evidence_level": shown["level"],
        "allows": " ".join(use for use, yes in shown["allows"].items() if yes),
        "fp16_measured": measured.get("fp16_tflops"),
        "percent_of_peak": (measured.get("percent_of_peak") or {}).get("fp16_tflops"),
        "measured_at": measured.get("newest_at"),
        "log_sha256": (measured.get("newest") or {}).get("log_sha256"),
    }


def _allowed(uses: Any) -> str:
    return ", ".join(word(f"evidence.use.{use}") for use in str(uses).split()) or word("evidence.use.none")


def offers(output: Format = Output.TABLE) -> None:
    """Public: needs no key."""
    with connect("firm") as client:
        found = list(client.items("/v1/listings"))
    if output in (Output.TABLE, Output.CSV):
        found = [_flat(listing) for listing in found]
    columns = (
        Column(key="id", title="column.pool"),
        Column(key="model", title="column.model"),
        Column(key="origin", title="column.origin", shown=_origin),
        Column(key="evidence_level", title="column.evidence_level", shown=lambda value: f"L{value}"),
        Column(key="allows", title="column.allows", shown=_allowed),
        Column(key="fp16_measured", title="column.measured_fp16", shown=lambda value: f"{value:.1f}", number=True),
        Column(key="percent_of_peak", title="column.ratio_of_peak", shown=lambda value: f"{value:.1f}%", number=True),
        Column(key="measured_at", title="column.measured_at", shown=_moment),
        Column(key="devices_free", title="column.free", number=True),
        Column(key="devices_listed", title="column.listed", number=True),
        Column(key="price_fen_per_device_hour", title="column.price", shown=_money, number=True),
        Column(key="net_fen_per_device_hour", title="column.net_price", shown=_money, number=True),
        Column(key="provider", title="column.provider"),
        Column(key="region", title="column.region"),
        *((Column(key="log_sha256", title="column.log_sha256"),) if output is Output.CSV else ()),
    )
    show(found, columns, output)


def nodes(output: Format = Output.TABLE) -> None:
    """With their pool and their last heartbeat."""
    with connect("operator") as client:
        found = list(client.items("/v1/nodes"))
    columns = (
        Column(key="id", title="column.node"),
        Column(key="pool", title="column.pool"),
        Column(key="schedulable", title="column.schedulable", shown=lambda value: word("yes" if value else "no")),
        Column(key="heartbeat_at", title="column.heartbeat", shown=_moment),
    )
    show(found, columns, output)


def pools(output: Format = Output.TABLE) -> None:
    """With provider, site, model and price."""
    with connect("operator") as client:
        found = list(client.items("/v1/pools"))
    columns = (
        Column(key="id", title="column.pool"),
        Column(key="provider", title="column.provider"),
        Column(key="site", title="column.site"),
        Column(key="region", title="column.region"),
        Column(key="vendor", title="column.vendor"),
        Column(key="model", title="column.model"),
        Column(key="source", title="column.source", shown=lambda value: word(f"source.{value}")),
        Column(key="price_fen_per_device_hour", title="column.price", shown=_money, number=True),
    )
    show(found, columns, output)


def queues(output: Format = Output.TABLE) -> None:
    """A queue without a quota may hold any number of devices; queues of one cohort lend each other what they do not use."""
    with connect("operator") as client:
        found = list(client.items("/v1/queues"))
    columns = (
        Column(key="name", title="column.queue"),
        Column(key="nominal_devices", title="column.nominal", number=True),
        Column(key="cohort", title="column.cohort"),
        Column(key="borrowing_limit", title="column.borrowing", number=True),
        Column(key="lending_limit", title="column.lending", number=True),
        Column(key="weight", title="column.weight", number=True),
    )
    show(found, columns, output)


REVIEW = {"list": "", "answer": "ID ACTION --reason TEXT"}


def review(
    action: Action = "list",
    words: Words = None,
    closed: Annotated[bool, typer.Option("--closed", help="list: what was answered instead.")] = False,
    reason: Reason = None,
    output: Format = Output.TABLE,
) -> None:
    """Oldest first.

    \b
    list                                  what waits, each with the actions that answer it
    answer ID ACTION --reason TEXT        answer it with one of them
    """
    given = take("review", REVIEW, action, words, reason=reason)
    if action == "answer":
        if closed:
            raise misuse("review", REVIEW, action)
        with connect("operator") as client:
            answered = client.post(path("reviews", given[0], "answers"), {"action": given[1], "reason": reason})
        tell(answered, ANSWERED, output)
        return
    with connect("operator") as client:
        found = list(client.items("/v1/reviews", closed="true" if closed else None))
    for item in found if output is Output.TABLE else ():
        item["code"] = told(item["code"], item["facts"])
    show(found, CLOSED_REVIEWS if closed else REVIEWS, output)


REVIEWS = (
    Column(key="id", title="column.id"),
    Column(key="code", title="column.what"),
    Column(key="subject", title="column.subject"),
    Column(key="opened_at", title="column.opened", shown=_moment),
    Column(key="actions", title="column.actions", shown=listed),
)
CLOSED_REVIEWS = (
    *(column for column in REVIEWS if column.key != "actions"),
    Column(key="closed_at", title="column.closed", shown=_moment),
    Column(key="action", title="column.action"),
    Column(key="reason", title="column.reason"),
    Column(key="closed_by", title="column.by"),
)
ANSWERED = (
    Column(key="id", title="column.id"),
    Column(key="state", title="column.state", shown=lambda value: word(f"document.state.{value}")),
    Column(key="action", title="column.action"),
)


def snapshot() -> None:
    """JSON on stdout; `yisuan plan` reads it anywhere."""
    with connect("operator") as client:
        emit(client.get("/v1/snapshot"))
