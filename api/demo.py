"""Demo: the whole journey on this machine, through the same routes, loop and audit that a zone would run.

The story can be killed at any point and started again on the same data directory: every step is a POST whose
idempotency key names the round and the step, so what was done stays done and what was not is done now.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.registry import load_adapter, vendors
from api.demo_report import report
from api.demo_service import Running, run_service
from api.texts import moment, pending_words

EXAMPLES = ("domestic", "foreign", "either", "waiting", "failing")
PATIENCE_S = 150.0

PROVIDER = {"id": "91110302MA0YDEMA0N", "name": "演示算力服务有限公司"}
FIRM = {"id": "91110302MA0YDEMA1R", "name": "演示智能科技有限公司"}
SITE = {"id": "bj-demo-1", "provider": PROVIDER["id"], "name": "演示数据中心", "region": "beijing"}
SINCE = "2024-03-28T00:00:00+08:00"
# Example prices, not an offer: on the list the H800 is the cheaper one, after the voucher the Ascend is.
POOLS: tuple[dict[str, Any], ...] = (
    {"id": "ascend-910b", "vendor": "ascend", "model": "Ascend910B3", "price_fen_per_device_hour": 1180, "nodes": 3},
    {"id": "nvidia-h800", "vendor": "nvidia", "model": "H800", "price_fen_per_device_hour": 1080, "nodes": 3},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What the command line asked for. once: print one document and end, instead of staying up."""

    data_dir: Path
    once: bool = False
    output: str = "table"
    port: int = 8080
    language: str = "zh"
    examples: Path = field(default_factory=lambda: Path("examples"))


class Story:
    """Tells what happens, on stderr, and does each step once."""

    def __init__(self, running: Running, round_: int, arguments: Arguments) -> None:
        self.running = running
        self.round = round_
        self.arguments = arguments
        self.began = time.monotonic()

    def say(self, zh: str, en: str) -> None:
        text = zh if self.arguments.language == "zh" else en
        print(f"[{time.monotonic() - self.began:5.1f}s] {text}", file=sys.stderr, flush=True)

    def post(self, who: str, path: str, body: Any, step: str, content_type: str = "application/json") -> Any:
        """The answer of a POST made once per round and step, however often the demo is started."""
        key = f"demo:{step}" if step.startswith("enrol:") else f"demo:{self.round}:{step}"
        return self.running.post(who, path, body, key, content_type)

    def get(self, who: str, path: str) -> Any:
        return self.running.get(who, path)


def run(arguments: Arguments) -> int:
    """The demo from set-up to audit; 0 if every job ended as its file says and every law holds."""
    arguments.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    round_ = begin_round(arguments.data_dir)
    with run_service(arguments.data_dir, arguments.port) as running:
        story = Story(running, round_, arguments)
        probe(story)
        enrol(story)
        jobs = submit(story)
        waited = watch(story, jobs)
        document = report(story, jobs, waited)
        end_round(arguments.data_dir, round_)
        ok = bool(document["audit"]["ok"]) and all(job["as_expected"] for job in document["jobs"])
        if arguments.output == "json":
            print(json.dumps(document, ensure_ascii=False), flush=True)
        if not arguments.once:
            story.say(
                f"平台仍在运行：{running.url} ，按 Ctrl-C 结束",
                f"the platform stays up at {running.url}; Ctrl-C ends it",
            )
            running.wait()
        return 0 if ok else 1


def begin_round(data_dir: Path) -> int:
    """An unfinished round is continued, a finished one is followed by a new one."""
    path = data_dir / "demo.json"
    state = json.loads(path.read_text()) if path.exists() else {"round": 0, "done": True}
    number = state["round"] + 1 if state["done"] else state["round"]
    _write(path, {"round": number, "done": False})
    return int(number)


def end_round(data_dir: Path, number: int) -> None:
    _write(data_dir / "demo.json", {"round": number, "done": True})


