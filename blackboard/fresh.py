"""Reads of one stream that are never older than what this process has seen or written.

On one server every direct get is the newest. On a replicated stream any replica may answer, and one
that lags shows an older revision, or none: measured, 14 to 21 % of reads right after a put. So
there an answer older than what is known is asked for again, then the leader is asked; and that
there is nothing, or that it is gone, is final only from the leader.

A board may be given replicas while it is in use. Nobody may then trust a single answer any more, so
`apply` announces it, and waits until every process has looked (`LEARN_S`) before it does it.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import anyio

from blackboard.errors import BlackboardError, UnavailableError
from blackboard.jetstream import Connection, Message, NoStreamError, StreamInfo
from blackboard.layout import is_announced

FoundT = TypeVar("FoundT")
logger = logging.getLogger(__name__)

READ_S = 5.0
"""How long a read may take, with the broker away in the middle."""
RETRY_S = 0.05

TRY_S = 1.0
"""How long one try may take where the servers may be choosing a new leader: then nobody answers."""

PATIENCE_S = 0.5
"""How long a lagging replica is asked again before the leader is."""
FIRST_PAUSE_S = 0.002
LEADER_PAUSE_S = 0.1
REMEMBERED = 10_000
"""Subjects whose newest known sequence is kept; what falls out is only served less strictly."""
LEARN_S = 30.0
"""How long it may be taken for granted that one server answers; see `layout.NOTICED_S`."""


class FreshReads:
    """Direct gets of one stream, with the leader asked where replicas may lag.

    Attributes:
        replicated: Whether the stream has more than one replica; None when not known yet.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._known: OrderedDict[str, int] = OrderedDict()
        self._used = False
        self._learning = anyio.Lock()
        self._seen = 0
        self.replicated: bool | None = None

    def saw(self, sequence: int) -> None:
        """Remember that the stream has come so far: the broker delivered or acknowledged it."""
        self._seen = max(self._seen, sequence)

    def learn(self, info: StreamInfo) -> None:
        """Take in what the broker says of the stream."""
        self.replicated = is_announced(info) or int(info.config.get("num_replicas", 1)) > 1

    async def keep_learning(self) -> None:
        """Notice within half a minute that the stream is to have replicas, or lost them."""
        while True:
            await anyio.sleep(LEARN_S)
            if not self.replicated:
                self.replicated = None  # whoever reads next asks first
            elif self._used:
                self._used = False
                await self._ask_again()

    async def _ask_again(self) -> None:
        # Only here, and not before a read: while the servers choose a leader nobody answers this,
        # and replicas that are asked with care can be read all the same.
        try:
            info = await self._connection.stream(self._stream)
        except BlackboardError as error:
            logger.debug("fresh.learn", extra={"error": str(error)})
        else:
            self.replicated = None
            if info is not None:
                self.learn(info)

    def wrote(self, subject: str, sequence: int) -> None:
        """Remember a write of this process; `subject` is the filter it is read by."""
        self.saw(sequence)
        if self.replicated is not False and sequence > self._known.get(subject, 0):
            self._known[subject] = sequence
            self._known.move_to_end(subject)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    async def last(self, subject: str, least: int = 0) -> Message | None:
        """The newest message that a filter selects, at least as new as `least` and what is known.

        Args:
            subject: A filter.
            least: A sequence that is known to be there.

        Raises:
            UnavailableError: No answer in time, or the leader has not come so far in time.
        """
        if not await self._is_replicated():
            return await self._again(lambda: self._connection.last(self._stream, subject))
        least = max(least, self._known.get(subject, 0))
        message = await self._patient(subject, max(least, 1))
        if message is None or message.sequence < least or "Bb-Gone" in message.headers:
            message = await self._from_leader(
                lambda: self._connection.leader_last(self._stream, subject), least
            )
        if message is not None:
            self.wrote(subject, message.sequence)
        return message

    async def leaders_last(self, subject: str, expected: int) -> Message | None:
        """The newest message that a filter selects as the leader has it, once it is at `expected`.

        Args:
            subject: A filter.
            expected: A sequence that was there; one that nobody has seen is not waited for.
        """
        return await self._from_leader(
            lambda: self._connection.leader_last(self._stream, subject), self._known_to(expected)
        )

    def _known_to(self, sequence: int) -> int:
        # A sequence that nobody has seen may be one that somebody made up.
        return sequence if sequence <= self._seen else 0

    async def at_sequence(self, sequence: int) -> Message | None:
        """One message by its sequence."""
        message = await self._again(lambda: self._connection.at_sequence(self._stream, sequence))
        if message is None and await self._is_replicated():
            return await self._from_leader(
                lambda: self._connection.leader_at_sequence(self._stream, sequence),
                self._known_to(sequence),
            )
        return message

    async def next_after(self, subject: str, sequence: int) -> Message | None:
        """The first message from `sequence` on that a filter selects, as the leader has it."""
        connection = self._connection
        read = connection.next_after
        if await self._is_replicated():
            read = connection.leader_next_after
        return await self._again(lambda: read(self._stream, subject, sequence))

    async def last_of_each(self, subject: str, *, before: datetime | None = None) -> list[Message]:
        """The newest message of every subject that a filter selects, at most 1,024 subjects."""
        found = await self._again(
            lambda: self._connection.last_of_each(self._stream, subject, before=before)
        )
        return found or []

    async def before(self, subject: str, time: datetime) -> Message | None:
        """The newest message that a filter selects of those stored before a time (exclusive)."""
        found = await self.last_of_each(subject, before=time)
        newest = max(found, key=lambda message: message.sequence, default=None)
        # A replica that lags lacks the newest of them; the leader, asked for the next, has it.
        while await self._is_replicated():
            after = 0 if newest is None else newest.sequence
            following = await self.next_after(subject, after + 1)
            if following is None or following.stored >= time:
                break
            newest = following
        return newest

    async def _from_leader(
        self, read: Callable[[], Awaitable[Message | None]], least: int
    ) -> Message | None:
        """Ask the leader; that it has nothing, or something older, counts once it is at `least`."""
        message = await self._again(read)
        if least and (message is None or message.sequence < least):
            await self._leader_at(least)
            message = await self._again(read)
        return message

    async def _leader_at(self, sequence: int) -> None:
        pause_s = FIRST_PAUSE_S
        with anyio.move_on_after(READ_S):
            while True:
                info = await self._again(lambda: self._connection.stream(self._stream))
                if info is None or info.state.last_seq >= sequence:
                    return
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, LEADER_PAUSE_S)
        raise UnavailableError(
            f"the leader of {self._stream!r} has not stored what was delivered as {sequence}; "
            "try again"
        )

    async def _patient(self, subject: str, least: int) -> Message | None:
        pause_s = FIRST_PAUSE_S
        deadline = anyio.current_time() + PATIENCE_S
        while True:
            message = await self._again(lambda: self._connection.last(self._stream, subject))
            if message is None or message.sequence >= least:
                return message
            if anyio.current_time() + pause_s > deadline:
                return message
            await anyio.sleep(pause_s)
            pause_s *= 2

    async def _again(self, read: Callable[[], Awaitable[FoundT]]) -> FoundT | None:
        """Read, again over a lost connection; None also when there is no such stream."""
        began = anyio.current_time()
        self._used = True
        try:
            return await self._try(read)
        except UnavailableError as error:
            lost = error
        # A broker that restarts is back in less than the time limit, and reading twice is harmless.
        try:
            with anyio.fail_after(began + READ_S - anyio.current_time()):
                while not self._connection.closed:
                    if isinstance(lost, NoStreamError) and await self._absent():
                        return None
                    await anyio.sleep(RETRY_S)
                    try:
                        return await self._try(read)
                    except UnavailableError as error:
                        lost = error
        except TimeoutError:
            logger.debug("fresh.read", extra={"error": str(lost)})
        raise lost

    async def _try(self, read: Callable[[], Awaitable[FoundT]]) -> FoundT:
        if not self.replicated:
            return await read()
        with anyio.move_on_after(TRY_S):
            return await read()
        raise UnavailableError(f"no replica of {self._stream!r} answered within {TRY_S:g} s")

    async def _absent(self) -> bool:
        # A board that nobody wrote to has no stream; a broker that starts has none yet.
        try:
            return await self._connection.stream(self._stream) is None
        except UnavailableError:
            return False

    async def _is_replicated(self) -> bool:
        if self.replicated is None:
            async with self._learning:
                if self.replicated is None:
                    info = await self._again(lambda: self._connection.stream(self._stream))
                    if info is not None:
                        self.learn(info)
        return self.replicated is True
