"""A stream that the chain speaks of, held against what it says, read once and in order."""

from datetime import datetime, timedelta

from blackboard.jetstream import Follower, Message, StreamInfo
from blackboard.ledger.record import Record
from blackboard.ledger.source import Group, Seen, count_in

SLACK = timedelta(minutes=1)
"""How exactly the broker keeps to an age."""
NANOSECONDS = 1_000_000_000
FULL = 0.95


class Compared:
    """The messages of one stream."""

    def __init__(self, info: StreamInfo, follower: Follower, now: datetime) -> None:
        self.info = info
        self._follower = follower
        self._now = now
        self._message: Message | None = None
        self._front: datetime | None = None
        self._age = timedelta(seconds=int(info.config.get("max_age") or 0) / NANOSECONDS)
        limit = int(info.config.get("max_bytes") or -1)
        self._full = 0 < limit * FULL <= info.state.bytes

    def is_of(self, record: Record, source: str) -> bool:
        """Whether a record speaks of this stream, and not of an earlier one of the same name."""
        position = record.positions.get(source)
        return position is not None and position.source == self.info.identity

    async def next(self) -> Message | None:
        """The next message, or None at the end."""
        message, self._message = self._message, None
        if message is not None:
            return message
        while self._follower.pending:
            message = await self._follower.step()
            if message is not None:
                self._front = self._front or message.stored
                return message
        return None

    async def at(self, sequence: int) -> Message | None:
        """The message with a sequence, or None; sequences are asked for in rising order."""
        while (message := await self.next()) is not None:
            if message.sequence == sequence:
                return message
            if message.sequence > sequence:
                self._message = message
                return None
        return None

    async def groups(self, span: range) -> tuple[dict[str, Group], list[int]]:
        """The messages of a span, equal ones together, and the sequences that have none."""
        found: dict[str, Group] = {}
        absent: list[int] = []
        for sequence in span:
            message = await self.at(sequence)
            if message is None:
                absent.append(sequence)
            else:
                count_in(found, Seen(sequence, message.subject, message.stored))
        return found, absent

    def may_be_dropped(self, sequence: int, stored: datetime) -> bool:
        """Whether the stream's own limits explain that a message is not there.

        Args:
            sequence: Its own.
            stored: When it, or a later one, was stored.
        """
        if sequence >= self.info.state.first_seq and self._front is not None:
            return False
        return self._full or self.is_past(min(stored, self._front or stored))

    def is_past(self, stored: datetime) -> bool:
        """Whether a message of this time may have gone by its age."""
        return bool(self._age) and self._now - stored >= self._age - SLACK
