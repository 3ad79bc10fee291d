"""What the chain takes up: the broker's record of reads, and the agents' own journals.

Each source is followed from the position that the chain itself names, so that the chain is the only
checkpoint. What waits here is folded when a record is made, and dropped when that is stored.
"""

import hashlib
import logging
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import anyio

from blackboard.access.identity import ACCESS_STREAM, rights_subject
from blackboard.errors import BlackboardError
from blackboard.jetstream import Connection, Message, Start, StreamInfo, follow
from blackboard.ledger.items import AnyItem, Gap, Journal, Privileged, Read
from blackboard.ledger.record import Position
from blackboard.ledger.streams import reads_stream, reads_subject
from blackboard.subjects import audit_stream, audit_subject

logger = logging.getLogger(__name__)

CAPACITY = 50_000
"""Messages that wait here; the rest waits at the broker."""
RETRY_S = 1.0
GONE = (
    "not there any more when the steward came to them: discarded as too old or too many, or removed"
)
ANEW = "the stream was made anew; what it held and was not yet here is lost"


@dataclass(slots=True)
class Seen:
    """One message, as far as it matters."""

    sequence: int
    text: str
    stored: datetime


@dataclass(slots=True)
class Folded:
    """What a record shall say of a source."""

    items: list[AnyItem]
    position: Position
    messages: int


@dataclass(slots=True)
class Group:
    """Equal reads."""

    count: int
    first: Seen
    last: Seen

    def item(self, subject: str) -> Read:
        """What the chain says of them."""
        # _R_.bb.rd.<board>.<agent>.<stream>.<filter>
        agent, stream, what = (*subject.split(".", 6)[4:], "", "")[:3]
        return Read(
            agent=agent,
            stream=stream,
            what=what,
            count=self.count,
            first=self.first.stored,
            last=self.last.stored,
            low=self.first.sequence,
            high=self.last.sequence,
        )


def count_in(found: dict[str, Group], seen: Seen) -> None:
    """Add a read to those that are equal."""
    group = found.get(seen.text)
    if group is None:
        found[seen.text] = Group(1, seen, seen)
    else:
        group.count += 1
        group.last = seen


def batch_of(message: Message) -> str:
    """What the chain says of a message of the audit stream."""
    agent = message.subject.rpartition(".")[2]
    return f"{agent} {hashlib.sha256(message.data).hexdigest()}"


