"""`gather`: parts are collected in a record per group, and a complete group is merged exactly once.

An arrival is added to the record by compare-and-set and acknowledged when what follows from it is
done, so a crash in between is picked up by its redelivery. The merge commits with the digest of the
parts that it saw: who comes second finds it in the record, and a changed group has another digest.
Arrivals that meet at the same group in one process are added together, with one write.
"""

import inspect
import logging
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from blackboard.codec import canonical, content_hash, decode_record, encode_record
from blackboard.errors import ConflictError, GoneError, InvalidError, TooLargeError
from blackboard.jetstream import Durable
from blackboard.messages import MAX_PAYLOAD_BYTES, Memory
from blackboard.records import Cause, GroupRecord
from blackboard.runtime.declared import Handler
from blackboard.runtime.handling import CONFLICT_PAUSE_S, CONFLICT_TRIES, is_moved_copy
from blackboard.runtime.intake import Arrival
from blackboard.runtime.loop import ACK, SKIP, Verdict
from blackboard.runtime.parts import Groups, Parts
from blackboard.runtime.transaction import RECORD_S, Bench, Transaction
from blackboard.subjects import SHARED, Ref, claim_subject, consumer_name, derived_id
from blackboard.telemetry import BATCH_COUNT, HANDLER, MERGE

logger = logging.getLogger(__name__)

MAX_PARTS = 10_000


@dataclass(slots=True, eq=False)
class Entry:
    """An arrival at its group.

    Attributes:
        arrival: What arrived.
        removes: It takes its part away.
        verdict: Set when all that follows from it is done.
    """

    arrival: Arrival
    removes: bool
    verdict: Verdict | None = None


@dataclass(slots=True)
class Group:
    """A group with arrivals in this process."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: list[Entry] = field(default_factory=list[Entry])


@dataclass(slots=True)
class Kept:
    """A group's record as it lies on the board."""

    record: GroupRecord
    sequence: int
    stored: datetime | None = None


