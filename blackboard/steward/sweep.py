"""One pass over one board, as an operator or a test wants it: all of it, now."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from blackboard import clock
from blackboard.journal import Journal
from blackboard.log import Log
from blackboard.steward.chunks import CHUNK_AGE, Chunks
from blackboard.steward.tombstones import GRACE, Tombstones


@dataclass(frozen=True, slots=True)
class Swept:
    """What a pass deleted."""

    revisions: int
    chunks: int


async def sweep(
    log: Log,
    journal: Journal,
    *,
    grace: timedelta = GRACE,
    chunk_age: timedelta = CHUNK_AGE,
    now: Callable[[], datetime] = clock.now,
) -> Swept:
    """Read a whole board once and delete what its tombstones and lost chunks leave to delete.

    Safe to run beside the service and beside other passes. What the broker refused to delete is
    logged and left.

    Args:
        log: The board, and the name that the deletions are audited under.
        journal: Notes each deletion.
        grace: How long what lies behind a `retired` tombstone is kept; less than 90 days.
        chunk_age: How old a chunk that no memory names must be.
        now: The time, to be held against the broker's stamps.

    Raises:
        SettingsError: `grace` cannot be used.
        UnavailableError: The broker does not answer, or there is no such board.
        BrokerError: The broker refuses a read, or the deletion of a chunk.
    """
    tombstones = Tombstones(log, journal, grace=grace, now=now)
    chunks = Chunks(log, journal, age=chunk_age, now=now)
    await tombstones.catch_up()
    await tombstones.tend()
    await chunks.collect()
    await chunks.collect()
    return Swept(tombstones.deleted, chunks.deleted)
