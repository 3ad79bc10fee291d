"""Rows without an index: the stream itself is read, as far back as is asked for.

For queries as of a time, which no index answers, and for simple ones while the index is not there.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from blackboard.clock import now
from blackboard.errors import TooLargeError
from blackboard.hits import Rows
from blackboard.jetstream import Start
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.paging import Cursor, in_order
from blackboard.reader import Reader
from blackboard.search import CountBy, Filter, QueryRequest
from blackboard.subjects import Pattern, Ref

MAX_SCANNED = 100_000
"""Messages that a scan in place of the index reads: a second or two."""
MAX_HELD = 100_000
"""Memories that may match at once."""


def can_scan(where: Filter) -> bool:
    """Whether a query may be answered from the stream: by topic, agent, session and time."""
    simple = Filter(
        topic=where.topic,
        agents=where.agents,
        sessions=where.sessions,
        since=where.since,
        until=where.until,
        before=where.before,
    )
    return simple == where


async def scan(log: Log, reader: Reader, request: QueryRequest, at: datetime | None) -> Rows:
    """Answer a query from the stream.

    Args:
        log: The board.
        reader: Fills in the content of the rows.
        request: The query.
        at: As of this time, inclusive, with all that is kept of the past; None means now, with the
            newest `MAX_SCANNED` messages.

    Raises:
        TooLargeError: More than 100,000 memories match.
        UnavailableError: The broker does not answer.
    """
    found = _Newest(request.where, at)
    await found.read(log)
    matching = [memory for memory in found.memories.values() if request.where.selects(memory)]
    rows = in_order(matching, request.order_by)
    if request.cursor is not None:
        last = Cursor.parse(request.cursor, request.order_by)
        rows = [row for row in rows if last.precedes(row)]
    page: list[Memory] = []
    place = 0
    while place < len(rows) and len(page) < request.limit:
        # What it shows may be gone meanwhile.
        shown = await reader.shown(rows[place])
        place += 1
        if shown is not None:
            page.append(shown)
    cursor = None
    if page and place < len(rows):
        cursor = str(Cursor.at(rows[place - 1], request.order_by))
    return Rows(
        page,
        cursor=cursor,
        counts={by: dict(_counted(matching, by).most_common()) for by in request.count_by},
        total=len(matching) if request.count_by else None,
        degraded=at is None,
        scanned=found.scanned,
        whole=found.whole,
    )


class _Newest:
    """The newest revision of each memory under a topic, as of a time.

    Attributes:
        memories: Those that are neither gone nor expired.
        scanned: Messages read.
        whole: Nothing was left out for being too old.
    """

    def __init__(self, where: Filter, at: datetime | None) -> None:
        self._where = where
        self._at = at
        self.memories: dict[Ref, Memory] = {}
        self.scanned = 0
        self.whole = True

    async def read(self, log: Log) -> None:
        """Read them."""
        subject = Pattern(self._where.topic or ">").subject(log.board)
        if self._at is not None:
            await self._follow(log, subject, Start.all())
            return
        info = await log.connection.stream(log.stream)
        last = 0 if info is None else info.state.last_seq
        begin = Start.newest()
        if info is not None and info.state.messages > MAX_SCANNED:
            # Of each memory the newest would be enough, but how many those are nobody knows.
            begin = Start.after(max(0, last - MAX_SCANNED))
            self.whole = False
        await self._follow(log, subject, begin)

    async def _follow(self, log: Log, subject: str, begin: Start) -> None:
        async with log.follow(subject, begin) as following:
            while following.pending:
                memory = await following.step()
                self.scanned += 1
                if memory is None:
                    continue
                if self._at is not None and memory.stored is not None and memory.stored > self._at:
                    return
                self._take(memory)

    def _take(self, memory: Memory) -> None:
        ref = memory.ref.unpinned
        moment = self._at or now()
        live = memory.gone is None and (memory.expires is None or memory.expires > moment)
        if not live:
            self.memories.pop(ref, None)
            return
        self.memories[ref] = memory
        if len(self.memories) > MAX_HELD:
            raise TooLargeError(
                f"more than {MAX_HELD} memories under {self._where.topic or '>'!r}; "
                "narrow the topic, or ask the index"
            )


def _counted(memories: Iterable[Memory], by: CountBy) -> Counter[str]:
    return Counter(value for memory in memories for value in _values(memory, by))


def _values(memory: Memory, by: CountBy) -> Sequence[str]:
    if by == "tag":
        return [f"{name}={value}" for name, value in memory.tags.items()]
    value: str | None = getattr(memory, by)
    return [] if value is None else [value]
