"""Recording: a tool's output kept in a file, read whole and within a limit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from adapters.adapter import AdapterError

LIMIT_BYTES = 32 * 1024 * 1024  # the log of a full server is about 1 MiB


def read_recording(path: Path) -> tuple[str, datetime]:
    """The text of a recording, and when its file was written.

    AdapterError when it is no readable UTF-8 text.
    """
    try:
        status = path.stat()
        if status.st_size > LIMIT_BYTES:
            raise AdapterError(f"{path}: {status.st_size} bytes; one tool's output is at most {LIMIT_BYTES}")
        return path.read_bytes().decode("utf-8-sig"), datetime.fromtimestamp(status.st_mtime, UTC)
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read as text: {error}") from error