class Source:
    """A stream that is taken up; the subclasses say how.

    Attributes:
        name: In the chain's positions.
        stream: The stream's name.
    """

    name = ""
    whole = True
    """Whether what was before the first take-up counts as missing."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self.stream = stream
        self._connection = connection
        self._subject = subject
        self._position: Position | None = None
        self._created = ""
        self._waiting: deque[Seen] = deque()
        self._room = anyio.Event()

    def learn(self, positions: dict[str, Position]) -> None:
        """Go on behind what the chain says."""
        found = positions.get(self.name)
        if found is None:
            return
        self._position = found
        while (
            self._waiting
            and found.source == self._created
            and self._waiting[0].sequence <= found.sequence
        ):
            self._waiting.popleft()
        self._room.set()

    @property
    def waiting(self) -> int:
        """Messages that no record has yet."""
        return len(self._waiting)

    async def run(self) -> None:
        """Follow the stream until cancelled, whatever happens to it."""
        while True:
            try:
                info = await self._connection.stream(self.stream)
                if info is not None:
                    await self._follow(info)
            except BlackboardError as error:
                logger.warning("ledger: cannot follow %s: %s", self.stream, error)
            await anyio.sleep(RETRY_S)

    async def _follow(self, info: StreamInfo) -> None:
        if self._created and self._created != info.identity:
            self._waiting.clear()
        self._created = info.identity
        start = Start.all() if (after := self._reached) == 0 else Start.after(after)
        async with follow(
            self._connection, self.stream, self._subject, start, headers_only=self._headers_only
        ) as follower:
            async for message in follower:
                while len(self._waiting) >= CAPACITY:
                    self._room = anyio.Event()
                    await self._room.wait()
                self._waiting.append(self._seen(message))

    @property
    def _reached(self) -> int:
        if self._waiting:
            return self._waiting[-1].sequence
        position = self._position
        return position.sequence if position and position.source == self._created else 0

    def fold(self, limit: int) -> Folded | None:
        """What waits, as items; None when nothing does.

        Args:
            limit: Of items, about.
        """
        if not self._waiting:
            return None
        items: list[AnyItem] = []
        known = self._position
        expected = 1
        if known is not None and known.source == self._created:
            expected = known.sequence + 1
        elif known is not None:
            items.append(Gap(about=self.stream, reason=ANEW, low=known.sequence + 1))
        elif not self.whole:
            expected = self._waiting[0].sequence
        messages = self._fold(items, expected, limit)
        last = self._waiting[messages - 1].sequence
        return Folded(items, Position(self._created, last), messages)

    _headers_only = False

    def _seen(self, message: Message) -> Seen:
        raise AssertionError("each source has its own")

    def _fold(self, items: list[AnyItem], expected: int, limit: int) -> int:
        raise AssertionError("each source has its own")

    def _missing(self, expected: int, found: int) -> Gap:
        return Gap(
            about=self.stream, reason=GONE, low=expected, high=found - 1, count=found - expected
        )


class Reads(Source):
    """The broker's record of direct gets: equal ones of one record become one item."""

    name = "reads"
    _headers_only = True

    def __init__(self, connection: Connection, board: str) -> None:
        super().__init__(connection, reads_stream(board), f"{reads_subject(board)}.>")

    def _seen(self, message: Message) -> Seen:
        return Seen(message.sequence, message.subject, message.stored)

    def _fold(self, items: list[AnyItem], expected: int, limit: int) -> int:
        found: dict[str, Group] = {}
        taken = 0
        for seen in self._waiting:
            if len(found) >= limit and seen.text not in found:
                break
            if seen.sequence != expected:
                items.append(self._missing(expected, seen.sequence))
            count_in(found, seen)
            expected = seen.sequence + 1
            taken += 1
        items += [group.item(subject) for subject, group in found.items()]
        return taken


class Journals(Source):
    """The agents' own audit batches, each by its hash."""

    name = "audit"
    whole = False

    def __init__(self, connection: Connection, board: str) -> None:
        super().__init__(connection, audit_stream(board), audit_subject(board, ">"))

    def _seen(self, message: Message) -> Seen:
        return Seen(message.sequence, batch_of(message), message.stored)

    def _fold(self, items: list[AnyItem], expected: int, limit: int) -> int:
        run: list[Seen] = []
        taken = 0
        for seen in self._waiting:
            if taken >= limit:
                break
            if seen.sequence != expected:
                items += _journal(run)
                items.append(self._missing(expected, seen.sequence))
                run = []
            run.append(seen)
            expected = seen.sequence + 1
            taken += 1
        items += _journal(run)
        return taken


class Policies(Source):
    """The documents that say what each agent may do, as they are put in force."""

    name = "access"
    whole = False

    def __init__(self, connection: Connection, board: str) -> None:
        super().__init__(connection, ACCESS_STREAM, rights_subject(board, "*"))

    def _seen(self, message: Message) -> Seen:
        agent = message.subject.rpartition(".")[2]
        return Seen(message.sequence, f"{agent} {_digest(message)}", message.stored)

    def _fold(self, items: list[AnyItem], expected: int, limit: int) -> int:
        taken = list(islice(self._waiting, limit))
        for seen in taken:
            agent, _, digest = seen.text.partition(" ")
            act = "grant" if digest else "revoke"
            what = f"rights of {agent}"
            # Only who has an operator's credential may write there; the broker does not say who.
            items.append(
                Privileged(agent="operator", act=act, what=what, reason=digest, at=seen.stored)
            )
        return len(taken)


def _digest(message: Message) -> str:
    """Of a document, in short; empty when it takes all rights away."""
    return f"document {hashlib.sha256(message.data).hexdigest()[:16]}" if message.data else ""


def _journal(run: list[Seen]) -> list[AnyItem]:
    if not run:
        return []
    batches = tuple(seen.text for seen in run)
    return [Journal(first=run[0].sequence, last=run[-1].stored, batches=batches)]
