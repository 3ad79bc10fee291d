"""The typed log of one board: memories go in as writes and come out as memories, checked.

A write carries the sequence it expects and a UUID of its own. When its answer is lost, the log
looks
at the first revision behind the expected one: if that carries the UUID, the write succeeded. So a
caller sees a conflict only when somebody else really was first.
"""

import logging
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

import anyio
from msgspec import Struct

from blackboard.codec import RecordT, decode_record, encode_record
from blackboard.envelope import EXPECTED, EXPECTED_SUBJECT, Write, is_expired, seal, to_memory
from blackboard.errors import BlackboardError, ConflictError, InvalidError, UnavailableError
from blackboard.jetstream import (
    Connection,
    Follower,
    Message,
    NoStreamError,
    Outgoing,
    Start,
    follow,
)
from blackboard.layout import create_board
from blackboard.messages import Memory
from blackboard.settings import Limits
from blackboard.subjects import Ref, check_name, memory_stream, reference_filter, subject_matches
from blackboard.telemetry import INVALID_MESSAGES, WRITES, Telemetry

FoundT = TypeVar("FoundT")
logger = logging.getLogger(__name__)

WRITE_S = 10.0
"""How long a write may take, with the broker away in the middle; then `UnavailableError`."""
READ_S = 5.0
"""The same for a read."""
RETRY_S = 0.05


class _UnsureError(UnavailableError):
    """Trying again cannot make sure whether the write is stored."""


class Following:
    """An iterator over memories; see `Log.follow`."""

    def __init__(self, log: "Log", follower: Follower) -> None:
        self._log = log
        self._follower = follower

    @property
    def pending(self) -> int:
        """Messages the broker still holds for us; 0 means caught up."""
        return self._follower.pending

    def __aiter__(self) -> AsyncIterator[Memory]:
        return self

    async def __anext__(self) -> Memory:
        """The next memory that is honest and not expired."""
        while True:
            memory = await self.step()
            if memory is not None:
                return memory

    async def step(self) -> Memory | None:
        """The next message; None when it is to be skipped (so that a caller sees `pending`)."""
        message = await self._follower.step()
        if message is None:
            return None
        memory = self._log.delivered(message)
        if memory is None or is_expired(memory):
            return None
        return memory


