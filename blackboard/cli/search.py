"""Commands that search: recall by meaning, query by metadata, and the index behind both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import anyio
from cyclopts import Parameter

from blackboard.cli.memories import parse_tag
from blackboard.cli.output import as_tree, clean, line, say, say_json, table, warn
from blackboard.cli.place import HERE, Place, opened
from blackboard.codec import Json
from blackboard.errors import InvalidError, UnavailableError
from blackboard.finder import Finder
from blackboard.hits import Hit, Hits, Rows
from blackboard.messages import Memory
from blackboard.search import CountBy, Order, Status
from blackboard.subjects import Ref
from blackboard.times import parse_time

LOOK_S = 0.3
AWAY_S = 60.0
"""How long a service that restarts in the middle of its work is waited for."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which memories; of an option that is given several times any will do.

    Attributes:
        topic: Only under this pattern: * is one token, a last > zero or more.
        agent: Only by this agent.
        access: Only under this label.
        session: Only of this session.
        user: Only of this data subject.
        kind: Only of this kind.
        tag: NAME=VALUE; every name that is given must match.
        since: Stored at or after a time, or so long ago, like 24h.
        until: Stored at or before.
        happened_since: Happened at or after.
        happened_until: Happened at or before.
        min_priority: At least, 0 to 1.
        source: Made from this memory.
        before: Leave out what is newer than this reference, or revision.
    """

    topic: str | None = None
    agent: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    happened_since: str | None = None
    happened_until: str | None = None
    min_priority: float | None = None
    source: tuple[str, ...] = ()
    before: str | None = None

    def parsed(self) -> dict[str, Any]:
        """The conditions that they stand for.

        Raises:
            InvalidError: One of them cannot be read.
        """
        tags: dict[str, list[str]] = {}
        for pair in self.tag:
            name, value = parse_tag(pair)
            tags.setdefault(name, []).append(value)
        before = self.before
        chosen: dict[str, Any] = {
            "topic": self.topic,
            "agent": self.agent or None,
            "access": self.access or None,
            "session": self.session or None,
            "user": self.user or None,
            "kind": self.kind or None,
            "tags": tags or None,
            "min_priority": self.min_priority,
            "sources": [Ref.parse(reference) for reference in self.source],
            "before": int(before) if before is not None and before.isdecimal() else before,
        }
        for name in ("since", "until", "happened_since", "happened_until"):
            text: str | None = getattr(self, name)
            option = f"--{name.replace('_', '-')}"
            chosen[name] = None if text is None else parse_time(text, option)
        return chosen


ANY = Choice()


async def recall(
    text: str,
    /,
    *,
    limit: int = 10,
    recency: float = 0.0,
    priority: float = 0.0,
    context: bool = False,
    budget: int = 800,
    choice: Choice = ANY,
    place: Place = HERE,
) -> None:
    """Find the memories that fit a text best, by meaning and by words.

    Behind each hit stands what its score is made of.

    Args:
        text: A question, or some words.
        limit: How many.
        recency: Weight of being new, 0 to 1.
        priority: Weight of a memory's priority, 0 to 1.
        context: Print them as text for a prompt instead: quoted, numbered, with agent and date.
        budget: Tokens that --context may take.
        choice: Which memories.
        place: The board.
    """
    if budget < 1:
        raise InvalidError(f"--budget {budget} must be at least 1 token")
    chosen = choice.parsed()
    async with opened(place) as board:
        hits = await board.recall(text, limit=limit, recency=recency, priority=priority, **chosen)
    _say_state(hits)
    if context:
        shown = hits.as_context(budget)
        if place.as_json:
            say_json({"context": shown, **_state(hits)})
        elif shown:
            say(shown)
    elif place.as_json:
        say_json({"hits": [_hit(place, hit) for place, hit in enumerate(hits, 1)], **_state(hits)})
    else:
        for number, hit in enumerate(hits, 1):
            say(f"m{number}  {hit.score:.3f}  {line(hit.memory)}")
            say(f"    {_why(hit)}{_sources(hit.memory)}")


async def query(
    topic: str | None = None,
    /,
    *,
    order_by: Annotated[Order, Parameter(allow_leading_hyphen=True)] = "-stored",
    limit: int = 100,
    cursor: str | None = None,
    count_by: tuple[CountBy, ...] = (),
    at: str | None = None,
    choice: Choice = ANY,
    place: Place = HERE,
) -> None:
    """Select memories by what they say of themselves, in order, page after page.

    Without the recall service, and always with --at, the stream itself is
    read; it then says how much of it.

    Args:
        topic: Only under this pattern; short for --topic.
        order_by: stored, happened, priority, agent or topic; with a hyphen in front descending.
        limit: How many; 0 with --count-by for counts alone.
        cursor: Go on behind the page that ended with this.
        count_by: Count all that match by agent, topic, session, user, kind, access or tag.
        at: As of a time, or so long ago, like 10m.
        choice: Which memories.
        place: The board.
    """
    if topic is not None and choice.topic is not None:
        raise InvalidError("two topics were given; leave one of them out")
    chosen = replace(choice, topic=topic or choice.topic).parsed()
    moment = None if at is None else parse_time(at, "--at")
    async with opened(place) as board:
        rows = await board.query(
            order_by=order_by, limit=limit, cursor=cursor, count_by=count_by, at=moment, **chosen
        )
    _say_state(rows)
    if rows.degraded:
        left = "" if rows.whole else "; what is older was left out"
        warn(f"no recall service answers: {rows.scanned} messages of the stream were read{left}")
    if place.as_json:
        say_json(_rows(rows))
        return
    for memory in rows:
        say(line(memory))
    for by, counts in rows.counts.items():
        say()
        table([by, "memories"], list(counts.items()), right=["memories"])
    if rows.cursor is not None:
        warn(f"there is more: --cursor {rows.cursor}")


async def reindex(*, embedder: str | None = None, place: Place = HERE) -> None:
    """Build the index of a board anew beside the old one, and put it in its place.

    The old one stays in service, and both stay current, until the new one
    has caught up. Ctrl-C leaves the service at it; so does a restart of it.

    Args:
        embedder: all-MiniLM-L6-v2, or a model of the service's endpoint; by default the same.
        place: The board.
    """
    async with opened(place) as board:
        finder = board.finder
        status = await finder.reindex(embedder)
        trouble: str | None = None
        while status.building is not None:
            if status.trouble != trouble:
                trouble = status.trouble
                if trouble is not None:
                    warn(f"it waits: {clean(trouble)}")
            if not place.as_json:
                building = status.building
                say(f"{building.embedder}: revision {building.indexed}, {building.lag} to come")
            await anyio.sleep(LOOK_S)
            status = await _status(finder)
    if place.as_json:
        say_json(status)
    else:
        say(f"{status.memories} memories are indexed with {status.embedder}")


async def _status(finder: Finder) -> Status:
    """How the index is; a service that restarts is waited for."""
    began = anyio.current_time()
    while True:
        try:
            return await finder.status()
        except UnavailableError:
            if anyio.current_time() - began > AWAY_S:
                raise
            await anyio.sleep(LOOK_S)


def _say_state(found: Hits | Rows) -> None:
    if found.state.catching_up:
        warn(f"the index is being built; it has {found.lag} messages to go")
    elif found.stale:
        warn(f"the index lags {found.lag} messages behind; what was written last may be missing")


def _state(hits: Hits) -> dict[str, Json]:
    return {
        "stale": hits.stale,
        "lag": hits.lag,
        "catching_up": hits.catching_up,
        "indexed": hits.state.indexed,
    }


def _hit(number: int, hit: Hit) -> dict[str, Json]:
    return {
        "name": f"m{number}",
        "score": hit.score,
        "why": hit.why,
        "memory": as_tree(hit.memory),
    }


def _rows(rows: Rows) -> dict[str, Json]:
    return {
        "rows": [as_tree(memory) for memory in rows],
        "cursor": rows.cursor,
        "counts": rows.counts,
        "total": rows.total,
        "degraded": rows.degraded,
        "scanned": rows.scanned,
        "whole": rows.whole,
        "stale": rows.stale,
        "lag": rows.lag,
    }


def _why(hit: Hit) -> str:
    parts = sorted(hit.why.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {value:.2f}" for name, value in parts)


def _sources(memory: Memory) -> str:
    sources: Sequence[Ref] = memory.sources
    if memory.content_of is not None:
        sources = (*sources, memory.content_of)
    return f"; from {', '.join(map(str, sources[:3]))}" if sources else ""
