"""Who accessed what, from the ledger: the broker's word and the services', never the agent's own.

Reads and services' answers stand in the chain as they are. What was delivered through a consumer
follows from three things: which filters it had, from where to where the broker had delivered, and
which revisions lie in between.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import msgspec

from blackboard.errors import InvalidError, NotFoundError
from blackboard.jetstream import Connection, Start, follow
from blackboard.ledger.about import About, Revision
from blackboard.ledger.items import (
    AnyItem,
    Delivered,
    Denied,
    Evaded,
    Follow,
    Gap,
    Privileged,
    Read,
    Served,
)
from blackboard.ledger.record import Record, open_record
from blackboard.ledger.streams import ledger_stream, ledger_subject
from blackboard.subjects import Address, subject_matches

Source = Literal["broker", "steward", "itself"]


class Access(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of an access history.

    Attributes:
        at: When; the first time of several.
        source: Whose word it is: the broker's, the steward's, or the agent's own.
        what: A reference, a subject or a filter.
        outcome: `ok`, `denied`, `evaded` or the name of an error.
        last: The last time of several.
        record: Number of the record in the ledger.
    """

    at: datetime
    source: Source
    agent: str
    act: str
    what: str
    revision: int | None = None
    count: int = 1
    last: datetime | None = None
    outcome: str = "ok"
    note: str = ""
    record: int = 0


@dataclass(slots=True)
class _Consumer:
    """A consumer from its beginning to its end, or to now."""

    follow: Follow
    at: datetime
    record: int
    sequence: int = 0
    most: int = 0
    reached_at: datetime | None = None

    def got(self, revision: Revision, newest: Mapping[str, int]) -> bool:
        """Whether a revision went out through it, or may have.

        Args:
            revision: One of the stream.
            newest: The newest of each subject when the consumer was made.
        """
        told = self.follow
        if not told.after < revision.sequence <= max(self.sequence, self.most):
            return False
        if told.since is not None and revision.stored < told.since:
            return False
        if told.start == "last_per_subject" and revision.stored < self.at:
            return newest.get(revision.subject) == revision.sequence and self.selects(revision)
        return self.selects(revision)

    def selects(self, revision: Revision) -> bool:
        """Whether its filters do."""
        return any(subject_matches(one, revision.subject) for one in self.follow.filters)


@dataclass(slots=True)
class History:
    """Reads a ledger for rows about something.

    Args:
        about: What is asked about.
        revisions: The revisions on the board that are asked about; what was delivered is told by
            them. None tells of consumers as wholes.
        agent: Only this one.
    """

    about: About
    revisions: list[Revision] | None = None
    agent: str | None = None
    rows: list[Access] = field(default_factory=list[Access])
    _open: dict[tuple[str, str], _Consumer] = field(
        default_factory=dict[tuple[str, str], _Consumer]
    )
    _ended: list[_Consumer] = field(default_factory=list[_Consumer])
    _by_name: dict[str, list[Revision]] = field(default_factory=dict[str, list[Revision]])

    def take(self, record: Record) -> None:
        """Take the next record."""
        for item in record.items:
            if isinstance(item, Follow | Delivered):
                self._consumer(record, item)
            elif (row := _row(record, item)) is not None and self._wanted(item, row):
                self.rows.append(row)

    def drain(self) -> list[Access]:
        """The rows since the last drain."""
        rows, self.rows = self.rows, []
        return [self._dated(row) for row in rows]

    def delivered(self) -> Iterable[Access]:
        """Rows of what went out through consumers, when the last record was taken."""
        for consumer in (*self._ended, *self._open.values()):
            if self.agent in (None, consumer.follow.agent):
                yield from self._delivered(consumer)

    def _dated(self, row: Access) -> Access:
        """A direct get with the revision that was the newest at its time."""
        if row.act != "get" or row.revision is not None or self.revisions is None:
            return row
        if not self._by_name:
            for one in self.revisions:
                self._by_name.setdefault(str(one.ref), []).append(one)
        there = self._by_name.get(row.what, [])
        first = max((one.sequence for one in there if one.stored <= row.at), default=0)
        last = max((one.sequence for one in there if one.stored <= (row.last or row.at)), default=0)
        if not last:
            return row
        note = "" if first == last else f"from revision {first} on, as they came"
        return msgspec.structs.replace(row, revision=last, note=row.note or note)

    def _wanted(self, item: AnyItem, row: Access) -> bool:
        if isinstance(item, Gap):
            return True
        if self.agent not in (None, row.agent):
            return False
        if isinstance(item, Served) and item.user is not None and item.user == self.about.user:
            return True
        return self.about.selects(row.what, row.revision)

    def _consumer(self, record: Record, item: Follow | Delivered) -> None:
        key = (item.stream, item.consumer)
        if isinstance(item, Follow):
            known = self._open.get(key)
            if known is None or known.follow != item:
                self._open[key] = _Consumer(item, record.at, record.n, item.after)
            return
        known = self._open.get(key)
        if known is None:
            return
        if item.sequence > known.sequence:
            known.sequence, known.reached_at = item.sequence, record.at
        known.most = max(known.most, item.most)
        if item.ended:
            self._ended.append(self._open.pop(key))

    def _delivered(self, consumer: _Consumer) -> Iterable[Access]:
        if self.revisions is None:
            yield self._whole(consumer)
            return
        told = consumer.follow
        newest = _newest_before(self.revisions, consumer.at)
        for revision in self.revisions:
            if not consumer.got(revision, newest):
                continue
            certain = revision.sequence <= consumer.sequence
            yield Access(
                at=max(revision.stored, consumer.at),
                source="broker",
                agent=told.agent,
                act="delivered" if certain else "perhaps delivered",
                what=str(revision.ref),
                revision=revision.sequence,
                note=_through(told),
                record=consumer.record,
            )

    def _whole(self, consumer: _Consumer) -> Access:
        told = consumer.follow
        return Access(
            at=consumer.at,
            source="broker",
            agent=told.agent,
            act="follow",
            what=" ".join(told.filters),
            last=consumer.reached_at,
            note=f"{_through(told)}, delivered up to {consumer.sequence} of {told.stream}",
            record=consumer.record,
        )


