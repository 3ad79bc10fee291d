"""Commands that count: topics and statistics of a board."""

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from blackboard.batches import lost
from blackboard.board import Blackboard
from blackboard.cli.consolidate import service_line
from blackboard.cli.holdings import Held, held, print_held
from blackboard.cli.output import fields, say, say_json, size, table
from blackboard.cli.place import HERE, Place, opened
from blackboard.consolidator.telling import Told, ask
from blackboard.errors import SettingsError, UnavailableError
from blackboard.explain import Spent
from blackboard.jetstream import Start, consumers
from blackboard.layout import streams_of
from blackboard.messages import Memory
from blackboard.search import Status
from blackboard.settings import Limits
from blackboard.subjects import ONCE, Pattern, Ref
from blackboard.tokens import tokens

MANY_AGENTS = 5
RECENT = 10_000
"""Batches of the audit and of the spans in which losses are counted."""


@dataclass(slots=True)
class Topic:
    """What is under one topic."""

    memories: int = 0
    newest: datetime | None = None
    agents: Counter[str] = field(default_factory=Counter[str])


async def topics(pattern: str = ">", /, *, place: Place = HERE) -> None:
    """List the topics: memories, the newest, and who wrote them.

    Args:
        pattern: Only those; * is one token, a last > zero or more.
        place: The board.
    """
    subject = Pattern.parse(pattern).subject(place.settings().board)
    found: dict[str, Topic] = {}
    async with opened(place) as board:
        for memory in (await _live(board, subject, headers_only=True)).values():
            topic = found.setdefault(memory.topic, Topic())
            topic.memories += 1
            topic.agents[memory.agent] += 1
            if memory.stored is not None and (topic.newest is None or memory.stored > topic.newest):
                topic.newest = memory.stored
    rows = sorted(found.items())
    if place.as_json:
        say_json(
            [
                {
                    "topic": name,
                    "memories": topic.memories,
                    "newest": topic.newest,
                    "agents": dict(topic.agents.most_common()),
                }
                for name, topic in rows
            ]
        )
        return
    table(
        ["topic", "memories", "newest", "agents"],
        [[name, one.memories, one.newest, _few(one.agents)] for name, one in rows],
        right=["memories"],
    )


def _few(agents: Counter[str]) -> str:
    names = [name for name, _ in agents.most_common(MANY_AGENTS)]
    more = len(agents) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


async def _live(board: Blackboard, subject: str, *, headers_only: bool) -> dict[Ref, Memory]:
    """The newest revision of each live memory, without content from elsewhere."""
    found: dict[Ref, Memory] = {}
    async with board.log.follow(subject, Start.newest(), headers_only=headers_only) as following:
        while following.pending:
            memory = await following.step()
            # Shared state has a subject per agent, and they come in the order of the stream.
            if memory is not None:
                found[memory.ref.unpinned] = memory
    return {ref: memory for ref, memory in found.items() if memory.gone is None}


class OnceStats(msgspec.Struct):
    """What `once` made, and what it spared."""

    results: int
    reuses: int
    made: Spent
    saved: Spent


class CondensedStats(msgspec.Struct):
    """What the live summaries stand for."""

    summaries: int
    memories: int
    tokens_before: int
    tokens: int
    spent: Spent


class StreamStats(msgspec.Struct):
    """How full a stream is."""

    stream: str
    messages: int
    bytes: int
    limit: int


class Lag(msgspec.Struct):
    """How far a handler is."""

    consumer: str
    pending: int
    in_hand: int
    redelivered: int
    waiting: int
    """Requests of replicas that have room; 0 means that nobody takes more."""
    paused: bool


class Stats(msgspec.Struct):
    """What `blackboard stats` prints."""

    board: str
    memories: int
    topics: int
    kinds: dict[str, int]
    once: OnceStats
    condensed: CondensedStats
    consolidator: Told | None
    """None when no service answers."""
    streams: list[StreamStats]
    consumers: list[Lag]
    lost: dict[str, int]
    retention: Held | None
    """None when the board has no policy."""
    index: Status | None
    """None when no service answers, or it has not begun to index this board."""


async def stats(*, place: Place = HERE) -> None:
    """Count memories, bytes, and what sharing saved.

    A reuse counts when it left a memory of its own: `once` with a topic, and
    in handlers that have one.

    Args:
        place: The board.
    """
    async with opened(place) as board:
        subject = Pattern(">").subject(board.name)
        memories = list((await _live(board, subject, headers_only=False)).values())
        counted = Stats(
            board=board.name,
            memories=len(memories),
            topics=len({memory.topic for memory in memories}),
            kinds=dict(Counter(memory.kind for memory in memories).most_common()),
            once=_once(memories),
            condensed=_condensed(memories),
            consolidator=await _told(board),
            streams=await _streams(board),
            consumers=await lags(board),
            lost=dict(zip(("audit_events", "spans"), await lost(board, RECENT), strict=True)),
            retention=await held(board, memories),
            index=await _index(board),
        )
    if place.as_json:
        say_json(counted)
    else:
        _print_stats(counted)


