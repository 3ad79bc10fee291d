"""Reading one memory: the newest, a pinned revision, or as of a time, with its content filled in.

A memory may keep its content elsewhere: large content in chunks, and light memories in the result
that they show (`content_of`). Readers see the content either way.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio
import msgspec

from blackboard.blobs import load_blob
from blackboard.clock import check_moment
from blackboard.codec import Json, decode_content, encode_content, own_copy
from blackboard.draft import Draft
from blackboard.envelope import is_expired
from blackboard.errors import (
    BlackboardError,
    GoneError,
    HistoryGoneError,
    InvalidError,
    NotFoundError,
    RetryableError,
)
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.subjects import ONCE, Ref

logger = logging.getLogger(__name__)

RETRY_S = 0.25
LAST = datetime(2200, 1, 1, tzinfo=UTC)
"""The broker counts nanoseconds in 64 bits, which end in 2262."""
CACHED_RESULTS = 512
"""Results kept for light memories; they are pinned, so they cannot change."""
TRUSTED_S = 1.0
"""So long a kept result is shown without asking whether it was forgotten meanwhile."""


@dataclass(slots=True)
class Kept:
    """A result that is kept, and when it was last seen on the board."""

    access: str
    content: Json
    seen: float


class Reader:
    """Reads of one board, with a cache of the results that light memories show."""

    def __init__(self, log: Log, draft: Draft | None = None) -> None:
        self._log = log
        self._head = log.head if draft is None else draft.head
        self._results: OrderedDict[Ref, Kept] = OrderedDict()

    def through(self, draft: Draft) -> "Reader":
        """A reader that sees what a draft holds, over the same cache."""
        reader = Reader(self._log, draft)
        reader._results = self._results
        return reader

    async def newest(self, ref: Ref) -> Memory:
        """The newest revision, with content.

        Raises:
            NotFoundError: Never written, or expired.
            GoneError: Retired, forgotten or moved; or the result that it shows is.
        """
        memory = await self._head(ref)
        if memory is None or is_expired(memory):
            raise NotFoundError(f"no memory {str(ref)!r} on board {self._log.board!r}")
        if memory.gone is not None:
            raise GoneError(str(ref), memory.gone)
        return await self.filled(memory)

    async def pinned(self, ref: Ref) -> Memory:
        """The revision that a reference pins, with content.

        Raises:
            NotFoundError: The memory was never written, or expired.
            GoneError: It was forgotten, or the revision is itself a tombstone.
            HistoryGoneError: The revision is not kept any more.
        """
        return await self.filled(await self.unfilled(ref))

    async def unfilled(self, ref: Ref) -> Memory:
        """The revision that a reference pins, as it is stored; raises as `pinned` does."""
        head = await self._head(ref)
        if head is None or is_expired(head):
            raise NotFoundError(f"no memory {str(ref.unpinned)!r} on board {self._log.board!r}")
        if head.gone == "forgotten":
            raise GoneError(str(ref), "forgotten")
        memory = head if _is_pin(head, ref) else await self._revision(ref)
        if memory is None:
            raise HistoryGoneError(
                f"revision {ref.revision} of {str(ref.unpinned)!r} is not kept; "
                f"the newest is {head.revision}"
            )
        if memory.gone is not None:
            raise GoneError(str(ref), memory.gone)
        return memory

    async def _revision(self, ref: Ref) -> Memory | None:
        wanted = ref.revision or 0
        memory = await self._log.at_sequence(wanted, ref)
        if memory is not None and memory.origin is None:
            return memory
        # A copy keeps its references, so a pin names the sequence on the board it came from.
        sequence = 0
        while (memory := await self._log.next_after(sequence + 1, ref)) is not None:
            if _is_pin(memory, ref):
                return memory
            sequence = memory.revision
        return None

    async def at(self, ref: Ref, time: datetime) -> Memory:
        """The revision that was the newest at a time (inclusive), with content.

        Raises:
            NotFoundError: There was none yet.
            GoneError: It was a tombstone then, or was forgotten since.
            HistoryGoneError: What was there then is not kept any more.
        """
        check_moment("at", time)
        head = await self._head(ref)
        if head is None or is_expired(head):
            raise NotFoundError(f"no memory {str(ref)!r} on board {self._log.board!r}")
        if head.gone == "forgotten":
            raise GoneError(str(ref), "forgotten")
        # The broker reads before a time, in nanoseconds; ours are microseconds, rounded down.
        until = min(time, LAST).astimezone(UTC) + timedelta(microseconds=1)
        memory = await self._log.before(until, ref)
        if memory is None:
            first = await self._log.next_after(1, ref)
            since = "" if first is None or first.stored is None else f" before {first.stored}"
            raise HistoryGoneError(f"nothing is kept of {str(ref)!r}{since}")
        if memory.gone is not None:
            raise GoneError(str(ref), memory.gone)
        return await self.filled(memory)

    async def filled(self, memory: Memory) -> Memory:
        """The same memory with its content filled in from where it lies.

        Raises:
            GoneError: What it shows, or a chunk of it, is gone.
            InvalidError: It shows something it may not: only results of `once` under its own label.
        """
        if memory.blob is not None:
            body = await load_blob(self._log, memory.access, memory.blob, str(memory.ref))
            return msgspec.structs.replace(memory, content=decode_content(body))
        if memory.content_of is not None and memory.gone is None:
            content = await self._result(memory.content_of, memory.access)
            return msgspec.structs.replace(memory, content=content)
        return memory

    async def shown(self, memory: Memory) -> Memory | None:
        """The memory with content, waiting for the broker; None when what it shows is gone.

        For readers of a stream, who cannot be told of an error in the middle of it.
        """
        while True:
            try:
                return await self.filled(memory)
            except RetryableError as error:
                logger.debug("reader.waiting", extra={"error": str(error)})
                await anyio.sleep(RETRY_S)
            except BlackboardError as error:
                logger.debug("reader.skipped", extra={"ref": str(memory.ref), "error": str(error)})
                return None

    async def _result(self, target: Ref, access: str) -> Json:
        check_target(target)
        kept = self._results.get(target)
        if kept is None:
            result = await self.pinned(target)
            kept = Kept(result.access, result.content, anyio.current_time())
            if result.blob is None:
                self.keep(target, result.access, result.content)
        elif anyio.current_time() - kept.seen > TRUSTED_S:
            # It cannot have changed, but it may have been forgotten.
            await self._still(target, kept)
        check_label(target, kept.access, access)
        return own_copy(kept.content)

    async def _still(self, target: Ref, kept: "Kept") -> None:
        try:
            await self.unfilled(target)
        except (GoneError, NotFoundError, HistoryGoneError):
            self._results.pop(target, None)
            raise
        kept.seen = anyio.current_time()

    async def check_shown(self, target: Ref, access: str) -> None:
        """Make sure that a memory under a label may show a target.

        Raises:
            GoneError: It is gone.
            NotFoundError: It is not there.
            InvalidError: It is no pinned result of `once`, or lies under another label.
        """
        check_target(target)
        kept = self._results.get(target)
        there = (await self.unfilled(target)).access if kept is None else kept.access
        check_label(target, there, access)

    async def is_shown(self, content: Json, target: Ref) -> bool:
        """Whether content (as `to_json` returns it) is that of the result a memory shows."""
        check_target(target)
        kept = self._results.get(target)
        shown = (await self.pinned(target)).content if kept is None else kept.content
        return content is shown or encode_content(content) == encode_content(shown)

    def keep(self, ref: Ref, access: str, content: Json) -> None:
        """Remember the content of a pinned result; the caller may change its own afterwards."""
        self._results[ref] = Kept(access, own_copy(content), anyio.current_time())
        self._results.move_to_end(ref)
        if len(self._results) > CACHED_RESULTS:
            self._results.popitem(last=False)


def check_target(target: Ref) -> None:
    """Refuse what no memory may show."""
    if target.topic.split(".")[0] != ONCE or target.revision is None:
        raise InvalidError(f"{target} cannot be shown: it is no pinned result of `once`")


def check_label(target: Ref, there: str, access: str) -> None:
    """Refuse to show a result under another label than its own."""
    if there != access:
        raise InvalidError(f"{target} cannot be shown under {access!r}: it is under another label")


def _is_pin(memory: Memory, ref: Ref) -> bool:
    if memory.origin is None:
        return memory.revision == ref.revision
    parts = memory.origin.split("/")
    return len(parts) == 3 and parts[1] == str(ref.revision)
