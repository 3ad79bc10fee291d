"""What arrives with a forgotten source: forgotten at once.

A handler that had its input in hand when that was forgotten puts its output afterwards, and a copy
may be imported years later. So once something was forgotten, the bodies of the board are read as
they come. How far is noted on the board, so nothing passes while no steward runs.
"""

import logging
import uuid
from collections import deque
from collections.abc import Mapping

import anyio
import msgspec

from blackboard import clock
from blackboard.background import background
from blackboard.errors import BlackboardError, ConflictError, InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.lineage import Gist, gist_of, is_forgotten
from blackboard.messages import Memory
from blackboard.receipts import MAX_REFS, Order
from blackboard.records import Cause
from blackboard.session import Desk
from blackboard.steward.burial import Burial
from blackboard.steward.tombstones import Tombstones
from blackboard.subjects import FORGET, ONCE, Ref, blob_stream, claim_subject, order_subject

logger = logging.getLogger(__name__)

BATCH = 1_000
"""Messages of one atomic batch, in which a memory may come before its source."""
CHUNK = 100
"""Memories that are buried together, where so many come."""
NOT_YET = 1 << 62
"""In the place of the revision of a tombstone that is still to be written."""
KEPT = 2_000
"""Messages after which it is noted how far the board was read."""
QUIET_S = 2.0
"""What arrives within this time is ordered together."""
REASON = "made from what was forgotten"


class Position(msgspec.Struct, frozen=True):
    """How far the board was read for this."""

    revision: int


