"""Demo report: what the story came to, as tables for people and as one document for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from api.texts import money, percent, text
from metering import checkpoint
from metering.audit import audit

if TYPE_CHECKING:
    from api.demo import Story

EXPECTED = {
    "domestic": "SUCCEEDED",
    "foreign": "SUCCEEDED",
    "either": "SUCCEEDED",
    "waiting": "SUCCEEDED",
    "failing": "FAILED",
}


def report(story: Story, jobs: Mapping[str, str], waited: Mapping[str, Any]) -> dict[str, Any]:
    """Print the bills, the books and the listing on stderr; return the whole as one document."""
    shown = {name: story.get("firm", f"/v1/jobs/{job}") for name, job in jobs.items()}
    statements = {
        name: story.get("firm", f"/v1/statements/jobs/{job}") for name, job in jobs.items() if shown[name]["ended"]
    }
    listings = story.get("firm", "/v1/listings")["items"]
    capacity = story.get("firm", "/v1/capacity")
    vouchers = story.get("firm", "/v1/vouchers")["items"]
    ledger = story.get("operator", "/v1/ledger")
    settings = story.running.services.settings
    with story.running.services.database.write() as tx:
        checkpoint.take(tx, settings.data_dir / "checkpoints.jsonl", story.running.services.clock.now())
    audited = audit(settings.data_dir / "yisuan.db", parameters=settings.parameters_dir).document()
    pages = [f"{story.running.url}{path}" for path in ("/", "/offers", "/jobs")]
    pages += [f"{story.running.url}/jobs/{job}" for job in jobs.values()]
    pages += [f"{story.running.url}/statements/jobs/{job}" for job in jobs.values()]
    document = {
        "round": story.round,
        "jobs": [_job(story, name, shown[name], waited.get(name)) for name in jobs],
        "settlements": [{"job": s["job"], "name": s["name"], **_settlement(s)} for s in statements.values()],
        "vouchers": vouchers,
        "trial_balance": {"balanced": ledger["balanced"], "totals": ledger["totals"]},
        "listings": listings,
        "capacity": capacity,
        "audit": audited,
        "pages": pages,
    }
    _print(story, document)
    return document


def _job(story: Story, name: str, shown: Mapping[str, Any], waited: Any) -> dict[str, Any]:
    settings = story.running.services.settings
    starts = settings.data_dir / "local" / "work" / shown["id"] / "starts.log"
    lines = starts.read_text().splitlines() if starts.exists() else []
    members = sum(len(lease["members"]) for lease in shown["leases"])
    log = story.running.get_text("firm", f"/v1/jobs/{shown['id']}/logs?rank=0&offset=0&limit=1048576").splitlines()
    kept = ("id", "name", "state", "submitted_at", "ended_at", "exit_code", "cause", "attempt")
    return {
        "example": name,
        **{k: shown[k] for k in kept},
        "pool": shown["leases"][0]["pool"] if shown["leases"] else None,
        "model": shown["leases"][0]["model"] if shown["leases"] else None,
        "members": members,
        "starts": len(lines),
        "waited": waited,
        "last_line": log[-1] if log else None,
        "as_expected": shown["state"] == EXPECTED[name] and len(lines) == members,
    }


def _settlement(statement: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("settlement", "final", "voucher", "policy", "bundle_sha256", "notices", "lines", "totals", "unbilled")
    return {k: statement[k] for k in kept}


def _print(story: Story, document: Mapping[str, Any]) -> None:
    lang = story.arguments.language
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 132)
    zh = lang == "zh"

    table = Table(title="账单（逐行）" if zh else "Bills, line by line")
    for title, right in (
        ("作业" if zh else "job", False), ("型号" if zh else "model", False), ("来源" if zh else "origin", False),
        ("卡·秒" if zh else "device·s", True), ("费用" if zh else "fee", True), ("比例" if zh else "rate", True),
        ("抵扣" if zh else "deduction", True), ("应付" if zh else "payable", True), ("说明" if zh else "why", False),
    ):  # fmt: skip
        table.add_column(title, justify="right" if right else "left")
    for settlement in document["settlements"]:
        for line in settlement["lines"]:
            reasons = "; ".join(text(code, {}, lang) for code in line["reasons"]) or ", ".join(line["clauses"])
            table.add_row(
                settlement["name"], line["model"], text(f"origin.{line['origin']}", {}, lang),
                f"{line['device_ms'] / 1000:,.1f}", money(line["fee_fen"]), percent(line["rate_bp"]),
                money(line["deduction_fen"]), money(line["payable_fen"]), reasons,
            )  # fmt: skip
    console.print(table)

    books = Table(title="试算平衡" if zh else "Trial balance")
    for title in (
        "账" if zh else "ledger",
        "借" if zh else "debits",
        "贷" if zh else "credits",
        "未决" if zh else "pending",
    ):
        books.add_column(title, justify="right" if title != ("账" if zh else "ledger") else "left")
    for ledger, total in document["trial_balance"]["totals"].items():
        books.add_row(
            ledger, money(total["debits_posted"]), money(total["credits_posted"]), money(total["debits_pending"])
        )
    console.print(books)

    offers = Table(title="上架" if zh else "Listings")
    for title in ("池" if zh else "pool", "型号" if zh else "model", "来源" if zh else "origin", "空闲/总数" if zh else "free/listed",
                  "¥/卡时" if zh else "CNY/device·h", "券后" if zh else "after voucher"):  # fmt: skip
        offers.add_column(title)
    for listing in document["listings"]:
        offers.add_row(
            listing["id"], listing["model"], text(f"origin.{listing['origin']}", {}, lang),
            f"{listing['devices_free']}/{listing['devices_listed']}", money(listing["price_fen_per_device_hour"]),
            money(listing["net_fen_per_device_hour"]),
        )  # fmt: skip
    console.print(offers)

    capacity = document["capacity"]
    story.say(
        f"算力：{capacity['pflops']['listed']} PFLOPS（FP16 稠密，标称），目标 {capacity['goal_pflops']}",
        f"capacity: {capacity['pflops']['listed']} PFLOPS (FP16 dense, nominal) of a goal of {capacity['goal_pflops']}",
    )
    for voucher in document["vouchers"]:
        year = min(voucher["rooms"]["firm"], key=lambda y: abs(int(y) - story.running.services.clock.now().year))
        left = money(voucher["rooms"]["firm"][year])
        story.say(f"算力券 {year} 年剩余额度：{left}", f"voucher room left for {year}: {left}")
    audited = document["audit"]
    broken = [law for law in audited["laws"] if not law["ok"]]
    story.say(
        f"审计：{len(audited['laws'])} 条规则、{audited['records']} 条记录，{'全部成立' if audited['ok'] else f'不成立：{broken}'}",
        f"audit: {len(audited['laws'])} laws over {audited['records']} records, {'all hold' if audited['ok'] else f'broken: {broken}'}",
    )
    for page in document["pages"][:3]:
        story.say(f"页面：{page}", f"page: {page}")
