"""Server: uvicorn that ends in order: readiness first, then the loop, then listening, then what is under way."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

if TYPE_CHECKING:
    from api.wiring import Services

END_S = 10  # requests under way when listening has ended get so long


class Server(uvicorn.Server):
    """run() serves until SIGTERM or SIGINT; a second SIGINT ends it at once."""

    def __init__(self, app: FastAPI, services: Services, stop: threading.Event) -> None:
        """stop: set with the first signal, so that the loop gives up the lead while requests still end."""
        settings = services.settings
        super().__init__(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=END_S
            )
        )
        self.services, self.stop = services, stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not ready any more from now on, not listening after drain_s."""
        first = not self.services.draining.is_set()
        self.services.draining.set()
        self.stop.set()
        wait = self.services.settings.drain_s
        if first and wait and sig != signal.SIGINT:
            later = threading.Timer(wait, super().handle_exit, (sig, frame))
            later.daemon = True
            later.start()
        else:
            super().handle_exit(sig, frame)
