"""ppu-smi of T-Head: what its recorded outputs say. Pure.

ppu-smi is nvidia-smi with `ppu` for `gpu` (T-Head SAIL's manual of ppu-smi 1.28): the table, `-q`, `-q -x`, `-L`,
`--query-ppu`, MIG instances.
"""

from __future__ import annotations

from datetime import datetime

from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.smi import Dialect
from adapters.smi_output import parse_output

VENDOR = "thead"
SEMANTICS = "HGML: share of the last window in which a kernel ran"
DIALECT = Dialect(vendor=VENDOR, tool="ppu-smi", unit="ppu", semantics=SEMANTICS)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output, known by its content. AdapterError when it is none of the known forms."""
    return parse_output(text, written_at, catalog, DIALECT)
