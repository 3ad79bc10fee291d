"""What a record of the ledger says: one kind of item for each thing that can be vouched for.

`read`, `delivered` and `denied` by the broker are its own word; `follow`, `served` and `privileged`
are those of the services that did it; `journal` pins what the agents say of themselves.
"""

from datetime import datetime
from typing import Literal

import msgspec


class Item(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag=str.lower):
    """Base of all."""


class Began(Item, frozen=True, omit_defaults=True, kw_only=True, tag="began"):
    """The chain begins, or a steward found it shorter than it knew it."""

    board: str
    key: str
    """The board's public key."""


class Read(Item, frozen=True, omit_defaults=True, kw_only=True, tag="read"):
    """Direct gets of one agent with one filter, as the broker saw them, folded."""

    agent: str
    stream: str
    what: str
    """The filter: a memory's subject, with `*` where any will do."""
    count: int = 1
    first: datetime
    """The broker's time of the first of them, and of the last."""
    last: datetime
    low: int
    """Their first and last sequence in `READS_<board>`; others lie between."""
    high: int


class Evaded(Item, frozen=True, omit_defaults=True, kw_only=True, tag="evaded"):
    """A direct get with headers, at some of which the broker answers but does not record.

    A steward saw it. No honest client sends headers with a read.
    """

    agent: str
    stream: str
    what: str
    header: str
    first: datetime | None = None
    last: datetime | None = None
    count: int = 1


class Journal(Item, frozen=True, omit_defaults=True, kw_only=True, tag="journal"):
    """The messages of the audit stream from a sequence on, so that a changed one shows."""

    first: int
    last: datetime
    """The broker's time of the last of them."""
    batches: tuple[str, ...]
    """`<agent> <hex SHA-256 of the body>`, one per sequence."""


class Follow(Item, frozen=True, omit_defaults=True, kw_only=True, tag="follow"):
    """A consumer was made for an agent: what its filters select, it may be sent."""

    agent: str
    stream: str
    consumer: str
    filters: tuple[str, ...]
    start: str = "new"
    """`deliver_policy` as the broker has it."""
    after: int = 0
    """No message up to this sequence is delivered through it."""
    since: datetime | None = None
    """Nor one stored before."""
    bodies: bool = True
    """False when only headers are sent."""
    use: str = ""
    """The handler that it is for; empty for a watch, view or replay."""


class Delivered(Item, frozen=True, omit_defaults=True, kw_only=True, tag="delivered"):
    """How far the broker has delivered through a consumer."""

    agent: str
    stream: str
    consumer: str
    sequence: int
    """Everything that its filters select up to here went out."""
    most: int = 0
    """When it is gone: up to here may have gone out, unseen between two looks."""
    ended: bool = False


class Served(Item, frozen=True, omit_defaults=True, kw_only=True, tag="served"):
    """A read that a service made for an agent."""

    agent: str
    verb: str
    what: str
    """The reference, or the pattern that was asked for."""
    revision: int | None = None
    user: str | None = None
    at: datetime | None = None
    count: int = 1


class Denied(Item, frozen=True, omit_defaults=True, kw_only=True, tag="denied"):
    """An act that was refused."""

    agent: str
    act: str
    """publish, subscribe, read, write, or a service's verb."""
    what: str
    missing: str = ""
    """The right that it would have needed."""
    by: Literal["service", "broker"] = "service"
    first: datetime | None = None
    last: datetime | None = None
    count: int = 1


class Privileged(Item, frozen=True, omit_defaults=True, kw_only=True, tag="privileged"):
    """An act that changes what others can see or do."""

    agent: str
    act: str
    what: str = ""
    reason: str = ""
    at: datetime | None = None


class Gap(Item, frozen=True, omit_defaults=True, kw_only=True, tag="gap"):
    """Something is missing here, and known to be."""

    about: str
    """A stream, `log` or `notes`."""
    reason: str
    low: int = 0
    high: int = 0
    count: int = 0


class Mark(msgspec.Struct, frozen=True):
    """A record, by number and hash."""

    n: int
    hash: str


class Checkpoint(Item, frozen=True, omit_defaults=True, kw_only=True, tag="checkpoint"):
    """The board's key vouches for a record, and so for all before it."""

    n: int
    hash: str
    key: str
    signature: str
    """Base64 of the Ed25519 signature over `statement`."""
    removed: Mark | None = None
    """The last record that was removed to make room; older ones went with it."""


AnyItem = (
    Began
    | Read
    | Evaded
    | Journal
    | Follow
    | Delivered
    | Served
    | Denied
    | Privileged
    | Gap
    | Checkpoint
)
