"""Bench: measure this host's accelerators, or answer the platform's challenge with them."""

from __future__ import annotations

import enum
import math
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.console import REFUSED, UNAVAILABLE, USAGE, Column, Failure, Output, emit, section, show, talk, word

if TYPE_CHECKING:
    from adapters.bench.target import Listed, Target
    from adapters.bench.trial import Outcome, Progress
    from adapters.deadline import Worker

SEED_MAX = 2**32 - 1
CHALLENGE_S = 60.0  # how long this side waits; the platform's own clock decides whether the answer was in time


class StackName(enum.StrEnum):
    """Which library multiplies; auto: the first with an accelerator, else numpy."""

    TORCH = "torch"
    CUPY = "cupy"
    NUMPY = "numpy"
    AUTO = "auto"


def bench(
    stack: Annotated[StackName, typer.Option(help="What multiplies and copies.")] = StackName.AUTO,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="At most this long for each device.")] = 60,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEED_MAX, help="Of the numbers; a random one without it.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="UUID|all", help="As `yisuan devices` names it.")] = None,
    challenge: Annotated[str | None, typer.Option(metavar="NONCE", help="Answer this challenge and end.")] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="An interpreter (3.11 or later) that has the stack.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where raw logs are kept; default bench/ in the data directory.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Also put the results on the platform's record.")] = False,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="json and yaml: one document, or {documents} for `all`.")
    ] = Output.TABLE,
) -> None:
    """Speed of multiplication by precision, of memory and of links; each result is checked, each raw log kept.

    Without --device the first device that a vendor's tool lists, else what the stack finds. Exit 1 if a device could
    not be measured or gave a wrong result.
    """
    from adapters.adapter import AdapterError

    chosen = [] if stack is StackName.NUMPY and device is None else _chosen(device)
    targets = _targets(chosen, wanted=device is not None)
    with _path(python) as path:
        rigs = Rigs(stack.value, secrets.randbelow(SEED_MAX) if seed is None else seed, seconds, python, path)
        try:
            if challenge is not None:
                emit(_answer(rigs, targets[0], challenge), Output.JSON if output is Output.TABLE else output)
                return
            outcomes = [_measured(rigs, target) for target in targets]
            if device == "all":
                outcomes += _grouped(rigs, chosen)
        except AdapterError as problem:
            raise Failure(word("cli.bench.stack", stack=stack.value), why=str(problem), code=UNAVAILABLE) from None
    _keep(outcomes, log)
    documents = [outcome.document for outcome in outcomes]
    _shown(documents, output, several=device == "all")
    if submit:
        _submit(documents)
    if any(outcome.wrong or not outcome.document["measurements"] for outcome in outcomes):
        raise typer.Exit(REFUSED)


@dataclass(frozen=True, slots=True)
class Rigs:
    """How processes that measure are made."""

    stack: str
    seed: int
    seconds: float
    python: str | None
    path: str | None

    def worker(self, stack: str, environment: dict[str, str], index: int = 0) -> Worker:
        """A rig in a process of its own that sees what the environment shows."""
        from adapters.deadline import Worker

        arguments = {"stack": stack, "index": index, "seed": self.seed}
        shown = {**environment, **({"PYTHONPATH": self.path} if self.path else {})}
        return Worker("adapters.bench.rig:Rig", arguments, open_s=0, environment=shown, python=self.python)


def _chosen(wanted: str | None) -> list[Listed]:
    """Listed devices that are to be measured; what tools could not say goes to stderr."""
    from adapters.bench.target import TargetUnknown, choose, found
    from adapters.registry import load_adapter, vendors

    listed, problems = found([load_adapter(name) for name in vendors()])
    for problem in problems:
        talk(problem)
    try:
        return choose(listed, wanted)
    except TargetUnknown as problem:
        raise Failure(str(problem), do="yisuan devices", code=USAGE) from None


def _targets(chosen: Sequence[Listed], *, wanted: bool) -> list[Target]:
    """What is measured: the chosen devices, else (where none was asked for) whatever the stack finds."""
    from adapters.bench.target import HOST, targets

    made = targets(chosen, talk)
    if not made and wanted:
        raise Failure(word("cli.bench.none"), do="yisuan devices", code=UNAVAILABLE)
    return made or [HOST]


def _measured(rigs: Rigs, target: Target) -> Outcome:
    from adapters.bench.trial import measure
    from adapters.catalog import load_catalog

    title = target.device.uuid if target.device else word("cli.bench.host")
    with _progress(title) as progress:
        return measure(
            lambda stack: rigs.worker(stack, dict(target.environment)), target,
            stack=rigs.stack, seed=rigs.seed, seconds=rigs.seconds, at=datetime.now(UTC), catalog=load_catalog(),
            clock=time.monotonic, progress=progress,
        )  # fmt: skip


