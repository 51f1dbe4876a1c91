"""How many listings a second one API process answers, beside a bare Starlette route that returns the same bytes.

Both are uvicorn with the same settings and are up at the same time; they are asked in turn, over the same connections, by
the same client. `fresh`: GET /v1/listings; `known`: the same with If-None-Match, answered 304. The platform looks at its
database for every answer (api/published.py); the bare route at nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

TARGET_PERCENT = 60
CONNECTIONS = 32
PATH = "/v1/listings"
BEGUN_S = 60.0


def measure(seconds: float, rounds: int, *, postgresql: bool, pools: int = 20) -> dict[str, Any]:
    """{fresh, known: {bare_per_s, platform_per_s, percent}, target_percent, holds}; per_s are medians over rounds."""
    with zone(postgresql=postgresql, pools=pools) as (url, folder):
        ports = {"platform": free_port(), "bare": free_port()}
        platform = start("platform", ports["platform"], url, folder)
        try:
            body = begun(ports["platform"])
            (folder / "body.json").write_bytes(body.content)
            bare = start("bare", ports["bare"], body.headers["etag"], folder)
            try:
                same = begun(ports["bare"])
                if (same.content, same.headers["etag"]) != (body.content, body.headers["etag"]):
                    raise RuntimeError("the two do not answer the same")
                cases = {"fresh": {}, "known": {"If-None-Match": body.headers["etag"]}}
                found = {case: compared(ports, headers, seconds, rounds) for case, headers in cases.items()}
            finally:
                stop(bare)
        finally:
            stop(platform)
    return {
        "database": "postgresql" if postgresql else "sqlite",
        "bytes": len(body.content),
        "pools": pools,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "rounds": rounds,
        **found,
        "target_percent": TARGET_PERCENT,
        "holds": all(case["percent"] >= TARGET_PERCENT for case in found.values()),
    }


def compared(ports: dict[str, int], headers: dict[str, str], seconds: float, rounds: int) -> dict[str, Any]:
    """The two in turn, after a warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in ports}
    for turn in range(rounds + 1):
        for name, port in ports.items():
            rate = asyncio.run(asked(port, headers, seconds if turn else 1.0))
            if turn:
                times[name].append(rate)
    bare, platform = (statistics.median(times[name]) for name in ("bare", "platform"))
    return {"bare_per_s": round(bare), "platform_per_s": round(platform), "percent": round(100 * platform / bare, 1)}


async def asked(port: int, headers: dict[str, str], seconds: float) -> float:
    """Answers per second over CONNECTIONS connections, each of which asks again when it was answered."""
    lines = [f"GET {PATH} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{k}: {v}" for k, v in headers.items())]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        answer = http.get(PATH, headers=headers)
    status = f"HTTP/1.1 {304 if headers else 200} ".encode()
    if str(answer.status_code).encode() not in status:
        raise RuntimeError(f"{answer.status_code} where {status!r} was expected")
    asking = [Asking(request, status, len(answer.content)) for _ in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    for one in asking:
        await loop.create_connection(lambda one=one: one, "127.0.0.1", port)  # type: ignore[misc]
    began = time.monotonic()
    await asyncio.sleep(seconds)
    answered, passed = sum(one.answered for one in asking), time.monotonic() - began
    for one in asking:
        one.end()
    return answered / passed


class Asking(asyncio.Protocol):
    """One connection; every answer is looked at whole: its status and its length."""

    def __init__(self, request: bytes, status: bytes, length: int) -> None:
        self.request, self.status, self.length = request, status, length
        self.answered = 0
        self._got = b""
        self._over = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(b"\r\n\r\n")
        if head < 0 or len(self._got) < head + 4 + self.length:
            return
        if not self._got.startswith(self.status):
            raise RuntimeError(f"answered {self._got[:60]!r}")
        self._got = self._got[head + 4 + self.length :]
        self.answered += 1
        if not self._over and self._transport is not None:
            self._transport.write(self.request)

    def end(self) -> None:
        self._over = True
        if self._transport is not None:
            self._transport.abort()


# --- the two servers ----------------------------------------------------------------------------------------------


def serve(what: str, port: int, argument: str, folder: Path) -> None:
    """One of the two, till it is killed. argument: the platform's database, or the bare route's ETag."""
    import uvicorn

    app: Any
    if what == "platform":
        from api.app import create_app
        from api.settings import Settings
        from api.wiring import assemble

        app = create_app(assemble(Settings(data_dir=folder / "data", database_url=argument, role="api")))
    else:
        app = bare_app((folder / "body.json").read_bytes(), argument)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def bare_app(content: bytes, tag: str) -> Any:
    """A Starlette of one route."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    async def listings(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="application/json", headers=headers)

    return Starlette(routes=[Route(PATH, listings)])


@contextlib.contextmanager
def zone(*, postgresql: bool, pools: int) -> Iterator[tuple[str, Path]]:
    """A database with so many listed pools of eight devices each, and the folder of what belongs to it."""
    from tests.api.service import PROVIDER, running
    from tests.postgres import running_postgres

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'yisuan.db'}"
        if postgresql:
            server = stack.enter_context(running_postgres())
            url = server.url(server.create())
        with running(folder, url) as service:
            for number in range(pools - 2):
                body = {"id": f"pool-{number}", "provider": PROVIDER, "site": "bj1", "region": "beijing",
                        "vendor": "nvidia", "model": "H800", "source": "simulated",
                        "price_fen_per_device_hour": 1800 + number}  # fmt: skip
                service.post("operator", "/v1/pools", body).raise_for_status()
                node = {"id": f"node-{number}", "pool": body["id"], "simulated": {"model": "H800", "count": 8}}
                service.post("operator", "/v1/nodes", node).raise_for_status()
        yield url, folder


def start(what: str, port: int, argument: str, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "benchmarks", "reads", "--serve", what, str(port), argument, str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def begun(port: int) -> httpx.Response:
    """The server's first answer."""
    until = time.monotonic() + BEGUN_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}{PATH}").raise_for_status()
        time.sleep(0.05)
    raise RuntimeError(f"no answer within {BEGUN_S} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """0 if the platform answers at least TARGET_PERCENT of what the bare route does, in both cases."""
    parser = argparse.ArgumentParser(prog="benchmarks reads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args(argv)
    if arguments.serve:
        what, port, argument, folder = arguments.serve
        serve(what, int(port), argument, Path(folder))
        return 0
    found = measure(arguments.seconds, arguments.rounds, postgresql=not arguments.sqlite)
    if arguments.output == "json":
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for case in ("fresh", "known"):
            told = found[case]
            sys.stdout.write(f"{case:6} bare {told['bare_per_s']:6}/s  platform {told['platform_per_s']:6}/s  "
                             f"{told['percent']:5.1f} %\n")  # fmt: skip
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
