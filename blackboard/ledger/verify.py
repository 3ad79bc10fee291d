"""Proves a ledger: the chain itself, and that what it speaks of is still there and unchanged.

Three streams are read side by side, each once: the chain, the agents' journals that it pins, and
the broker's record of reads that it counts. Those two keep less long than the chain, so what is
missing at their beginning is no finding when they were allowed to drop it.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import msgspec

from blackboard import clock
from blackboard.errors import NotFoundError
from blackboard.jetstream import Connection, Start, StreamInfo, follow
from blackboard.ledger.compared import Compared
from blackboard.ledger.items import Gap, Journal, Read
from blackboard.ledger.links import Finding, Links
from blackboard.ledger.receipt import Receipt
from blackboard.ledger.record import Record
from blackboard.ledger.source import Group, batch_of
from blackboard.ledger.streams import ledger_stream, ledger_subject, reads_stream, reads_subject
from blackboard.subjects import audit_stream, audit_subject

LATE = timedelta(minutes=1)
"""A read that is in no record for so long is one that no steward takes up."""


class Verified(msgspec.Struct, kw_only=True):
    """What a ledger proves.

    Attributes:
        records: How many there are.
        first: Number of the oldest; those before were signed away.
        last: Number of the newest.
        signed: The newest that a checkpoint in the chain vouches for.
        key: The board's public key.
        reads: Direct gets that are in the chain and in the broker's record alike.
        journals: Batches of agents that are as they were.
        dropped: Reads and batches that their streams were allowed to drop.
        gaps: What the chain itself says is missing.
        findings: What is wrong; empty when all is proved.
        checkpoint: The newest signed word in the chain, to be held against the ledger later.
    """

    board: str
    records: int = 0
    first: int = 0
    last: int = 0
    signed: int = 0
    checkpoints: int = 0
    key: str | None = None
    reads: int = 0
    journals: int = 0
    dropped: int = 0
    waiting: int = 0
    gaps: list[str] = []
    findings: list[Finding] = []
    checkpoint: Receipt | None = None


async def verify(
    connection: Connection,
    board: str,
    *,
    key: str | None = None,
    receipts: Sequence[Receipt] = (),
    now: datetime | None = None,
) -> Verified:
    """Walk a board's ledger and say precisely what is wrong with it.

    Args:
        connection: May read all streams of the board.
        board: The board's name.
        key: The board's public key as its owner knows it; None believes the chain's first word.
        receipts: Signed words about earlier ends of the chain, from outside of the broker.
        now: The time; None asks the clock.

    Raises:
        NotFoundError: The board has no ledger.
        UnavailableError: The broker does not answer.
    """
    info = await connection.stream(ledger_stream(board))
    if info is None:
        raise NotFoundError(
            f"board {board!r} has no ledger, because its broker has no credentials: who reads what "
            "stands only in what agents say of themselves (blackboard audit)"
        )
    if key is None and receipts:
        key = receipts[0].key
    walk = _Walk(connection, board, Links(board, key), now or clock.now())
    return await walk.run(info, receipts)


class _Walk:
    def __init__(self, connection: Connection, board: str, links: Links, now: datetime) -> None:
        self._connection = connection
        self._board = board
        self._links = links
        self._now = now
        self._result = Verified(board=board)
        self._anew: dict[str, tuple[int, int]] = {}

    async def run(self, info: StreamInfo, receipts: Sequence[Receipt]) -> Verified:
        async with AsyncExitStack() as stack:
            audit = await self._open(
                stack, audit_stream(self._board), audit_subject(self._board, ">")
            )
            reads = await self._open(
                stack, reads_stream(self._board), f"{reads_subject(self._board)}.>"
            )
            follower = await stack.enter_async_context(
                follow(self._connection, info.name, ledger_subject(self._board), Start.all())
            )
            previous: Record | None = None
            while follower.pending and (message := await follower.step()) is not None:
                record = self._links.feed(message.sequence, message.data)
                if record is None:
                    continue
                self._note_gaps(record)
                await self._journals(record, audit)
                await self._reads(previous, record, reads)
                previous = record
            newest = await self._connection.stream(info.name)
            last = info if newest is None else newest
            self._links.end(last.state.last_seq, [receipt.mark for receipt in receipts])
            await self._rest(reads)
        return self._finish()

    async def _open(self, stack: AsyncExitStack, stream: str, subject: str) -> Compared | None:
        info = await self._connection.stream(stream)
        if info is None:
            self._found(stream, "the stream is not there; nothing of it can be compared")
            return None
        follower = await stack.enter_async_context(
            follow(self._connection, stream, subject, Start.all())
        )
        return Compared(info, follower, self._now)

    def _finish(self) -> Verified:
        links, result = self._links, self._result
        for stream, (count, n) in self._anew.items():
            self._found(
                stream,
                f"the stream was deleted and made anew: {count} messages that records up to {n} "
                "speak of are not there before their time",
            )
        result.records = links.records
        result.checkpoints = links.checkpoints
        result.signed = links.signed
        result.key = links.key
        result.checkpoint = links.checkpoint
        result.findings = [*links.findings, *result.findings]
        if links.first is not None and links.head is not None:
            result.first, result.last = links.first.n, links.head.n
        return result

    def _note_gaps(self, record: Record) -> None:
        for item in record.items:
            if isinstance(item, Gap):
                extent = f" {item.low} to {item.high}" if item.high else ""
                count = f" ({item.count})" if item.count else ""
                self._result.gaps.append(
                    f"record {record.n}: {item.about}{extent}{count}: {item.reason}"
                )

    async def _journals(self, record: Record, audit: Compared | None) -> None:
        for item in record.items:
            if not isinstance(item, Journal) or audit is None:
                continue
            if audit.is_of(record, "audit"):
                await self._journal(record, item, audit)
            else:
                self._lost(record, audit, item.last, len(item.batches))

    def _lost(self, record: Record, stream: Compared, last: datetime, count: int) -> None:
        """What a record speaks of lay in an earlier stream of that name."""
        if stream.is_past(last):
            self._result.dropped += count
        else:
            before = self._anew.get(stream.info.name, (0, record.n))[0]
            self._anew[stream.info.name] = before + count, record.n

    async def _journal(self, record: Record, item: Journal, audit: Compared) -> None:
        for sequence, text in enumerate(item.batches, item.first):
            message = await audit.at(sequence)
            agent = text.partition(" ")[0]
            where = f"{audit.info.name} message {sequence} of agent {agent!r}"
            if message is None:
                if audit.may_be_dropped(sequence, item.last):
                    self._result.dropped += 1
                else:
                    self._found(where, f"removed (record {record.n} pins it)")
            elif batch_of(message) != text:
                self._found(where, f"changed since record {record.n} pinned it")
            else:
                self._result.journals += 1

    async def _reads(self, previous: Record | None, record: Record, reads: Compared | None) -> None:
        if reads is None or "reads" not in record.positions:
            return
        items = [item for item in record.items if isinstance(item, Read)]
        if not reads.is_of(record, "reads"):
            for item in items:
                self._lost(record, reads, item.last, item.count)
            return
        before = 0
        if previous is not None and reads.is_of(previous, "reads"):
            before = previous.positions["reads"].sequence
        span = range(before + 1, record.positions["reads"].sequence + 1)
        found, absent = await reads.groups(span)
        known = _known_gaps(record, reads.info.name)
        absent = [one for one in absent if not any(one in gap for gap in known)]
        last = max((item.last for item in items), default=record.at)
        missing = [one for one in absent if not reads.may_be_dropped(one, last)]
        self._result.dropped += len(absent) - len(missing)
        if missing:
            extent = f"{missing[0]}" if len(missing) == 1 else f"{missing[0]} … {missing[-1]}"
            self._found(
                f"{reads.info.name} message {extent}", f"removed (record {record.n} counts it)"
            )
        elif not absent:
            self._compare(record, items, found)

    def _compare(self, record: Record, items: list[Read], found: dict[str, Group]) -> None:
        there = {group.item(subject) for subject, group in found.items()}
        said = set(items)
        self._result.reads += sum(item.count for item in there & said)
        for item in sorted(there - said, key=lambda item: item.low):
            self._found(
                f"record {record.n}",
                f"does not say that agent {item.agent!r} read {item.what} {item.count} times "
                f"(messages {item.low} to {item.high} of {reads_stream(self._board)})",
            )
        for item in sorted(said - there, key=lambda item: item.low):
            self._found(
                f"record {record.n}",
                f"says that agent {item.agent!r} read {item.what} {item.count} times, which "
                f"{reads_stream(self._board)} does not bear out",
            )

    async def _rest(self, reads: Compared | None) -> None:
        """Reads that no record has: some are always on their way, old ones are not."""
        if reads is None:
            return
        head = self._links.head
        done = 0
        if head is not None and reads.is_of(head, "reads"):
            done = head.positions["reads"].sequence
        oldest: datetime | None = None
        while (message := await reads.next()) is not None:
            if message.sequence > done:
                self._result.waiting += 1
                oldest = oldest or message.stored
        if oldest is not None and self._now - oldest > LATE:
            self._found(
                reads.info.name,
                f"{self._result.waiting} reads since {oldest:%Y-%m-%dT%H:%M:%SZ} are in no record: "
                "no steward keeps the ledger",
            )

    def _found(self, where: str, what: str) -> None:
        self._result.findings.append(Finding(where, what))


def _known_gaps(record: Record, stream: str) -> list[range]:
    return [
        range(gap.low, gap.high + 1)
        for gap in record.items
        if isinstance(gap, Gap) and gap.about == stream and gap.high
    ]
