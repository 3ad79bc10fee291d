"""What lies behind the tombstones of one board, deleted when its time has come.

`forgotten` and `moved` take away everything before them at once, whatever came after, and it is
overwritten on disk (on a single server; of several, each reclaims it from its log later). `retired`
does so after a grace period, and only while nothing was put on top of it: a memory that came back
lives, and its history with it. Tombstones themselves stay until their own time is over, because a
reader of one label, or a projection that lags behind, may still have to see each of them.

Every header of the board is read once, from the first message on and not only from the newest of
each subject: a forgotten key that was put again hides its tombstone behind a newer revision.
"""

import heapq
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio

from blackboard.envelope import TOMBSTONE_S, Write
from blackboard.errors import BlackboardError, InvalidError, RetryableError, SettingsError
from blackboard.jetstream import Follower, Message, Start, follow
from blackboard.journal import Journal
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.steward.deletion import Unsure, delete
from blackboard.subjects import Ref, reference_filter

logger = logging.getLogger(__name__)

GRACE = timedelta(hours=24)
"""How long a retired memory can be brought back."""
LIFETIME = timedelta(seconds=TOMBSTONE_S)
RENEW_AGE = LIFETIME - timedelta(days=10)
"""A tombstone that is older and still has something behind it is published again."""
REFUSED_DELAY = timedelta(minutes=10)
"""Until the next try at what the broker refuses, which an operator has to change."""
EXPIRY_DELAY = timedelta(minutes=1)
"""The broker removes an expired message a little after its time."""


def check_grace(grace: timedelta) -> None:
    """Check a grace period.

    Raises:
        SettingsError: It is negative, or not shorter than a tombstone's life.
    """
    if not timedelta(0) <= grace < LIFETIME:
        raise SettingsError(
            f"a grace period of {grace} must be from 0 to less than the {LIFETIME.days} days "
            "that a tombstone lives"
        )


