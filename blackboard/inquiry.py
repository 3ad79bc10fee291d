"""Questions to the audit: the ledger and the agents' journals, merged into one account.

Where both say that an agent read a memory, both rows are shown: the one is the broker's word, the
other the agent's own, and that they agree is worth seeing.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from blackboard import trace as traces
from blackboard.batches import each_audit_batch
from blackboard.board import Blackboard
from blackboard.jetstream import Start
from blackboard.ledger.about import About, Revision, revisions
from blackboard.ledger.history import Access, History, each_row, read_history
from blackboard.ledger.streams import ledger_stream
from blackboard.records import AuditBatch, AuditEvent

REMEMBERED = 10_000
"""Audit events among which equal ones are taken as one."""
DENIED = ("denied", "DeniedError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked; what is None is not asked for.

    Attributes:
        limit: The newest so many rows.
    """

    about: About = field(default_factory=About)
    agent: str | None = None
    act: str | None = None
    outcome: str | None = None
    denied: bool = False
    trace: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = 100

    def fits(self, row: Access) -> bool:
        """Whether a row of the ledger is asked for; what it is about was looked at before."""
        if self.trace is not None or (self.act is not None and row.act != self.act):
            return False
        if self.outcome is not None and row.outcome != self.outcome:
            return False
        return (not self.denied or row.outcome in DENIED) and self.in_time(row.at, row.last)

    def in_time(self, at: datetime, last: datetime | None = None) -> bool:
        """Whether a time is asked for, or a part of a span."""
        after = self.since is None or (last or at) >= self.since
        return after and (self.until is None or at <= self.until)


@dataclass(slots=True)
class Findings:
    """The answer.

    Attributes:
        ledger: Whether the board has one.
        rows: What ledger and journals say, by time; empty without a ledger.
        events: What the journals say, by time.
        revisions: The revisions on the board that were asked about, if any were named.
        lost: Events that agents could not write.
    """

    ledger: bool
    rows: list[Access] = field(default_factory=list[Access])
    events: list[AuditEvent] = field(default_factory=list[AuditEvent])
    revisions: list[Revision] = field(default_factory=list[Revision])
    lost: int = 0


async def inquire(board: Blackboard, question: Question) -> Findings:
    """Answer a question from all that there is.

    Raises:
        UnavailableError: The broker does not answer.
    """
    connection = board.session.connection
    found = Findings(await connection.stream(ledger_stream(board.name)) is not None)
    about = question.about
    if not about.everything or about.user is not None:
        found.revisions = await revisions(connection, board.name, about)
    if about.user is not None:
        refs = frozenset(one.ref for one in found.revisions)
        about = About(refs, about.pattern, about.user)
    newest = _Newest(question.limit)
    await _journals(board, question, about, newest)
    found.lost = newest.lost
    found.events = sorted(newest.events, key=lambda event: event.at)
    if found.ledger:
        told = None if about.everything else found.revisions
        history = History(about, told, question.agent)
        rows = await read_history(connection, board.name, history)
        rows = [row for row in rows if question.fits(row)]
        rows += [_itself(event) for event in found.events]
        rows.sort(key=lambda row: row.at)
        found.rows = rows if question.limit is None else rows[-question.limit :]
    elif question.limit is None or about.user is not None:
        found.rows = [_itself(event) for event in found.events]
    return found


async def each_access(
    board: Blackboard, about: About, revisions: list[Revision], take: Callable[[Access], None]
) -> int:
    """Give every access to memories to `take` as it is found, which is in no order.

    For those of many memories, who may have been read by many: nothing of it is held here.

    Args:
        board: The board.
        about: The memories.
        revisions: Those of them that are on the board.
        take: Gets each row.

    Returns:
        Events that agents could not write, of whatever memory.

    Raises:
        UnavailableError: The broker does not answer.
    """
    connection = board.session.connection
    if await connection.stream(ledger_stream(board.name)) is not None:
        await each_row(connection, board.name, History(about, revisions), take)
    lost = 0

    def journal(batch: AuditBatch) -> None:
        nonlocal lost
        lost += batch.dropped
        for event in batch.events:
            if about.selects(event.what, event.revision):
                take(_itself(event))

    await each_audit_batch(board, Start.all(), journal)
    return lost


async def _journals(board: Blackboard, question: Question, about: About, newest: "_Newest") -> None:
    start = Start.all() if question.since is None else Start.at(question.since)

    def take(batch: AuditBatch) -> None:
        newest.lost += batch.dropped
        fitting = traces.matching(
            batch.events,
            about=about.pattern if about.refs is None else None,
            act=question.act,
            outcome="DeniedError" if question.denied else question.outcome,
            trace=question.trace,
        )
        newest.add(
            event
            for event in fitting
            if question.in_time(event.at)
            and (about.refs is None or about.selects(event.what, event.revision))
        )

    await each_audit_batch(board, start, take, agent=question.agent or "*")


class _Newest:
    """The newest events; a batch whose answer was lost may be stored twice, close together."""

    def __init__(self, limit: int | None) -> None:
        self.events: deque[AuditEvent] = deque(maxlen=limit)
        self._seen: dict[AuditEvent, None] = {}
        self.lost = 0

    def add(self, events: Iterable[AuditEvent]) -> None:
        for event in events:
            if event not in self._seen:
                self._seen[event] = None
                self.events.append(event)
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _itself(event: AuditEvent) -> Access:
    return Access(
        at=event.at,
        source="itself",
        agent=event.agent,
        act=event.act if event.handler is None else f"{event.act} to {event.handler}",
        what=event.what,
        revision=event.revision,
        count=event.count,
        outcome=event.outcome,
    )
