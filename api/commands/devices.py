"""Devices: what this host has, or what a recorded tool output says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.console import USAGE, Column, Failure, Output, emit, show, talk, word

if TYPE_CHECKING:
    from adapters.adapter import Adapter, Reading


def devices(
    vendor: Annotated[str | None, typer.Option(help="One registered vendor; all of them without it.")] = None,
    recording: Annotated[
        Path | None, typer.Option(help="Recorded output of the vendor's tool, instead of this host.")
    ] = None,
    processes: Annotated[bool, typer.Option("--processes", help="Which processes hold the devices, too.")] = False,
    links: Annotated[bool, typer.Option("--links", help="How the devices are joined, too.")] = False,
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
    if recording is not None and (processes or links):
        raise Failure(word("cli.devices.live"), do="yisuan devices --processes --links", code=USAGE)
    more: dict[str, Any] = {}
    try:
        if recording:
            reading = _recorded(str(vendor), recording)
        else:
            adapters = _adapters(vendor)
            reading = _present(adapters)
            reading, more = _detailed(reading, adapters, processes=processes, links=links)
            _close(adapters)
    except UnknownVendor as problem:
        raise Failure(str(problem), code=USAGE) from None
    except (AdapterError, OSError, UnicodeDecodeError) as problem:
        raise Failure(word("cli.recording.bad", path=str(recording)), why=str(problem), code=USAGE) from None
    document = reading_document(reading, load_catalog()) | more
    if output in (Output.JSON, Output.YAML):
        emit(document, output)
    else:
        show(document["devices"], _columns(), output)
        if processes:
            show(document["processes"], _process_columns(), output)
        if links:
            show(document["links"], _link_columns(), output)
        for told in document["problems"]:
            talk(told)


def _recorded(vendor: str, recording: Path) -> Reading:
    from adapters.registry import load_adapter

    return load_adapter(vendor).parse_recording(recording)


def _adapters(vendor: str | None) -> list[Adapter]:
    from adapters.registry import load_adapter, vendors

    return [load_adapter(name) for name in ([vendor] if vendor else vendors())]


def _present(adapters: Sequence[Adapter]) -> Reading:
    """What the vendors' own tools say here, compared with the bus. A vendor that cannot answer hides no other."""
    from adapters.adapter import AdapterError, Reading
    from adapters.survey import attest_here, problems_of

    found: list[Any] = []
    samples: list[Any] = []
    problems: list[str] = []
    for adapter in adapters:
        probe = adapter.probe()
        if not probe.available:
            talk(word("cli.vendor.absent", vendor=adapter.vendor, reason=probe.reason))
            continue
        try:
            found += adapter.inventory()
            problems += problems_of(adapter)
            samples += adapter.samples()
            problems += problems_of(adapter)
        except AdapterError as problem:
            problems.append(f"{adapter.vendor}: {problem}")
    devices, unmanaged = attest_here(found)
    asked = tuple(f" {adapter.vendor} " for adapter in adapters)  # of vendors that were not asked nothing is missed
    problems += [problem for problem in unmanaged if any(name in problem for name in asked)]
    return Reading(devices=devices, samples=tuple(samples), problems=tuple(dict.fromkeys(problems)))


def _detailed(
    reading: Reading, adapters: Sequence[Adapter], *, processes: bool, links: bool
) -> tuple[Reading, dict[str, Any]]:
    """The reading with the problems met, and {processes, links} as asked for."""
    from adapters.reading import link_documents, process_documents
    from adapters.survey import read_links, read_processes

    more: dict[str, Any] = {}
    problems = list(reading.problems)
    if processes:
        uses, said = read_processes(adapters)
        more["processes"] = process_documents(uses)
        problems += said
    if links:
        joined, said = read_links(adapters)
        more["links"] = link_documents(joined)
        problems += said
    return replace(reading, problems=tuple(problems)), more


def _close(adapters: Sequence[Adapter]) -> None:
    from adapters.survey import Closing

    for adapter in adapters:
        if isinstance(adapter, Closing):
            adapter.close()


def _problems(said: Sequence[str]) -> str:
    """What adapters say of a device, in the reader's language; json and csv carry their own words."""
    from adapters.device_problem import coded

    told = [coded(one) for one in said]
    return "; ".join(word(f"device.problem.{problem.code}", **problem.facts) for problem in told)


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
        Column(key="problems", title="column.problems", shown=_problems),
    )


def _process_columns() -> tuple[Column, ...]:
    from api.texts import memory

    return (
        Column(key="uuid", title="column.device"),
        Column(key="pid", title="column.pid", number=True),
        Column(key="name", title="column.process"),
        Column(key="memory_used_bytes", title="column.memory", shown=memory, number=True),
    )


def _link_columns() -> tuple[Column, ...]:
    return (
        Column(key="a_uuid", title="column.device"),
        Column(key="b_uuid", title="column.device"),
        Column(key="nearness", title="column.nearness"),
        Column(key="fabric", title="column.fabric"),
        Column(key="count", title="column.links", number=True),
        Column(key="bandwidth_gbs", title="column.bandwidth_gbs", number=True),
    )
