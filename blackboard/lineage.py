"""Lineage: which memories were made from others, found by reading the board's stream.

What a memory was made from stands in it: `sources`, and `content_of` for one that shows a result of
`once`. Made later, it lies behind its sources in the stream, so one pass in order follows chains of
any length; passes are repeated until one finds nothing, for what does not keep to that order.

A result of `once` may have been given its inputs as plain content, so that it names no sources. One
that a handler made for a forgotten input, or that a forgotten memory shows, goes too, unless a
memory that stays shows it as well: that one has the same inputs from elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from blackboard.codec import decoder_of, read
from blackboard.envelope import to_memory
from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Blob, Memory
from blackboard.records import Cause
from blackboard.subjects import ONCE, Address, Ref

SELECTED = "selected"
ORPHANED = "shown by nothing else"


class Gist(msgspec.Struct, frozen=True):
    """What a memory's body says of others; its content is passed over."""

    content_of: Ref | None = None
    blob: Blob | None = None
    sources: tuple[Ref, ...] = ()
    user: str | None = None
    session: str | None = None
    kind: str = "note"
    tags: dict[str, str] = {}
    priority: float = 0.5
    happened: datetime | None = None

    @property
    def made_from(self) -> tuple[Ref, ...]:
        """What it was made from."""
        return self.sources if self.content_of is None else (*self.sources, self.content_of)


_gist = decoder_of(Gist)


def gist_of(message: Message) -> tuple[Memory, Gist] | None:
    """A memory without its content, and what its body says of others; None if it is none."""
    bare = Message(
        message.subject, message.headers, b"", message.sequence, message.stored, message.delivery
    )
    try:
        memory = to_memory(bare)
        if memory.gone is not None or not message.data:
            return memory, Gist()
        gist = read(_gist, message.data)
    except InvalidError:
        return None
    filled = msgspec.structs.replace(
        memory,
        content_of=gist.content_of,
        blob=gist.blob,
        sources=gist.sources,
        user=gist.user,
        session=gist.session,
        kind=gist.kind,
        tags=gist.tags,
        priority=gist.priority,
        happened=gist.happened,
    )
    return filled, gist


def is_forgotten(source: Ref, memory: Memory, gone: Mapping[Ref, int]) -> bool:
    """Whether a source of a memory was forgotten, as it was when the memory was made from it.

    Args:
        source: As the memory names it.
        memory: The memory.
        gone: The revision of the newest `forgotten` tombstone of each memory that has one.
    """
    tombstone = gone.get(source.unpinned)
    if tombstone is None:
        return False
    if memory.origin is not None:
        return True  # a copy pins revisions of another board, which say nothing here
    # Unpinned means "of the same batch".
    return (source.revision or memory.revision) < tombstone


class Lineage:
    """The memories that somebody selects, and what was made from them, as passes find them.

    Args:
        log: The board.
        selects: Whether a revision makes its memory one of them.
        gone: Tombstones that are known already, as for `is_forgotten`.
        shown: Results that memories showed which were forgotten before.

    Attributes:
        found: Not taken back yet: each memory, and why.
        gone: Tombstones, those that a pass met included.
        scanned: Revisions that the last pass read.
        live: Memories of those that are not gone.
        position: Up to where the first pass read the stream.
    """

    def __init__(
        self,
        log: Log,
        selects: Callable[[Memory], bool],
        gone: Mapping[Ref, int] | None = None,
        shown: Iterable[Ref] = (),
    ) -> None:
        self.log = log
        self.found: dict[Ref, str] = {}
        self.gone: dict[Ref, int] = dict(gone or {})
        self.position = 0
        self.scanned = 0
        self.live: set[Ref] = set()
        self._selects = selects
        self._shown: set[Ref] = set(shown)
        self._held: set[Ref] = set()

    async def close(self) -> None:
        """Pass over the whole stream until nothing more is found.

        Raises:
            UnavailableError: The broker does not answer, or there is no such board.
        """
        while await self._pass() or self._orphans():
            continue

    def settle(self, ref: Ref, tombstone: int) -> None:
        """One of the found was taken back; what is put there later is another memory."""
        self.found.pop(ref, None)
        self.gone[ref] = max(tombstone, self.gone.get(ref, 0))

    async def _pass(self) -> int:
        before, last = len(self.found), 0
        self.scanned = 0
        self.live.clear()
        self._held.clear()
        subject = f"mem.{self.log.board}.>"
        connection = self.log.connection
        async with follow(connection, self.log.stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                if self.position and message.sequence > self.position:
                    break  # others see to what comes while this goes on
                last = message.sequence
                self._take(message)
        self.position = self.position or last
        return len(self.found) - before

    def _take(self, message: Message) -> None:
        if "Bb-Gone" in message.headers:
            self._take_tombstone(message)
            return
        known = gist_of(message)
        if known is None:
            return
        memory, gist = known
        ref = memory.ref.unpinned
        self.scanned += 1
        self.live.add(ref)
        if ref not in self.found:
            why = self._why(memory, gist)
            if why is None:
                if gist.content_of is not None:
                    self._held.add(gist.content_of.unpinned)
                elif self._is_made_for_gone(memory):
                    self._shown.add(ref)
                return
            self.found[ref] = why
        if gist.content_of is not None:
            self._shown.add(gist.content_of.unpinned)

    def _is_made_for_gone(self, memory: Memory) -> bool:
        """Whether a result was made by a handler whose input is among the found."""
        if memory.cause is None or memory.topic.split(".")[0] != ONCE:
            return False
        try:
            source = Cause.parse(memory.cause).input
        except InvalidError:
            return False
        return source.unpinned in self.found or is_forgotten(source, memory, self.gone)

    def _take_tombstone(self, message: Message) -> None:
        try:
            ref = Address.parse(message.subject).ref
        except InvalidError:
            return
        honest = self.log.delivered(message)
        if honest is None or honest.gone == "moved":
            return
        self.live.discard(ref)
        if honest.gone == "forgotten":
            self.gone[ref] = max(message.sequence, self.gone.get(ref, 0))

    def _why(self, memory: Memory, gist: Gist) -> str | None:
        if self._selects(memory):
            return SELECTED
        for source in gist.made_from:
            if source.unpinned in self.found or is_forgotten(source, memory, self.gone):
                return f"made from {source}"
        return None

    def _orphans(self) -> int:
        """Results that only the found show; what others show was seen by the last pass."""
        lost = self._shown - self._held - self.found.keys()
        lost = {ref for ref in lost if ref in self.live}
        for ref in lost:
            self.found[ref] = ORPHANED
        return len(lost)
