"""A local copy of the live memories under a pattern: current, bounded, read in microseconds.

It is filled with the newest revision of each memory and then follows the board, in one sequence.
What ends by its own time is filtered at every read, because nobody is told when a memory expires.
"""

from collections.abc import AsyncGenerator, ItemsView, Iterator, Mapping, ValuesView
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import msgspec

from blackboard.background import background
from blackboard.envelope import is_expired
from blackboard.errors import BlackboardError, TooLargeError
from blackboard.jetstream import Start
from blackboard.journal import Journal
from blackboard.log import Following, Log
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.subjects import Pattern, Ref
from blackboard.telemetry import TOPIC, VIEW_MEMORY

LIMIT = 100_000
"""Memories a view holds by default."""
AUDIT_S = 60.0


class View(Mapping[Ref, Memory]):
    """A mapping from unpinned reference to the newest live memory; see `Blackboard.view`.

    Reads never wait and never fail for the broker's sake; a view that lost the broker shows what it
    had until it is back.
    """

    def __init__(self, pattern: str, limit: int) -> None:
        self.pattern = pattern
        self._limit = limit
        self._memories: dict[Ref, Memory] = {}
        self._changed = anyio.Event()
        self._changes = 0
        self._seen = 0
        self._failed: BlackboardError | None = None
        self.reads = 0
        """Reads since they were last written to the audit."""

    def __getitem__(self, ref: Ref) -> Memory:
        """The newest revision.

        Raises:
            KeyError: Not there, gone or expired.
            TooLargeError: More memories match than the view may hold; it is not current any more.
        """
        self.reads += 1
        if self._failed is not None:
            raise self._failed
        memory = self._memories[ref if ref.revision is None else ref.unpinned]
        if memory.expires is not None and is_expired(memory):
            raise KeyError(ref)
        return memory

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._live())

    def items(self) -> ItemsView[Ref, Memory]:
        """References and memories as they are now; what expires meanwhile stays in the answer."""
        return self._live().items()

    def values(self) -> ValuesView[Memory]:
        """The memories as they are now."""
        return self._live().values()

    def _live(self) -> dict[Ref, Memory]:
        self.reads += 1
        self.check()
        return {ref: memory for ref, memory in self._memories.items() if not is_expired(memory)}

    def __len__(self) -> int:
        return len(self._live())

    def begin(self) -> None:
        """What was taken in so far is where the view begins, no change to wait for."""
        self._seen = self._changes

    async def changed(self) -> None:
        """Wait until something changed since this was last called, or since the view began.

        Raises:
            TooLargeError: More memories match than the view may hold.
        """
        seen = self._seen  # of this call: whoever else waits sees the same change
        while self._changes == seen:
            self.check()
            await self._changed.wait()
        self._seen = self._changes

    def apply(self, memory: Memory) -> None:
        """Take in the next revision."""
        ref = memory.ref.unpinned
        before = self._memories.get(ref)
        if before is not None and before.revision >= memory.revision:
            return
        if memory.gone is not None:
            self._memories.pop(ref, None)
        else:
            self._memories[ref] = memory
        if len(self._memories) > self._limit:
            self._trim()
        self._tell()

    def drop(self, memory: Memory) -> None:
        """Take in a revision whose content is gone: nothing older is shown in its place."""
        self.apply(msgspec.structs.replace(memory, gone="forgotten"))

    def _trim(self) -> None:
        for ref in [ref for ref, memory in self._memories.items() if is_expired(memory)]:
            del self._memories[ref]
        if len(self._memories) > self._limit:
            self.fail(
                TooLargeError(
                    f"more than {self._limit} memories match {self.pattern!r}; "
                    "narrow the pattern or raise limit="
                )
            )

    def check(self) -> None:
        """Raise what made the view stop being current."""
        if self._failed is not None:
            raise self._failed

    def fail(self, error: BlackboardError) -> None:
        """Stop being current; every further read raises."""
        self._failed = error
        self._tell()

    def _tell(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def open_view(
    log: Log, reader: Reader, journal: Journal, pattern: str, limit: int
) -> AsyncGenerator[View]:
    """Open a view and wait until it holds everything that is there now.

    Raises:
        TooLargeError: More memories match than it may hold.
        UnavailableError: The board does not exist, or the broker does not answer.
    """
    view = View(pattern, limit)
    subject = Pattern.parse(pattern).subject(log.board)
    async with AsyncExitStack() as stack:
        with log.telemetry.span(VIEW_MEMORY, attributes={TOPIC: pattern}):
            following = await stack.enter_async_context(log.follow(subject, Start.newest()))
            while following.pending:
                await _take(view, following, reader, journal)
                view.check()
        view.begin()
        async with background() as group:

            async def run() -> None:
                try:
                    while True:
                        await _take(view, following, reader, journal)
                except BlackboardError as error:
                    # The board was deleted; the next read says so.
                    view.fail(error)

            async def audit() -> None:
                while True:
                    await anyio.sleep(AUDIT_S)
                    _audit_reads(view, journal)

            group.start_soon(run)
            group.start_soon(audit)
            try:
                yield view
            finally:
                _audit_reads(view, journal)


async def _take(view: View, following: Following, reader: Reader, journal: Journal) -> None:
    memory = await following.step()
    if memory is None:
        return
    shown = await reader.shown(memory)
    if shown is None:
        view.drop(memory)
    else:
        await journal.room()
        journal.audit("delivery", str(shown.ref), revision=shown.revision)
        view.apply(shown)


def _audit_reads(view: View, journal: Journal) -> None:
    if view.reads:
        journal.audit("view_reads", view.pattern, count=view.reads)
        view.reads = 0