class Gathering:
    """The work of a `gather` handler on one arrival."""

    def __init__(self, bench: Bench, handler: Handler) -> None:
        self._bench = bench
        self._handler = handler
        self._log = bench.board.log
        self._parts = Parts(self._log, bench.reader)
        self._groups_of = Groups(self._log, bench.reader, handler)
        self._groups: defaultdict[str, Group] = defaultdict(Group)
        name = consumer_name(self._log.agent, handler.name)
        self._durable = Durable(self._log.connection, self._log.stream, name)

    async def work(self, arrival: Arrival) -> Verdict:
        """Add the memory to its group, or take it away, and merge the group if that completes it.

        Raises:
            TooLargeError: The group has more parts than one record holds.
            ConflictError: The group's record moved under it all the time.
            Exception: What `by`, `until` or the function raised.
        """
        memory = arrival.memory
        if memory.gone is None:
            head = await self._log.head(memory.ref)
            if head is None or head.revision > memory.revision:
                return SKIP  # what replaced it, or took it back, is on its way
            try:
                memory = await self._bench.reader.filled(memory)
            except GoneError:
                return SKIP
        before = await self._groups_of.before(memory)
        here = await self._groups_of.of(memory)
        verdict = SKIP
        if before is not None and before != here:
            verdict = await self._arrive(before, Entry(arrival, removes=True))
        if here is not None:
            self._bench.note(self._handler, memory)
            self._parts.keep(memory)
            verdict = await self._arrive(here, Entry(arrival, removes=False))
        return verdict

    async def _arrive(self, name: str, entry: Entry) -> Verdict:
        group = self._groups[name]
        group.waiting.append(entry)
        try:
            async with group.lock:
                if entry.verdict is None:
                    await self._lead(name, group.waiting[:])
        finally:
            group.waiting.remove(entry)
            if not group.waiting:
                del self._groups[name]
        return entry.verdict or ACK

    async def _lead(self, name: str, entries: list[Entry]) -> None:
        """Add all entries with one write, then do what follows."""
        for attempt in range(CONFLICT_TRIES * 4):
            try:
                kept = await self._add(name, entries)
                if kept is not None:
                    await self._complete(name, kept, entries, again=attempt > 0)
            except ConflictError:
                await anyio.sleep(random.uniform(0, CONFLICT_PAUSE_S * min(attempt, 5)))
                continue
            for entry in entries:
                entry.verdict = entry.verdict or ACK
            return
        raise ConflictError(f"group {name!r} of {self._handler.name}")

    def _subject(self, name: str) -> str:
        digest = derived_id(canonical([self._handler.name, name]))
        return claim_subject(self._log.board, SHARED, self._log.agent, f"g-{digest}")

    async def _read(self, name: str) -> Kept | None:
        message = await self._log.reads.last(self._subject(name))
        if message is None:
            return None
        try:
            record = decode_record(message.data, GroupRecord)
        except InvalidError:
            record = GroupRecord(run=0)
        return Kept(record, message.sequence, message.stored)

    async def _add(self, name: str, entries: list[Entry]) -> Kept | None:
        """Bring the entries into the record; None when a newer run has taken over."""
        kept = await self._read(name) or Kept(GroupRecord(run=0), 0)
        run = max(entry.arrival.run for entry in entries)
        before = kept.record
        if before.run > run:
            return None
        if before.run < run:
            before = GroupRecord(run=run, refs=before.refs)
        record = before
        for entry in entries:
            record = await self._with(record, entry)
        if record is before:
            return kept if kept.record is before else Kept(before, kept.sequence)
        check_size(name, record)
        message = self._log.record(
            self._subject(name), record, expected=kept.sequence, ttl_s=RECORD_S
        )
        return Kept(record, await self._bench.commits.send([message]))

    async def _with(self, record: GroupRecord, entry: Entry) -> GroupRecord:
        pinned = entry.arrival.memory.pinned
        parts = {part.unpinned: part for part in record.parts}
        part = parts.get(pinned.unpinned)
        if part is not None and (part.revision or 0) >= (pinned.revision or 0):
            return record
        if part is None and entry.removes:
            return record
        merged = record.merged
        if entry.removes:
            del parts[pinned.unpinned]
        else:
            parts[pinned.unpinned] = pinned
        after = tuple(parts.values())
        if (
            part is not None
            and not entry.removes
            and merged == digest(record.parts)
            and await is_moved_copy(self._log, pinned, part.revision or 0)
        ):
            merged = digest(after)  # only its label changed: the group is the same
        return GroupRecord(
            run=record.run, parts=after, last=pinned, merged=merged, refs=record.refs
        )

    async def _complete(self, name: str, kept: Kept, entries: list[Entry], *, again: bool) -> None:
        """Merge the group if it is time to; else say when to look again."""
        record = kept.record
        if not record.parts or record.merged == digest(record.parts):
            return
        last = next((e for e in entries if e.arrival.memory.pinned == record.last), None)
        until, memories = self._handler.until, None
        if not isinstance(until, int) or until <= len(record.parts):
            memories = await self._parts.fetch(record.parts)
        if memories is None or not await self._is_complete(memories):
            if self._handler.idle_s is None or last is None:
                return
            left_s = await self._left_s(kept, self._handler.idle_s)
            if left_s > 0:
                last.verdict = Verdict("nak", left_s)
                return
        if memories is None:
            memories = await self._parts.fetch(record.parts)
        if memories:
            cause = entries[-1] if last is None else last
            await self._merge(name, kept, memories, cause.arrival, again=again)

    async def _is_complete(self, memories: list[Memory]) -> bool:
        until = self._handler.until
        if until is None:
            return False
        if isinstance(until, int):
            return len(memories) >= until
        answer = until(list(memories))
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def _left_s(self, kept: Kept, idle_s: float) -> float:
        """Seconds until the group was idle for long enough, by the broker's clock alone."""
        if kept.stored is None:
            return idle_s
        info = await self._durable.info()
        if info is None or info.ts is None:
            return idle_s
        return idle_s - (info.ts - kept.stored).total_seconds()

    async def _merge(
        self, name: str, kept: Kept, memories: list[Memory], arrival: Arrival, *, again: bool
    ) -> None:
        record, handler = kept.record, self._handler
        cause = Cause(
            arrival.memory.pinned,
            self._log.agent,
            handler.name,
            self._bench.version,
            record.run,
        )
        known = again or bool(record.refs)
        transaction = Transaction(self._bench, handler, cause, memories, name, known=known)
        links = [memory.trace for memory in memories if memory.trace is not None]
        attributes = {HANDLER: handler.name, BATCH_COUNT: len(memories)}
        with self._log.telemetry.span(MERGE, attributes=attributes, links=links):
            value = await handler.function(list(memories), transaction.board)
        await transaction.returned(value)
        await transaction.retire_surplus(record.refs)
        merged = GroupRecord(
            run=record.run,
            parts=record.parts,
            last=record.last,
            merged=digest(record.parts),
            refs=transaction.outputs,
        )
        check_size(name, merged)
        await transaction.commit(self._subject(name), merged, kept.sequence)


def digest(parts: tuple[Ref, ...]) -> str:
    """Identifies a list of pinned parts."""
    return content_hash([str(part) for part in parts])


def check_size(name: str, record: GroupRecord) -> None:
    """Refuse a group that does not fit into one message.

    Raises:
        TooLargeError: It does not.
    """
    size = len(encode_record(record))
    if len(record.parts) > MAX_PARTS or size > MAX_PAYLOAD_BYTES:
        raise TooLargeError(
            f"group {name!r} has {len(record.parts)} parts and a record of {size} bytes; the "
            f"limits are {MAX_PARTS} and {MAX_PAYLOAD_BYTES}. Gather in two stages"
        )
