"""Direct: a few routes' functions called past the router, which would cost more than they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """ASGI middleware. GET of a path that it knows is answered by that function; everything else goes on to the router,
    where the same functions are registered and documented."""

    def __init__(self, app: ASGIApp, functions: Mapping[str, Callable[[Request], Awaitable[Response]]]) -> None:
        self.app, self.functions = app, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            function = self.functions.get(scope["path"])
            if function is not None:
                answer = await function(Request(scope, receive))
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)
