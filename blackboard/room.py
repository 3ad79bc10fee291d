"""The room that is left on a board: writers stop before it is full.

The last 5 % are kept for claims, tombstones and receipts, so that a full board can still be
emptied by those who use it.
"""

import math

import anyio

from blackboard.envelope import Write
from blackboard.errors import BoardFullError, UnavailableError
from blackboard.jetstream import Connection

FULL_AT = 0.95
FULL_CHECK_S = 5.0
FULL_ANSWER_S = 1.0
WRITERS = 16
"""A writer looks again when it has used this part of the room there was: others write as well."""


class Room:
    """What one process knows of the room on a board."""

    def __init__(self, connection: Connection, board: str, stream: str) -> None:
        self._connection = connection
        self._board = board
        self._stream = stream
        self._checked = -math.inf
        self._left = 0.0

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
        limit = int(info.config.get("max_bytes", -1))
        left = FULL_AT * limit - info.state.bytes if limit > 0 else math.inf
        if left < size:
            raise BoardFullError(
                f"board {self._board!r} holds {info.state.bytes} of {limit} bytes; "
                "the last 5 % are kept for tombstones. Retire memories, or raise its limit"
            )
        self._left = left / WRITERS
        self._checked = anyio.current_time()


def weight(write: Write) -> int:
    """About how many bytes it takes on the board."""
    content = None if write.memory is None else write.memory.content
    return 1024 + len(content if isinstance(content, str) else str(content))
