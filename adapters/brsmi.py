"""brsmi of Biren: what its recorded outputs say. Pure.

No output of a real brsmi is published; its manual gives `--query-gpu` in nvidia-smi's form, which is read, and the
same forms as of its model (table, log, list) are tried.
"""

from __future__ import annotations

from datetime import datetime

from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.smi import Dialect
from adapters.smi_output import parse_output

VENDOR = "biren"
SEMANTICS = "BRML: share of the last window in which a kernel ran"
DIALECT = Dialect(vendor=VENDOR, tool="brsmi", semantics=SEMANTICS, by_uuid=False)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output, known by its content. AdapterError when it is none of the known forms."""
    return parse_output(text, written_at, catalog, DIALECT)
