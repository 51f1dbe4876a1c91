"""The soak's zone: PostgreSQL, two replicas of the routes, two loops, and the engine underneath; how each is broken and healed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from sqlalchemy import Table, select
from sqlalchemy.exc import SQLAlchemyError

from api.auth import mint_key
from api.commands.console import UNAVAILABLE
from api.leadership import leader_of
from benchmarks.soak_engines import ENGINES
from metering import store as money
from metering.parameters import load_policies
from scheduler.database import Database
from tests.platform import FIRM, POLICY, PROVIDER
from tests.postgres import Server, running_postgres

YISUAN = Path(sys.executable).with_name("yisuan")
UP_S = 90.0
END_S = 30.0
SERVES = re.compile(r"pages: http|stands_by|leads ")  # the first words of a process that ends in order from then on
FACTS = (("site", "bj1", "energy_review"), ("site", "bj1", "energy_report"), ("firm", FIRM, "eligible"))
SINCE = datetime(2024, 1, 1, tzinfo=UTC)


class Zone:
    """A platform of several processes over one engine. `names`: of its processes; each can be started, killed and frozen."""

    names = ("api-1", "api-2", "loop-1", "loop-2")

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend = folder, backend
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.frozen: set[str] = set()
        self.down: set[str] = set()  # killed, and not yet to be started again
        self.database_is_up = True
        self.ended_badly: list[str] = []
        self._log_from: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Zone:
        from tests.ray.cluster import free_ports

        try:
            self.engine = ENGINES[self.backend](self._stack, self.folder)
            self.server: Server = self._stack.enter_context(running_postgres())
            if self.server.programs is None:
                raise RuntimeError("YISUAN_TEST_POSTGRES: that server is not ours to kill; unset it")
            self.url = self.server.url(self.server.create())
            self.ports = dict(zip(self.names[:2], free_ports(2), strict=True))
            self.data = self.folder / "data"
            self.members = self.folder / "members"
            for path in (self.data, self.members, self.folder / "logs"):
                path.mkdir()
            clusters = self.engine.clusters(self.folder)
            if clusters:
                (self.data / "clusters.yaml").write_text(yaml.safe_dump({"clusters": clusters}), encoding="utf-8")
            self.database = Database(self.url)
            self._stack.callback(self.database.close)
            self._stack.callback(self._kill_all)
            self.start("api-1")
            self._until_answers("api-1")
            self.key = self._enrol()
            for name in self.names[1:]:
                self.start(name)
            self._until_answers("api-2")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def servers(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports.values()]

    def _enrol(self) -> str:
        """A firm with its right claimed, a provider, a site, and what the engine needs; the firm's key."""
        now, policy = datetime.now(UTC), load_policies().policy(POLICY)
        with self.database.write() as tx:
            money.enrol_provider(tx, id=PROVIDER, name="provider", now=now)
            money.enrol_site(tx, id="bj1", provider=PROVIDER, name="site", region="beijing", now=now)
            money.enrol_firm(tx, id=FIRM, name="firm", now=now)
            for kind, subject, fact in FACTS:
                money.record_fact(
                    tx, subject_kind=kind, subject=subject, fact=fact, start=SINCE, end=None, evidence={}, by="soak", now=now
                )  # fmt: skip
            money.claim(tx, firm=FIRM, by="soak", policy=POLICY, caps=policy.firm_cap_fen, now=now)
            key = mint_key(tx, name="soak", role="firm", tenant=FIRM, now=now)
        self.engine.enrol(self.database)
        return key

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """The process runs; it need not answer yet."""
        self.down.discard(name)
        known = self.processes.get(name)
        if known is not None and known.poll() is None:
            return
        role = ["serve", "--role", "api"] if name in self.ports else ["loop"]
        environment = {
            **os.environ,
            "YISUAN_DATABASE_URL": self.url,
            "YISUAN_DATA_DIR": str(self.data),
            "YISUAN_IDENTITY": name,
            "YISUAN_LEDGER": "demo" if self.backend == "local" else "live",
            "YISUAN_PORT": str(self.ports.get(name, 8080)),
            "YISUAN_LANG": "en",
        }
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._log_from[name] = log.tell()
            self.processes[name] = subprocess.Popen(
                [str(YISUAN), *role], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def revive(self) -> None:
        """What ended by itself runs again, as a service manager would have it; in order only while the database was away."""
        self.engine.tend()
        for name, process in self.processes.items():
            if process.poll() is None or name in self.down:
                continue
            if process.returncode != UNAVAILABLE:
                self.ended_badly.append(f"{name} ended by itself with {process.returncode}")
            self.start(name)

    def kill(self, name: str) -> None:
        """The process is gone at once."""
        self.down.add(name)
        self.thaw(name)
        self.processes[name].kill()
        self.processes[name].wait()

    def freeze(self, name: str) -> None:
        """The process stands still."""
        self.processes[name].send_signal(signal.SIGSTOP)
        self.frozen.add(name)

    def thaw(self, name: str) -> None:
        """The process goes on where it was."""
        if name in self.frozen:
            self.frozen.discard(name)
            self.processes[name].send_signal(signal.SIGCONT)

    def end(self, name: str) -> None:
        """The process has ended as it was told to; how it did not is in ended_badly."""
        process = self.processes[name]
        self.down.add(name)
        if process.poll() is not None:
            self.ended_badly.append(f"{name} ended by itself with {process.returncode}")
            return
        starting = not SERVES.search(self._said(name))  # it heeds nothing yet and has nothing to end in order
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.ended_badly.append(f"{name} did not end within {END_S:.0f} s of SIGTERM")
            self.kill(name)
            return
        if code and not (code == -signal.SIGTERM and starting):
            self.ended_badly.append(f"{name} ended with {code} on SIGTERM")

    def _said(self, name: str) -> str:
        """What the process wrote since it was started."""
        data = (self.folder / "logs" / f"{name}.log").read_bytes()[self._log_from[name] :]
        return data.decode(errors="replace")

    def leader(self) -> str:
        """The loop that leads, as the database tells; the first that lives where it does not."""
        alive = [name for name in self.names[2:] if self._lives(name)]
        if self.database_is_up:
            with contextlib.suppress(SQLAlchemyError):
                with self.database.read() as tx:
                    found = leader_of(tx)
                if found is not None and found.who in alive:
                    return found.who
        return (alive or [self.names[2]])[0]

    def _lives(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def _kill_all(self) -> None:
        for name in self.processes:
            self.kill(name)

    def _until_answers(self, name: str) -> None:
        until = time.monotonic() + UP_S
        while time.monotonic() < until:
            self.revive()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.ports[name]}/healthz", trust_env=False).is_success:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"{name} does not answer: {(self.folder / 'logs' / f'{name}.log').read_text()[-2000:]}")

    # --- breaking and healing -----------------------------------------------------------------------------------------

    def break_(self, what: str, dice: int) -> tuple[str, Callable[[], None]] | None:
        """The deed is done; what it hit, and how it is healed. None where it cannot be done now."""
        if what in self.engine.deeds():
            heal = self.engine.deeds()[what](dice)
            return None if heal is None else ("", heal)
        if what == "kill_database":
            if not self.database_is_up:
                return None
            self.server.kill()
            self.database_is_up = False
            return "", self.restore
        leader = self.leader()
        name = {
            "kill_api": self.names[dice % 2],
            "kill_standby": next(one for one in self.names[2:] if one != leader),
        }.get(what, leader)
        if not self._lives(name) or name in self.frozen:
            return None
        if what == "freeze_leader":
            self.freeze(name)
            return name, lambda: self.thaw(name)
        if what == "end_leader":
            self.end(name)
        else:
            self.kill(name)
        return name, lambda: self.start(name)

    def restore(self) -> None:
        """The database answers again."""
        if not self.database_is_up:
            self.server.start()
            self.database_is_up = True

    def heal(self) -> None:
        """Everything runs and answers."""
        self.restore()
        self.engine.heal()
        for name in self.names:
            self.thaw(name)
            self.start(name)
        for name in self.ports:
            self._until_answers(name)
        self.revive()

    # --- looking ------------------------------------------------------------------------------------------------------

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of the table."""
        with self.database.read() as tx:
            return [dict(row) for row in tx.execute(select(table)).mappings()]

    def lines(self) -> Iterator[dict[str, Any]]:
        """What members wrote. A line that was cut off by a kill is left out."""
        for path in self.members.glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def audit(self) -> str | None:
        """None if `yisuan audit` finds nothing, else what it says."""
        seals = self.data / "checkpoints.jsonl"
        words = [
            str(YISUAN),
            "audit",
            self.url,
            *(["--checkpoints", str(seals)] if seals.exists() else []),
            "--lang",
            "en",
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"exit {done.returncode}: {done.stdout[-1500:]} {done.stderr[-1500:]}"

    def processes_left(self) -> list[str]:
        """Processes of members and shims of this soak that live."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            words = " ".join(process.info["cmdline"] or ())
            ours = str(self.members) in words or f"{self.data}/" in words
            if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.info['pid']}: {words[-200:]}")
        return found
