"""Tools: plan, simulate, settle, audit. They read files, need no server, and print JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.console import REFUSED, USAGE, Failure, Output, emit, word

if TYPE_CHECKING:
    from scheduler.policy import Policy

SchemaFlag = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the input and exit.")]
PolicyName = Annotated[str, typer.Option(help="A registered placement policy.")]


def settle(
    cases: Annotated[list[Path] | None, typer.Argument(metavar="CASE...", help="Settlement cases (JSON).")] = None,
    parameters: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Policy parameters instead of the built-in ones.")
    ] = None,
    schema: SchemaFlag = False,
) -> None:
    """One compact document a line. A bad file among several is an error document on its line, and exit 2."""
    from metering.case import run_settle
    from metering.case import schema as case_schema

    if schema:
        emit(case_schema())
        return
    if not cases:
        raise Failure(word("cli.settle.none"), do="yisuan settle CASE.json", code=USAGE)
    raise typer.Exit(run_settle(cases, parameters, sys.stdout, sys.stderr))


def plan(
    snapshot: Annotated[
        Path | None, typer.Argument(metavar="SNAPSHOT.json", help="What `yisuan snapshot` printed.")
    ] = None,
    policy: PolicyName = "net_cost",
    schema: SchemaFlag = False,
) -> None:
    """Where each waiting job would start, and why each other one waits."""
    if schema:
        emit(_schema("snapshot"))
        return
    if snapshot is None:
        raise Failure(word("cli.plan.none"), do="yisuan plan SNAPSHOT.json --policy NAME", code=USAGE)
    from scheduler.codec import SnapshotError, parse_snapshot, plan_document
    from scheduler.planner import plan as make_plan

    chosen = _policy(policy)
    try:
        known = parse_snapshot(snapshot.read_bytes())
    except (OSError, UnicodeDecodeError, SnapshotError) as problem:
        raise Failure(word("cli.file.unreadable", path=str(snapshot)), why=str(problem), code=USAGE) from None
    emit(plan_document(make_plan(known, chosen)))


def _policy(name: str) -> Policy:
    from scheduler.registry import UnknownPlugin, load_policy

    try:
        return load_policy(name)
    except UnknownPlugin as problem:
        raise Failure(str(problem), code=USAGE) from None


def _schema(name: str) -> Any:
    """A published schema: beside the checkout's packages, or in the wheel."""
    from importlib.resources import files

    for folder in (Path(__file__).parents[2] / "docs" / "schemas", Path(str(files("api"))) / "published"):
        if (folder / f"{name}.json").is_file():
            return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    raise Failure(word("cli.schema.none", name=name), code=USAGE)


def simulate(
    cluster: Annotated[Path | None, typer.Option(metavar="CLUSTER.yaml", help="Pools and nodes.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="TRACE.csv", help="Jobs and when they come.")] = None,
    policy: PolicyName = "net_cost",
    decisions: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every placement here (CSV).")] = None,
    throughputs: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="workload, model, devices, steps_per_s.")
    ] = None,
    restart_s: Annotated[int, typer.Option(min=0, max=86_400, help="What a stopped or moved job loses.")] = 0,
    mix: Annotated[
        str, typer.Option(metavar="none|all|N", help="The demand to leave room for: of no, all, or the first N jobs.")
    ] = "none",
    migrations: Annotated[int, typer.Option(min=0, help="Running members that one plan may move.")] = 0,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="SNAPSHOT.json", help="Instead: what `yisuan snapshot` printed.")
    ] = None,
    add_nodes: Annotated[list[str] | None, typer.Option(metavar="POOL=N", help="More nodes; may be repeated.")] = None,
    remove_nodes: Annotated[list[str] | None, typer.Option(metavar="POOL=N", help="Fewer nodes.")] = None,
    schema: SchemaFlag = False,
) -> None:
    """The loop's own planner over simulated nodes; figures as JSON, every one recomputable from --decisions.

    net_fen: second 0 is 2026-01-01 in Beijing, every firm is eligible, rooms are the policy's caps. With --snapshot: when
    each job that waits would start, as the zone is and with the nodes added or removed.
    """
    if schema:
        emit(_schema("cluster"))
        return
    if snapshot is not None:
        if any((cluster, trace, decisions, throughputs, restart_s, mix != "none", migrations)):
            raise Failure(word("cli.simulate.snapshot"), code=USAGE)
        _what_if(snapshot, policy, add_nodes or (), remove_nodes or ())
        return
    for given in (*(add_nodes or ()), *(remove_nodes or ())):
        raise Failure(word("cli.simulate.nodes", value=given), code=USAGE)
    if cluster is None or trace is None:
        raise Failure(
            word("cli.simulate.none"), do="yisuan simulate --cluster FILE --trace FILE --policy NAME", code=USAGE
        )
    from api.simulated_money import SimulatedMoney
    from scheduler.cluster import read_cluster
    from scheduler.engine import Outlook
    from scheduler.simulation import mix_of
    from scheduler.simulation import simulate as run
    from scheduler.trace import read_throughputs, read_trace

    chosen = _policy(policy)
    with bad_input():
        zone = read_cluster(cluster)
        known = read_throughputs(throughputs) if throughputs else ()
        jobs = read_trace(trace, zone, known)
        expected = mix_of(jobs[: _first(mix, len(jobs))], zone)
        with progress(len(jobs), word("cli.simulate.progress")) as advance:
            money = SimulatedMoney()
            result = run(
                zone,
                jobs,
                chosen,
                terms=money.terms(zone, sorted({job.firm for job in jobs})),
                throughputs=known,
                outlook=Outlook(expected, migrations),
                restart_ms=restart_s * 1000,
                charge=money.net_fen,
                progress=advance,
            )
        if decisions is not None:
            result.write_decisions(decisions)
    emit(result.document())


