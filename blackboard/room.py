"""What a writer has to keep to: the room that is left on a board, and how long memories may stay.

Writers stop before a board is full. The last 5 % are kept for claims, tombstones and receipts, so
that it can still be emptied by those who use it. The same look at the stream every five seconds
shows the retention policy, so a change is followed without anybody being told.
"""

import math
from datetime import datetime, timedelta

import anyio

from blackboard.clock import now
from blackboard.envelope import Write
from blackboard.errors import BoardFullError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.retention import Retention, Rule, retention_of

FULL_AT = 0.95
FULL_CHECK_S = 5.0
FULL_ANSWER_S = 1.0
WRITERS = 16
"""A writer looks again when it has used this part of the room there was: others write as well."""
LINGER = 10
"""What ended by the policy stays at the broker for this part of its age longer, unseen by readers:
so the steward counts it, and erases what is personal. The broker would not overwrite it."""
LINGER_LEAST, LINGER_MOST = timedelta(minutes=1), timedelta(days=1)


class Room:
    """What one process knows of a board's room and of its retention policy.

    Attributes:
        retention: The policy; None when there is none, or as long as nobody looked.
    """

    def __init__(self, connection: Connection, board: str, stream: str) -> None:
        self._connection = connection
        self._board = board
        self._stream = stream
        self._checked = -math.inf
        self._left = 0.0
        self.retention: Retention | None = None
        self._rules: dict[tuple[str, str], Rule | None] = {}

    async def take(self, size: int) -> None:
        """Take room for a write of about `size` bytes; asks the broker now and then.

        Raises:
            BoardFullError: There is none; nothing was stored.
        """
        self._left -= size
        if self._left > 0 and anyio.current_time() - self._checked < FULL_CHECK_S:
            return
        info = None
        try:
            with anyio.move_on_after(FULL_ANSWER_S):
                info = await self._connection.stream(self._stream)
        except UnavailableError:
            pass
        if info is None:
            return  # the write itself finds out, and has its own time limit
        self.retention = retention_of(info.config)
        self._rules.clear()
        limit = int(info.config.get("max_bytes", -1))
        left = FULL_AT * limit - info.state.bytes if limit > 0 else math.inf
        if left < size:
            raise BoardFullError(
                f"board {self._board!r} holds {info.state.bytes} of {limit} bytes; "
                "the last 5 % are kept for tombstones. Retire memories, or raise its limit"
            )
        self._left = left / WRITERS
        self._checked = anyio.current_time()

    def bound(self, write: Write) -> None:
        """Have a write end when the policy says, if it does not end sooner.

        A revision inherits the end of the one before. What began without an end keeps none, or the
        revision before would come back; the steward sees to it.
        """
        if self.retention is None or write.memory is None:
            return
        place = write.ref.topic, write.access
        if place not in self._rules:
            self._rules[place] = self.retention.rule_of(*place)
        age = self.retention.age_by(self._rules[place], write.access, write.memory.priority)
        live = write.live
        if age is None or (live is not None and write.expires in (None, live.expires)):
            return
        end = _first(write) + age
        if live is not None and live.expires is not None:
            end = max(end, live.expires)
        if write.expires is None or write.expires >= end:
            write.expires = end
            write.lingers = min(LINGER_MOST, max(LINGER_LEAST, age / LINGER))


def _first(write: Write) -> datetime:
    """When a memory was first stored, as far as a writer knows."""
    if write.live is not None and write.live.stored is not None:
        return write.live.stored
    if write.origin is not None:
        try:
            return datetime.fromisoformat(write.origin.split("/")[2])
        except (IndexError, ValueError):
            return now()
    return now()


def weight(write: Write) -> int:
    """About how many bytes it takes on the board."""
    content = None if write.memory is None else write.memory.content
    return 1024 + len(content if isinstance(content, str) else str(content))
