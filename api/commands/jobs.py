"""Jobs: submit, jobs, describe, logs, cancel, hold, release, progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.connection import connect, one, resolve
from api.commands.console import (
    REFUSED,
    USAGE,
    Column,
    Failure,
    Output,
    emit,
    language,
    pairs,
    section,
    show,
    talk,
    word,
)

if TYPE_CHECKING:
    from api.client import Client

POLL_S = 1.0
LOG_PAGE = 65_536
PENDING_TIMES = ("since", "next_evaluation", "earliest_start")
PROBLEM = ("field", "message", "nearest")
Format = Annotated[Output, typer.Option("-o", "--output", help="Table for people; json, yaml or csv for programs.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or its name (the newest of that name).")]


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Job file (YAML).")],
    name: Annotated[str | None, typer.Option(help="A name instead of the file's.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Repeat it to submit once, however often sent.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit 1 unless it succeeded.")] = False,
    output: Annotated[
        Output | None, typer.Option("-o", "--output", help="Print the whole job, not the id alone.")
    ] = None,
) -> None:
    """The job's scripts find the folder of the job file in $YISUAN_SUBMIT_DIR."""
    text = job_text(file, name)
    with connect("firm") as client:
        created = client.post("/v1/jobs", text=text, key=idempotency_key)
        if wait:
            created = _wait(client, str(created["id"]))
    if output is None:
        typer.echo(created["id"])
    else:
        emit(created, Output.YAML if output is Output.YAML else Output.JSON)
    if wait and created["state"] != "SUCCEEDED":
        raise typer.Exit(REFUSED)


def job_text(file: Path, name: str | None = None) -> str:
    """The job file as it is sent (api.client.with_submit_directory); Failure (2) tells every problem of a bad one."""
    from api.client import with_submit_directory
    from scheduler.jobfile import JobFileError

    try:
        return with_submit_directory(file.read_text(encoding="utf-8"), file.resolve().parent, name)
    except (OSError, UnicodeDecodeError) as problem:
        raise Failure(word("cli.file.unreadable", path=str(file)), why=str(problem), code=USAGE) from None
    except JobFileError as refused:
        lines = [_problem_line(problem) for problem in refused.problems]
        raise Failure(word("cli.jobfile.bad", path=str(file)), why="\n".join(lines), code=USAGE) from None


def _problem_line(problem: Any) -> str:
    told = problem if isinstance(problem, Mapping) else {k: getattr(problem, k, None) for k in PROBLEM}
    near = told.get("nearest")
    return f"{told.get('field')}: {told.get('message')}" + (word("cli.nearest", nearest=near) if near else "")


def _wait(client: Client, job: str) -> dict[str, Any]:
    said = ""
    while True:
        found = one(client, f"/v1/jobs/{job}")
        if found["state"] != said:
            said = str(found["state"])
            talk(f"{job}  {word(f'state.{said}')}")
        if _ended(said):
            return found
        time.sleep(POLL_S)


def _ended(state: str) -> bool:
    from scheduler.lifecycle import State

    return State(state).terminal


def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state, e.g. PENDING.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many, newest first.")] = 50,
    output: Format = Output.TABLE,
) -> None:
    """Newest first."""
    with connect("firm") as client:
        found = client.get("/v1/jobs", state=state, limit=limit)["items"]
    columns = (
        Column(key="id", title="column.job"),
        Column(key="name", title="column.name"),
        Column(key="state", title="column.state", shown=lambda value: word(f"state.{value}")),
        Column(key="queue", title="column.queue"),
        Column(key="submitted_at", title="column.submitted", shown=_moment),
    )
    show(found, columns, output)


def _moment(value: Any) -> str:
    from api.texts import moment

    return moment(value)


