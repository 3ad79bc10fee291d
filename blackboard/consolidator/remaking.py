"""Making a summary again of which a source was forgotten, without that one.

What was made from a forgotten memory goes with it, summaries included. What else went into one is
retired, and would be lost with it when the grace is over. So another is made from what is left, in
one atomic batch: the old one goes if it is still there, the new one comes, and each source that was
retired is so for the new one. What it was retired for stands on its tombstone, so it is found after
a restart too, when nothing but its tombstone is left of the old one.

A source that is forgotten meanwhile stays so, and is in no summary: the batch is refused then.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from blackboard.codec import canonical
from blackboard.consolidator.bench import Bench, Hold
from blackboard.consolidator.drafting import Draft, draft
from blackboard.consolidator.groups import AGENT, Key, Orphan, key_of
from blackboard.consolidator.writers import Writer
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, TerminalError
from blackboard.jetstream import Outgoing
from blackboard.messages import CONDENSED, Memory
from blackboard.subjects import Ref, derived_id

logger = logging.getLogger(__name__)

TRIES = 5


class Survivor(NamedTuple):
    """A source that is left.

    Attributes:
        memory: As it was condensed, with its content.
        head: The revision of its tombstone; None where it was not retired.
    """

    memory: Memory
    head: int | None


async def remake(bench: Bench, hold: Hold, writer: Writer) -> list[Ref]:
    """Make again what was forgotten, or has to be, of a group that is held.

    Returns:
        The new summaries.

    Raises:
        BlackboardError: It could not be done; it will be found again.
    """
    groups = bench.groups
    made: list[Ref] = []
    for _ in range(TRIES):
        orphans = {
            summary: Orphan(hold.key, tuple(one.unpinned for one in groups.summaries[summary]), 0)
            for summary in groups.tainted
            if groups.group_of(summary) == hold.key
        }
        orphans |= {old: one for old, one in groups.orphans.items() if one.key == hold.key}
        if not orphans:
            break
        for old, orphan in orphans.items():
            try:
                made += await _Remaking(bench, hold, writer, old, orphan).run()
            except ConflictError:
                logger.info("board %s: what is left of %s changed", bench.desk.log.board, old)
        await bench.catch_up()
    return made


class _Remaking:
    """The work on what is left of one summary."""

    def __init__(self, bench: Bench, hold: Hold, writer: Writer, old: Ref, orphan: Orphan) -> None:
        self._bench = bench
        self._log = bench.desk.log
        self._hold = hold
        self._writer = writer
        self._old = old
        self._orphan = orphan

    async def run(self) -> list[Ref]:
        """Put what takes its place: one for each group, where not more than the topic is known."""
        left: dict[Key, list[Survivor]] = {}
        for source in self._orphan.sources:
            survivor = await self._survivor(source)
            if survivor is not None:
                left.setdefault(key_of(survivor.memory), []).append(survivor)
        head = await self._log.head(self._old)
        if head is not None and head.gone == "retired":
            left.clear()  # somebody took it back on purpose, and with it its sources
        made: list[Ref] = []
        for key, survivors in left.items():
            survivors.sort(key=lambda one: one.memory.revision)
            memories = [one.memory for one in survivors]
            policy = self._bench.groups.rules.of(key.topic)
            drafted = await draft(self._writer, key, memories, policy)
            if drafted is not None:
                made.append(await self._put(key, drafted, survivors, head))
                head = None
        if head is not None and head.gone is None:
            await self._store([self._cover(head)], [])
        self._bench.groups.orphans.pop(self._old, None)
        return made

    async def _survivor(self, source: Ref) -> Survivor | None:
        """A source as it was condensed; None where it is gone, revised, or in another summary."""
        head = await self._log.head(source)
        if head is None or is_expired(head):
            return None
        memory: Memory | None = None
        if head.gone == "retired" and head.reason == CONDENSED + str(self._old):
            memory = await self._log.content_before(head.revision, source)  # None behind the grace
        elif head.gone is None and self._is_free(head):
            memory = head
        if memory is None:
            return None
        try:
            full = await self._bench.desk.reader.filled(memory)
        except TerminalError as error:
            logger.info("board %s: %s is left out: %s", self._log.board, source, error)
            return None
        return Survivor(full, None if memory is head else head.revision)

    def _is_free(self, live: Memory) -> bool:
        groups = self._bench.groups
        name = live.ref.unpinned
        return name not in groups.undone and groups.covering(live.pinned) <= {self._old}

    async def _put(
        self, key: Key, drafted: Draft, survivors: Sequence[Survivor], head: Memory | None
    ) -> Ref:
        """Store a summary with all that goes with it, all or none.

        Raises:
            ConflictError: Something is not what was read; nothing was stored.
        """
        # A name of its own: what a receipt says is gone does not come back.
        named = [AGENT, str(self._old), key.access, key.topic, key.session, key.user]
        born = drafted.memory.sources[0]
        ref = Ref(AGENT, key.topic, derived_id(canonical(["again", *named, str(born)])))
        writes = [] if head is None or head.gone is not None else [self._cover(head)]
        writes.append(
            Write(ref=ref, access=key.access, agent=AGENT, expected=0, memory=drafted.memory)
        )
        place = len(writes) - 1
        guards: list[Outgoing] = []
        for number, one in enumerate(survivors):
            if one.head is None:
                guards.append(self._hold.guard(f"s-{ref.id}-{number}", one.memory.pinned))
            else:
                writes.append(_tombstone(one, ref))
        revisions = await self._store(writes, guards)
        self._bench.note(ref, drafted, revisions[place])
        self._bench.outcome.remade += 1
        return ref

    async def _store(self, writes: Sequence[Write], guards: Sequence[Outgoing]) -> list[int]:
        revisions: list[int] = []

        async def store(renewal: Outgoing) -> int:
            nonlocal revisions
            revisions = await self._log.append_many(writes, [renewal, *guards])
            return revisions[-1] + 1

        await self._hold.commit(store)
        await self._bench.reached(revisions[-1])
        return revisions

    def _cover(self, head: Memory) -> Write:
        return Write(
            ref=self._old,
            access=head.access,
            agent=AGENT,
            expected=head.revision,
            gone="forgotten",
            reason="made from what was forgotten",
        )


def _tombstone(survivor: Survivor, summary: Ref) -> Write:
    memory = survivor.memory
    return Write(
        ref=memory.ref.unpinned,
        access=memory.access,
        agent=memory.agent,
        expected=survivor.head or 0,
        gone="retired",
        reason=CONDENSED + str(summary),
        by=AGENT,
    )