class Arrivals:
    """The arrivals on one board.

    Args:
        desk: The steward's place.
        tombstones: Know what was forgotten.
    """

    def __init__(self, desk: Desk, tombstones: Tombstones) -> None:
        self._log = desk.log
        self._tombstones = tombstones
        self._burial = Burial(desk.log, desk.journal, tombstones.unsure)
        self._subject = claim_subject(desk.log.board, FORGET, desk.log.agent, "p-arrivals")
        self._recent: deque[tuple[Memory, Gist]] = deque(maxlen=BATCH)
        self._buried: dict[Ref, None] = {}
        self._shown: dict[Ref, None] = {}
        self._sequence = 0
        self._noted = 0
        self._position = 0
        self._seen = 0
        self._doomed: dict[Ref, None] = {}
        self._begin: int | None = None
        self._inherited = 0
        self._scope: anyio.CancelScope | None = None
        self._progress = anyio.Event()

    async def rewind(self, revision: int, until: int) -> None:
        """Read again what was stored behind a revision, and wait until that is done.

        For what was taken to be forgotten meanwhile: what was made from it may have passed before
        anybody knew.

        Args:
            revision: Where to begin.
            until: The revision to come to.
        """
        self._begin = revision if self._begin is None else min(revision, self._begin)
        self._position = min(self._position, revision)
        if self._scope is not None:
            self._scope.cancel()
        while self._position < until:
            await self._progress.wait()

    async def run(self) -> None:
        """Read what comes, as soon as anything was forgotten; never returns.

        Raises:
            BlackboardError: The board is gone, or the broker refuses.
        """
        gone = self._tombstones.forgotten
        await self._tombstones.caught_up.wait()
        while not gone:
            await self._tombstones.news()
        record, self._sequence = await self._log.record_at(self._subject, Position)
        self._noted = min(gone.values()) if record is None else record.revision
        # What an earlier steward buried and did not come to order is ordered now.
        self._inherited = max(gone.values())
        if self._begin is None:
            self._begin = self._noted
        async with background() as group:
            group.start_soon(self._keep_ordering)
            while True:
                begin, self._begin = self._begin or 0, None
                self._position = self._seen = begin
                await self._follow(begin, gone)

    async def _follow(self, begin: int, gone: dict[Ref, int]) -> None:
        """Read on from a revision until told to go back."""
        start = Start.after(begin) if begin else Start.all()
        subject = f"mem.{self._log.board}.>"
        async with follow(self._log.connection, self._log.stream, subject, start) as follower:
            while self._begin is None:
                message: Message | None = None
                # Only the waiting is interrupted: what is being forgotten is finished.
                with anyio.CancelScope() as self._scope:
                    message = await follower.step()
                self._scope = None
                if message is not None:
                    self._take(message, gone)
                if message is None or not follower.pending or len(self._doomed) >= CHUNK:
                    await self._bury(gone)
                if message is not None and self._begin is None:
                    self._seen = message.sequence
                if not self._doomed and self._begin is None:
                    self._position = self._seen
                    self._advance()
                if message is None or self._position - self._noted >= KEPT:
                    await self._note()

    def _advance(self) -> None:
        self._progress.set()
        self._progress = anyio.Event()

    def _take(self, message: Message, gone: dict[Ref, int]) -> None:
        if "Bb-Gone" in message.headers:
            tombstone = self._log.delivered(message)
            if tombstone is None or tombstone.outlived:
                return
            if tombstone.gone == "forgotten":
                ref = tombstone.ref.unpinned
                if gone.get(ref, 0) != NOT_YET:
                    gone[ref] = max(gone.get(ref, 0), tombstone.revision)
                if tombstone.reason == REASON and tombstone.revision <= self._inherited:
                    self._buried[ref] = None
            return
        known = gist_of(message)
        if known is None:
            return
        memory, gist = known
        self._recent.append((memory, gist))
        if _is_made_for(memory, gone):
            self._shown[memory.ref.unpinned] = None
        if any(is_forgotten(source, memory, gone) for source in gist.made_from):
            self._doom(memory.ref.unpinned, gone)

    def _doom(self, ref: Ref, gone: dict[Ref, int]) -> None:
        """Take a memory for forgotten, and what of its batch was made from it."""
        waiting = [ref]
        while waiting:
            one = waiting.pop()
            self._doomed[one] = None
            gone[one] = NOT_YET
            waiting += [
                other.ref.unpinned
                for other, gist in self._recent
                if other.ref.unpinned not in gone
                and any(source.revision is None and source == one for source in gist.sources)
            ]

    async def _bury(self, gone: dict[Ref, int]) -> None:
        """Bury all that was taken for forgotten."""
        while self._doomed:
            refs = list(self._doomed)[:CHUNK]
            graves = [await self._burial.look(ref) for ref in refs]
            self._buried.update(dict.fromkeys(refs))
            self._shown.update(dict.fromkeys(one for grave in graves for one in grave.shown))
            blobs = {blob for grave in graves for blob in grave.blobs}
            blobs -= await self._burial.named_by_others(blobs, refs)
            # All that only the memory tells of comes before its tombstone, which takes it away.
            if self._shown:
                await self._order()
            chunks = await self._burial.chunks(blobs)
            await self._burial.erase(blob_stream(self._log.board), chunks, REASON)
            # Those that moved meanwhile are looked at again.
            for ref, tombstone in (await self._burial.cover(graves, REASON)).items():
                gone[ref] = tombstone
                self._doomed.pop(ref, None)
            logger.debug("board %s: %d memories were %s", self._log.board, len(refs), REASON)

    async def _note(self) -> None:
        """Note how far the board was read; what was buried up to here is ordered before."""
        revision = self._position
        if revision <= self._noted:
            return
        await self._order()
        message = self._log.record(
            self._subject, Position(revision), expected=self._sequence, ttl_s=None
        )
        try:
            self._sequence = await self._log.send([message])
        except ConflictError:
            # Another steward reads as well.
            _, self._sequence = await self._log.record_at(self._subject, Position)
        self._noted = revision

    async def _keep_ordering(self) -> None:
        while True:
            await anyio.sleep(QUIET_S)
            try:
                await self._order()
            except BlackboardError as error:
                logger.warning("board %s: %s", self._log.board, error)

    async def _order(self) -> None:
        """Have the other stores emptied of what was buried, with a receipt for it."""
        refs, shown = tuple(self._buried)[:MAX_REFS], tuple(self._shown)[:MAX_REFS]
        if not refs and not shown:
            return
        order = Order(
            id=uuid.uuid4().hex,
            agent=self._log.agent,
            at=clock.now(),
            reason=REASON,
            refs=refs,
            shown=shown,
        )
        subject = order_subject(self._log.board, self._log.agent, order.id)
        await self._log.send([self._log.record(subject, order, expected=0, ttl_s=None)])
        for ref in refs:
            self._buried.pop(ref, None)
        for ref in shown:
            self._shown.pop(ref, None)


def _is_made_for(memory: Memory, gone: Mapping[Ref, int]) -> bool:
    """Whether a result of `once` was made by a handler for an input that is forgotten."""
    if memory.cause is None or memory.topic.split(".")[0] != ONCE:
        return False
    try:
        return is_forgotten(Cause.parse(memory.cause).input, memory, gone)
    except InvalidError:
        return False
