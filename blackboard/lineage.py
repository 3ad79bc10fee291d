"""Lineage: which memories were made from others, found by reading the board's stream.

What a memory was made from stands in it: `sources`, and `content_of` for one that shows a result of
`once`. The index is not asked, for it may lag.

A result of `once` may have been given its inputs as plain content, so that it names no sources. One
that a handler made for a forgotten input, or that a forgotten memory shows, goes too, unless a
memory that stays shows it as well: that one has the same inputs from elsewhere.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import msgspec

from blackboard.codec import decoder_of, read
from blackboard.envelope import to_memory
from blackboard.errors import InvalidError
from blackboard.jetstream import Follower, Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Blob, Memory
from blackboard.records import Cause
from blackboard.subjects import ONCE, Address, Ref

EDGES = 1_000_000
"""What was made from what, remembered at once: about 300 bytes each."""
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


class _Edge(NamedTuple):
    """A memory that was made from another.

    Attributes:
        ref: It.
        pin: The revision of the other; of a copy 0, because its pins say nothing here.
        shows: It shows the other, a result of `once`.
    """

    ref: Ref
    pin: int
    shows: bool


class Kin:
    """The memories that somebody selects, and what was made from them, wherever a board lies.

    What was made from what is remembered while the stream is read, so that one pass is enough,
    whatever the order; on a board with more such edges than `EDGES`, passes are repeated instead.

    Args:
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
        selects: Callable[[Memory], bool],
        gone: Mapping[Ref, int] | None = None,
        shown: Iterable[Ref] = (),
    ) -> None:
        self.found: dict[Ref, str] = {}
        self.gone: dict[Ref, int] = dict(gone or {})
        self.position = 0
        self.scanned = 0
        self.live: set[Ref] = set()
        self._selects = selects
        self._edges: dict[Ref, list[_Edge]] = {}
        self._results: dict[Ref, list[Ref]] = {}
        self._held: set[Ref] = set()
        self._shown: set[Ref] = set(shown)
        self._count = 0

    async def close(self) -> None:
        """Read the stream until nothing more is to be found.

        Raises:
            UnavailableError: The broker does not answer, or there is no such board.
        """
        await self._pass()
        while True:
            while self._count > EDGES and await self._pass():
                continue
            lost = self._orphans()
            if not lost:
                return
            for ref in lost:
                self._find(ref, ORPHANED)

    def settle(self, ref: Ref, tombstone: int) -> None:
        """One of the found was taken back; what is put there later is another memory."""
        self.found.pop(ref, None)
        self.gone[ref] = max(tombstone, self.gone.get(ref, 0))

    async def _pass(self) -> int:
        before, last = len(self.found), 0
        self.scanned = self._count = 0
        self.live.clear()
        self._held.clear()
        self._edges.clear()
        async with self._reading() as messages:
            async for message in messages:
                if self.position and message.sequence > self.position:
                    break  # others see to what comes while this goes on
                last = message.sequence
                self._take(message)
        self.position = self.position or last
        return len(self.found) - before

    def _reading(self) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """All memories and tombstones of the board, as they lie there, in order."""
        raise NotImplementedError

    def _honest(self, message: Message) -> Memory | None:
        """A memory or tombstone that claims no other author than its subject names."""
        raise NotImplementedError

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
        if gist.content_of is not None or gist.sources:
            self._take_edges(ref, memory, gist)
        elif memory.cause is not None:
            self._take_result(ref, memory)
        if ref not in self.found and self._selects(memory):
            self._find(ref, SELECTED)

    def _take_edges(self, ref: Ref, memory: Memory, gist: Gist) -> None:
        shown = gist.content_of
        for source in gist.made_from:
            target = source.unpinned
            if target in self.found or is_forgotten(source, memory, self.gone):
                self._find(ref, f"made from {source}")
            pin = 0 if memory.origin is not None else source.revision or memory.revision
            self._remember(target, _Edge(ref, pin, source is shown))
        if shown is not None:
            (self._shown if ref in self.found else self._held).add(shown.unpinned)

    def _remember(self, target: Ref, edge: _Edge) -> None:
        self._count += 1
        if self._count <= EDGES:
            self._edges.setdefault(target, []).append(edge)

    def _take_result(self, ref: Ref, memory: Memory) -> None:
        """A result without sources, which a handler made, may be of a forgotten input."""
        if memory.topic.split(".")[0] != ONCE:
            return
        try:
            source = Cause.parse(memory.cause or "").input
        except InvalidError:
            return
        if source.unpinned in self.found or is_forgotten(source, memory, self.gone):
            self._shown.add(ref)
        else:
            self._results.setdefault(source.unpinned, []).append(ref)

    def _take_tombstone(self, message: Message) -> None:
        try:
            ref = Address.parse(message.subject).ref
        except InvalidError:
            return
        honest = self._honest(message)
        if honest is None or honest.gone == "moved":
            return
        self.live.discard(ref)
        if honest.gone == "forgotten" and not honest.outlived:
            self.gone[ref] = max(message.sequence, self.gone.get(ref, 0))
            for edge in self._edges.get(ref, ()):
                if edge.pin < message.sequence:
                    self._find(edge.ref, f"made from {ref}")

    def _find(self, ref: Ref, why: str) -> None:
        """Take a memory among the found, with all that is known to be made from it."""
        waiting = [(ref, why)]
        while waiting:
            one, reason = waiting.pop()
            if one in self.found:
                continue
            self.found[one] = reason
            self._shown.update(self._results.get(one, ()))
            waiting += [
                (edge.ref, f"made from {one}")
                for edge in self._edges.get(one, ())
                if edge.ref not in self.found
            ]

    def _orphans(self) -> list[Ref]:
        """Results that the found showed, or that were made for them, and nothing else shows."""
        for ref, edges in self._edges.items():
            showers = [edge.ref for edge in edges if edge.shows]
            if showers:
                if not self.found.keys().isdisjoint(showers):
                    self._shown.add(ref)
                if self.found.keys() >= set(showers):
                    self._held.discard(ref)
        return [
            ref for ref in self._shown - self._held if ref not in self.found and ref in self.live
        ]


class Lineage(Kin):
    """The same on a board at the broker.

    Args:
        log: The board.
        selects: As for `Kin`.
        gone: As for `Kin`.
        shown: As for `Kin`.
    """

    def __init__(
        self,
        log: Log,
        selects: Callable[[Memory], bool],
        gone: Mapping[Ref, int] | None = None,
        shown: Iterable[Ref] = (),
    ) -> None:
        super().__init__(selects, gone, shown)
        self.log = log

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncIterator[Message]]:
        subject = f"mem.{self.log.board}.>"
        async with follow(self.log.connection, self.log.stream, subject, Start.all()) as follower:
            yield _until_caught_up(follower)

    def _honest(self, message: Message) -> Memory | None:
        return self.log.delivered(message)


async def _until_caught_up(follower: Follower) -> AsyncGenerator[Message]:
    while follower.pending:
        message = await follower.step()
        if message is not None:
            yield message
