"""Settings: one frozen object, read once from YISUAN_* variables; functions receive the values they need, not it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a platform process is told from outside. data_dir is made with mode 0700; nothing secret has a default.

    ledger: demo or live; None takes the mark the database has, live for a new one.
    role: all = routes and loop; api = routes, never the loop; loop = the loop alone. Any number of each may run on one
    database: of those that may be its loop one is, the others stand by.
    identity: what this process is called where it is told who leads; empty = host name and process number.
    lease: NAMESPACE/NAME of a Kubernetes Lease that elects the loop; empty = the database does.
    checkpoint_key: the file with the key that seals; every process of one database needs the same. None = in data_dir.
    drain_s: seconds between the signal to end, from which on readiness says no, and the end of listening.
    challenge_hours: between two challenges of one node at least, drawn anew each time (metering/evidence_challenge.py); 0 = none.
    moves_per_hour: running members that may be moved so that larger jobs fit; 0 = none. Only jobs with a checkpoint move.
    """

    model_config = SettingsConfigDict(env_prefix="YISUAN_", frozen=True, extra="ignore")

    data_dir: Path = Path("yisuan-data")
    database_url: str = ""
    role: Literal["all", "api", "loop"] = "all"
    identity: str = ""
    lease: str = Field(default="", pattern=r"^([a-z0-9-]+/[a-z0-9.-]+)?$")
    checkpoint_key: Path | None = None
    drain_s: float = Field(default=0.0, ge=0, le=300)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    ledger: Literal["demo", "live"] | None = None
    policy: str = "net_cost"
    voucher_policy: str = "etown-2024-10"
    parameters_dir: Path | None = None
    moves_per_hour: int = Field(default=0, ge=0, le=100_000)
    challenge_hours: int = Field(default=24, ge=0, le=24 * 30)
    tick_ms: int = Field(default=250, ge=10, le=60_000)
    job_path: str = "/usr/local/bin:/usr/bin:/bin"
    confinement: Literal["auto", "namespace", "landlock", "uid", "none"] = "auto"
    lang: Literal["zh", "en"] = "zh"
    pages_open: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{(self.data_dir / 'yisuan.db').absolute()}")
        if not self.identity:
            object.__setattr__(self, "identity", f"{socket.gethostname()}:{os.getpid()}")
        if self.pages_open and self.ledger == "live":
            raise ValueError("pages_open shows every firm's bills to anyone: only a ledger marked demo may have it")
        return self
