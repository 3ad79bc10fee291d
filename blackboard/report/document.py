"""The JSON document of a report, as its schema describes it.

Fields are only ever added within a `format`. What is withheld says why; nothing is left out
silently.
"""

from datetime import datetime
from typing import Literal

import msgspec

from blackboard.ledger.history import Access
from blackboard.messages import Payload
from blackboard.records import SpanRecord
from blackboard.subjects import Ref

FORMAT = 1
State = Literal["there", "expired", "retired", "moved", "forgotten"]


class Revision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of a memory, or the tombstone that took it back.

    Attributes:
        revision: Its number, which counts over the whole board.
        stored: The broker's time.
        agent: Who wrote it.
        access: The label it lies under.
        gone: Makes it a tombstone: retired, forgotten or moved.
        reason: Of a tombstone.
        expires: When it ends.
        cause: The handler that wrote it, and for which input.
        origin: Where a copy comes from: board, revision and time.
        trace: Of the work that it was written in.
        bytes: Of the content as JSON.
        body: All that its author said; absent on a tombstone, and when it is withheld.
        withheld: Why what it says is not shown here.
    """

    revision: int
    stored: datetime
    agent: str
    access: str
    gone: str | None = None
    reason: str | None = None
    expires: datetime | None = None
    cause: str | None = None
    origin: str | None = None
    trace: str | None = None
    bytes: int = 0
    body: Payload | None = None
    withheld: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A memory with the revisions that are left of it, oldest first.

    Attributes:
        ref: Its name on the board.
        state: there, or how it ended; what is left of it is listed all the same.
        because: Of what was derived: from what, or why it belongs here.
        revisions: Those that are left.
    """

    ref: Ref
    state: State
    because: str = ""
    revisions: tuple[Revision, ...] = ()


class Noted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a program noted about a memory, beside it.

    Attributes:
        at: When; the broker's time.
        agent: Whose program.
        what: handled, gathered, made (by `once`), failed (a dead letter) or retried.
        ref: The memory.
        by: The handler.
        text: An error, with where it was raised.
        outputs: What came of it, as far as it is in this report.
    """

    at: datetime
    agent: str
    what: Literal["handled", "gathered", "made", "failed", "retried"]
    ref: Ref
    by: str = ""
    text: str = ""
    outputs: tuple[Ref, ...] = ()


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That something about this person was forgotten, or is to be; never what.

    Attributes:
        order: Names it and its receipt (`blackboard forget verify`).
        agent: Who asked.
        asked: When.
        reason: Why, as it was given.
        state: ordered, removing, pending, complete or refused.
        memories: How many went, derived ones included, those of others that were named together
            with this person too.
        removed: When they were gone from every reader.
        completed: When the last store was seen clean.
        elsewhere: Copies that were known to exist.
    """

    order: str
    agent: str
    asked: datetime
    reason: str = ""
    state: str = "ordered"
    memories: int = 0
    removed: datetime | None = None
    completed: datetime | None = None
    elsewhere: tuple[str, ...] = ()


class Reader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often one agent did one thing.

    Attributes:
        agent: Who.
        source: Whose word it is: the broker's, the steward's, or the agent's own. The same read may
            stand in more than one of them, so counts of different sources are not added.
        act: get, delivery, recall, ….
        outcome: ok, denied, or the name of an error.
        times: How often.
        first: The first time.
        last: The last time.
    """

    agent: str
    source: str
    act: str
    outcome: str
    times: int
    first: datetime
    last: datetime


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report in numbers.

    Attributes:
        memories: About this person.
        revisions: Of those that are left, tombstones included.
        states: How many of them are there, expired, retired, moved or forgotten.
        topics: How many under each topic.
        agents: How many revisions each agent wrote.
        labels: How many revisions lie under each label.
        first: When the oldest that is left was stored.
        last: When the newest was stored.
        derived: Memories that were made from them.
        readers: Who accessed them how often.
        accesses: All of those.
        noted: Records beside the memories.
        spans: Measurements that name them.
    """

    memories: int = 0
    revisions: int = 0
    states: dict[str, int] = {}
    topics: dict[str, int] = {}
    agents: dict[str, int] = {}
    labels: dict[str, int] = {}
    first: datetime | None = None
    last: datetime | None = None
    derived: int = 0
    readers: tuple[Reader, ...] = ()
    accesses: int = 0
    noted: int = 0
    spans: int = 0


class Proof(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the ledger of the board proves about its record of accesses.

    Attributes:
        records: How many it has.
        signed: The newest that the board's key vouches for.
        key: The board's public key.
        findings: What is wrong with it; empty when all is proved.
        gaps: What it says itself is missing.
    """

    records: int
    signed: int
    key: str | None = None
    findings: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of a report but its long lists.

    Attributes:
        format: Of this document.
        board: The board.
        created: Of the board's stream, which tells it from another of its name.
        user: The person, as the board names them.
        at: When the report was made.
        by: The agent or operator who made it.
        last: The revision of the board that it reaches to.
        summary: In numbers.
        ledger: What is proved of the accesses; absent on a board without credentials, whose
            accesses are what agents say of themselves.
        lost: Accesses that agents could not write down, of whatever memory.
        forgotten: What was forgotten about this person, or is to be.
        copies: Copies known to exist that may hold something of this.
        indexes: Where services keep vectors and words of the memories, to find them by.
        notes: What the reader has to know.
    """

    format: int = FORMAT
    board: str
    created: str
    user: str
    at: datetime
    by: str
    last: int
    summary: Summary
    ledger: Proof | None = None
    lost: int = 0
    forgotten: tuple[Forgotten, ...] = ()
    copies: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Report(Head, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a board holds about one person, and who read it.

    Attributes:
        memories: About this person, in the order in which they were first stored.
        derived: What was made from them, likewise.
        accesses: By time.
        noted: What programs noted about them, by time.
        spans: Measurements of work that name them; they hold no content.
    """

    memories: tuple[Held, ...] = ()
    derived: tuple[Held, ...] = ()
    accesses: tuple[Access, ...] = ()
    noted: tuple[Noted, ...] = ()
    spans: tuple[SpanRecord, ...] = ()
