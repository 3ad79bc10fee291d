"""What is asked of recall and what it answers: the wire structs of `svc.<board>.recall` and `.query`.

An answer names memories and never shows them: whoever asked reads them from the board, under its own
rights and at their newest revision, so that what was forgotten cannot come back by way of an index.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from blackboard.subjects import Ref

MAX_LIMIT = 1_000
"""Hits or rows in one answer."""
MAX_TEXT = 16_384
"""Characters of a query; what the embedder sees of it is less."""
Order = Literal[
    "stored",
    "-stored",
    "happened",
    "-happened",
    "priority",
    "-priority",
    "agent",
    "-agent",
    "topic",
    "-topic",
]
"""What rows are ordered by; `-` is descending. Equal ones are ordered by their revision, likewise, and
those without `happened` come last in both directions."""
CountBy = Literal["agent", "topic", "session", "user", "kind", "access", "tag"]


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which memories; every field that is given must hold, and of its values any.

    Attributes:
        topic: A pattern.
        agents: Names.
        access: Labels.
        sessions: Sessions.
        users: Data subjects.
        kinds: Kinds.
        tags: By name, the values of which one must be there; every name given must match.
        min_priority: At least.
        since: Stored at or after.
        until: Stored at or before.
        happened_since: Happened at or after; memories without `happened` do not match.
        happened_until: Happened at or before.
        sources: Made from any of these, whatever their revision.
        before: Only revisions below this one.
    """

    topic: str | None = None
    agents: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    tags: dict[str, tuple[str, ...]] = {}
    min_priority: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    happened_since: datetime | None = None
    happened_until: datetime | None = None
    sources: tuple[Ref, ...] = ()
    before: int | None = None


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One right to read: a label and a pattern of topics, of one data subject or of all."""

    access: str = "*"
    topic: str = ">"
    user: str | None = None


class RecallRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A search by meaning.

    Attributes:
        text: The question.
        where: Which memories.
        limit: Hits wanted.
        recency: Weight of being new against the match itself, 0 to 1.
        priority: Weight of the memory's priority, 0 to 1.
        reached: The revision that the index must have taken in before it answers: the asker's last write.
        patience_s: How long to wait for that; then the answer says that it is stale.
    """

    text: str
    where: Filter = Filter()
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = 10
    recency: Annotated[float, Meta(ge=0, le=1)] = 0.0
    priority: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reached: int = 0
    patience_s: Annotated[float, Meta(ge=0, le=30)] = 2.0


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One hit: the memory, how well it matches, and why (score by part of the search)."""

    ref: Ref
    score: float
    why: dict[str, float] = {}


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the index was when it answered.

    Attributes:
        indexed: The last revision that it has taken in.
        lag: Messages of the board that it has not.
        stale: It had not reached what the asker wanted it to have.
        catching_up: It is being built and does not hold everything yet.
    """

    indexed: int = 0
    lag: int = 0
    stale: bool = False
    catching_up: bool = False


class RecallAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hits, best first."""

    hits: tuple[Found, ...] = ()
    state: State = State()


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question about metadata.

    Attributes:
        where: Which memories.
        order_by: Of the rows.
        limit: Rows wanted; 0 for counts alone.
        cursor: From the answer before: go on behind its last row, whatever was written since.
        count_by: Count all that match, by these.
        reached: As in `RecallRequest`.
        patience_s: As in `RecallRequest`.
    """

    where: Filter = Filter()
    order_by: Order = "-stored"
    limit: Annotated[int, Meta(ge=0, le=MAX_LIMIT)] = 100
    cursor: str | None = None
    count_by: tuple[CountBy, ...] = ()
    reached: int = 0
    patience_s: Annotated[float, Meta(ge=0, le=30)] = 2.0


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows in order, where to go on, and counts by value."""

    rows: tuple[Ref, ...] = ()
    """Pinned to the revision that was indexed."""
    cursor: str | None = None
    counts: dict[str, dict[str, int]] = {}
    total: int | None = None
    """All that match; with counts only."""
    state: State = State()
