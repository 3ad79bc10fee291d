"""The chain in its stream: the newest record, and one more by compare-and-set.

Each append expects the stream as it was when the head was read, so of two stewards that append at
once one gets a conflict, looks at what the other wrote, and goes on behind it. An append without an
answer is found again by its hash.
"""

from collections.abc import AsyncGenerator, Callable

from blackboard.errors import InvalidError
from blackboard.jetstream import Connection, NoStreamError, Outgoing, Start, follow
from blackboard.ledger.record import Record, open_record
from blackboard.ledger.streams import ledger_stream, ledger_subject

EXPECTED = "Nats-Expected-Last-Sequence"


class Chain:
    """The ledger of one board, as somebody who may write it sees it."""

    def __init__(self, connection: Connection, board: str) -> None:
        self.connection = connection
        self.board = board
        self.stream = ledger_stream(board)

    async def head(self) -> tuple[Record | None, int]:
        """The newest record, and the last sequence of its stream.

        Raises:
            InvalidError: What lies there is no record: somebody else wrote to the stream.
            UnavailableError: The broker does not answer, or there is no such stream.
        """
        info = await self.connection.stream(self.stream)
        if info is None:
            raise NoStreamError(f"board {self.board!r} has no ledger on this broker")
        newest = await self.connection.leader_last(self.stream, ledger_subject(self.board))
        if newest is None:
            return None, info.state.last_seq
        # Read after the state: another may have appended in between.
        sequence = max(info.state.last_seq, newest.sequence)
        try:
            return open_record(newest.data), sequence
        except InvalidError as error:
            raise InvalidError(
                f"message {newest.sequence} of {self.stream} is no record ({error}): somebody else "
                "wrote to it. Nothing is recorded, and so nothing is served, until an operator has "
                "looked (blackboard audit verify) and deleted it"
            ) from error

    async def append(self, body: bytes, expected: int) -> int:
        """Store a sealed record and return its sequence; it is on disk when this returns.

        Args:
            body: The bytes of `seal`.
            expected: The last sequence of the stream when the head was read.

        Raises:
            ConflictError: Another one was faster.
            BoardFullError: The ledger is full.
            UnavailableError: No answer; stored or not.
        """
        message = Outgoing(ledger_subject(self.board), body, {EXPECTED: str(expected)})
        return await self.connection.publish(message)

    async def after(self, sequence: int, last: int) -> AsyncGenerator[Record]:
        """The records behind a sequence, up to another, as they are.

        Raises:
            InvalidError: One of them is no record.
            UnavailableError: The broker does not answer.
        """
        while sequence < last:
            message = await self.connection.leader_next_after(
                self.stream, ledger_subject(self.board), sequence + 1
            )
            if message is None or message.sequence > last:
                return
            sequence = message.sequence
            yield open_record(message.data)

    async def walk(self, last: int, take: Callable[[Record], None]) -> None:
        """Give all records that are still there, up to a sequence, to `take`.

        Raises:
            InvalidError: One of them is no record.
            UnavailableError: The broker does not answer.
        """
        if last == 0:
            return
        subject = ledger_subject(self.board)
        async with follow(self.connection, self.stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None or message.sequence > last:
                    return
                take(open_record(message.data))
