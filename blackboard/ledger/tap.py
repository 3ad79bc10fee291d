"""Reads that the broker answers and does not record, seen as they happen.

A stream checks the headers of what it captures, the answerer of direct gets does not. So a get that
expects a wrong sequence, repeats a message id or asks for a rollup is answered, and refused by
`READS_<board>` (tried with eleven headers). Nothing at the broker can be set to prevent that. A
steward that listens sees each of them; while none is there, such a read leaves no record.

Whatever the header, it is told of: this library sends none with a read, and the broker finds a
header in blocks in which others do not see it.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

import anyio

from blackboard.errors import BlackboardError
from blackboard.jetstream import Connection, tap
from blackboard.ledger.items import AnyItem, Evaded
from blackboard.ledger.streams import reads_subject

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class Tap:
    """Listens to the direct gets of a board's agents.

    Args:
        connection: A steward's.
        board: The board's name.
        note: Takes an item.
        now: The time.
    """

    def __init__(
        self,
        connection: Connection,
        board: str,
        note: Callable[[AnyItem], None],
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._subject = f"{reads_subject(board)}.>"
        self._note = note
        self._now = now

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with tap(self._connection, self._subject, self._take):
                    await anyio.sleep_forever()
            except BlackboardError as error:
                logger.warning("ledger: cannot listen to reads: %s", error)
            await anyio.sleep(RETRY_S)

    def _take(self, subject: str, headers: Mapping[str, str]) -> None:
        if not headers:
            return
        agent, stream, what = (*subject.split(".", 6)[4:], "", "")[:3]
        name = next((name for name in headers if name.startswith("Nats-")), next(iter(headers)))
        self._note(Evaded(agent=agent, stream=stream, what=what, header=name, first=self._now()))