def _grouped(rigs: Rigs, chosen: Sequence[Listed]) -> list[Outcome]:
    from adapters.bench.group import measure_group
    from adapters.bench.target import together

    made = []
    for devices, environment in together(chosen):
        with _progress(word("cli.bench.group", devices=len(devices))) as progress:
            made.append(
                measure_group(
                    lambda index, shown=environment: rigs.worker(rigs.stack, shown, index),  # type: ignore[misc]
                    devices, seed=rigs.seed, seconds=rigs.seconds, at=datetime.now(UTC), clock=time.monotonic,
                    progress=progress,
                )
            )  # fmt: skip
    return made


def _answer(rigs: Rigs, target: Target, nonce: str) -> dict[str, Any]:
    """{nonce, size, depth, precision, digest, rows, chain_seconds, stack, device}."""
    from adapters.bench.question import Challenge, ChallengeInvalid
    from adapters.bench.trial import described

    try:
        asked = Challenge(nonce=nonce)
    except ChallengeInvalid as problem:
        raise Failure(str(problem), code=USAGE) from None
    rig = rigs.worker(rigs.stack, dict(target.environment))
    try:
        found: dict[str, Any] = rig.ask("challenge", asked.nonce, asked.size, asked.depth, deadline_s=CHALLENGE_S)
        about = rig.ask("about", deadline_s=CHALLENGE_S)
    finally:
        rig.close()
    return {**found, "stack": about["name"], "versions": about["versions"], "device": described(target, about)}


@contextmanager
def _path(python: str | None) -> Iterator[str | None]:
    """A folder with our package alone, for another interpreter: it must not find this one's libraries. None for ours."""
    if python is None:
        yield None
        return
    import adapters

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "adapters").symlink_to(Path(str(adapters.__file__)).parent)
        yield folder


@contextmanager
def _progress(title: str) -> Iterator[Progress | None]:
    """A bar on stderr where that is a terminal, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title} {what}".strip())

        yield tell


def _keep(outcomes: Sequence[Outcome], directory: Path | None) -> None:
    """Every raw log is a file named by its hash; where they are is said on stderr."""
    from api.settings import Settings

    folder = directory or Settings().data_dir / "bench"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for outcome in outcomes:
        path = folder / f"{outcome.document['log_sha256']}.jsonl"
        path.write_bytes(outcome.log)
        talk(word("cli.bench.log", path=str(path)))


def _submit(documents: Sequence[dict[str, Any]]) -> None:
    """Documents of a device are on the platform's record; a group's and a processor's have none to be on record of."""
    from api.commands.connection import connect

    for document in documents:
        if document["device"]["uuid"] is None:
            talk(word("cli.bench.unsubmitted"))
            continue
        with connect("agent") as client:
            client.post("/v1/agents/benchmarks", {"document": document})
        talk(word("cli.bench.submitted", device=document["device"]["uuid"]))


def _shown(documents: Sequence[dict[str, Any]], output: Output, *, several: bool) -> None:
    if output in (Output.JSON, Output.YAML):
        emit({"version": 1, "documents": list(documents)} if several else documents[0], output)
        return
    for document in documents:
        if output is Output.TABLE:
            device = document["device"]
            names = device["uuid"] or " ".join(device.get("uuids", ())) or word("cli.bench.host")
            section(f"{device['model'] or device['model_raw']} · {names} · {document['stack']}")
        rows = [{"device": document["device"]["uuid"], **each} for each in document["measurements"]]
        show(rows, _columns(output), output)
        for problem in document["problems"]:
            talk(problem)


def _columns(output: Output) -> tuple[Column, ...]:
    from api.texts import count

    def figure(value: float) -> str:
        """Four digits that count, more where they are whole."""
        whole = math.floor(math.log10(value)) if value > 0 else 0
        return count(value, min(9, max(0, 3 - whole)))

    first = (Column(key="device", title="column.device"),) if output is Output.CSV else ()
    return (
        *first,
        Column(key="name", title="column.measurement", shown=lambda value: word(f"bench.{value}")),
        Column(key="precision", title="column.precision"),
        Column(key="value", title="column.measured", shown=figure, number=True),
        Column(key="unit", title="column.unit"),
        Column(key="p10", title="column.p10", shown=figure, number=True),
        Column(key="p90", title="column.p90", shown=figure, number=True),
        Column(key="repeats", title="column.repeats", number=True),
        Column(key="peak", title="column.peak", shown=figure, number=True),
        Column(key="ratio_of_peak", title="column.ratio_of_peak", shown=lambda value: f"{value:.0%}", number=True),
    )
