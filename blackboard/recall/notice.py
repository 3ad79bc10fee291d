"""What the board is told of an index: how far it is clean of what was forgotten.

Taking a memory out of an index leaves its bytes on disk until that is written anew. So a receipt of
the steward waits for a word of each index that there is, and the word stands on the board, where it
outlives whoever gave it.
"""

from blackboard.envelope import TOMBSTONE_S
from blackboard.errors import ConflictError
from blackboard.log import Log
from blackboard.records import IndexRecord
from blackboard.subjects import index_subject

REMOVED = 1 << 53
"""Clean for ever: there is no such index any more."""


class Notice:
    """The record of one index.

    Args:
        log: The board, under the service's name.
        name: Of the index; one token.
        where: It lies, for an operator.
    """

    def __init__(self, log: Log, name: str, where: str) -> None:
        self._log = log
        self._subject = index_subject(log.board, log.agent, name)
        self._where = where
        self._record: IndexRecord | None = None
        self._sequence = 0

    @property
    def due(self) -> int:
        """The tombstone up to which it has to be written anew; 0 when it is clean."""
        record = self._record
        return 0 if record is None or record.seen <= record.clean else record.seen

    async def open(self, position: int) -> None:
        """Read the record; an index that has something and no record has to be cleaned once.

        Raises:
            BlackboardError: The broker does not answer, or refuses.
        """
        self._record, self._sequence = await self._log.record_at(self._subject, IndexRecord)
        if self._record is None:
            await self._say(position, 0)
        elif self._record.index != self._where:
            await self._say(self._record.seen, self._record.clean)

    async def saw(self, tombstone: int) -> None:
        """A `forgotten` tombstone is about to be taken in."""
        if self._record is not None and tombstone > self._record.seen:
            await self._say(tombstone, self._record.clean)

    async def cleaned(self, tombstone: int) -> None:
        """What tombstones up to this took away is off the disk."""
        if self._record is not None and tombstone > self._record.clean:
            await self._say(self._record.seen, tombstone)

    async def removed(self) -> None:
        """The index is gone, with all that it held."""
        await self.open(0)
        await self.cleaned(REMOVED)

    async def _say(self, seen: int, clean: int) -> None:
        while True:
            record = IndexRecord(self._where, seen, clean)
            message = self._log.record(
                self._subject, record, expected=self._sequence, ttl_s=TOMBSTONE_S
            )
            try:
                self._sequence = await self._log.send([message])
            except ConflictError:
                # One process owns an index; this was its own write before it was restarted.
                _, self._sequence = await self._log.record_at(self._subject, IndexRecord)
                continue
            self._record = record
            return
