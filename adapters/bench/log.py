"""Log: every raw repeat of a bench run, one canonical JSON line each, so that hashes of lines and of the whole are stable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from adapters.chain import canonical


class Log:
    """Grows by a line at a time; what is in it never changes."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def add(self, line: Mapping[str, Any]) -> bytes:
        """The line is kept last; its bytes, newline included, are what `log_sha256` of a measurement covers."""
        made = canonical(line) + b"\n"
        self._lines.append(made)
        return made

    def bytes(self) -> bytes:
        """All lines in order."""
        return b"".join(self._lines)


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()
