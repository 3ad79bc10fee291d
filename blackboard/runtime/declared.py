"""What an agent's decorators write down: its handlers, checked, before anything runs."""

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol

from blackboard.codec import canonical
from blackboard.errors import InvalidError
from blackboard.jetstream import Start
from blackboard.messages import Memory
from blackboard.subjects import ANSWERS, ONCE, Pattern, check_name, check_topic
from blackboard.watch import Since, start_at

Kind = Literal["on", "gather", "answers"]
By = str | Callable[[Memory], str | None]
Until = int | Callable[[list[Memory]], "bool | Awaitable[bool]"]
Function = Callable[..., Awaitable[Any]]

ATTEMPTS = 5
ACK_WAIT_S = 10.0
MIN_ACK_WAIT_S = 0.5
FIELDS = ("session", "user", "kind", "topic", "agent", "access")
"""What `by=` may name, besides `tags.<name>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One handler of an agent.

    Attributes:
        name: Joined with the agent's it names the consumer that all replicas share.
        kind: What calls it: each memory, a complete group, or a request.
        pattern: The topics whose memories come to it.
        function: Async; gets the memory, or the parts of a group, and a board.
        to: The topic of what it returns.
        tags: Only memories with all of these.
        own: Whether the agent's own memories come to it.
        concurrency: Memories in hand at once, in each replica.
        attempts: Tries until a memory becomes a dead letter.
        ack_wait_s: Seconds until another replica gets what this one has stopped working on.
        start: Where its consumer begins when it is made; None is now.
        by: What groups parts: a field, `tags.<name>`, or a function.
        until: When a group is complete: a number of parts, or a function of them.
        idle_s: Seconds without a new part after which a group is merged as it is.
    """

    name: str
    kind: Kind
    pattern: Pattern
    function: Function
    to: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    own: bool = False
    concurrency: int = 1
    attempts: int = ATTEMPTS
    ack_wait_s: float = ACK_WAIT_S
    start: Since | str = None
    by: By = "session"
    until: Until | None = None
    idle_s: float | None = None

    def __post_init__(self) -> None:
        check_name("handler", self.name)
        if not inspect.iscoroutinefunction(self.function):
            raise InvalidError(f"handler {self.name!r} must be an `async def` function")
        if self.to is not None and check_topic(self.to).split(".")[0] in (ONCE, ANSWERS):
            raise InvalidError(f"to={self.to!r}: {ONCE!r} and {ANSWERS!r} are kept for the library")
        if self.concurrency < 1 or self.attempts < 1:
            raise InvalidError(f"handler {self.name!r}: concurrency and attempts begin at 1")
        if not (math.isfinite(self.ack_wait_s) and self.ack_wait_s >= MIN_ACK_WAIT_S):
            raise InvalidError(f"ack_wait={self.ack_wait_s} must be at least {MIN_ACK_WAIT_S} s")
        begin_at(self.start)
        if self.kind == "gather":
            self._check_group()

    def _check_group(self) -> None:
        if isinstance(self.by, str) and not self.by.startswith("tags.") and self.by not in FIELDS:
            raise InvalidError(
                f"by={self.by!r} must be one of {', '.join(FIELDS)}, tags.<name>, or a function"
            )
        if self.until is None and self.idle_s is None:
            raise InvalidError(f"gather {self.name!r} needs until= or idle= to know when to merge")
        if isinstance(self.until, int) and self.until < 1:
            raise InvalidError(f"until={self.until} must be at least 1")
        if self.idle_s is not None and self.idle_s <= 0:
            raise InvalidError(f"idle={self.idle_s} s must be above 0")

    @property
    def settings(self) -> str:
        """What all replicas must agree on besides the filter, as canonical JSON."""
        by = self.by if isinstance(self.by, str) else "function"
        group = {"by": by} if self.kind == "gather" else {}
        told = {"kind": self.kind, "tags": dict(self.tags), "own": self.own, **group}
        return canonical(told).decode()


def begin_at(start: Since | str) -> Start:
    """Turn `start=` into where a consumer begins; "now" is the same as None.

    Raises:
        InvalidError: It is no place to begin.
    """
    return start_at(None if start == "now" else start)  # pyright: ignore[reportArgumentType] - it refuses other text


def seconds(span: timedelta | float | None) -> float | None:
    """A duration as seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else span


class Declaration(Protocol):
    """What the runtime needs to know of an agent."""

    @property
    def name(self) -> str:
        """On everything it writes."""
        ...

    @property
    def version(self) -> str:
        """Of its code."""
        ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By name."""
        ...
