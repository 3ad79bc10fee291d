"""What the broker delivered to agents through consumers: how far each one is, and was in the end.

A consumer is the broker's own record of what it sent. It names its agent in metadata that only the
gate can set. So it is enough to look at all of them now and then, and to write down how far they
are; of one that went away between two looks it is known up to where it may have come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from blackboard.jetstream import Connection
from blackboard.ledger.items import AnyItem, Delivered, Follow
from blackboard.ledger.record import Record
from blackboard.subjects import dead_stream, memory_stream

AGENT = "blackboard-agent"
"""In a consumer's metadata: for whom it was made."""
SETTLE = timedelta(seconds=10)
"""A consumer that was announced may take so long to be there."""


class _Reached(msgspec.Struct):
    stream_seq: int = 0


class _Config(msgspec.Struct):
    name: str = ""
    metadata: dict[str, str] = {}
    filter_subject: str = ""
    filter_subjects: list[str] = []
    deliver_policy: str = "all"
    opt_start_seq: int = 0
    opt_start_time: datetime | None = None
    headers_only: bool = False


class _Consumer(msgspec.Struct):
    name: str
    config: dict[str, Any]
    delivered: _Reached = msgspec.field(default_factory=_Reached)

    @property
    def agent(self) -> str:
        """For whom it was made; empty for one of an operator."""
        return msgspec.convert(self.config, _Config).metadata.get(AGENT, "")


class _Page(msgspec.Struct):
    total: int = 0
    consumers: list[_Consumer] | None = None


_read_page = msgspec.json.Decoder(_Page).decode
Key = tuple[str, str]


@dataclass(slots=True)
class _Known:
    """A consumer as the chain has it."""

    follow: Follow
    at: datetime
    sequence: int


class Deliveries:
    """The consumers of a board's agents."""

    def __init__(self, connection: Connection, board: str) -> None:
        self._connection = connection
        self._streams = (memory_stream(board), dead_stream(board))
        self._known: dict[Key, _Known] = {}
        self._now: dict[Key, _Consumer] = {}
        self._ends: dict[str, int] = {}
        self._looked = False

    def learn(self, record: Record) -> None:
        """Take note of what a record says of consumers."""
        for item in record.items:
            if isinstance(item, Follow):
                self._known[item.stream, item.consumer] = _Known(item, record.at, item.after)
            elif isinstance(item, Delivered):
                key = (item.stream, item.consumer)
                if item.ended:
                    self._known.pop(key, None)
                elif (known := self._known.get(key)) is not None:
                    known.sequence = max(known.sequence, item.sequence)

    async def look(self) -> None:
        """Ask the broker how far they are.

        Raises:
            UnavailableError: It does not answer.
        """
        found: dict[Key, _Consumer] = {}
        ends: dict[str, int] = {}
        for stream in self._streams:
            info = await self._connection.stream(stream)
            ends[stream] = 0 if info is None else info.state.last_seq
            if info is not None and info.state.consumer_count:
                for consumer in await _consumers(self._connection, stream):
                    if consumer.agent:
                        found[stream, consumer.name] = consumer
        self._now, self._ends, self._looked = found, ends, True

    def news(self, now: datetime) -> list[AnyItem]:
        """What the last look says that the chain does not, yet."""
        items: list[AnyItem] = []
        if not self._looked:
            return items
        for key, consumer in self._now.items():
            known = self._known.get(key)
            reached = consumer.delivered.stream_seq
            if known is not None and reached < known.sequence:
                items.append(self._ended(key, known))  # this is another one of the same name
                known = None
            if known is None:
                items.append(follow_of(consumer.agent, key[0], consumer.config))
            elif reached > known.sequence:
                items.append(
                    Delivered(
                        agent=known.follow.agent,
                        stream=key[0],
                        consumer=key[1],
                        sequence=reached,
                    )
                )
        items += [
            self._ended(key, known)
            for key, known in self._known.items()
            if key not in self._now and now - known.at > SETTLE
        ]
        return items

    def living(self) -> list[AnyItem]:
        """The consumers that are there, told again: for a chain that loses its beginning."""
        items: list[AnyItem] = []
        for (stream, consumer), known in self._known.items():
            items.append(known.follow)
            if known.sequence > known.follow.after:
                items.append(
                    Delivered(
                        agent=known.follow.agent,
                        stream=stream,
                        consumer=consumer,
                        sequence=known.sequence,
                    )
                )
        return items

    def _ended(self, key: Key, known: _Known) -> Delivered:
        return Delivered(
            agent=known.follow.agent,
            stream=key[0],
            consumer=key[1],
            sequence=known.sequence,
            most=max(known.sequence, self._ends.get(key[0], 0)),
            ended=True,
        )


def follow_of(agent: str, stream: str, settings: Mapping[str, Any], last: int = 0) -> Follow:
    """What there is to say of a consumer that is there, or is about to be made.

    Args:
        agent: For whom.
        stream: Which it reads.
        settings: As the broker takes them.
        last: The last sequence of the stream before it is made; what is only sent what is new
            is sent nothing up to there.
    """
    config = msgspec.convert(settings, _Config, strict=False)
    return Follow(
        agent=agent,
        stream=stream,
        consumer=config.name,
        filters=tuple(config.filter_subjects or [config.filter_subject]),
        start=config.deliver_policy,
        after=last if config.deliver_policy == "new" else max(0, config.opt_start_seq - 1),
        since=config.opt_start_time,
        bodies=not config.headers_only,
        use=config.name.partition("--")[2],
    )


async def _consumers(connection: Connection, stream: str) -> list[_Consumer]:
    found: list[_Consumer] = []
    while True:
        answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        page = _read_page(answer)
        found += page.consumers or []
        if not page.consumers or len(found) >= page.total:
            return found