def _write(path: Path, body: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as out:
        json.dump(body, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def probe(story: Story) -> None:
    """Ask every registered vendor what this host really has."""
    for name in sorted(vendors()):
        if name == "simulated":
            continue
        adapter = load_adapter(name)
        found = adapter.probe()
        if not found.available:
            story.say(f"探测 {name}：无（{found.reason}）", f"probe {name}: none ({found.reason})")
            continue
        devices = adapter.inventory()
        story.say(f"探测 {name}：{len(devices)} 张卡", f"probe {name}: {len(devices)} devices")
        story.running.real_devices[name] = tuple(devices)


def enrol(story: Story) -> None:
    """Provider, site with energy papers, pools of simulated nodes (and real ones), an eligible firm with its right."""
    story.say("登记服务商、机房与能耗文件", "enrol the provider, its site and its energy papers")
    story.post("operator", "/v1/providers", PROVIDER, "enrol:provider")
    story.post("operator", "/v1/sites", SITE, "enrol:site")
    for fact in ("energy_review", "energy_report"):
        body = {"subject_kind": "site", "subject": SITE["id"], "fact": fact, "from": SINCE, "to": None}
        story.post("operator", "/v1/facts", {**body, "evidence": {"document": f"demo-{fact}"}}, f"enrol:{fact}")
    for pool in POOLS:
        price = pool["price_fen_per_device_hour"]
        story.say(
            f"上架 {pool['nodes']} 台模拟 {pool['model']} 节点（每台 8 卡，¥{price / 100:.2f}/卡时）",
            f"list {pool['nodes']} simulated {pool['model']} nodes (8 devices each, CNY {price / 100:.2f} per device-hour)",
        )
        enrol_pool(story, pool)
    for name, devices in story.running.real_devices.items():
        enrol_real(story, name, devices)
    story.running.start_agents()
    story.say("登记企业、核验资格、申领算力券", "register the firm, verify it is eligible, claim its voucher right")
    story.post("operator", "/v1/firms", FIRM, "enrol:firm")
    body = {"subject_kind": "firm", "subject": FIRM["id"], "fact": "eligible", "from": SINCE, "to": None}
    story.post("operator", "/v1/facts", {**body, "evidence": {"document": "demo-eligibility"}}, "enrol:eligible")
    story.running.mint("firm", "firm", FIRM["id"])
    story.post("firm", "/v1/vouchers", {"programme": "compute_voucher"}, "enrol:claim")


def enrol_pool(story: Story, pool: Mapping[str, Any]) -> None:
    body = {
        **{k: pool[k] for k in ("id", "vendor", "model", "price_fen_per_device_hour")},
        "provider": PROVIDER["id"],
        "site": SITE["id"],
        "region": SITE["region"],
        "backend": "local",
        "source": "simulated",
    }
    story.post("operator", "/v1/pools", body, f"enrol:pool:{pool['id']}")
    for number in range(1, pool["nodes"] + 1):
        name = f"{pool['id']}-{number}"
        node = {"id": name, "pool": pool["id"], "simulated": {"model": pool["model"], "count": 8}}
        story.post("operator", "/v1/nodes", node, f"enrol:node:{name}")


def enrol_real(story: Story, vendor: str, devices: Sequence[Any]) -> None:
    """What this host really holds becomes a pool per model; a device without a catalogue model is told and left out."""
    by_model: dict[str, list[Any]] = {}
    for device in devices:
        by_model.setdefault(device.model or "", []).append(device)
    for model, found in sorted(by_model.items()):
        if not model:
            story.say(
                f"{vendor}：{len(found)} 张卡型号未知，未上架",
                f"{vendor}: {len(found)} devices of unknown model, not listed",
            )
            continue
        pool = f"host-{vendor}-{model}".lower()
        body = {
            "id": pool, "vendor": vendor, "model": model, "price_fen_per_device_hour": 1000, "provider": PROVIDER["id"],
            "site": SITE["id"], "region": SITE["region"], "backend": "local", "source": found[0].source.value,
        }  # fmt: skip
        story.post("operator", "/v1/pools", body, f"enrol:pool:{pool}")
        story.running.add_real_node(f"{pool}-1", pool, found)


def submit(story: Story) -> dict[str, str]:
    """The example files, in order; returns {example: job id}."""
    found = {}
    directory = story.arguments.examples.resolve()
    for name in EXAMPLES:
        text = (directory / f"{name}.yaml").read_text(encoding="utf-8")
        from api.client import with_submit_directory

        body = with_submit_directory(text, directory)
        answer = story.post("firm", "/v1/jobs", body, f"job:{name}", "application/yaml")
        found[name] = str(answer["id"])
        story.say(f"提交 {name}.yaml → {answer['id']}", f"submit {name}.yaml → {answer['id']}")
    return found


def watch(story: Story, jobs: Mapping[str, str]) -> dict[str, Any]:
    """Follow the jobs to their ends, telling what changes; returns the first pending record of each that waited."""
    states: dict[str, str] = {}
    waited: dict[str, Any] = {}
    lines: dict[str, str] = {}
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        open_jobs = 0
        for name, job in jobs.items():
            shown = story.get("firm", f"/v1/jobs/{job}")
            state = shown["state"]
            open_jobs += not shown["ended"]
            if states.get(name) != state:
                states[name] = state
                story.say(f"{name}：{state}", f"{name}: {state}")
            pending = shown.get("pending")
            if pending and name not in waited:
                waited[name] = pending
                tell_waiting(story, name, pending)
            if state == "RUNNING":
                tell_progress(story, name, job, lines)
        if not open_jobs:
            return waited
        time.sleep(0.5)
    story.say("等待超时", "gave up waiting")
    return waited


def tell_waiting(story: Story, name: str, pending: Mapping[str, Any]) -> None:
    """Why it waits, until when, and what would help."""
    told = {lang: pending_words(pending, lang) for lang in ("zh", "en")}
    until = moment(pending["earliest_start"]) if pending.get("earliest_start") else None
    (zh, _, zh_remedies), (en, _, en_remedies) = told["zh"], told["en"]
    story.say(f"{name} 在等待：{zh}", f"{name} waits: {en}")
    if until:
        story.say(f"{name} 最迟 {until} 可开始", f"{name} can start at {until} at the latest")
    for first, second in zip(zh_remedies, en_remedies, strict=True):
        story.say(f"{name} → {first}", f"{name} → {second}")


def tell_progress(story: Story, name: str, job: str, lines: dict[str, str]) -> None:
    log = story.running.get_text("firm", f"/v1/jobs/{job}/logs?rank=0&offset=0&limit=65536")
    last = next((line for line in reversed(log.splitlines()) if line.startswith("epoch")), None)
    if last and int(last.split()[1]) % 8 == 0 and lines.get(name) != last:
        lines[name] = last
        story.say(f"{name}：{last}", f"{name}: {last}")
