"""What is about to go by the retention policy: gathered, and taken away with the record of it.

Tombstones, the order to erase what is personal, and the tally of both are one atomic batch. So a
steward that is killed has done all of it or nothing, nothing is counted twice, and of two stewards
only one succeeds.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import msgspec

from blackboard import clock
from blackboard.envelope import Write
from blackboard.errors import ConflictError, UnavailableError
from blackboard.jetstream import Outgoing, Start, follow
from blackboard.journal import Journal
from blackboard.lineage import gist_of
from blackboard.log import Log
from blackboard.messages import OUTLIVED, Memory
from blackboard.receipts import Order
from blackboard.retention import Removed, Retention, Rule, Tally, tally_subject
from blackboard.session import Desk
from blackboard.subjects import CONSOLIDATOR, Pattern, Ref, order_subject

logger = logging.getLogger(__name__)

BATCH = 500
"""Tombstones in one batch."""
ORDER_BYTES = 256 * 1024
"""Of references in one order; it is a message, of at most 1 MiB."""
ORDER_S = 300.0
"""How long an order may take before the next has to wait for another look."""
POLL_S = 0.2
SOON = timedelta(minutes=1)
"""What ends so soon is left to end: clocks differ."""
TRIES = 8
REASON = OUTLIVED + "over the age or the number that the board's policy allows"


@dataclass(frozen=True, slots=True)
class Due:
    """A memory that has to go: by which rule, and at which revision it was looked at."""

    ref: Ref
    rule: Rule
    revision: int
    head: Memory


class Departure:
    """What goes from one board.

    Args:
        desk: The steward's place.
        policy: In force.
        now: The time, to be held against the broker's stamps.
    """

    def __init__(self, desk: Desk, policy: Retention, now: Callable[[], datetime]) -> None:
        self.policy = policy
        self._now = now
        self.tally = Tally()
        self._log: Log = desk.log
        self._journal: Journal = desk.journal
        self._subject = tally_subject(desk.log.board, desk.log.agent)
        self._sequence = 0
        self._personal: dict[Ref, Due] = {}
        self._bytes = 0
        self._others: dict[Ref, Due] = {}
        self._asked: dict[Ref, Due] = {}
        self._ended: Counter[str] = Counter()

    async def begin(self) -> None:
        """Read how far it was come; from the start again when the policy is another by now."""
        found, self._sequence = await self._log.record_at(self._subject, Tally)
        tally = found or Tally()
        if tally.policy != self.policy.digest:
            keys = {rule.key for rule in self.policy.rules}
            kept = {key: value for key, value in tally.removed.items() if key in keys}
            tally = Tally(policy=self.policy.digest, removed=kept)
        self.tally = tally

    @property
    def full(self) -> bool:
        """Whether it is time to take away what was gathered."""
        return len(self._others) + len(self._asked) >= BATCH or self._bytes >= ORDER_BYTES

    def add(self, due: Due, *, summarised: bool = False) -> None:
        """Gather a memory, unless its priority keeps it.

        Args:
            due: The memory.
            summarised: A summary is known to stand for it.
        """
        head, rule = due.head, due.rule
        if self.policy.shields(head.access, head.priority):
            return
        if self.policy.is_personal(head.access):
            self._bytes += 0 if due.ref in self._personal else len(str(due.ref)) + 3
            self._personal[due.ref] = due
        elif rule.before == "summarise" and not summarised:
            self._asked[due.ref] = due
        elif head.expires is not None and head.expires <= self._now() + SOON:
            self._ended[rule.key] += 1  # readers do not see it any more; the broker drops it
        else:
            self._others[due.ref] = due

    async def leave(self, positions: Mapping[str, int]) -> int:
        """Take away what was gathered, and note how far the board was looked at.

        Returns:
            How many memories the steward took away.

        Raises:
            ConflictError: Another steward does the same, or something is written all the time.
            UnavailableError: The broker does not answer; all of it is done or nothing.
        """
        others = {**self._others, **await self._summarised()}
        personal, ended = dict(self._personal), Counter(self._ended)
        if personal:
            await self._worked_off()
        for attempt in range(TRIES):
            tally = self._counted(positions, [*others.values(), *personal.values()], ended)
            if tally == self.tally:
                break
            try:
                await self._send(others.values(), personal, tally)
            except ConflictError:
                _, sequence = await self._log.record_at(self._subject, Tally)
                if sequence != self._sequence or attempt == TRIES - 1:
                    raise
                others = await self._again(others)
            else:
                break
        for gathered in (self._personal, self._others, self._asked, self._ended):
            gathered.clear()
        self._bytes = 0
        return len(others) + len(personal)

    async def _worked_off(self) -> None:
        """Wait until the last order is: orders are held by those who work them off.

        Raises:
            UnavailableError: It is not for long.
        """
        if not self.tally.order:
            return
        subject = order_subject(self._log.board, self._log.agent, self.tally.order)
        with anyio.move_on_after(ORDER_S):
            while await self._log.reads.last(subject):  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(POLL_S)
            return
        raise UnavailableError(
            f"order {self.tally.order} is not worked off; what else is personal waits for it"
        )

    async def _send(self, others: Iterable[Due], personal: Mapping[Ref, Due], tally: Tally) -> None:
        log = self._log
        writes = [_tombstone(due, log.agent) for due in others]
        records: list[Outgoing] = []
        if personal:
            order = Order(
                id=uuid.uuid4().hex,
                agent=log.agent,
                at=clock.now(),
                reason=REASON,
                refs=tuple(personal),
            )
            subject = order_subject(log.board, log.agent, order.id)
            records.append(log.record(subject, order, expected=0, ttl_s=None))
            tally = msgspec.structs.replace(tally, order=order.id)
        records.append(log.record(self._subject, tally, expected=self._sequence, ttl_s=None))
        revisions = await log.append_many(writes, records)
        # The record is the last of the batch; without a tombstone nobody said where that is.
        last = revisions[-1] + len(records) if revisions else 0
        self._sequence = last or (await log.record_at(self._subject, Tally))[1]
        self.tally = tally
        for write, revision in zip(writes, revisions, strict=True):
            self._journal.audit("retire", str(write.ref), revision=revision)
        logger.info(
            "board %s: %d retired and %d ordered to be erased by the retention policy",
            log.board,
            len(writes),
            len(personal),
        )

    def _counted(
        self, positions: Mapping[str, int], taken: Sequence[Due], ended: Mapping[str, int]
    ) -> Tally:
        removed = dict(self.tally.removed)
        by_rule = Counter(due.rule.key for due in taken)
        for key in by_rule.keys() | ended.keys():
            before = removed.get(key, Removed())
            removed[key] = Removed(
                before.ended + ended.get(key, 0), before.removed + by_rule.get(key, 0)
            )
        return msgspec.structs.replace(
            self.tally, positions={**self.tally.positions, **positions}, removed=removed
        )

    async def _again(self, others: Mapping[Ref, Due]) -> dict[Ref, Due]:
        """The same as they are now, without what is gone, or is not what was summarised."""
        found: dict[Ref, Due] = {}
        for ref, due in others.items():
            head, tip = await self._log.look(ref)
            if head is None or head.gone is not None:
                continue
            if due.rule.before == "summarise" and head.revision != due.head.revision:
                continue
            found[ref] = Due(ref, due.rule, tip, head)
        return found

    async def _summarised(self) -> dict[Ref, Due]:
        """Those that were to be summarised first, and are: a live summary names that revision."""
        places = {(due.head.access, ref.topic) for ref, due in self._asked.items()}
        found: dict[Ref, Due] = {}
        for access, topic in places:
            subject = Pattern(topic).subject(self._log.board, access=access, agent=CONSOLIDATOR)
            async with follow(
                self._log.connection, self._log.stream, subject, Start.newest()
            ) as follower:
                while follower.pending:
                    message = await follower.step()
                    known = None if message is None else gist_of(message)
                    if known is None or known[1].kind != "summary" or known[0].gone is not None:
                        continue
                    for source in known[1].sources:
                        due = self._asked.get(source.unpinned)
                        if due is not None and due.head.revision == source.revision:
                            found[due.ref] = due
        return found


def _tombstone(due: Due, by: str) -> Write:
    return Write(
        ref=due.ref,
        access=due.head.access,
        agent=due.head.agent,
        expected=due.revision,
        gone="retired",
        reason=REASON,
        by=by,
    )