def describe(job: JobName, output: Format = Output.TABLE) -> None:
    """Why it waits or where it runs, what happened, what it has cost."""
    with connect("firm") as client:
        found = one(client, f"/v1/jobs/{resolve(client, job)}")
        if "elements" in found:
            _show_array(found, output)
            return
        events = client.get(f"/v1/jobs/{found['id']}/events")
        statement = _statement(client, str(found["id"]))
    story = events["items"] if isinstance(events, dict) else events
    if output in (Output.JSON, Output.YAML):
        emit({**found, "events": story, "statement": statement}, output)
        return
    if output is Output.CSV:
        show([found], tuple(Column(key=k, title="column.job") for k in ("id", "name", "state", "queue")), output)
        return
    _tell_job(found)
    if found.get("pending"):
        _tell_pending(found["pending"])
    _tell_leases(found.get("leases") or [])
    section(word("page.job.story"))
    pairs([(_moment(event.get("at") or event.get("at_ms")), _event_words(event)) for event in story])
    if statement:
        from api.commands.money import tell_totals

        section(word("page.job.cost"))
        tell_totals(statement)


def _show_array(found: Mapping[str, Any], output: Output) -> None:
    if output in (Output.JSON, Output.YAML):
        emit(dict(found), output)
        return
    if output is Output.TABLE:
        _tell_job(found)
    columns = (
        Column(key="array_index", title="column.index", number=True),
        Column(key="id", title="column.job"),
        Column(key="state", title="column.state", shown=lambda value: word(f"state.{value}")),
        Column(key="pending", title="page.job.why", shown=_why),
    )
    show(found["elements"], columns, output)


def _why(pending: Mapping[str, Any] | None) -> str:
    if pending is None:
        return "—"
    from api.texts import pending_words

    return f"{pending_words(pending, language())[0]}  [{pending['code']}]"


def _statement(client: Client, job: str) -> dict[str, Any] | None:
    from api.client import Refused

    try:
        return one(client, f"/v1/statements/jobs/{job}")
    except Refused as refused:
        if refused.status == 404:  # nothing has been settled yet
            return None
        raise


def _tell_job(found: Mapping[str, Any]) -> None:
    lines = [
        ("column.job", found["id"]),
        ("column.name", found["name"]),
        ("column.state", word(f"state.{found['state']}")),
    ]
    lines += [("column.queue", found.get("queue")), ("column.submitted", _moment(found.get("submitted_at")))]
    for name in ("deadline_at", "held_by", "array_id"):
        if found.get(name) is not None:
            lines.append((f"column.{name}", _moment(found[name]) if name == "deadline_at" else found[name]))
    done = found.get("progress")
    if done:
        total, saved = done["total_steps"], done["checkpointed_steps"]
        lines.append(("column.steps", f"{done['steps']}" + (f" / {total}" if total is not None else "")))
        if saved is not None:
            lines.append(("column.checkpointed", str(saved)))
    if found.get("exit_code") is not None:
        lines.append(("column.exit", str(found["exit_code"])))
    pairs([(word(title), str(value)) for title, value in lines if value])


def _tell_pending(pending: Mapping[str, Any]) -> None:
    from api.texts import pending_words

    reason, counts, remedies = pending_words(pending, language())
    section(word("page.job.why"))
    typer.echo(f"{reason}  [{pending.get('code')}]")
    for line in counts:
        typer.echo(f"  · {line}")
    rows = [(word("pending.kind"), word(f"pending.kind.{pending['kind']}"))] if pending.get("kind") else []
    for name in ("scope", "needed", "available", "position", "since", "next_evaluation", "earliest_start"):
        if pending.get(name) is not None:
            shown = _moment(pending[name]) if name in PENDING_TIMES else str(pending[name])
            rows.append((word(f"pending.field.{name}"), shown))
    pairs(rows)
    for line in remedies:
        typer.echo(f"  → {line}")


def _tell_leases(leases: list[dict[str, Any]]) -> None:
    for lease in leases:
        section(word("page.job.placement"))
        devices = lease.get("device_count") or lease.get("devices")
        lines = [(word("column.lease"), str(lease["id"])), (word("column.pool"), str(lease.get("pool", "—")))]
        lines += [(word("column.model"), str(lease.get("model", "—"))), (word("column.devices"), str(devices))]
        for member in lease.get("members") or ():
            lines.append((word("column.rank") + f" {member['rank']}", str(member["node"])))
        pairs(lines)


