"""Hardware metrics: what an agent saw last, for Prometheus.

Names follow OpenTelemetry's semantic conventions for hardware (`hw.gpu.utilization` → `hw_gpu_utilization_ratio`,
attributes `hw.id` → label `hw_id`), with what a person joins on kept apart in one `hw_gpu_info` of value 1, as Intel's
xpumd does. What is unknown is no series: nothing is 0 that was not read as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from adapters.accelerator import Health
from adapters.agent import AgentStatus, Scene
from adapters.sample import Sample

MHZ, GB = 1_000_000.0, 1_000_000_000.0
STATES = ("ok", "degraded", "failed")

# (name, what it says, its value in a sample): one series a device.
GAUGES: tuple[tuple[str, str, Callable[[Sample], float | None]], ...] = (
    ("hw_gpu_utilization_ratio", "Share of time in use, in the vendor's own sense.", lambda s: s.utilisation_ratio),
    ("hw_gpu_memory_usage_bytes", "Device memory in use.", lambda s: s.memory_used_bytes),
    ("hw_gpu_memory_bandwidth_ratio", "Share of the memory's bandwidth in use.", lambda s: s.memory_bandwidth_ratio),
    ("hw_power_watts", "Power drawn.", lambda s: s.power_watts),
    ("hw_gpu_retired_pages", "Memory pages or rows taken out of use.", lambda s: s.retired_pages),
)


class HardwareMetrics:
    """A collector for prometheus_client. scene and status are asked at every scrape, from the scraper's thread."""

    def __init__(self, scene: Callable[[], Scene], status: Callable[[], AgentStatus]) -> None:
        self._scene, self._status = scene, status

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a series, and the agent's own."""
        scene = self._scene()
        found = [*_of_samples(scene), *_of_devices(scene), *_of_the_rest(scene), *_of_agent(self._status())]
        return iter([metric for metric in found if metric.samples])