class Log:
    """One agent's access to one board.

    Attributes:
        board: The board's name.
        agent: Whose name is on what is written here.
        instance: This process, as a UUID.
    """

    def __init__(
        self,
        connection: Connection,
        board: str,
        agent: str,
        instance: str,
        telemetry: Telemetry,
        limits: Limits,
    ) -> None:
        self.connection = connection
        self.board = board
        self.agent = check_name("agent", agent)
        self.instance = instance
        self.telemetry = telemetry
        self.limits = limits
        self.stream = memory_stream(board)

    # Writing

    async def append(self, write: Write) -> int:
        """Store one revision and return it; it is on disk when this returns.

        Raises:
            ConflictError: The memory moved past `expected`.
            BoardFullError: The board is full.
            UnavailableError: No answer within 10 s; stored or not.
        """
        sequence = await self.send([self.outgoing(write)])
        self.telemetry.count(WRITES)
        return sequence

    async def append_many(
        self, writes: Sequence[Write], records: Sequence[Outgoing] = ()
    ) -> list[int]:
        """Store up to 1,000 revisions and records, all or none; return the revisions.

        Raises:
            ConflictError: One of them moved; nothing was stored.
            BoardFullError: The board is full; nothing was stored.
            UnavailableError: No answer within 10 s; all stored or none.
        """
        messages = [*(self.outgoing(write) for write in writes), *records]
        if not messages:
            return []
        first = await self.send(messages) - len(messages) + 1
        self.telemetry.count(WRITES, len(writes))
        return [first + number for number in range(len(writes))]

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
        unsure = False
        conflict: ConflictError | None = None
        while True:
            try:
                if unsure and (sequence := await self._own(messages[0])):
                    return sequence + len(messages) - 1
                if conflict is not None:
                    raise await self._verdict(messages[0], conflict)
                return await self._publish(messages)
            except ConflictError as error:
                if not unsure or conflict is not None:
                    raise
                conflict = error
            except _UnsureError:
                raise
            except UnavailableError as error:
                unsure = True
                if self.connection.closed:
                    raise
                if isinstance(error, NoStreamError):
                    await self._missing(error)
                else:
                    await anyio.sleep(RETRY_S)

    async def _publish(self, messages: Sequence[Outgoing]) -> int:
        if len(messages) == 1:
            return await self.connection.publish(messages[0])
        return await self.connection.publish_batch(messages)

    async def _own(self, message: Outgoing) -> int | None:
        # A write that expects a sequence can only lie right behind it.
        subject = message.headers.get(EXPECTED_SUBJECT, message.subject)
        after = int(message.headers[EXPECTED])
        found = await self.connection.next_after(self.stream, subject, after + 1)
        if found is not None and found.headers.get("Bb-Write") == message.headers["Bb-Write"]:
            return found.sequence
        return None

    async def _verdict(self, message: Outgoing, conflict: ConflictError) -> BlackboardError:
        """The conflict, unless our own revision may have been there and been overrun since."""
        first = await self.connection.next_after(self.stream, message.subject, 1)
        if first is None or first.sequence <= int(message.headers[EXPECTED]):
            return conflict
        info = await self.connection.stream(self.stream, subjects=message.subject)
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
            if await self.connection.stream(self.stream) is None:
                await create_board(self.connection, self.board, self.limits)
        except UnavailableError:
            logger.debug("log.waiting", extra={"error": str(error)})

    def outgoing(self, write: Write) -> Outgoing:
        """The message of a write, with the trace it belongs to."""
        message = seal(write, self.board, self.instance)
        self.telemetry.inject(message.headers)
        return message

    def record(
        self,
        subject: str,
        record: Struct,
        *,
        expected: int,
        ttl_s: float | None,
        over: str | None = None,
    ) -> Outgoing:
        """The message of a record under `claim.`.

        Args:
            subject: Where it lies.
            record: What it says.
            expected: The last sequence that must hold on its subject, or on `over`.
            ttl_s: Seconds it lives, at least 1; None for ever.
            over: A filter that the expected sequence counts over, instead of the subject.
        """
        headers = {
            "Bb-Agent": self.agent,
            "Bb-Instance": self.instance,
            "Bb-Write": uuid.uuid4().hex,
            EXPECTED: str(expected),
        }
        if ttl_s is not None:
            headers["Nats-TTL"] = str(max(1, math.ceil(ttl_s)))
        if over is not None:
            headers[EXPECTED_SUBJECT] = over
        return Outgoing(subject, encode_record(record), headers)

    # Reading

    async def record_at(self, subject: str, kind: type[RecordT]) -> tuple[RecordT | None, int]:
        """Read the newest record that a filter under `claim.` selects, and its sequence.

        A record that cannot be read, or that names another author than its subject does, counts as
        absent, but its sequence holds.
        """
        message = await self._read(lambda: self.connection.last(self.stream, subject))
        if message is None:
            return None, 0
        author = message.subject.split(".")[3]
        if message.headers.get("Bb-Agent") != author:
            self.telemetry.count(INVALID_MESSAGES)
            return None, message.sequence
        try:
            return decode_record(message.data, kind), message.sequence
        except InvalidError:
            self.telemetry.count(INVALID_MESSAGES)
            return None, message.sequence

    async def head(self, ref: Ref) -> Memory | None:
        """Read the newest revision as it is stored: gone, expired or not; None when absent.

        Raises:
            InvalidError: The message there is no memory, or claims to be somebody else's.
            UnavailableError: No answer in time.
        """
        subject = reference_filter(self.board, ref)
        message = await self._read(lambda: self.connection.last(self.stream, subject))
        return None if message is None else self.check(message, subject)

    async def last_under(self, ref: Ref, access: str) -> int:
        """The sequence of a memory's last revision under one label; 0 when there is none."""
        subject = reference_filter(self.board, ref, access=access)
        message = await self._read(lambda: self.connection.last(self.stream, subject))
        return 0 if message is None else message.sequence

    async def at_sequence(self, sequence: int, ref: Ref) -> Memory | None:
        """Read one revision of a memory; None when that sequence is not (any more) one of it."""
        message = await self._read(lambda: self.connection.at_sequence(self.stream, sequence))
        subject = reference_filter(self.board, ref)
        if message is None or not subject_matches(subject, message.subject):
            return None
        return self.check(message, subject)

    async def next_after(self, sequence: int, ref: Ref) -> Memory | None:
        """Read the first revision of a memory from `sequence` on."""
        subject = reference_filter(self.board, ref)
        message = await self._read(
            lambda: self.connection.next_after(self.stream, subject, sequence)
        )
        return None if message is None else self.check(message, subject)

    async def before(self, time: datetime, ref: Ref) -> Memory | None:
        """Read the newest revision stored before a time (exclusive)."""
        subject = reference_filter(self.board, ref)
        found = await self._read(
            lambda: self.connection.last_of_each(self.stream, subject, before=time)
        )
        newest = max(found or [], key=lambda message: message.sequence, default=None)
        return None if newest is None else self.check(newest, subject)

    async def _read(self, read: Callable[[], Awaitable[FoundT]]) -> FoundT | None:
        began = anyio.current_time()
        try:
            return await read()
        except UnavailableError as error:
            lost = error
        # A broker that restarts is back in less than the time limit, and reading twice is harmless.
        try:
            with anyio.fail_after(began + READ_S - anyio.current_time()):
                while not self.connection.closed:
                    if isinstance(lost, NoStreamError) and await self._absent():
                        return None
                    await anyio.sleep(RETRY_S)
                    try:
                        return await read()
                    except UnavailableError as error:
                        lost = error
        except TimeoutError:
            logger.debug("log.read", extra={"error": str(lost)})
        raise lost

    async def _absent(self) -> bool:
        # A board that nobody wrote to has no stream; a broker that starts has none yet.
        try:
            return await self.connection.stream(self.stream) is None
        except UnavailableError:
            return False

    def check(self, message: Message, subject: str) -> Memory:
        """Turn a message got directly into a memory.

        Args:
            message: As the broker answered.
            subject: The filter that was asked for.

        Raises:
            InvalidError: It lies elsewhere, claims another author than its subject names, or its
                body is no memory.
        """
        if not subject_matches(subject, message.subject):
            raise InvalidError(f"asked for {subject}, got a message of {message.subject}")
        if message.headers.get("Nats-Stream") != self.stream:
            raise InvalidError(f"asked {self.stream}, got a message of another stream")
        return to_memory(message)

    @asynccontextmanager
    async def follow(
        self, subject: str, start: Start, *, headers_only: bool = False
    ) -> AsyncGenerator[Following]:
        """Read every memory that a filter selects, in order, from `start` on; tombstones too.

        Messages that are no honest memories are skipped and counted. Expired ones are skipped.
        """
        try:
            async with follow(
                self.connection, self.stream, subject, start, headers_only=headers_only
            ) as follower:
                yield Following(self, follower)
        except NoStreamError as error:
            raise UnavailableError(f"board {self.board!r} does not exist yet") from error

    def delivered(self, message: Message) -> Memory | None:
        """Turn a delivery into a memory; None, counted, when it is no honest one."""
        headers = message.headers
        try:
            if "Nats-Subject" in headers or "Nats-Stream" in headers:
                raise InvalidError(f"a forged copy on {message.subject}")
            return to_memory(message)
        except InvalidError as error:
            self.telemetry.count(INVALID_MESSAGES)
            logger.warning("log.invalid", extra={"sequence": message.sequence, "error": str(error)})
            return None
