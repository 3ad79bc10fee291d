"""What surrounds a memory on the wire: its subject and headers, written and read.

Readers trust nothing that a message says about itself beyond its body: author, time and revision
are the broker's word, and a message that names another author than its subject does is no memory.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote, unquote

from uuid_utils import uuid4

from blackboard.clock import now
from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Outgoing
from blackboard.messages import Memory, Payload, decode, encode, memory_of
from blackboard.subjects import SHARED, STATE, Address, Ref, reference_filter

GONE = frozenset({"retired", "forgotten", "moved"})
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
HEADER_SAFE = " !#$&'()*+,/:;=?@[]"
TOMBSTONE_S = 90 * 24 * 3600
"""Long enough for every projection to see it; one whose checkpoint is older rebuilds."""
OVERWRITE_S = 3600
"""How long the broker leaves a person's data that expired to the steward, who overwrites it."""


@dataclass(slots=True, kw_only=True)
class Write:
    """One revision about to be stored.

    Attributes:
        ref: The memory; unpinned.
        access: The label it lies under.
        agent: Whose subject it is published on.
        memory: The body; None on a tombstone.
        expected: The last sequence that must hold: of the memory's subject, or for shared state of
            every agent's and label's subject of that key.
        gone: Makes it a tombstone.
        reason: Of a tombstone.
        expires: When the memory ends.
        lingers: How long the broker keeps it after that, for the steward.
        live: The live revision that it comes after; None when a memory begins with it.
        cause: What made a handler write it.
        id: The UUID by which the writer knows its own write.
    """

    ref: Ref
    access: str
    agent: str
    expected: int
    memory: Payload | None = None
    gone: str | None = None
    reason: str | None = None
    expires: datetime | None = None
    lingers: timedelta = timedelta(0)
    live: Memory | None = None
    cause: str | None = None
    by: str | None = None
    origin: str | None = None
    id: str = ""


def seal(write: Write, board: str, instance: str) -> Outgoing:
    """The message of a write: subject, headers with the checks the broker shall make, body."""
    ref = write.ref
    address = Address(board, write.access, write.agent, ref.topic, ref.id)
    headers = {
        "Bb-Agent": write.agent,
        "Bb-Instance": instance,
        "Bb-Write": write.id or uuid4().hex,
        EXPECTED: str(write.expected),
    }
    if ref.shared:
        headers[EXPECTED_SUBJECT] = reference_filter(board, ref)
    if write.expires is not None:
        # Rounded up: a revision that ends too early would bring the one before it back.
        left = (write.expires + write.lingers - now()).total_seconds()
        headers["Nats-TTL"] = str(max(1, math.ceil(left)) + _left_to_steward(write))
        headers["Bb-Expires"] = write.expires.isoformat(timespec="microseconds")
    if write.gone is not None:
        headers["Bb-Gone"] = write.gone
        headers["Nats-TTL"] = str(TOMBSTONE_S)
        if ref.topic.split(".")[0] == STATE:
            headers["KV-Operation"] = "DEL"
        if write.reason:
            headers["Bb-Reason"] = quote(write.reason, safe=HEADER_SAFE)
    if write.cause is not None:
        headers["Bb-Cause"] = write.cause
    if write.by is not None:
        headers["Bb-By"] = write.by
    if write.origin is not None:
        headers["Bb-Origin"] = write.origin
    body = b"" if write.memory is None else encode(write.memory)
    return Outgoing(str(address), body, headers)


def is_personal(access: str, user: str | None) -> bool:
    """Whether a memory is about a person, as far as it says so: by its user, or by its label."""
    return user is not None or access != SHARED


def _left_to_steward(write: Write) -> int:
    """How much longer the broker keeps what has expired than any reader shows it.

    Not shared state that the bucket shows, whose readers know of no other end than the broker's.
    """
    if write.memory is None or write.ref.topic.split(".")[0] == STATE:
        return 0
    return OVERWRITE_S if is_personal(write.access, write.memory.user) else 0


def to_memory(message: Message) -> Memory:
    """Read a memory's message; author, time and revision are the broker's word.

    Raises:
        InvalidError: It claims another author than its subject names, or its body is no memory.
    """
    address = Address.parse(message.subject)
    headers = message.headers
    if headers.get("Bb-Agent") != address.agent:
        raise InvalidError(f"a memory on {message.subject} that names another author")
    gone = headers.get("Bb-Gone")
    if gone is not None and gone not in GONE:
        raise InvalidError(f"an unknown tombstone {gone!r} on {message.subject}")
    payload = decode(message.data) if message.data and gone is None else Payload()
    return memory_of(
        payload,
        agent=address.agent,
        access=address.access,
        topic=address.topic,
        id=address.id,
        revision=message.sequence,
        stored=message.stored,
        expires=_time(headers.get("Bb-Expires"), message.subject),
        delivery=message.delivery,
        gone=gone,
        reason=unquote(headers.get("Bb-Reason", "")) or None,
        cause=headers.get("Bb-Cause"),
        origin=headers.get("Bb-Origin"),
        trace=headers.get("traceparent"),
    )


def is_expired(memory: Memory) -> bool:
    """Whether a memory's time is over; every read filters on this, for nobody is told."""
    return memory.expires is not None and memory.expires <= now()


def _time(text: str | None, subject: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidError(f"a malformed Bb-Expires on {subject}") from error
    if moment.tzinfo is None:
        raise InvalidError(f"a Bb-Expires without time zone on {subject}")
    return moment
