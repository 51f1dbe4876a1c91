"""ixsmi of Iluvatar CoreX, and ix-exporter: what their recorded outputs say. Pure.

ixsmi prints nvidia-smi's forms (its table has clocks where NVIDIA's has ECC; its CSV says `board.power.draw`).
ix-exporter (Deep-Spark/ix-exporter): memory MiB, clocks MHz, power W, temperature °C, utilisation %.
"""

from __future__ import annotations

from datetime import datetime

from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_count
from adapters.exposition import Meter, exposition_time, gather, read_exposition
from adapters.row import MIB, NO_TIME, Row, assemble
from adapters.smi import Dialect
from adapters.smi_output import parse_output

VENDOR = "iluvatar"
SEMANTICS = "IXML: share of the last window in which a kernel ran"
DIALECT = Dialect(vendor=VENDOR, tool="ixsmi", semantics=SEMANTICS)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output, known by its content. AdapterError when it is none of the known forms."""
    if not any(line.startswith("ix_") and "{" in line for line in text.splitlines()):
        return parse_output(text, written_at, catalog, DIALECT)
    meters = gather(
        [series for series in read_exposition(text) if series[0].startswith("ix_")],
        lambda labels: labels.get("uuid", "").strip() or labels.get("gpu", "").strip(),
    )
    if not meters:
        raise AdapterError("ix-exporter: no series carries a device's uuid or number")
    at = exposition_time(text)
    rows = [_row(meter, position) for position, meter in enumerate(meters.values())]
    problems = ("" if at else NO_TIME,)
    return assemble(rows, at or written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=problems)


def _row(meter: Meter, position: int) -> Row:
    index = read_count(meter.labels.get("gpu"))
    used, free = meter.value("ix_mem_used"), meter.value("ix_mem_free")
    total = meter.value("ix_mem_total")
    if total is None and used is not None and free is not None:
        total = used + free
    xid = meter.count("ix_xid_errors")
    return Row(
        index=position if index is None else index,
        name=meter.labels.get("name"),
        uuid=meter.labels.get("uuid"),
        unnamed=True,
        visible_id=meter.labels.get("uuid"),
        driver=meter.labels.get("driver_version"),
        total=None if total is None else int(total * MIB),
        used=None if used is None else int(used * MIB),
        ratio=meter.share("ix_gpu_utilization", "ix_sm_utilization"),
        power=meter.value("ix_power_usage"),
        temperature=meter.value("ix_temperature", "ix_gpu_temperature"),
        memory_temperature=meter.value("ix_mem_temperature"),
        core_clock=meter.value("ix_sm_clock"),
        memory_clock=meter.value("ix_mem_clock"),
        corrected=meter.count("ix_ecc_sbe_vol_status"),
        uncorrected=meter.count("ix_ecc_dbe_vol_status"),
        last_error=f"XID {xid}" if xid else None,
    )