def _event_words(event: Mapping[str, Any]) -> str:
    from api.texts import known, text

    name = f"event.{event['event']}"
    facts = event.get("facts") or {}
    said = text(name, facts, language()) if known(name) else str(event["event"])
    codes = (f"cause.{facts.get('cause')}", f"pending.short.{facts.get('code')}")
    why = [text(code, facts, language()) for code in codes if known(code)]
    if facts.get("code") is not None and not known(codes[1]):
        why.append(text(str(facts["code"]), facts, language()))
    told = [*why, *(facts.get("nodes") or ())]
    said += f" ({', '.join(told)})" if told else ""
    return f"{said} → {word('state.' + str(event['state_to']))}"


def logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job ends; Ctrl-C leaves it running.")
    ] = False,
    rank: Annotated[int, typer.Option(min=0, help="Which member of the gang.")] = 0,
    offset: Annotated[int, typer.Option(min=0, help="Begin at this byte.")] = 0,
) -> None:
    """What the job's member wrote to stdout and stderr."""
    with connect("firm") as client:
        found = resolve(client, job)
        try:
            while True:
                ended = _ended(str(one(client, f"/v1/jobs/{found}")["state"]))
                offset = _print_log(client, found, rank, offset)
                if not follow or ended:
                    return
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            talk(word("cli.detached", job=found))


def _print_log(client: Client, job: str, rank: int, offset: int) -> int:
    """Everything from `offset` on is printed; returns where it ended."""
    import sys

    while True:
        answer = client.fetch(f"/v1/jobs/{job}/logs", rank=rank, offset=offset, limit=LOG_PAGE)
        if "json" in answer.headers.get("content-type", ""):
            page = answer.json()
            data = str(page.get("text", "")).encode()
            after = int(page.get("next_offset", offset + len(data)))
        else:
            data = answer.content
            after = offset + len(data)
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()
        if after == offset or not data:
            return offset
        offset = after


def cancel(job: JobName, output: Annotated[Output | None, typer.Option("-o", "--output")] = None) -> None:
    """A waiting job is cancelled at once, a running one is told to stop."""
    _tell_deed(job, "cancel", None, output)


def hold(job: JobName, output: Annotated[Output | None, typer.Option("-o", "--output")] = None) -> None:
    """A waiting job, or an array's elements that wait, start only when released."""
    _tell_deed(job, "hold", None, output)


def release(job: JobName, output: Annotated[Output | None, typer.Option("-o", "--output")] = None) -> None:
    """What an operator holds only an operator releases."""
    _tell_deed(job, "release", None, output)


def progress(
    job: JobName,
    steps: Annotated[int, typer.Option(min=0, help="Steps done in all attempts so far.")],
    total_steps: Annotated[int | None, typer.Option("--total", min=1, help="Steps of the whole job.")] = None,
    checkpointed_steps: Annotated[
        int | None, typer.Option("--checkpointed", min=0, help="Steps its last complete checkpoint holds.")
    ] = None,
    output: Annotated[Output | None, typer.Option("-o", "--output")] = None,
) -> None:
    """A job's own script reports so; how fast it goes is learnt from the time between reports."""
    body = {"steps": steps, "total_steps": total_steps, "checkpointed_steps": checkpointed_steps}
    _tell_deed(job, "progress", body, output)


def _tell_deed(job: str, deed: str, body: dict[str, Any] | None, output: Output | None) -> None:
    with connect("firm") as client:
        found = resolve(client, job)
        answer = client.post(f"/v1/jobs/{found}/{deed}", body)
    if output is None:
        typer.echo(found)
    else:
        emit(answer, Output.YAML if output is Output.YAML else Output.JSON)
