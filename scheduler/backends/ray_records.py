"""Records: one JSON file a lease and one file a member's log, in a directory of one cluster, found again after a restart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
WRITABLE = 0o200


class Records:
    """What is known of every lease. Files are their owner's alone; a lease whose name is unsafe has none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._over: set[str] = set()

    def read(self, lease: str) -> dict[str, Any]:
        """Empty when there is none."""
        if not SAFE.fullmatch(lease):
            return {}
        try:
            return dict(json.loads((self.root / f"{lease}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def keep(self, lease: str, record: Mapping[str, Any]) -> None:
        """The record is whole and on the disk, or as it was before."""
        path = self.root / f"{lease}.json"
        partial = self.root / f".{lease}.{os.getpid()}"
        with open(
            os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
        ) as stream:
            json.dump(record, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    def open_leases(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those that have not ended; an ended one is read once, as it never changes back."""
        for entry in os.scandir(self.root):
            lease = entry.name.removesuffix(".json")
            if lease == entry.name or lease in self._over:
                continue
            record = self.read(lease)
            if record.get("final"):
                self._over.add(lease)
            else:
                yield lease, record

    def log(self, lease: str, rank: int) -> Path:
        return self.root / f"{lease}.{rank}.log"

    def logged(self, lease: str, rank: int) -> tuple[int, bool]:
        """How many bytes of a log are kept, and whether they are all that there will ever be."""
        try:
            found = self.log(lease, rank).stat()
        except FileNotFoundError:
            return 0, False
        return found.st_size, not found.st_mode & WRITABLE

    def add_log(self, lease: str, rank: int, offset: int, data: bytes, *, whole: bool) -> None:
        """The bytes are kept at their offset; whole: nothing follows them, and the file is read-only from now on."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        with open(os.open(self.log(lease, rank), flags, 0o600), "wb") as stream:
            stream.seek(offset)
            stream.write(data)
            if whole:
                os.fchmod(stream.fileno(), 0o400)
