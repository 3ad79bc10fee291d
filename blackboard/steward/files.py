"""The files of the servers that are on the steward's machine: what the broker itself cannot tell.

It says of a message that it is deleted, and not whether its bytes are still there: of one that it
dropped by itself, or deleted while it was killed. Where its directory can be read
(`BLACKBOARD_STORE`), a receipt waits until they are gone. The broker writes a block of its file
anew without what is dead as soon as that is more than half of it, within two minutes; but never the
block that it writes to. So that one is filled up, and what fills it taken out again.
"""

import logging
import uuid
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from blackboard.jetstream import Outgoing, StreamInfo
from blackboard.log import Log
from blackboard.remains import search
from blackboard.steward.account import Account
from blackboard.subjects import FORGET, claim_subject

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 600.0
BLOCK = 8 << 20
"""Of a stream's file, at most."""
FILLING = bytes(1_000_000)
FILLED_S = 600
"""Between two looks for one receipt: each reads all of the stream."""


class Files:
    """The files of one board's streams.

    Args:
        log: The board.
        directories: JetStream's, of the servers.
    """

    def __init__(self, log: Log, directories: Sequence[Path]) -> None:
        self._log = log
        self._directories = directories
        self._next: dict[tuple[str, str], tuple[float, float]] = {}

    async def are_clean(self, info: StreamInfo, account: Account) -> bool | None:
        """Whether no revision of what was forgotten is left in a stream's files.

        Returns:
            False also when it is too early for another look; None when they are not seen here.
        """
        places = await anyio.to_thread.run_sync(self._places, info.name)
        if len(places) < max(1, int(info.config.get("num_replicas", 1))):
            return None
        key = account.receipt.order, info.name
        due, pause_s = self._next.get(key, (0.0, FIRST_PAUSE_S))
        if anyio.current_time() < due:
            return False
        try:
            left = await self._left(places, account)
            if left and len(places) == 1 and await anyio.to_thread.run_sync(_is_last, left):
                await self._fill_up()
                left = await self._left(places, account)
        except OSError as error:
            logger.warning("cannot read the files of %s: %s", info.name, error)
            return None
        if left:
            self._next[key] = anyio.current_time() + pause_s, min(LONGEST_PAUSE_S, pause_s * 2)
            return False
        self._next.pop(key, None)
        return True

    def _places(self, stream: str) -> list[Path]:
        return [
            place
            for directory in self._directories
            for place in directory.glob(f"*/streams/{stream}/msgs")
        ]

    async def _left(self, places: Sequence[Path], account: Account) -> set[Path]:
        """The files that hold revisions of which the board knows nothing any more."""
        log = self._log
        left: set[Path] = set()
        for place in places:
            remains = await anyio.to_thread.run_sync(search, place, (), account.refs, log.board)
            for sequence, name in remains.revisions.items():
                # A key that was put again has revisions that are there rightly.
                if await log.connection.leader_at_sequence(log.stream, sequence) is None:
                    left.add(place / name)
        return left

    async def _fill_up(self) -> None:
        """Have the broker begin another block, and write the one before it anew if it may."""
        log = self._log
        subject = claim_subject(log.board, FORGET, log.agent, f"z-{uuid.uuid4().hex}")
        # Should this end in between, the broker takes them out.
        headers = {"Bb-Agent": log.agent, "Nats-TTL": str(FILLED_S)}
        filling = [Outgoing(subject, FILLING, headers)] * (BLOCK // len(FILLING) + 1)
        filled = [await log.connection.publish(message) for message in filling]
        for sequence in filled:
            await log.connection.delete(log.stream, sequence, erase=False)


def _is_last(files: set[Path]) -> bool:
    """Whether one of a stream's blocks is the one that it is written to."""
    newest = max(
        (path for file in files for path in file.parent.glob("*.blk")),
        key=lambda path: int(path.stem),
    )
    return newest in files
