"""Connection: the client of a command, and what its answers mean for the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from api.commands.console import REFUSED, UNAVAILABLE, USAGE, Failure, language, word

if TYPE_CHECKING:
    from api.client import Client

BAD_INPUT = (400, 413, 415, 422)


@contextmanager
def connect(role: str = "firm") -> Iterator[Client]:
    """A client for the block; whatever the server refuses in it becomes a Failure. role: the key to prefer."""
    from api.client import Client, Refused, Unavailable, find_access

    access = find_access(role)
    try:
        yield Client(access, language())
    except Unavailable as problem:
        raise Failure(
            word("cli.unavailable"), why=str(problem), do=word("cli.unavailable.do"), code=UNAVAILABLE
        ) from None
    except Refused as refused:
        do = word("cli.key.do") if refused.status in (401, 403) else ""
        why = "\n".join([refused.code, *refused.errors])
        code = USAGE if refused.status in BAD_INPUT else REFUSED
        raise Failure(refused.detail, why=why, do=do, code=code) from None


def resolve(client: Client, job: str) -> str:
    """The id of a job given by id or by name; of several with one name the newest."""
    if job.startswith("job_"):
        return job
    named = [found for found in client.items("/v1/jobs", limit=200) if found["name"] == job]
    if not named:
        raise Failure(word("cli.job.unknown", job=job), do=word("cli.job.unknown.do"))
    return str(max(named, key=lambda found: found["id"])["id"])


def one(client: Client, path: str, **parameters: Any) -> dict[str, Any]:
    """The document at a path, as a mapping."""
    found = client.get(path, **parameters)
    if not isinstance(found, dict):
        raise Failure(word("cli.unexpected", path=path), code=UNAVAILABLE)
    return found
