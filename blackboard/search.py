"""What is asked of recall and what it answers: the wire structs of the service.

An answer names memories and never shows them: whoever asked reads them from the board, under its
own rights and at their newest revision, so that what was forgotten cannot come back by way of an
index.
"""

from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from blackboard.access.rights import Grant as Grant  # noqa: PLC0414 - part of what is asked
from blackboard.errors import InvalidError
from blackboard.messages import Memory
from blackboard.paging import Cursor
from blackboard.subjects import Pattern, Ref, check_name, check_token

MAX_LIMIT = 1_000
"""Hits or rows in one answer."""
MAX_TEXT = 16_384
"""Characters of a query; what the embedder sees of it is less."""
MAX_VALUES = 1_000
"""Values of one field of a filter."""
PATIENCE_S = 2.0
"""How long an answer waits for the asker's own last write to be indexed."""
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
"""What rows are ordered by; `-` is descending. Equal ones are ordered by their revision, likewise.

Memories without `happened` come last, whichever way.
"""
CountBy = Literal["agent", "topic", "session", "user", "kind", "access", "tag"]


class Filter(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
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

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InvalidError: A value breaks a rule; the text names it.
        """
        if self.topic is not None:
            Pattern.parse(self.topic)
        for agent in self.agents:
            check_name("agent", agent)
        for label in self.access:
            check_token("access", label)
        for name, values in self.tags.items():
            if not values:
                raise InvalidError(f"tag {name!r} has no value to look for; leave it out")
        named = (self.agents, self.access, self.sessions, self.users, self.kinds, self.sources)
        if any(len(values) > MAX_VALUES for values in (*named, *self.tags.values())):
            raise InvalidError(f"a field may have {MAX_VALUES} values; ask several times")
        least = self.min_priority
        if least is not None and not 0.0 <= least <= 1.0:
            raise InvalidError(f"min_priority={least!r} must be from 0 to 1")
        for name in ("since", "until", "happened_since", "happened_until"):
            moment: datetime | None = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise InvalidError(f"{name}= needs a time zone; write datetime.now(UTC)")

    def selects(self, memory: Memory) -> bool:
        """Whether a memory as it was read is one of these; a tombstone is the caller's to see."""
        return (
            self._selects_names(memory)
            and all(memory.tags.get(name) in values for name, values in self.tags.items())
            and (self.min_priority is None or memory.priority >= self.min_priority)
            and _within(memory.stored, self.since, self.until)
            and _within(memory.happened, self.happened_since, self.happened_until)
            and (self.before is None or memory.revision < self.before)
            and (
                not self.sources
                or not {ref.unpinned for ref in self.sources}.isdisjoint(
                    ref.unpinned for ref in memory.sources
                )
            )
        )

    def _selects_names(self, memory: Memory) -> bool:
        return (
            (self.topic is None or Pattern(self.topic).matches(memory.topic))
            and _among(memory.agent, self.agents)
            and _among(memory.access, self.access)
            and _among(memory.session, self.sessions)
            and _among(memory.user, self.users)
            and _among(memory.kind, self.kinds)
        )


def _among(value: str | None, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted


def _within(moment: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    if moment is None:
        return since is None and until is None
    return (since is None or moment >= since) and (until is None or moment <= until)


class RecallRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A search by meaning.

    Attributes:
        text: The question.
        where: Which memories.
        limit: Hits wanted.
        recency: Weight of being new against the match itself, 0 to 1.
        priority: Weight of the memory's priority, 0 to 1.
        reached: The revision that the index must have taken in before it answers: that of the
            asker's last write.
        patience_s: How long to wait for that; then the answer says that it is stale.
    """

    text: str
    where: Filter = Filter()
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = 10
    recency: Annotated[float, Meta(ge=0, le=1)] = 0.0
    priority: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reached: int = 0
    patience_s: Annotated[float, Meta(ge=0, le=30)] = PATIENCE_S

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InvalidError: The text is empty or too long, or a value of the filter breaks a rule.
        """
        if not self.text.strip():
            raise InvalidError("an empty text finds nothing; use query for what needs no text")
        if len(self.text) > MAX_TEXT:
            raise InvalidError(
                f"a text of {len(self.text)} characters; ask with at most {MAX_TEXT}, "
                "best with one question"
            )
        check_limit(self.limit, least=1)
        for name in ("recency", "priority"):
            weight: float = getattr(self, name)
            if not 0.0 <= weight <= 1.0:
                raise InvalidError(f"{name}={weight!r} must be from 0 to 1")
        self.where.check()


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


class QueryRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
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
    patience_s: Annotated[float, Meta(ge=0, le=30)] = PATIENCE_S

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InvalidError: An unknown order or count, a foreign cursor, or a value breaks a rule.
        """
        if self.order_by not in get_args(Order):
            known = ", ".join(get_args(Order))
            raise InvalidError(f"order_by={self.order_by!r} is not one of {known}")
        for name in self.count_by:
            if name not in get_args(CountBy):
                known = ", ".join(get_args(CountBy))
                raise InvalidError(f"count_by={name!r} is not one of {known}")
        check_limit(self.limit, least=0)
        if self.cursor is not None:
            Cursor.parse(self.cursor, self.order_by)
        self.where.check()


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows in order, where to go on, and counts by value."""

    rows: tuple[Ref, ...] = ()
    """Pinned to the revision that was indexed."""
    cursor: str | None = None
    counts: dict[str, dict[str, int]] = {}
    total: int | None = None
    """All that match; with counts only."""
    state: State = State()


class ReindexRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A wish for a new index beside the old one."""

    embedder: str | None = None
    """A model's name; None keeps the one it has."""


class Building(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An index that is being built beside the one in service."""

    embedder: str
    indexed: int = 0
    lag: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the index of a board is.

    Attributes:
        engine: Which holds it.
        embedder: It was built with.
        dimensions: Of its vectors.
        memories: It holds.
        loose: Memories of them that no graph holds yet: a search compares them one by one. An
            engine of its own (Qdrant) does not tell.
        skipped: Memories that could not be indexed since the service began.
        state: How far it is.
        building: Its successor.
        trouble: What is wrong now, and what to do; None when nothing is.
        seconds: What indexing spent since the service began: `content` (of results and blobs, and
            of what was said before), `texts`, `embedding`, `engine`.
    """

    engine: str
    embedder: str
    dimensions: int = 0
    memories: int = 0
    loose: int = 0
    skipped: int = 0
    state: State = State()
    building: Building | None = None
    trouble: str | None = None
    seconds: dict[str, float] = {}


def check_limit(limit: int, *, least: int) -> None:
    """Refuse a limit that no answer can have.

    Raises:
        InvalidError: It is none from `least` to `MAX_LIMIT`.
    """
    if type(limit) is not int or not least <= limit <= MAX_LIMIT:
        raise InvalidError(f"limit={limit!r} must be a whole number from {least} to {MAX_LIMIT}")
