"""nvidia-smi: its dialect, and what a recording of NVIDIA's tools says. Pure.

Sources: `nvidia-smi -q -x`, `-q`, `-L`, `--query-gpu`, `--query-compute-apps` and the table of drivers 384 to 595, and
dcgm-exporter. `N/A`, `[Not Supported]` and the like are None.
"""

from __future__ import annotations

from datetime import datetime

from adapters import smi, smi_log
from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.dcgm import is_exposition, parse_exposition
from adapters.smi import Dialect
from adapters.smi_output import parse_output

VENDOR = "nvidia"
SEMANTICS = "NVML: share of the last window in which a kernel ran"

# The one query understood without a header line:
# nvidia-smi --query-gpu=<these, by comma> --format=csv,noheader,nounits
BARE_QUERY = (
    *("index", "name", "uuid", "serial", "vbios_version", "memory.total", "memory.used", "memory.free"),
    *("utilization.gpu", "temperature.gpu", "power.draw", "driver_version"),
)
DIALECT = Dialect(vendor=VENDOR, tool="nvidia-smi", semantics=SEMANTICS, bare=BARE_QUERY)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output, known by its content. AdapterError when it is none of the known forms."""
    if is_exposition(text):
        return parse_exposition(text, written_at, catalog, DIALECT)
    return parse_output(text, written_at, catalog, DIALECT)


def parse_xml(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """What one `nvidia-smi -q -x` says."""
    return smi_log.parse_xml(text, written_at, catalog, DIALECT)


def parse_csv(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """What `nvidia-smi --query-gpu=… --format=csv` says."""
    return smi.parse_csv(text, written_at, catalog, DIALECT)