def _first(mix: str, jobs: int) -> int:
    if mix in ("none", "all"):
        return 0 if mix == "none" else jobs
    if not mix.isascii() or not mix.isdigit() or len(mix) > 9:
        raise ValueError(f"--mix: {mix!r} must be none, all or a whole number; nearest: all")
    return int(mix)


def _what_if(path: Path, policy: str, add: Sequence[str], remove: Sequence[str]) -> None:
    from scheduler.codec import parse_snapshot
    from scheduler.whatif import compare

    chosen = _policy(policy)
    with bad_input():
        known = parse_snapshot(path.read_bytes())
        result = compare(known, chosen, add=_counts(add), remove=_counts(remove))
    emit(result.document())


def _counts(values: Sequence[str]) -> dict[str, int]:
    """POOL=N by pool; one given twice has the sum."""
    found: dict[str, int] = {}
    for value in values:
        pool, _, count = value.rpartition("=")
        if not pool or not count.isascii() or not count.isdigit() or len(count) > 6:
            raise Failure(word("cli.simulate.nodes", value=value), code=USAGE)
        found[pool] = found.get(pool, 0) + int(count)
    return found


@contextmanager
def bad_input() -> Iterator[None]:
    """What a file's reader refuses is bad input (2), with the reader's own words."""
    try:
        yield
    except (OSError, ValueError) as problem:
        raise Failure(word("cli.input.bad"), why=str(problem), code=USAGE) from None


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr while the block runs, where a person is looking; None where none is."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def audit(
    path: Annotated[
        str | None,
        typer.Argument(metavar="DATABASE|EXPORT|URL", help="A SQLite database, an export, or postgresql://..."),
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Policy parameters instead of the built-in ones.")
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write what is audited as JSON lines.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Checkpoints kept elsewhere; those beside a database file count anyhow."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of `-o json` and exit.")] = False,
) -> None:
    """Exit 0 only if every law holds, else 1 and the first broken record."""
    if schema:
        emit(_schema("audit"))
        return
    if path is None:
        raise Failure(word("cli.audit.none"), do="yisuan audit DATABASE", code=USAGE)
    from metering.audit import NotAuditable, export_database
    from metering.audit import audit as recompute

    try:
        report = recompute(path, parameters=parameters, checkpoints=checkpoints or ())
        if export is not None:
            export_database(path, export)
    except (NotAuditable, OSError) as problem:
        raise Failure(word("cli.audit.unreadable", path=path), why=str(problem), code=USAGE) from None
    if output in (Output.JSON, Output.YAML):
        emit(report.document(), output)
    else:
        _tell(report)
    if not report.ok:
        raise typer.Exit(REFUSED)


def _tell(report: Any) -> None:
    for finding in report.laws:
        mark = "✓" if finding.ok else "✗"
        typer.echo(f"{mark} {finding.law}" + ("" if finding.ok else f": {finding.record}: {finding.problem}"))
    typer.echo(word("cli.audit.ok" if report.ok else "cli.audit.broken", records=report.records))
