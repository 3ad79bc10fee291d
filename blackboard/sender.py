"""Sends writes until it is known what became of them.

A write carries the sequence it expects and a UUID of its own. When its answer is lost, the first
revision behind the expected one tells: if that carries the UUID, the write succeeded. So a caller
sees a conflict only when somebody else really was first.
"""

import logging
from collections.abc import Sequence

import anyio

from blackboard.envelope import EXPECTED, EXPECTED_SUBJECT
from blackboard.errors import BlackboardError, ConflictError, UnavailableError
from blackboard.fresh import FreshReads
from blackboard.jetstream import Connection, Message, NoStreamError, Outgoing
from blackboard.layout import create_board
from blackboard.settings import Limits

logger = logging.getLogger(__name__)

WRITE_S = 10.0
"""How long a write may take, with the broker away in the middle; then `UnavailableError`."""
RETRY_S = 0.05
TRY_S = 2.0
"""How long one try may take on a replicated board: what a leader that died had not answered, it
will not, and the next one is there after 4 to 9 s."""


class _UnsureError(UnavailableError):
    """Trying again cannot make sure whether the write is stored."""


class Sender:
    """Writes to the stream of one board."""

    def __init__(
        self, connection: Connection, board: str, stream: str, limits: Limits, reads: FreshReads
    ) -> None:
        self._connection = connection
        self._board = board
        self._stream = stream
        self._limits = limits
        self._reads = reads

    async def send(self, messages: Sequence[Outgoing]) -> int:
        """Store messages, all or none, and return the sequence of the last.

        Each carries its expected sequence and `Bb-Write`, so an answer that was lost is found out
        by reading back, and sending again can store nothing twice.

        Raises:
            ConflictError: One of them moved; nothing was stored.
            BoardFullError: No room; nothing was stored.
            UnavailableError: No answer within 10 s; all stored or none.
        """
        try:
            with anyio.fail_after(WRITE_S):
                return await self._sent(messages)
        except TimeoutError as error:
            raise UnavailableError(
                f"the broker did not answer within {WRITE_S:g} s, so this write is stored or not; "
                "the client reconnects by itself, try again"
            ) from error

    async def _sent(self, messages: Sequence[Outgoing]) -> int:
        lost = False
        conflict: ConflictError | None = None
        while True:
            try:
                if (lost or conflict) and (last := await self._stored(messages, conflict, lost)):
                    return last
                return await self._publish(messages)
            except ConflictError as error:
                # On several servers one that was deposed and has not noticed answers as well.
                if conflict is error or not (lost or self._reads.replicated):
                    raise
                conflict = error
            except _UnsureError:
                raise
            except UnavailableError as error:
                lost = True
                if self._connection.closed:
                    raise
                if isinstance(error, NoStreamError):
                    await self._missing(error)
                else:
                    await anyio.sleep(RETRY_S)

    async def _stored(
        self,
        messages: Sequence[Outgoing],
        conflict: ConflictError | None,
        lost: bool,  # noqa: FBT001 - whether an answer was
    ) -> int | None:
        """The sequence of the last, if what was sent before is stored; None when not yet."""
        behind = await self._behind(messages[0])
        if behind is not None and _is_own(behind, messages[0]):
            return behind.sequence + len(messages) - 1
        if conflict is not None and await self._is_overtaken(messages):
            raise await self._verdict(messages[0], conflict) if lost else conflict
        return None

    async def _publish(self, messages: Sequence[Outgoing]) -> int:
        if len(messages) > 1:
            return await self._connection.publish_batch(messages)
        if not self._reads.replicated:
            return await self._connection.publish(messages[0])
        with anyio.move_on_after(TRY_S):
            return await self._connection.publish(messages[0])
        raise UnavailableError(f"the leader did not answer within {TRY_S:g} s")

    async def _behind(self, message: Outgoing) -> Message | None:
        # A write that expects a sequence can only lie right behind it.
        subject = message.headers.get(EXPECTED_SUBJECT, message.subject)
        return await self._reads.next_after(subject, int(message.headers[EXPECTED]) + 1)

    async def _is_overtaken(self, messages: Sequence[Outgoing]) -> bool:
        """Whether what is stored explains a conflict, as far as the board is known to have come.

        The leader of a replicated board also refuses what meets a write that it has sent to the
        others and not stored yet, which may be our own first try; and a server that was deposed,
        and has not noticed, refuses what the new leader stores.
        """
        if not self._reads.replicated:
            return True
        for message in messages:
            expected = int(message.headers[EXPECTED])
            subject = message.headers.get(EXPECTED_SUBJECT, message.subject)
            newest = await self._reads.leaders_last(subject, expected)
            if (0 if newest is None else newest.sequence) == expected:
                continue
            if newest is None or not _is_own(newest, message):
                return True
        await anyio.sleep(RETRY_S)
        return False

    async def _verdict(self, message: Outgoing, conflict: ConflictError) -> BlackboardError:
        """The conflict, unless our own revision may have been there and been overrun since."""
        first = await self._reads.next_after(message.subject, 1)
        if first is None or first.sequence <= int(message.headers[EXPECTED]):
            return conflict
        info = await self._connection.stream(self._stream, subjects=message.subject)
        kept = 0 if info is None else int(info.config.get("max_msgs_per_subject", -1))
        if info is None or kept < 1 or info.state.subjects.get(message.subject, 0) < kept:
            return conflict
        return _UnsureError(
            f"the answer to a write on {message.subject!r} was lost, and so many revisions were "
            "stored since that nobody can tell whether it is among them; read again, decide again"
        )

    async def _missing(self, error: NoStreamError) -> None:
        # Either the board was never made, or the broker has just started and serves none yet.
        await anyio.sleep(0.05)
        try:
            if await self._connection.stream(self._stream) is None:
                await create_board(self._connection, self._board, self._limits)
        except UnavailableError:
            logger.debug("log.waiting", extra={"error": str(error)})


def _is_own(found: Message, message: Outgoing) -> bool:
    return found.headers.get("Bb-Write") == message.headers["Bb-Write"]
