"""Dashboards: the chart's Grafana dashboards, made with Grafana's own SDK. Run as `python helm/dashboards.py`; --check only looks.

Needs grafana-foundation-sdk. Every panel says in its title what it answers; units are Grafana's names. The variable `job` holds
Prometheus' job of the platform's pods, or of the agents', and the namespace narrows it to one release.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FOLDER = Path(__file__).resolve().parent / "yisuan" / "dashboards"
HERE = 'namespace="$namespace",job=~"$job"'
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One panel. queries: (PromQL, legend); `HERE` in braces stands for the variables. now: one number, not a line."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    text: str = ""
    now: bool = False
    width: int = 12


ZONE = (
    Question(title="Is a loop ticking? Seconds since its last round", now=True, width=6, unit="s",
             queries=(("time() - max(yisuan_loop_ticked_timestamp_seconds{HERE})", ""),)),
    Question(title="How many lead? 1 is right", now=True, width=6, queries=(("sum(yisuan_loop_leads{HERE})", ""),)),
    Question(title="Devices free", now=True, width=6,
             queries=(('sum(max by (vendor, model, source) (yisuan_devices{state="free",HERE}))', ""),)),
    Question(title="Jobs that wait", now=True, width=6, queries=(('max(yisuan_jobs{state="PENDING",HERE})', ""),)),
    Question(title="Jobs by state", queries=(("max by (state) (yisuan_jobs{HERE})", "{{state}}"),)),
    Question(title="Devices by model and state",
             queries=(("max by (vendor, model, state) (yisuan_devices{HERE})", "{{vendor}} {{model}} {{state}}"),)),
    Question(title="Share of devices that a lease holds", unit="percentunit", queries=((
        ('sum by (vendor) (max by (vendor, model, source) (yisuan_devices{state="allocated",HERE}))'
         " / sum by (vendor) (max by (vendor, model, source, state) (yisuan_devices{HERE}))"), "{{vendor}}"),)),
    Question(title="Vouchers neither drawn nor held, in fen", text="For watching; the books are the record.",
             queries=(("max by (year) (yisuan_voucher_pool_room_fen{HERE})", "{{year}}"),)),
    Question(title="How long is a round?", unit="s", queries=tuple(
        (f"histogram_quantile({share}, sum by (le) (rate(yisuan_loop_tick_seconds_bucket{{HERE}}[$__rate_interval])))", name)
        for share, name in ((0.5, "half are shorter"), (0.99, "99 of 100 are shorter")))),
    Question(title="Rounds per second", queries=(("sum by (pod) (rate(yisuan_loop_ticks_total{HERE}[$__rate_interval]))", "{{pod}}"),)),
    Question(title="Terms of the loop: a step is a takeover", queries=(("max(yisuan_loop_epoch{HERE})", "term"),)),
    Question(title="Processes that give metrics", queries=(("up{HERE}", "{{pod}}"),)),
)  # fmt: skip
DEVICES = (
    Question(title="Agents whose readings arrive", now=True, width=6, queries=(("sum(yisuan_agent_delivering{HERE})", ""),)),
    Question(title="Agents", now=True, width=6, queries=(("count(up{HERE})", ""),)),
    Question(title="Devices", now=True, width=6, queries=(("count(hw_gpu_info{HERE})", ""),)),
    Question(title="Devices that failed", now=True, width=6,
             queries=(('sum(hw_status{hw_state="failed",HERE}) or vector(0)', ""),)),
    Question(title="In use, by vendor and model", unit="percentunit", text="In each vendor's own sense of the word.", queries=((
        ("avg by (hw_vendor, hw_model) (hw_gpu_utilization_ratio{HERE}"
         " * on (hw_id) group_left (hw_vendor, hw_model) hw_gpu_info{HERE})"), "{{hw_vendor}} {{hw_model}}"),)),
    Question(title="Memory in use", unit="percentunit", queries=((
        "sum by (node) (hw_gpu_memory_usage_bytes{HERE}) / sum by (node) (hw_gpu_memory_limit_bytes{HERE})", "{{node}}"),)),
    Question(title="Power", unit="watt", queries=(("sum by (node) (hw_power_watts{HERE})", "{{node}}"),)),
    Question(title="Hottest device of each node", unit="celsius",
             queries=(("max by (node, hw_sensor_location) (hw_temperature_celsius{HERE})", "{{node}} {{hw_sensor_location}}"),)),
    Question(title="Energy per hour", unit="joule",
             queries=(("sum by (node) (increase(hw_energy_joules_total{HERE}[1h]))", "{{node}}"),)),
    Question(title="Errors of memory and links", queries=((
        "sum by (node, hw_id, error_type) (increase(hw_errors_total{HERE}[$__rate_interval])) > 0",
        "{{node}} {{hw_id}} {{error_type}}"),)),
    Question(title="What drivers said", queries=((
        "sum by (node, code, severity) (increase(hw_device_events_total{HERE}[$__rate_interval])) > 0",
        "{{node}} {{code}} {{severity}}"),)),
    Question(title="Clocks held down, by reason",
             queries=(("sum by (node, reason) (hw_gpu_throttled{HERE})", "{{node}} {{reason}}"),)),
    Question(title="Readings that wait on nodes", queries=(("yisuan_agent_waiting_samples{HERE}", "{{node}}"),)),
    Question(title="What agents complain of", queries=(("yisuan_agent_problems{HERE} > 0", "{{node}}"),)),
)  # fmt: skip
ALL = {
    "zone": ("yisuan: the zone", ZONE, "label_values(yisuan_loop_epoch, namespace)",
             'label_values(up{namespace="$namespace",job!~".*/.*"}, job)'),
    "devices": ("yisuan: devices", DEVICES, "label_values(yisuan_agent_delivering, namespace)",
                'label_values(yisuan_agent_delivering{namespace="$namespace"}, job)'),
}  # fmt: skip


def expression(query: str) -> str:
    """The PromQL with the dashboard's variables in it."""
    return query.replace("HERE", HERE)


def make(name: str) -> str:
    """The dashboard's JSON."""
    title, questions, namespaces, jobs = ALL[name]
    made = (
        dashboard.Dashboard(title)
        .uid(f"yisuan-{name}")
        .tags(["yisuan"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(_variable("namespace", namespaces))
        .with_variable(_variable("job", jobs).include_all(True).multi(True))
    )
    for panel in _panels(questions):
        made = made.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return dashboard.QueryVariable(name).query(query).datasource(SOURCE).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _panels(questions: Sequence[Question]) -> Iterator[stat.Panel | timeseries.Panel]:
    for one in questions:
        panel = stat.Panel() if one.now else timeseries.Panel().min(0)
        panel = panel.title(one.title).description(one.text).unit(one.unit).datasource(SOURCE)
        panel = panel.span(one.width).height(4 if one.now else 8)
        for query, legend in one.queries:
            target = prometheus.Dataquery().expr(expression(query)).legend_format(legend or "__auto")
            panel = panel.with_target(target.instant() if one.now else target)
        yield panel


def main(argv: Sequence[str]) -> int:
    """The files are written; with --check nothing is, and 1 says that one differs."""
    stale = []
    for name in ALL:
        path, text = FOLDER / f"{name}.json", make(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in argv:
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "nothing to change", file=sys.stderr)
    return int(bool(stale) and "--check" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
