"""What the broker would drop by itself, overwritten before it does, where it is about a person.

A revision that is one too many, and what has expired, the broker only takes out of its books: the
bytes stay in the file until that is written anew, and forgetting, which comes later, cannot find
them any more. To overwrite one message is to write the whole block of the file that holds it, 8 MB
in 8 ms; so it is done for what names a data subject (`user`) or lies under a label of its own, and
the broker is left the rest. What is too fast for this is noted, so that no receipt calls it clean.
"""

import heapq
import logging
from collections.abc import Callable
from datetime import datetime

import anyio

from blackboard.envelope import EXPECTED, OVERWRITE_S, is_personal
from blackboard.errors import BlackboardError, ConflictError, InvalidError, UnavailableError
from blackboard.jetstream import Message
from blackboard.journal import Journal
from blackboard.lineage import gist_of
from blackboard.log import Log
from blackboard.receipts import Dropped, digest
from blackboard.steward.deletion import delete
from blackboard.subjects import Address, dropped_subject

logger = logging.getLogger(__name__)

REVISED = 100_000
"""Subjects of which the revisions are counted; those that were not revised for longest go first."""
RETRY_S = 1.0
LONGEST_S = 3600.0


class Aging:
    """The revisions of one board that are about to be too many, and those that expire.

    Args:
        log: The board.
        journal: Notes each deletion.
        now: The time, to be held against what memories say of their end.
    """

    def __init__(self, log: Log, journal: Journal, now: Callable[[], datetime]) -> None:
        self._log = log
        self._journal = journal
        self._now = now
        # By time and sequence only, so that a million of them take little room here.
        self._expiring: list[tuple[float, int]] = []
        self._revised: dict[str, int] = {}
        self._many: dict[str, None] = {}
        self._lost: dict[str, None] = {}
        self._history = log.limits.history
        self._some = anyio.Event()

    @property
    def _most(self) -> int:
        """How many revisions there may be before some are taken away, a quarter too early."""
        return max(2, self._history * 3 // 4)

    def see(self, message: Message) -> None:
        """Take up a revision, from its headers."""
        headers = message.headers
        if "Bb-Gone" in headers:
            return
        if "Bb-Expires" in headers:
            self._see_end(message)
        if headers.get(EXPECTED, "0") != "0":
            self._see_revision(message.subject)

    def _see_end(self, message: Message) -> None:
        """Take up when a revision is to be overwritten: not before its time, and as late as can be.

        What a retention policy ends stays at the broker for longer, because the steward removes
        that together with its large content, and counts it; here comes what was left over.
        """
        sequence = message.sequence
        try:
            end = datetime.fromisoformat(message.headers["Bb-Expires"]).timestamp()
            dropped = message.stored.timestamp() + int(message.headers.get("Nats-TTL", "0"))
        except (ValueError, OverflowError):
            return  # no reader takes it for a memory
        end = max(end, dropped - OVERWRITE_S)
        heapq.heappush(self._expiring, (end, sequence))
        if self._expiring[0][1] == sequence:
            self._some.set()

    def _see_revision(self, subject: str) -> None:
        count = self._revised.pop(subject, 1) + 1
        self._revised[subject] = count
        if count >= self._most:
            self._many[subject] = None
            self._some.set()
        elif len(self._revised) > REVISED:
            del self._revised[next(iter(self._revised))]

    async def run(self) -> None:
        """Overwrite what is due, as it comes; never returns.

        Raises:
            UnavailableError: There is no such board, or the broker does not answer at first.
        """
        info = await self._log.connection.stream(self._log.stream)
        if info is not None:
            self._history = int(info.config.get("max_msgs_per_subject") or self._history)
        while True:
            with anyio.move_on_after(self._wait_s()):
                await self._some.wait()
            self._some = anyio.Event()
            try:
                await self._own_up()
                await self._expire()
                await self._trim()
            except BlackboardError as error:
                logger.warning("board %s: not yet overwritten: %s", self._log.board, error)
                self._some.set()
                await anyio.sleep(RETRY_S)

    def _wait_s(self) -> float:
        if not self._expiring:
            return LONGEST_S
        return min(LONGEST_S, max(0.0, self._expiring[0][0] - self._now().timestamp()))

    async def _expire(self) -> None:
        """Overwrite what has expired, the older of a memory's revisions first."""
        while self._expiring and self._expiring[0][0] <= self._now().timestamp():
            _, sequence = self._expiring[0]
            message = await self._log.reads.at_sequence(sequence)
            if message is not None and _is_personal(message):
                await self._erase(message)
            heapq.heappop(self._expiring)

    async def _trim(self) -> None:
        while self._many:
            subject = next(iter(self._many))
            left = await self._trim_one(subject)
            del self._many[subject]
            if subject in self._revised:
                self._revised[subject] = left

    async def _trim_one(self, subject: str) -> int:
        """Leave of a memory's revisions what is far from being too much; gives how many."""
        if self._history < 2:
            return 0  # the next is one too many already
        found: list[tuple[int, bool]] = []
        sequence = 0
        while message := await self._log.reads.next_after(subject, sequence + 1):
            sequence = message.sequence
            # A tombstone holds nothing, and readers may still have to see it.
            found.append((sequence, "Bb-Gone" not in message.headers and _is_personal(message)))
        ours = [one for one, personal in found if personal]
        if not ours:
            return self._history // 2
        if len(found) >= self._history:
            await self._note(subject)
        keep = max(1, self._history * 5 // 8)
        for one in ours[: len(found) - keep]:
            await self._erase(Message(subject, {}, b"", one, self._now()))
        return keep

    async def _own_up(self) -> None:
        for subject in list(self._lost):
            await self._note(subject)
            del self._lost[subject]

    async def _note(self, subject: str) -> None:
        """Note that revisions of a memory are gone and were perhaps not overwritten."""
        try:
            name = digest(str(Address.parse(subject).ref))
        except InvalidError:
            return
        where = dropped_subject(self._log.board, self._log.agent, name)
        try:
            await self._log.send(
                [self._log.record(where, Dropped(self._now()), expected=0, ttl_s=None)]
            )
        except ConflictError:
            return  # it is known

    async def _erase(self, message: Message) -> None:
        try:
            await delete(
                self._log,
                self._journal,
                self._log.stream,
                message.sequence,
                message.subject,
                erase=True,
            )
        except UnavailableError:
            # A broker that died may have deleted it and not come to its bytes.
            self._lost[message.subject] = None
            raise


def _is_personal(message: Message) -> bool:
    known = gist_of(message)
    access = message.subject.split(".")[2]
    return is_personal(access, None if known is None else known[0].user)