def serve(metrics: HardwareMetrics, port: int, address: str) -> Callable[[], None]:
    """The metrics are served at http://address:port/metrics from now on; call the answer to end it.

    OSError when the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    server, thread = start_http_server(port, addr=address, registry=registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def _of_samples(scene: Scene) -> Iterator[Metric]:
    for name, text, value in GAUGES:
        yield _gauge(name, text, ("hw_id",), (((s.uuid,), value(s)) for s in scene.samples))
    heat = (
        ((s.uuid, where), degrees)
        for s in scene.samples
        for where, degrees in (("core", s.temperature_celsius), ("memory", s.memory_temperature_celsius))
    )
    yield _gauge("hw_temperature_celsius", "Temperature.", ("hw_id", "hw_sensor_location"), heat)
    clocks = (
        ((s.uuid, domain), None if mhz is None else mhz * MHZ)
        for s in scene.samples
        for domain, mhz in (("core", s.core_clock_mhz), ("memory", s.memory_clock_mhz))
    )
    yield _gauge("hw_gpu_clock_hertz", "Clock.", ("hw_id", "domain"), clocks)
    held = (((s.uuid, reason), 1.0) for s in scene.samples for reason in dict.fromkeys(s.throttled or ()))
    yield _gauge("hw_gpu_throttled", "1 for every reason that holds the clock down.", ("hw_id", "reason"), held)
    energy = (((s.uuid,), s.energy_joules_total) for s in scene.samples)
    yield _counter("hw_energy_joules", "Energy used, by the device's own counter.", ("hw_id",), energy)
    errors = (
        ((s.uuid, kind), count)
        for s in scene.samples
        for kind, count in (
            ("corrected", s.ecc_corrected_total),
            ("uncorrected", s.ecc_uncorrected_total),
            ("link", s.link_errors_total),
        )
    )
    yield _counter(
        "hw_errors", "Errors of memory and links, as the device counts them.", ("hw_id", "error_type"), errors
    )


def _of_devices(scene: Scene) -> Iterator[Metric]:
    limits = (((d.uuid,), d.memory_total_bytes) for d in scene.devices)
    yield _gauge("hw_gpu_memory_limit_bytes", "Device memory there is, as the driver reports it.", ("hw_id",), limits)
    caps = (((d.uuid,), d.power_limit_watts) for d in scene.devices)
    yield _gauge("hw_power_limit_watts", "Power that the device is allowed.", ("hw_id",), caps)
    states = (
        ((d.uuid, state), float(d.health.value == state))
        for d in scene.devices
        if d.health is not Health.UNKNOWN
        for state in STATES
    )
    yield _gauge(
        "hw_status", "1 for the state the device is in; no series where it is unknown.", ("hw_id", "hw_state"), states
    )
    info = GaugeMetricFamily("hw_gpu_info", "What the device is.", labels=INFO)
    for d in scene.devices:
        identity = [None if number is None else f"0x{number:04x}" for number in (d.pci_vendor_id, d.pci_device_id)]
        parent = d.partition.parent_uuid if d.partition else None
        told = (d.uuid, d.vendor, d.model or d.model_raw, d.serial, d.driver_version, parent, d.pci_bdf, *identity)
        more = (str(d.index), d.source.value, f"L{int(d.evidence_level)}", d.health_code)
        info.add_metric([word or "" for word in (*told, *more)], 1.0)
    yield info


INFO = (
    *("hw_id", "hw_vendor", "hw_model", "hw_serial_number", "hw_driver_version", "hw_parent"),
    *("pci_bdf", "pci_vendor_id", "pci_device_id", "index", "source", "evidence_level", "health_code"),
)


def _of_the_rest(scene: Scene) -> Iterator[Metric]:
    said = ((key, float(count)) for key, count in scene.happened)
    yield _counter(
        "hw_device_events", "Events of the driver since the agent began.", ("hw_id", "code", "severity"), said
    )
    uses = (((p.uuid, str(p.pid), p.name or ""), p.memory_used_bytes) for p in scene.processes)
    yield _gauge(
        "hw_gpu_process_memory_bytes", "Memory that a process of the host holds.", ("hw_id", "pid", "name"), uses
    )
    busy = (((p.uuid, str(p.pid), p.name or ""), p.utilisation_ratio) for p in scene.processes)
    yield _gauge(
        "hw_gpu_process_utilization_ratio", "Share of the device a process uses.", ("hw_id", "pid", "name"), busy
    )
    ends = ("hw_id", "peer_hw_id", "nearness", "fabric")
    told = [((k.a_uuid, k.b_uuid, k.nearness.name.lower(), k.fabric or ""), k) for k in scene.links]
    yield _gauge("hw_gpu_link_info", "How two devices are joined.", ends, ((key, 1.0) for key, _ in told))
    speeds = ((key, None if k.bandwidth_gbs is None else k.bandwidth_gbs * GB) for key, k in told)
    yield _gauge("hw_gpu_link_bandwidth_bytes_per_second", "Bandwidth of the link, both ways.", ends, speeds)


def _of_agent(status: AgentStatus) -> Iterator[Metric]:
    delivering = ((), float(status.problem is None))
    yield _gauge("yisuan_agent_delivering", "1 when the platform took what was sent last.", (), [delivering])
    yield _gauge("yisuan_agent_waiting_samples", "Samples not delivered yet.", (), [((), float(status.waiting))])
    yield _gauge("yisuan_agent_waiting_events", "Usage events not delivered yet.", (), [((), status.events)])
    yield _gauge(
        "yisuan_agent_problems", "What adapters and the bus complain of.", (), [((), float(len(status.adapters)))]
    )
    yield _counter("yisuan_agent_delivered_samples", "Samples delivered.", (), [((), float(status.delivered))])
    yield _counter("yisuan_agent_thinned_samples", "Samples given up for room.", (), [((), float(status.thinned))])


Series = Iterable[tuple[tuple[str, ...], float | None]]


def _gauge(name: str, text: str, labels: tuple[str, ...], series: Series) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), series)


def _counter(name: str, text: str, labels: tuple[str, ...], series: Series) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), series)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, series: Series) -> Metric:
    """The family with every series that has a value; of two with the same labels the first, as Prometheus takes one."""
    seen: set[tuple[str, ...]] = set()
    for key, value in series:
        if value is not None and key not in seen:
            seen.add(key)
            family.add_metric(list(key), float(value))
    return family
