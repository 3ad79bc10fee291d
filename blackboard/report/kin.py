"""Which memories are about a person, and which were made from those.

A memory is about the person whom one of its revisions names as its `user`. From there lineage is
followed forwards: `sources`, and `content_of` for what shows a result of `once`. Two kinds of
results belong here without being followed further, because others may have them from elsewhere: one
that a memory shows, and one that a handler made for a memory and that names no sources.
"""

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AsyncExitStack
from enum import Enum

from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.records import Cause
from blackboard.subjects import ONCE, Ref


class Part(Enum):
    """Where in a report a memory stands."""

    OWN = "memories"
    DERIVED = "derived"


class Kin:
    """The memories of one person on a board, as of one revision.

    Args:
        log: The board.
        user: The person.
        last: What came after this revision is not looked at.

    Attributes:
        own: About the person.
        derived: Made from those, or shown by them, each with the reason.
        mixed: Those of both that are about other people too, or were made from what is.
        forgotten: The newest `forgotten` tombstone of each memory that has one.
    """

    def __init__(self, log: Log, user: str, last: int) -> None:
        self.own: set[Ref] = set()
        self.derived: dict[Ref, str] = {}
        self.mixed: set[Ref] = set()
        self.forgotten: dict[Ref, int] = {}
        self._log = log
        self._user = user
        self._last = last
        self._others: set[Ref] = set()
        self._made: dict[Ref, set[Ref]] = {}
        self._shown: dict[Ref, set[Ref]] = {}
        self._for: dict[Ref, set[Ref]] = {}

    def part(self, ref: Ref) -> Part | None:
        """Where a memory stands; None when it does not belong here."""
        if ref in self.own:
            return Part.OWN
        return Part.DERIVED if ref in self.derived else None

    def __contains__(self, ref: Ref) -> bool:
        return self.part(ref) is not None

    def __iter__(self) -> Iterator[Ref]:
        yield from self.own
        yield from self.derived

    async def find(self) -> None:
        """Read the board.

        Raises:
            UnavailableError: The broker does not answer.
        """
        async for _, memory in each(self._log, self._last):
            self._take(memory)
        reasons = self._closure(self.own)
        others = self._closure(self._others).keys() | self._others
        self.derived = {ref: why for ref, why in reasons.items() if ref not in self.own}
        for ref in [*self.own, *(self.derived.keys() - others)]:
            for result in self._shown.get(ref, ()):
                self._belongs(result, f"shown by {ref}")
            for result in self._for.get(ref, ()):
                self._belongs(result, f"made for {ref}")
        self.mixed = {ref for ref in (*self.own, *self.derived) if ref in others}

    def _belongs(self, result: Ref, why: str) -> None:
        if result not in self.own:
            self.derived.setdefault(result, why)

    def _take(self, memory: Memory) -> None:
        ref = memory.ref.unpinned
        if memory.gone is not None:
            if memory.gone == "forgotten":
                self.forgotten[ref] = memory.revision
            return
        if memory.user is not None:
            (self.own if memory.user == self._user else self._others).add(ref)
        for source in memory.sources:
            self._made.setdefault(source.unpinned, set()).add(ref)
        if memory.content_of is not None:
            target = memory.content_of.unpinned
            self._made.setdefault(target, set()).add(ref)
            self._shown.setdefault(ref, set()).add(target)
        elif not memory.sources and memory.topic.split(".")[0] == ONCE and memory.cause:
            try:
                self._for.setdefault(Cause.parse(memory.cause).input.unpinned, set()).add(ref)
            except InvalidError:
                return

    def _closure(self, roots: Iterable[Ref]) -> dict[Ref, str]:
        """What was made from some memories, and from those, with the reason."""
        found: dict[Ref, str] = {}
        waiting = deque(roots)
        while waiting:
            source = waiting.popleft()
            for ref in self._made.get(source, ()):
                if ref not in found:
                    found[ref] = f"made from {source}"
                    waiting.append(ref)
        return found


async def each(log: Log, last: int) -> AsyncGenerator[tuple[Message, Memory]]:
    """Every honest message of the board up to a revision, in order, expired ones included.

    Raises:
        UnavailableError: The broker does not answer.
    """
    subject = f"mem.{log.board}.>"
    async with AsyncExitStack() as stack:
        follower = await stack.enter_async_context(
            follow(log.connection, log.stream, subject, Start.all())
        )
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            if message.sequence > last:
                return
            memory = log.delivered(message)
            if memory is not None:
                yield message, memory
