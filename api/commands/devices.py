"""Devices: what this host has, or what a recorded tool output says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.console import USAGE, Column, Failure, Output, emit, show, talk, word

if TYPE_CHECKING:
    from adapters.adapter import Reading


def devices(
    vendor: Annotated[str | None, typer.Option(help="One registered vendor; all of them without it.")] = None,
    recording: Annotated[
        Path | None, typer.Option(help="Recorded output of the vendor's tool, instead of this host.")
    ] = None,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="json and yaml give {devices, samples, problems}.")
    ] = Output.TABLE,
) -> None:
    """A vendor that is absent here is said on stderr and is no error."""
    from adapters.adapter import AdapterError
    from adapters.catalog import load_catalog
    from adapters.reading import reading_document
    from adapters.registry import UnknownVendor

    if recording is not None and vendor is None:
        raise Failure(word("cli.devices.vendor"), do="yisuan devices --vendor ascend --recording FILE", code=USAGE)
    try:
        reading = _recorded(str(vendor), recording) if recording else _present(vendor)
    except UnknownVendor as problem:
        raise Failure(str(problem), code=USAGE) from None
    except (AdapterError, OSError, UnicodeDecodeError) as problem:
        raise Failure(word("cli.recording.bad", path=str(recording)), why=str(problem), code=USAGE) from None
    document = reading_document(reading, load_catalog())
    if output in (Output.JSON, Output.YAML):
        emit(document, output)
    else:
        show(document["devices"], _columns(), output)
        for told in document["problems"]:
            talk(told)


def _recorded(vendor: str, recording: Path) -> Reading:
    from adapters.registry import load_adapter

    return load_adapter(vendor).parse_recording(recording)


def _present(vendor: str | None) -> Reading:
    """What the vendors' own tools say here. A vendor that cannot answer hides no other."""
    from adapters.adapter import AdapterError, Reading
    from adapters.registry import load_adapter, vendors

    found: list[Any] = []
    samples: list[Any] = []
    problems: list[str] = []
    for name in [vendor] if vendor else vendors():
        adapter = load_adapter(name)
        probe = adapter.probe()
        if not probe.available:
            talk(word("cli.vendor.absent", vendor=name, reason=probe.reason))
            continue
        try:
            found += adapter.inventory()
            samples += adapter.samples()
        except AdapterError as problem:
            problems.append(f"{name}: {problem}")
    return Reading(devices=tuple(found), samples=tuple(samples), problems=tuple(problems))


def _columns() -> tuple[Column, ...]:
    from api.texts import memory

    return (
        Column(key="uuid", title="column.device"),
        Column(key="vendor", title="column.vendor"),
        Column(key="model_raw", title="column.model_raw"),
        Column(key="model", title="column.model"),
        Column(key="origin", title="column.origin", shown=lambda value: word(f"origin.{value}")),
        Column(key="memory_total_bytes", title="column.memory", shown=memory, number=True),
        Column(key="health", title="column.health", shown=lambda value: word(f"health.{value}")),
        Column(key="problems", title="column.problems", shown="; ".join),
    )