def _once(memories: list[Memory]) -> OnceStats:
    results = [memory for memory in memories if memory.topic.split(".")[0] == ONCE]
    reuses = [memory for memory in memories if memory.kind == "reuse"]
    return OnceStats(
        len(results),
        len(reuses),
        Spent.of(memory.cost for memory in results),
        Spent.of(memory.cost for memory in reuses),
    )


def _condensed(memories: list[Memory]) -> CondensedStats:
    made = [memory for memory in memories if memory.condenses]
    return CondensedStats(
        summaries=len(made),
        memories=sum(len(memory.sources) for memory in made),
        tokens_before=sum(_number(memory.tags.get("tokens")) for memory in made),
        tokens=sum(tokens(str(memory.content)) for memory in made),
        spent=Spent.of(memory.cost for memory in made),
    )


def _waiting_line(told: Told | None) -> str:
    line = service_line(told)
    if told is None or not told.waits:
        return line
    first = told.waits[0]
    return f"{line}; {first.group}: {first.why}"


def _number(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else 0


def _condensed_line(stats: CondensedStats) -> str | None:
    if not stats.summaries:
        return None
    saved = stats.tokens_before - stats.tokens
    return (
        f"{stats.memories} memories into {stats.summaries} summaries; "
        f"{saved} of {stats.tokens_before} tokens saved"
    )


async def lags(board: Blackboard) -> list[Lag]:
    """How far the handlers are; the short-lived consumers of readers are left out."""
    return [
        Lag(
            one.name,
            one.num_pending,
            one.num_ack_pending,
            one.num_redelivered,
            one.num_waiting,
            one.paused,
        )
        for one in await consumers(board.session.connection, board.log.stream)
        if "--" in one.name
    ]


async def _streams(board: Blackboard) -> list[StreamStats]:
    rows: list[StreamStats] = []
    for stream in streams_of(board.name, Limits()):
        info = await board.session.connection.stream(stream.name)
        if info is not None:
            limit = int(info.config.get("max_bytes", -1))
            rows.append(StreamStats(stream.name, info.state.messages, info.state.bytes, limit))
    return rows


async def _told(board: Blackboard) -> Told | None:
    try:
        return await ask(board.session.connection, board.name, board.agent)
    except UnavailableError:
        return None


async def _index(board: Blackboard) -> Status | None:
    try:
        return await board.finder.status()
    except (UnavailableError, SettingsError):
        return None


def _index_line(index: Status | None) -> str:
    if index is None:
        return "none; the first recall begins it"
    how = "catching up" if index.state.catching_up else "current" if not index.state.lag else ""
    lag = f"{index.state.lag} messages behind" if index.state.lag else ""
    words = [f"{index.memories} memories", index.embedder, how, lag, index.trouble]
    return ", ".join(word for word in words if word)


def _print_stats(stats: Stats) -> None:
    topics = "topic" if stats.topics == 1 else "topics"
    fields(
        {
            "board": stats.board,
            "memories": f"{stats.memories} under {stats.topics} {topics}",
            "kinds": stats.kinds,
            "once": f"{stats.once.results} results, {stats.once.reuses} reuses",
            "  made": stats.once.made,
            "  saved": stats.once.saved,
            "condensed": _condensed_line(stats.condensed),
            "  spent": stats.condensed.spent if stats.condensed.summaries else None,
            "  waiting": _waiting_line(stats.consolidator),
            "lost": f"{stats.lost['audit_events']} audit events, {stats.lost['spans']} spans",
            "stays": None if stats.retention else "everything: there is no retention policy",
            "index": _index_line(stats.index),
        }
    )
    if stats.retention is not None:
        say()
        print_held(stats.retention)
    say()
    table(
        ["stream", "messages", "bytes", "limit"],
        [[one.stream, one.messages, size(one.bytes), size(one.limit)] for one in stats.streams],
        right=["messages", "bytes", "limit"],
    )
    if stats.consumers:
        say()
        table(
            ["consumer", "pending", "in hand", "redelivered", "waiting", ""],
            [
                [
                    one.consumer,
                    one.pending,
                    one.in_hand,
                    one.redelivered,
                    one.waiting,
                    "paused" if one.paused else "",
                ]
                for one in stats.consumers
            ],
            right=["pending", "in hand", "redelivered", "waiting"],
        )
