"""Cases: the frame of every command about one kind of case: its words are taken, a key is chosen, it asks, it tells.

A command names its kind, and what each action of its own does; `list` and the acts are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api.commands.connection import connect
from api.commands.console import Column, Output, show
from api.commands.papers import path, take

if TYPE_CHECKING:
    from api.client import Client

ACT = "act"  # the action whose second word is the act; where there is none, the actions are the acts


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of case on the command line.

    command: as it is typed. place: under /v1. forms: what each action asks for, as papers.take reads them. columns: of the
    list. tell: shows one of them. keys, act_keys: whose key to prefer where several are at hand, by action and by act, an
    operator's where neither says; the server decides who may.
    """

    command: str
    place: str
    forms: Mapping[str, str]
    columns: Sequence[Column]
    tell: Callable[[dict[str, Any], Output], None]
    keys: Mapping[str, str] = field(default_factory=dict)
    act_keys: Mapping[str, str] = field(default_factory=dict)

    def key(self, action: str, words: Sequence[str]) -> str:
        """The role whose key to prefer."""
        if action == ACT:
            return self.act_keys.get(words[1].replace("-", "_"), "operator")
        return self.keys.get(action, "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed: the action, its words and options, and what `reads` made of them before anything was asked."""

    kind: Kind
    action: str
    words: Sequence[str]
    options: Mapping[str, str | None]
    output: Output
    read: Any

    def path(self, *parts: str) -> str:
        """The path of the case that the first word names, or of something of it."""
        return path(self.kind.place, self.words[0], *parts)

    def act(self) -> dict[str, Any]:
        """The body of the act that was asked for."""
        name = self.words[1] if self.action == ACT else self.action
        body: dict[str, Any] = {"act": name.replace("-", "_"), "reason": self.options.get("reason") or ""}
        reference = self.options.get("reference")
        return body if reference is None else {**body, "reference": reference}

    def tell(self, found: Any) -> None:
        """The case on stdout."""
        self.kind.tell(found, self.output)


Does = Callable[["Client", Asked], None]
Reads = Callable[[Sequence[str]], Any]


def run(
    kind: Kind,
    action: str,
    words: Sequence[str] | None,
    output: Output,
    *,
    does: Mapping[str, Does],
    reads: Mapping[str, Reads] | None = None,
    **options: str | None,
) -> None:
    """The action is done and its answer is on stdout; a Failure says what was wrong.

    does: the actions that are neither `list` nor an act. reads: what is made of an action's words, such as an amount or a
    file, before anything is asked of the server.
    """
    given = take(kind.command, kind.forms, action, words, **options)
    read = reads[action](given) if reads and action in reads else None
    asked = Asked(kind=kind, action=action, words=given, options=options, output=output, read=read)
    with connect(kind.key(action, given)) as client:
        if action in does:
            does[action](client, asked)
        elif action == "list":
            show(list(client.items(path(kind.place))), kind.columns, output)
        else:
            asked.tell(client.post(asked.path("acts"), asked.act()))