class Tombstones:
    """The tombstones of one board, and those of them whose time is still to come.

    Args:
        log: The board; what is published again says that this log's agent did it.
        journal: Notes each deletion.
        grace: How long what lies behind a `retired` tombstone is kept; less than 90 days, after
            which the tombstone itself is gone.
        now: The time, to be held against the broker's stamps.
        reaches: Whether a tombstone takes away what lies under a label.
        observe: Is shown each message's headers, as they are read anyway.

    Attributes:
        deleted: Revisions deleted so far.
        forgotten: The newest `forgotten` tombstone of each memory that has one.
        caught_up: Set when all that lay there was seen.
        unsure: What a broker that died may have deleted and not overwritten.

    Raises:
        SettingsError: `grace` cannot be used.
    """

    def __init__(
        self,
        log: Log,
        journal: Journal,
        *,
        grace: timedelta,
        now: Callable[[], datetime],
        reaches: Callable[[Memory, str], bool] = lambda _tombstone, _access: True,
        observe: Callable[[Message], None] = lambda _revision: None,
    ) -> None:
        check_grace(grace)
        self._reaches = reaches
        self._observe = observe
        self._log = log
        self._journal = journal
        self._grace = grace
        self._now = now
        self._position = 0
        # By sequence only, so that a million retired memories take little room here.
        self._waiting: list[tuple[datetime, int]] = []
        self.deleted = 0
        self.forgotten: dict[Ref, int] = {}
        self.unsure: Unsure = set()
        self.caught_up = anyio.Event()
        self._news = anyio.Event()

    async def news(self) -> None:
        """Wait until something more is forgotten."""
        await self._news.wait()

    async def catch_up(self) -> None:
        """Take up what was stored since the last time, or since the start; returns when through.

        Raises:
            UnavailableError: The broker does not answer, or there is no such board.
        """
        async with self._follow() as follower:
            while follower.pending:
                message = await follower.step()
                if message is not None:
                    await self._see(message)

    async def watch(self) -> None:
        """Take up what was stored since the last time, and then what comes; never returns.

        Raises:
            UnavailableError: As `catch_up`, at the beginning; later the broker is waited for.
        """
        async with self._follow() as follower:
            while True:
                if not follower.pending:
                    self.caught_up.set()
                message = await follower.step()
                if message is not None:
                    await self._see(message)

    async def tend(self) -> None:
        """Take up the tombstones whose time has come, and those that failed."""
        ready: list[int] = []
        while self._waiting and self._waiting[0][0] <= self._now():
            ready.append(heapq.heappop(self._waiting)[1])
        for revision in ready:
            try:
                tombstone = await self._at(revision)
            except BlackboardError as error:
                self._failed(revision, error)
            else:
                if tombstone is not None:
                    await self._consider(tombstone)

    @asynccontextmanager
    async def _follow(self) -> AsyncGenerator[Follower]:
        start = Start.after(self._position) if self._position else Start.all()
        subject = f"mem.{self._log.board}.>"
        async with follow(
            self._log.connection, self._log.stream, subject, start, headers_only=True
        ) as follower:
            yield follower

    async def _see(self, message: Message) -> None:
        # Nearly all messages end here, so nothing else of them is looked at.
        if "Bb-Gone" in message.headers:
            tombstone = self._log.delivered(message)
            if tombstone is not None:
                self._learn(tombstone)
                await self._consider(tombstone)
        else:
            self._observe(message)
        self._position = message.sequence

    def _learn(self, tombstone: Memory) -> None:
        if tombstone.gone == "forgotten" and not tombstone.outlived:
            ref = tombstone.ref.unpinned
            self.forgotten[ref] = max(tombstone.revision, self.forgotten.get(ref, 0))
            self._news.set()
            self._news = anyio.Event()

    async def _at(self, revision: int) -> Memory | None:
        message = await self._log.reads.at_sequence(revision)
        try:
            return None if message is None else self._log.check(message, message.subject)
        except InvalidError:
            return None

    async def _consider(self, tombstone: Memory) -> None:
        """Delete what lies behind a tombstone now, or remember when to."""
        stored = tombstone.stored or self._now()
        due = stored + self._grace if tombstone.gone == "retired" else stored
        if due > self._now():
            self._wait(due, tombstone.revision)
            return
        try:
            await self._clear(tombstone)
        except BlackboardError as error:
            self._failed(tombstone.revision, error)
            if self._now() - stored >= RENEW_AGE:
                await self._renew(tombstone)

    async def _clear(self, tombstone: Memory) -> None:
        """Delete what lies behind a tombstone, over all labels and, for keys, all agents."""
        if tombstone.gone == "retired":
            newer = await self._newer(tombstone)
            if newer is not None:
                if newer.gone is None and newer.expires is not None:
                    # When it expires, the tombstone is the newest again, and nobody is told.
                    due = max(newer.expires, self._now()) + EXPIRY_DELAY
                    self._wait(due, tombstone.revision)
                return
        ref, subject = self._place(tombstone)
        sequence = 0
        while True:
            message = await self._log.reads.next_after(subject, sequence + 1)
            if message is None or message.sequence >= tombstone.revision:
                return
            sequence = message.sequence
            if "Bb-Gone" in message.headers and not message.data:
                continue
            if not self._reaches(tombstone, message.subject.split(".")[2]):
                continue
            if await delete(
                self._log,
                self._journal,
                self._log.stream,
                sequence,
                str(ref),
                # Whatever the tombstone: a copy under another label may be forgotten later, when
                # nobody could find these bytes any more.
                erase=True,
                unsure=self.unsure,
            ):
                self.deleted += 1

    async def _newer(self, tombstone: Memory) -> Memory | None:
        """The first honest revision behind a tombstone."""
        _, subject = self._place(tombstone)
        sequence = tombstone.revision
        while True:
            message = await self._log.reads.next_after(subject, sequence + 1)
            if message is None:
                return None
            try:
                return self._log.check(message, subject)
            except InvalidError:
                sequence = message.sequence

    async def _renew(self, tombstone: Memory) -> None:
        """Publish a tombstone again, so that it outlives what could not be deleted behind it."""
        ref, _ = self._place(tombstone)
        write = Write(
            ref=ref,
            access=tombstone.access,
            agent=tombstone.agent,
            expected=tombstone.revision,
            gone=tombstone.gone,
            reason=tombstone.reason,
            by=self._log.agent,
        )
        try:
            if await self._newer(tombstone) is None:
                revision = await self._log.connection.publish(self._log.outgoing(write))
                self._journal.audit("renew", str(ref), revision=revision)
        except BlackboardError as error:
            # Nothing is lost: the next try at deleting comes here again.
            logger.warning("cannot renew the tombstone of %s: %s", ref, error)

    def _place(self, tombstone: Memory) -> tuple[Ref, str]:
        ref = tombstone.ref.unpinned
        return ref, reference_filter(self._log.board, ref)

    def _failed(self, revision: int, error: BlackboardError) -> None:
        logger.warning(
            "board %s: not yet deleted what lies behind revision %d: %s",
            self._log.board,
            revision,
            error,
        )
        delay = timedelta(0) if isinstance(error, RetryableError) else REFUSED_DELAY
        self._wait(self._now() + delay, revision)

    def _wait(self, due: datetime, revision: int) -> None:
        heapq.heappush(self._waiting, (due, revision))
