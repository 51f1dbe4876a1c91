"""Fault: what a device event means for placement until somebody has seen to the device.

A fatal event says that the device must be reset or replaced; nothing in a later reading shows that it was. So it stays
failed until the host starts again, which resets every device, or an operator who reset it forgets the fault. A warning
makes it degraded for as long.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.accelerator import Accelerator, Health
from adapters.device_event import DeviceEvent, Severity
from adapters.reading import event_document, read_event

FILE = "faults.json"


class Faults:
    """The worst event of each device since the host's start. path: where they outlive the process, None: nowhere.

    boot: the host's boot id; faults of another boot are forgotten. A file that cannot be read counts as none, with
    `problem` saying so: it hides no device, and the next event writes it anew.
    """

    def __init__(self, path: Path | None = None, boot: str = "") -> None:
        self._path, self._boot = path, boot
        self._worst: dict[str, DeviceEvent] = {}
        self.problem: str | None = None
        if path is not None and path.exists():
            try:
                body: Any = json.loads(path.read_text(encoding="utf-8"))
                if body["boot"] == boot:
                    self._worst = {event.uuid: event for event in map(read_event, body["events"])}
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.problem = f"{path}: what befell devices before cannot be read: {error}"

    def note(self, events: Iterable[DeviceEvent]) -> None:
        """These happened. The first of the worst kind is kept for each device; what needs nothing is passed over."""
        changed = False
        for event in events:
            known = self._worst.get(event.uuid)
            if event.severity not in (Severity.FATAL, Severity.WARNING):
                continue
            if known is None or (known.severity is Severity.WARNING and event.severity is Severity.FATAL):
                self._worst[event.uuid], changed = event, True
        if changed and self._path is not None:
            body = {"boot": self._boot, "events": [event_document(self._worst[uuid]) for uuid in sorted(self._worst)]}
            draft = self._path.with_name(f"{FILE}.draft")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
                json.dump(body, out)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self._path)

    def forget(self) -> None:
        """No device has a fault any more: an operator has seen to them."""
        self._worst.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def judge(self, device: Accelerator) -> Accelerator:
        """The device with the health, the code and the problem that its fault gives it; a part has its whole's too."""
        event = self._worst.get(device.uuid)
        if event is None and device.partition is not None:
            event = self._worst.get(device.partition.parent_uuid)
        if event is None:
            return device
        fatal = event.severity is Severity.FATAL
        if any(problem.startswith(f"{event.code} at ") for problem in device.problems):
            return device  # judged before
        worse = fatal or device.health in (Health.OK, Health.UNKNOWN)
        what = "no work until it was reset or replaced" if fatal else "somebody should look at it"
        said = f"{event.code} at {event.at.isoformat(timespec='seconds')}: {what}"
        return replace(
            device,
            health=(Health.FAILED if fatal else Health.DEGRADED) if worse else device.health,
            health_code=event.code if worse else device.health_code,
            problems=(*device.problems, said),
        )