def _through(told: Follow) -> str:
    kind = f"handler {told.use}" if told.use else told.consumer
    return kind if told.bodies else f"{kind}, headers only"


def _newest_before(revisions: Iterable[Revision], moment: datetime) -> dict[str, int]:
    newest: defaultdict[str, int] = defaultdict(int)
    for revision in revisions:
        if revision.stored <= moment:
            newest[revision.subject] = revision.sequence
    return newest


def _row(record: Record, item: AnyItem) -> Access | None:
    """The row of an item that speaks for itself; None for one that does not."""
    match item:
        case Read():
            return Access(
                at=item.first,
                source="broker",
                agent=item.agent,
                act="get",
                what=_readable(item.what),
                count=item.count,
                last=item.last if item.count > 1 else None,
                record=record.n,
            )
        case Evaded():
            return Access(
                at=item.first or record.at,
                source="steward",
                agent=item.agent,
                act="get",
                what=_readable(item.what),
                count=item.count,
                outcome="evaded",
                note=f"sent with {item.header}, so that the broker may not record it",
                record=record.n,
            )
        case Served():
            return Access(
                at=item.at or record.at,
                source="steward",
                agent=item.agent,
                act=item.verb,
                what=_readable(item.what),
                revision=item.revision,
                count=item.count,
                note="" if item.user is None else f"user {item.user}",
                record=record.n,
            )
        case _:
            return _special(record, item)


def _special(record: Record, item: AnyItem) -> Access | None:
    match item:
        case Denied():
            return Access(
                at=item.first or record.at,
                source="broker" if item.by == "broker" else "steward",
                agent=item.agent,
                act=item.act,
                what=item.what,
                count=item.count,
                last=item.last if item.count > 1 else None,
                outcome="denied",
                note=item.missing,
                record=record.n,
            )
        case Privileged():
            return Access(
                at=item.at or record.at,
                source="steward",
                agent=item.agent,
                act=item.act,
                what=item.what,
                note=item.reason,
                record=record.n,
            )
        case Gap():
            extent = f" {item.low} to {item.high}" if item.high else ""
            return Access(
                at=record.at,
                source="steward",
                agent="",
                act="gap",
                what=f"{item.about}{extent}",
                count=item.count or 1,
                outcome="missing",
                note=item.reason,
                record=record.n,
            )
        case _:
            return None


def _readable(what: str) -> str:
    """A reference in place of a memory's subject; what is none stays as it is."""
    try:
        return str(Address.parse(what).ref)
    except InvalidError:
        return what


async def read_history(connection: Connection, board: str, history: History) -> list[Access]:
    """The rows of a board's ledger, by time; see `each_row`."""
    rows: list[Access] = []
    await each_row(connection, board, history, rows.append)
    return sorted(rows, key=lambda row: row.at)


async def each_row(
    connection: Connection, board: str, history: History, take: Callable[[Access], None]
) -> None:
    """Give the rows of a board's ledger to `take` as they are found, which is in no order.

    What cannot be read as a record is left out; `verify` tells of it.

    Raises:
        NotFoundError: The board has no ledger.
        UnavailableError: The broker does not answer.
    """
    stream = ledger_stream(board)
    if await connection.stream(stream) is None:
        raise NotFoundError(f"board {board!r} has no ledger, because its broker has no credentials")
    async with follow(connection, stream, ledger_subject(board), Start.all()) as follower:
        while follower.pending and (message := await follower.step()) is not None:
            try:
                record = open_record(message.data)
            except InvalidError:
                continue
            history.take(record)
            for row in history.drain():
                take(row)
    for row in history.delivered():
        take(row)
