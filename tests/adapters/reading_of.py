"""A text as a recording of a vendor: what its adapter says of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from adapters.adapter import Adapter, Reading
from tests.adapters.recorded import AT


def read_text_as(adapter: Adapter, text: str) -> Reading:
    """The reading of a recording that holds exactly this text, written at AT."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording")
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        os.utime(path, (AT.timestamp(), AT.timestamp()))
        return adapter.parse_recording(path)
