"""Agent: a node's own process, which tells the platform what devices there are, what they read and what held them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.commands.console import UNAVAILABLE, USAGE, Failure, talk, word
from api.commands.service import stop_on_signals

if TYPE_CHECKING:
    from adapters.adapter import Adapter
    from adapters.agent import Agent
    from adapters.backlog import Backlog
    from adapters.deadline import Worker
    from adapters.fault import Faults
    from adapters.respondent import Respondent
    from adapters.witness import Host, Witness
    from api.push import HttpPush

STATE = Path(".local") / "state" / "yisuan" / "agents"
ENROLLED = "enrolled.json"  # {key, node, site}: the platform knows the key that lies beside it
TELEMETRY = "telemetry"  # holds readings that wait
LOOPBACK = "127.0.0.1"


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
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics here; off without it.")
    ] = None,
    metrics_address: Annotated[str, typer.Option(help="Address the metrics are bound to.")] = LOOPBACK,
    declare: Annotated[
        Path | None, typer.Option(help="A file that declares simulated devices; a demo ledger takes them, no other.")
    ] = None,
    kernel_python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="An interpreter (3.11 or later) whose library runs the platform's kernels."),
    ] = None,
    forget_faults: Annotated[
        bool, typer.Option("--forget-faults", help="Devices with fatal events were reset or replaced: use them again.")
    ] = False,
) -> None:
    """Reads every registered vendor's devices and tells the platform; what cannot be told waits and is told later."""
    from adapters.agent import Agent
    from adapters.survey import attest_here
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
    adapters = _adapters(declare)
    push = HttpPush(server, key)
    backlog, faults = keep_in(directory, forget_faults=forget_faults)
    witness = witness_of(node, directory, assignments, push)
    running = Agent(
        node,
        adapters,
        push,
        assignments,
        witness=witness,
        respondent=respondent_of(node, directory, assignments, adapters, push, kernel_python),
        backlog=backlog,
        faults=faults,
        attest=attest_here,
        detailed=metrics_port is not None,
    )
    end, stop = _serve(running, metrics_port, metrics_address), stop_on_signals()
    talk(word("cli.agent.running", node=node, server=server))
    threading.Thread(target=_tell, args=(running, stop), name="status", daemon=True).start()
    running.run(stop, period)
    end()
    push.close()
    left = running.status()
    if left.waiting or left.events:
        talk(word("cli.agent.left", samples=left.waiting, events=left.events or 0, path=str(directory)))


def _adapters(declare: Path | None) -> list[Adapter]:
    from adapters.adapter import AdapterError
    from adapters.registry import load_adapter, vendors
    from adapters.vendors.simulated import Simulated, read_declarations

    found = [load_adapter(name) for name in vendors()]
    if declare is not None:
        try:
            declared = Simulated(read_declarations(declare.read_text(encoding="utf-8")))
        except (AdapterError, OSError, UnicodeDecodeError) as problem:
            raise Failure(word("cli.recording.bad", path=str(declare)), why=str(problem), code=USAGE) from None
        found = [declared if adapter.vendor == declared.vendor else adapter for adapter in found]
    return found


def keep_in(directory: Path, *, forget_faults: bool = False) -> tuple[Backlog, Faults]:
    """Where readings wait and what befell devices, as the directory holds them."""
    from adapters.backlog import Backlog
    from adapters.fault import FILE, Faults
    from adapters.witness import host_boot

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        backlog, faults = Backlog(directory / TELEMETRY), Faults(directory / FILE, host_boot())
        if forget_faults:
            faults.forget()
    except OSError as problem:
        raise Failure(word("cli.agent.spool", path=str(directory)), why=str(problem), code=UNAVAILABLE) from None
    return backlog, faults


def _serve(running: Agent, port: int | None, address: str) -> Callable[[], None]:
    """Metrics are served until the answer is called; nothing where no port is given."""
    if port is None:
        return lambda: None
    from adapters.hardware_metrics import HardwareMetrics, serve

    try:
        end = serve(HardwareMetrics(running.scene, running.status), port, address)
    except OSError as problem:
        raise Failure(
            word("cli.agent.metrics", address=address, port=port), why=str(problem), code=UNAVAILABLE
        ) from None
    talk(word("cli.agent.metered", address=address, port=port))
    return end


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


def respondent_of(
    node: str,
    directory: Path,
    assignments: Path | None,
    adapters: list[Adapter],
    push: HttpPush,
    python: str | None = None,
) -> Respondent | None:
    """What answers the platform's challenges; None where no key was enrolled to answer with."""
    from adapters.respondent import Respondent
    from adapters.witness import load_key

    if not (directory / ENROLLED).exists():
        return None
    try:
        key = load_key(directory)
        folder = None if python is None else _package(directory)
    except (OSError, ValueError) as problem:
        raise Failure(word("cli.agent.spool", path=str(directory)), why=str(problem), code=UNAVAILABLE) from None
    return Respondent(node, key, push, adapters, assignments, rig=partial(_rig, python, folder))


def _package(directory: Path) -> Path:
    """A folder with our package alone, for another interpreter: it must not find this one's libraries."""
    import adapters

    folder = directory / "kernel"
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / "adapters.draft"
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path(str(adapters.__file__)).parent)
    draft.replace(folder / "adapters")
    return folder


def _rig(python: str | None, folder: Path | None, environment: Mapping[str, str]) -> Worker:
    from adapters.respondent import rig

    return rig({**environment, **({"PYTHONPATH": str(folder)} if folder else {})}, python)


def _tell(running: Agent, stop: threading.Event) -> None:
    """Say what fails when it begins to, and when it no longer does; and once what adapters and the bus complain of."""
    said: str | None = None
    complained: tuple[str, ...] = ()
    while not stop.wait(1.0):
        status = running.status()
        problem = status.problem or next(iter(status.unsaid), None)
        if problem != said:
            said = problem
            talk(word("cli.agent.failing", problem=problem) if problem else word("cli.agent.delivering"))
        for complaint in status.adapters:
            if complaint not in complained:
                talk(complaint)
        complained = status.adapters
