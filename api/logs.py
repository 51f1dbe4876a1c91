"""Logs: how the platform's processes write what they tell."""

from __future__ import annotations

import sys

import structlog


def write_plainly() -> None:
    """Logs go to stderr: what a command prints may be read by a program. A traceback is written as Python's own.

    structlog's default, where the library `rich` is there, adds every local variable, and so the database's password and a
    member's environment. Colours are for terminals.
    """
    *before, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*before, renderer], logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
