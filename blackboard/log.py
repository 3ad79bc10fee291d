"""The typed log of one board: memories go in as writes and come out as memories, checked."""

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from msgspec import Struct
from uuid_utils import uuid4

from blackboard.codec import RecordT, decode_record, encode_record
from blackboard.envelope import EXPECTED, EXPECTED_SUBJECT, Write, is_expired, seal, to_memory
from blackboard.errors import InvalidError, UnavailableError
from blackboard.fresh import FreshReads
from blackboard.jetstream import (
    Connection,
    Follower,
    Message,
    NoStreamError,
    Outgoing,
    Start,
    follow,
)
from blackboard.messages import Memory
from blackboard.room import Room, weight
from blackboard.sender import Sender
from blackboard.settings import Limits
from blackboard.subjects import (
    Ref,
    blob_stream,
    check_name,
    memory_stream,
    reference_filter,
    subject_matches,
)
from blackboard.telemetry import INVALID_MESSAGES, WRITES, Telemetry

logger = logging.getLogger(__name__)


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
        reached: The revision of the last memory or tombstone that was written here; 0 for none.
    """

    def __init__(
        self,
        connection: Connection,
        board: str,
        agent: str,
        instance: str,
        telemetry: Telemetry,
        limits: Limits,
        *,
        reads: FreshReads,
        chunks: FreshReads,
    ) -> None:
        self.connection = connection
        self.board = board
        self.agent = check_name("agent", agent)
        self.instance = instance
        self.telemetry = telemetry
        self.limits = limits
        self.stream = memory_stream(board)
        self.reached = 0
        self.reads = reads
        self.chunks = chunks
        self._sender = Sender(connection, board, self.stream, limits, self.reads)
        self._uploads = Sender(connection, board, blob_stream(board), limits, self.chunks)
        self._room = Room(connection, board, self.stream)

    # Writing

    async def append(self, write: Write) -> int:
        """Store one revision and return it; it is on disk when this returns.

        Raises:
            ConflictError: The memory moved past `expected`.
            DeniedError: This agent may not write there; nothing was stored.
            BoardFullError: The board is full.
            UnavailableError: No answer within 10 s; stored or not.
        """
        await self.connection.check_write(write.access, write.ref.topic)
        await self.admit([write])
        sequence = await self.send([self.outgoing(write)])
        self.telemetry.count(WRITES)
        return sequence

    async def append_many(
        self, writes: Sequence[Write], records: Sequence[Outgoing] = ()
    ) -> list[int]:
        """Store up to 1,000 revisions and records, all or none; return the revisions.

        Raises:
            ConflictError: One of them moved; nothing was stored.
            DeniedError: This agent may not write one of them; nothing was stored.
            BoardFullError: The board is full; nothing was stored.
            UnavailableError: No answer within 10 s; all stored or none.
        """
        if not writes and not records:
            return []
        for access, topic in {(write.access, write.ref.topic) for write in writes}:
            await self.connection.check_write(access, topic)
        await self.admit(writes)
        trace: dict[str, str] = {}
        self.telemetry.inject(trace)
        sealed = [seal(write, self.board, self.instance) for write in writes]
        for message in sealed:
            message.headers.update(trace)
        messages = [*sealed, *records]
        first = await self.send(messages) - len(messages) + 1
        self.telemetry.count(WRITES, len(writes))
        return [first + number for number in range(len(writes))]

    async def admit(self, writes: Sequence[Write]) -> None:
        """Make sure that a board has room for what is written, and that it ends when it has to.

        Tombstones need no room.

        Raises:
            BoardFullError: It has none; nothing was stored.
        """
        if any(write.gone is None for write in writes):
            await self._room.take(sum(weight(write) for write in writes))
            for write in writes:
                self._room.bound(write)

    async def send(self, messages: Sequence[Outgoing]) -> int:
        """Store messages, all or none, and return the sequence of the last; see `Sender.send`."""
        last = await self._sender.send(messages)
        for sequence, message in zip(range(last, 0, -1), reversed(messages), strict=False):
            if message.subject.startswith("mem."):
                self.reached = max(self.reached, sequence)
                break
        if self.reads.replicated is not False:
            for sequence, message in enumerate(messages, last - len(messages) + 1):
                self.reads.wrote(_read_by(message), sequence)
        return last

    async def upload(self, messages: Sequence[Outgoing]) -> None:
        """Store chunks of large content, all or none; see `Sender.send`."""
        await self._uploads.send(messages)

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
            "Bb-Write": uuid4().hex,
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
        message = await self.reads.last(subject)
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
        return (await self.look(ref))[0]

    async def look(self, ref: Ref) -> tuple[Memory | None, int]:
        """Read the newest revision as `head` does, and the sequence that the next must expect.

        That is another one where something that is no honest memory lies above shared state. Both
        come from one look: a sequence read later could be that of a revision nobody has seen.
        """
        subject = reference_filter(self.board, ref)
        message = await self.reads.last(subject, ref.written or 0)
        if message is None:
            return None, 0
        try:
            memory = self.check(message, subject)
        except InvalidError:
            self.telemetry.count(INVALID_MESSAGES)
        else:
            return memory, memory.revision
        honest = await self._newest_honest(subject, message.sequence)
        seen = 0 if honest is None else honest.revision
        over_all = ref.shared or honest is None
        return honest, max(seen, message.sequence) if over_all else seen

    async def _newest_honest(self, subject: str, least: int) -> Memory | None:
        """What lies newest below a message that is no honest memory.

        Only shared state can be covered so, for others may write it: one message per agent and
        label is looked at.
        """
        honest: Memory | None = None
        found = await self.reads.last_of_each(subject)
        if max((message.sequence for message in found), default=0) < least:
            raise UnavailableError(f"a replica lags behind at {subject}; try again")
        for message in found:
            try:
                memory = self.check(message, subject)
            except InvalidError:
                continue
            if honest is None or memory.revision > honest.revision:
                honest = memory
        return honest

    async def last_under(self, ref: Ref, access: str) -> int:
        """The sequence of a memory's last revision under one label; 0 when there is none."""
        subject = reference_filter(self.board, ref, access=access)
        message = await self.reads.last(subject)
        return 0 if message is None else message.sequence

    async def at_sequence(self, sequence: int, ref: Ref) -> Memory | None:
        """Read one revision of a memory; None when that sequence is not (any more) one of it."""
        message = await self.reads.at_sequence(sequence)
        subject = reference_filter(self.board, ref)
        if message is None or not subject_matches(subject, message.subject):
            return None
        return self.check(message, subject)

    async def next_after(self, sequence: int, ref: Ref) -> Memory | None:
        """Read the first revision of a memory from `sequence` on."""
        subject = reference_filter(self.board, ref)
        message = await self.reads.next_after(subject, sequence)
        return None if message is None else self.check(message, subject)

    async def content_before(self, revision: int, ref: Ref) -> Memory | None:
        """Read what a `retired` tombstone took away; None when that is not there any more."""
        found: Memory | None = None
        sequence = 0
        while True:
            memory = await self.next_after(sequence + 1, ref)
            if memory is None or memory.revision >= revision:
                return None if found is None or is_expired(found) else found
            sequence = memory.revision
            if memory.gone != "retired":  # one that lies over another takes away the same
                found = memory if memory.gone is None else None

    async def before(self, time: datetime, ref: Ref) -> Memory | None:
        """Read the newest revision stored before a time (exclusive)."""
        subject = reference_filter(self.board, ref)
        newest = await self.reads.before(subject, time)
        return None if newest is None else self.check(newest, subject)

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

        Messages that are no honest memories are skipped and counted. Expired ones are skipped. An
        agent with limited rights gets what it may read of what the filter selects.

        Raises:
            DeniedError: It may read nothing of that.
            UnavailableError: The board does not exist, or the broker does not answer.
        """
        await self.connection.check_read(subject)
        try:
            async with follow(
                self.connection, self.stream, subject, start, headers_only=headers_only
            ) as follower:
                yield Following(self, follower)
        except NoStreamError as error:
            raise UnavailableError(f"board {self.board!r} does not exist yet") from error

    def delivered(self, message: Message) -> Memory | None:
        """Turn a delivery into a memory; None, counted, when it is no honest one."""
        self.reads.saw(message.sequence)
        headers = message.headers
        try:
            if "Nats-Subject" in headers or "Nats-Stream" in headers:
                raise InvalidError(f"a forged copy on {message.subject}")
            return to_memory(message)
        except InvalidError as error:
            self.telemetry.count(INVALID_MESSAGES)
            logger.warning("log.invalid", extra={"sequence": message.sequence, "error": str(error)})
            return None


def _read_by(message: Outgoing) -> str:
    """The filter by which a message is read: over all labels, and for what is shared all agents."""
    over = message.headers.get(EXPECTED_SUBJECT)
    if over is not None:
        return over
    kind, board, _, rest = message.subject.split(".", 3)
    return f"{kind}.{board}.*.{rest}" if kind == "mem" else message.subject
