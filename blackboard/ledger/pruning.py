"""Making room in a ledger: the oldest records go, behind a signed word about which.

A ledger refuses what it has no room for, and then nothing is served any more. So before it comes to
that, the key signs which record is the last of those to go, by number and hash; what follows still
names that hash, so the rest proves as much as before. Only then are they deleted, oldest first, and
a steward that is killed in between leaves the next to go on.
"""

import logging

import anyio

from blackboard.jetstream import Connection
from blackboard.ledger.items import Checkpoint, Mark
from blackboard.ledger.record import Record, open_record

logger = logging.getLogger(__name__)

FULL = 0.8
"""Of its byte limit; the oldest fifth goes then."""
SHARE = 0.2
LOOK_S = 60.0
STEP = 0.02
"""Of the byte limit: what was appended since the last look before the next, if not in time."""
AT_ONCE = 200
"""Records deleted before others get a turn."""


class Pruning:
    """The beginning of one chain.

    Attributes:
        removed: The last record that the key has signed away.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._looked_at = 0.0
        self._limit = 0
        self._appended = 0
        self._wanted: Mark | None = None
        self.removed: Mark | None = None

    @property
    def wanted(self) -> Mark | None:
        """What shall be signed away next; None when there is room."""
        return self._wanted

    def covers(self, mark: Mark) -> bool:
        """Whether a record was signed away."""
        return self.removed is not None and mark.n <= self.removed.n

    def learn(self, record: Record) -> None:
        """Take note of what a record signs away."""
        for item in record.items:
            if isinstance(item, Checkpoint) and item.removed is not None:
                if self.removed is None or item.removed.n > self.removed.n:
                    self.removed = item.removed
                    self._looked_at = 0.0
                if self._wanted is not None and self._wanted.n <= self.removed.n:
                    self._wanted = None

    def grew(self, size: int) -> None:
        """A record of so many bytes was appended."""
        self._appended += size
        if self._limit and self._appended > self._limit * STEP:
            self._looked_at = 0.0

    async def tend(self) -> None:
        """Look whether there is room, and delete some of what was signed away.

        Raises:
            BrokerError: The broker refuses a deletion.
            UnavailableError: It does not answer.
        """
        if anyio.current_time() < self._looked_at + LOOK_S and self._looked_at:
            return
        info = await self._connection.stream(self._stream)
        if info is None:
            return
        self._looked_at, self._appended = anyio.current_time(), 0
        first, last = info.state.first_seq, info.state.last_seq
        if self.removed is not None and await self._delete(first, self.removed):
            self._looked_at = 0.0  # there may be more
            return
        self._limit = max(0, int(info.config.get("max_bytes") or 0))
        full = info.state.bytes > self._limit * FULL
        if self._limit and full and last - first > 1:
            message = await self._connection.leader_at_sequence(
                self._stream, first + int((last - first) * SHARE)
            )
            if message is not None:
                record = open_record(message.data)
                self._wanted = Mark(record.n, record.hash)
                logger.warning("ledger: %s is nearly full, its oldest part goes", self._stream)

    async def _delete(self, first: int, removed: Mark) -> bool:
        """Delete the oldest that were signed away; False when none is left."""
        sequence = first
        for _ in range(AT_ONCE):
            message = await self._connection.leader_at_sequence(self._stream, sequence)
            if message is None or open_record(message.data).n > removed.n:
                return sequence != first
            await self._connection.delete(self._stream, sequence, erase=False)
            sequence += 1
        return True
