"""The parts of groups: which group a memory belongs to, and its content, kept while of use."""

import inspect
from collections import OrderedDict

import anyio
import msgspec
from anyio import CapacityLimiter

from blackboard.codec import encode_content, own_copy
from blackboard.envelope import is_expired
from blackboard.errors import GoneError, HistoryGoneError, NotFoundError
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.runtime.declared import Handler
from blackboard.subjects import Ref
from blackboard.telemetry import GROUPLESS

FETCHES = 16
KEPT_BYTES = 64 * 1024 * 1024
OVERHEAD_BYTES = 1024
"""What a memory takes beside its content."""


class Parts:
    """Pinned memories with content, in a cache bounded by size: a pin never changes."""

    def __init__(self, log: Log, reader: Reader) -> None:
        self._log = log
        self._reader = reader
        self._kept: OrderedDict[Ref, tuple[Memory, int]] = OrderedDict()
        self._bytes = 0

    def keep(self, memory: Memory) -> None:
        """Remember a memory with its content."""
        pinned = memory.pinned
        if pinned in self._kept:
            self._kept.move_to_end(pinned)
            return
        content = memory.content
        size = len(content) if isinstance(content, str) else len(encode_content(content))
        self._kept[pinned] = (memory, size + OVERHEAD_BYTES)
        self._bytes += size + OVERHEAD_BYTES
        while self._bytes > KEPT_BYTES:
            _, (_, left) = self._kept.popitem(last=False)
            self._bytes -= left

    async def fetch(self, parts: tuple[Ref, ...]) -> list[Memory]:
        """The memories, in order; those that expired or are gone by now are left out."""
        found: dict[Ref, Memory] = {}
        limiter = CapacityLimiter(FETCHES)

        async def fetch(part: Ref) -> None:
            async with limiter:
                try:
                    found[part] = await self._reader.pinned(part)
                except (NotFoundError, GoneError, HistoryGoneError):
                    return
            self.keep(found[part])

        missing: list[Ref] = []
        for part in parts:
            kept = self._kept.get(part)
            if kept is None:
                missing.append(part)
            else:
                found[part] = kept[0]
                self._kept.move_to_end(part)
        async with anyio.create_task_group() as group:
            for part in missing:
                group.start_soon(fetch, part)
        there = [found[part] for part in parts if part in found and not is_expired(found[part])]
        # Whoever gets them may change them, and what is kept is given to others.
        return [msgspec.structs.replace(part, content=own_copy(part.content)) for part in there]


class Groups:
    """Which group a memory belongs to, and which one it belonged to before."""

    def __init__(self, log: Log, reader: Reader, handler: Handler) -> None:
        self._log = log
        self._reader = reader
        self._handler = handler

    async def of(self, memory: Memory) -> str | None:
        """The group of a memory with content; None, counted, when it has none."""
        if memory.gone is not None or not self._handler.tags.items() <= memory.tags.items():
            return None
        group = await self._value(memory)
        if group is None:
            self._log.telemetry.count(GROUPLESS)
        return group

    async def _value(self, memory: Memory) -> str | None:
        by = self._handler.by
        if not isinstance(by, str):
            group = by(memory)
            return await group if inspect.isawaitable(group) else group
        if by.startswith("tags."):
            return memory.tags.get(by.removeprefix("tags."))
        return getattr(memory, by)

    async def before(self, memory: Memory) -> str | None:
        """The group of the revision before, if there is one."""
        ref = memory.ref.unpinned
        found: Memory | None = None
        sequence = 0
        while True:
            step = await self._log.next_after(sequence + 1, ref)
            if step is None or step.revision >= memory.revision:
                break
            sequence = step.revision
            found = step if step.gone is None else found
        if found is None or not self._handler.tags.items() <= found.tags.items():
            return None
        try:
            return await self._value(await self._reader.filled(found))
        except GoneError:
            return None
