"""Agent: a node's own process, which tells the platform what devices there are, what they read and what held them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.commands.console import UNAVAILABLE, USAGE, Failure, talk, word
from api.commands.service import stop_on_signals

if TYPE_CHECKING:
    from adapters.agent import Agent
    from adapters.witness import Host, Witness
    from api.push import HttpPush

STATE = Path(".local") / "state" / "yisuan" / "agents"
ENROLLED = "enrolled.json"  # {key, node, site}: the platform knows the key that lies beside it


def agent(
    node: Annotated[str, typer.Option(help="This host's node id on the platform.")],
    server: Annotated[str | None, typer.Option(help="Default YISUAN_SERVER.")] = None,
    key: Annotated[str | None, typer.Option(envvar="YISUAN_KEY", help="A key of role agent.")] = None,
    period: Annotated[float, typer.Option(min=0.1, help="Seconds between readings.")] = 5.0,
    enrol: Annotated[
        str | None, typer.Option(metavar="CODE", help="Make the node's key, enrol it with this one-time code, and end.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Holds the node's key and what waits; default under ~/.local/state.")
    ] = None,
    assignments: Annotated[
        Path | None,
        typer.Option(help="Where the backend writes what holds which devices; without it nothing is signed."),
    ] = None,
) -> None:
    """Reads every registered vendor's devices and tells the platform; what cannot be told waits and is told later."""
    from adapters.agent import Agent
    from adapters.registry import load_adapter, vendors
    from api.client import find_access
    from api.push import HttpPush

    access = find_access("agent")
    server, key = server or access.server, key or access.key
    directory = directory or Path.home() / STATE / node
    if enrol is not None:
        enrol_key(node, directory, enrol, HttpPush(server, None))
        return
    if not key:
        raise Failure(word("cli.agent.key"), do=word("cli.key.do"), code=USAGE)
    adapters = [load_adapter(name) for name in vendors()]
    push = HttpPush(server, key)
    witness = witness_of(node, directory, assignments, push)
    running, stop = Agent(node, adapters, push, assignments, witness=witness), stop_on_signals()
    talk(word("cli.agent.running", node=node, server=server))
    threading.Thread(target=_tell, args=(running, stop), name="status", daemon=True).start()
    running.run(stop, period)


def enrol_key(node: str, directory: Path, code: str, push: HttpPush) -> None:
    """The node's key exists in the directory and speaks for the node; asked again with the same code, the same."""
    import httpx

    from adapters.witness import load_key
    from api.push import PushRefused

    try:
        made = push.enrol(code, load_key(directory))
    except (PushRefused, ValueError) as problem:
        raise Failure(word("cli.agent.refused"), why=str(problem)) from None
    except httpx.HTTPError as problem:
        raise Failure(word("cli.agent.refused"), why=f"{problem}", code=UNAVAILABLE) from None
    if made["node"] != node:
        raise Failure(word("cli.agent.other_node", node=node, enrolled=made["node"]), code=USAGE)
    draft = directory / f"{ENROLLED}.draft"
    draft.write_text(json.dumps({name: made[name] for name in ("key", "node", "site")}) + "\n", encoding="utf-8")
    draft.replace(directory / ENROLLED)
    talk(word("cli.agent.enrolled", node=node, key=made["key"]))


def witness_of(
    node: str, directory: Path, assignments: Path | None, push: HttpPush, host: Host | None = None
) -> Witness | None:
    """What signs for the node; None, and said so, where no key was enrolled or nobody says what runs."""
    from adapters.spool import SpoolBusy, SpoolDamaged
    from adapters.witness import Witness

    if assignments is None or not (directory / ENROLLED).exists():
        talk(word("cli.agent.unsigned"))
        return None
    try:
        return Witness(node, directory, assignments, push.events, host)
    except (SpoolBusy, SpoolDamaged, ValueError) as problem:
        raise Failure(word("cli.agent.spool", path=str(directory)), why=str(problem), code=UNAVAILABLE) from None


def _tell(running: Agent, stop: threading.Event) -> None:
    """Say what fails when it begins to, and when it no longer does."""
    said: str | None = None
    while not stop.wait(1.0):
        status = running.status()
        problem = status.problem or next(iter(status.unsaid), None)
        if problem != said:
            said = problem
            talk(word("cli.agent.failing", problem=problem) if problem else word("cli.agent.delivering"))
