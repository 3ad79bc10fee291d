"""What is gathered lies on disk until it is written: in no order it comes, in order it goes.

The file belongs to SQLite, has no name, and is gone with the process, however that ends.
"""

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from blackboard.codec import encode_record
from blackboard.errors import SettingsError
from blackboard.ledger.history import Access
from blackboard.records import SpanRecord
from blackboard.report.document import Noted, Reader
from blackboard.times import parse_time

CACHE_KIB = 8 * 1024
MOST = 1 << 31
"""Times in one access: an agent says of itself how many, and could say anything."""
_TABLES = """
CREATE TABLE revision (part TEXT, memory INTEGER, number INTEGER, body BLOB, short BLOB,
    PRIMARY KEY (part, memory, number)) WITHOUT ROWID;
CREATE TABLE access (at TEXT, last TEXT, agent TEXT, source TEXT, act TEXT, outcome TEXT,
    times INTEGER, body BLOB);
CREATE TABLE other (part TEXT, at TEXT, body BLOB);
"""


class Kept(NamedTuple):
    """A revision in the spool.

    Attributes:
        memory: Number of its memory within its part of the report, from 0.
        body: JSON of the revision.
        short: The same with content cut, when it is very long.
    """

    memory: int
    body: bytes
    short: bytes | None


class Spool:
    """The long lists of a report. Used by one thread at a time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add_revision(
        self, part: str, memory: int, number: int, body: bytes, short: bytes | None
    ) -> None:
        """Keep a revision of a memory."""
        with _errors():
            self._database.execute(
                "INSERT OR REPLACE INTO revision VALUES (?, ?, ?, ?, ?)",
                (part, memory, number, body, short),
            )

    def add_access(self, row: Access) -> None:
        """Keep an access."""
        with _errors():
            self._database.execute(
                "INSERT INTO access VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    sortable(row.at),
                    sortable(row.last or row.at),
                    row.agent,
                    row.source,
                    row.act,
                    row.outcome,
                    min(row.count, MOST),
                    encode_record(row),
                ),
            )

    def add_noted(self, record: Noted) -> None:
        """Keep what a program noted."""
        self._add_other("noted", sortable(record.at), record)

    def add_span(self, record: SpanRecord) -> None:
        """Keep a span."""
        self._add_other("spans", f"{record.start_ns:020}", record)

    def _add_other(self, part: str, at: str, record: Noted | SpanRecord) -> None:
        with _errors():
            self._database.execute(
                "INSERT INTO other VALUES (?, ?, ?)", (part, at, encode_record(record))
            )

    def revisions(self, part: str, least: int = 0) -> Iterable[Kept]:
        """The revisions of a part, by memory and number, from a memory on."""
        return map(
            Kept._make,
            self._rows(
                "SELECT memory, body, short FROM revision WHERE part = ? AND memory >= ? "
                "ORDER BY memory, number",
                part,
                least,
            ),
        )

    def accesses(self, newest: int | None = None) -> Iterable[bytes]:
        """The accesses as JSON, by time; only the newest so many."""
        skipped = 0 if newest is None else max(0, self.count("access") - newest)
        rows = self._rows("SELECT body FROM access ORDER BY at, rowid LIMIT -1 OFFSET ?", skipped)
        return (body for (body,) in rows)

    def others(self, part: str, newest: int | None = None) -> Iterable[bytes]:
        """What else was kept, as JSON, in order; only the newest so many."""
        skipped = 0 if newest is None else max(0, self.count("other", part) - newest)
        rows = self._rows(
            "SELECT body FROM other WHERE part = ? ORDER BY at, rowid LIMIT -1 OFFSET ?",
            part,
            skipped,
        )
        return (body for (body,) in rows)

    def readers(self) -> list[Reader]:
        """Who did what how often; what is missing from the record is nobody's."""
        rows = self._rows(
            "SELECT agent, source, act, outcome, sum(times), min(at), max(last) FROM access "
            "WHERE agent <> '' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        return [
            Reader(
                agent=agent,
                source=source,
                act=act,
                outcome=outcome,
                times=times,
                first=parse_time(first, "at"),
                last=parse_time(last, "last"),
            )
            for agent, source, act, outcome, times, first, last in rows
        ]

    def count(self, table: str, part: str | None = None) -> int:
        """How much there is of a kind."""
        if part is None:
            query, values = f"SELECT count(*) FROM {table}", ()  # noqa: S608 - one of ours
        else:
            query, values = f"SELECT count(*) FROM {table} WHERE part = ?", (part,)  # noqa: S608
        return next(iter(self._rows(query, *values)))[0]

    def _rows(self, query: str, *values: object) -> Generator[tuple[Any, ...]]:
        with _errors():
            yield from self._database.execute(query, values)


@contextmanager
def spool() -> Generator[Spool]:
    """A spool, empty, for as long as the context.

    Raises:
        SettingsError: The directory for temporary files is full, or cannot be written to.
    """
    with _errors():
        # No name: a file that SQLite removes as soon as it has opened it, readable by its owner.
        database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    try:
        with _errors():
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            database.executescript(_TABLES)
            database.execute("BEGIN")  # never committed, and so never waited for
        yield Spool(database)
    finally:
        database.close()


def sortable(moment: datetime) -> str:
    """A time as text that is ordered as times are; one that has no UTC form stays as it is."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="microseconds")


@contextmanager
def _errors() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SettingsError(
            f"cannot keep what a report is made of in the directory for temporary files ({error}); "
            "make room there, or name another with TMPDIR"
        ) from error
