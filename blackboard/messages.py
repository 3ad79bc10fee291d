"""The wire structs: what a message on a board says, and how it is written as JSON.

A payload is JSON so that any NATS tool shows it. Readers ignore fields they do not know, so fields
can be added; a field's meaning never changes. Who wrote a memory, when, and as which revision is
not in the payload: subject, timestamp and sequence are the broker's word (`Memory` shows them).
"""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from blackboard.clock import check_moment
from blackboard.codec import Json, decoder_of, encode_record, read
from blackboard.errors import InvalidError, TooLargeError
from blackboard.subjects import ANY_AGENT, CONSOLIDATOR, Ref, is_id

MAX_INLINE_BYTES = 256 * 1024
"""Content above this goes to the blob stream; the memory then carries the reference."""
MAX_PAYLOAD_BYTES = 900 * 1024
"""The broker takes 1 MiB a message, headers included."""
MAX_HOPS = 16
CONDENSED = "condensed into "
"""How the reason of a tombstone begins that the consolidator put."""
OUTLIVED = "retention: "
"""How the reason of a tombstone begins that the retention policy asked for."""


class Cost(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it took to make a memory."""

    model: str = ""
    tokens: int = 0
    """Input and output tokens, from the model's own usage."""
    seconds: float = 0.0
    calls: int = 1
    """Requests at the model's door, retries included."""


class Blob(msgspec.Struct, frozen=True):
    """Where large content lies, and how a reader knows that it is whole."""

    id: str
    size: int
    chunks: int
    sha256: str
    agent: str
    """The agent under whose subject the chunks lie."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a memory's message, field for field."""

    content: Json = None
    content_of: Ref | None = None
    blob: Blob | None = None
    text: str | None = None
    kind: Annotated[str, Meta(min_length=1)] = "note"
    session: str | None = None
    user: str | None = None
    tags: dict[str, str] = {}
    priority: Annotated[float, Meta(ge=0, le=1)] = 0.5
    sources: tuple[Ref, ...] = ()
    links: tuple[Ref, ...] = ()
    cost: Cost | None = None
    happened: Annotated[datetime, Meta(tz=True)] | None = None
    hops: Annotated[int, Meta(ge=0)] = 0


class Memory(Payload, frozen=True, kw_only=True, omit_defaults=True):
    """A memory as a reader sees it; build one with only payload fields to put it.

    Attributes:
        content: Any JSON value; the content of `content_of` when that is set.
        content_of: The pinned result whose content this memory shows.
        text: What to index when content is not a string.
        kind: note, result, reuse, summary, request, answer, or a word of your own.
        session: The job or conversation this belongs to.
        user: The data subject, for erasure.
        priority: 0 to 1; a weight in ranking and a shield in retention, never a delivery order.
        sources: What it was made from, pinned; forgetting follows them.
        links: See also; forgetting does not follow them.
        happened: The agent's own time of the event.
        hops: Handlers between this and the first memory of its chain.
        agent, access, topic, id: The tokens of its subject.
        revision: The stream sequence; 0 when it is not stored yet.
        stored: The broker's time of storing.
        expires: When it ends, or None.
        delivery: In a handler: which delivery of this input, counted from 1; otherwise 0.
        gone: `retired`, `forgotten` or `moved` on a tombstone, which has no content.
        reason: Why it was taken back, on a tombstone.
        cause: What made the agent write it: input, handler, version and run; None outside handlers.
        origin: Where a copy comes from: board, revision and time of the outermost original.
    """

    agent: str = ""
    access: str = ""
    topic: str = ""
    id: str = ""
    revision: int = 0
    stored: datetime | None = None
    expires: datetime | None = None
    delivery: int = 0
    gone: str | None = None
    reason: str | None = None
    cause: str | None = None
    origin: str | None = None
    trace: str | None = None

    @property
    def condenses(self) -> bool:
        """Part of a consolidation: a summary, or the tombstone of what it stands for.

        Nothing happened when a memory was condensed, so no handler hears of it: a summary is no new
        input, and a part that was condensed stays in its group.
        """
        if self.gone is not None:
            return (self.reason or "").startswith(CONDENSED)
        return self.agent == CONSOLIDATOR and self.kind == "summary"

    @property
    def outlived(self) -> bool:
        """The tombstone of a memory that was too old, or one too many.

        Nobody wanted it forgotten: what was made from it has an age of its own, and stays.
        """
        return self.gone is not None and (self.reason or "").startswith(OUTLIVED)

    @property
    def ref(self) -> Ref:
        """The reference of this memory, newest revision; `written` tells the revision seen here."""
        agent = self.agent if is_id(self.id) else ANY_AGENT
        return Ref(agent, self.topic, self.id, None, self.revision or None)

    @property
    def pinned(self) -> Ref:
        """The reference of exactly this revision."""
        agent = self.agent if is_id(self.id) else ANY_AGENT
        return Ref(agent, self.topic, self.id, self.revision or None, self.revision or None)


def memory_of(payload: Payload, **place: Any) -> Memory:
    """A memory with the fields of a payload, and with `place` in place of or beside them."""
    memory = Memory(
        content=payload.content,
        content_of=payload.content_of,
        blob=payload.blob,
        text=payload.text,
        kind=payload.kind,
        session=payload.session,
        user=payload.user,
        tags=payload.tags,
        priority=payload.priority,
        sources=payload.sources,
        links=payload.links,
        cost=payload.cost,
        happened=payload.happened,
        hops=payload.hops,
    )
    return msgspec.structs.replace(memory, **place) if place else memory


def encode(memory: Payload) -> bytes:
    """Write the body of a memory's message.

    Content is expected as JSON already (`to_json`); fields that the broker vouches for stay out.

    Raises:
        InvalidError: A field breaks its rule.
        TooLargeError: The body is above `MAX_PAYLOAD_BYTES`: tags, text or sources are too many.
    """
    _check_fields(memory)
    own = memory.content_of is None and memory.blob is None
    payload = Payload(
        content=memory.content if own else None,
        content_of=memory.content_of,
        blob=memory.blob,
        text=memory.text,
        kind=memory.kind,
        session=memory.session,
        user=memory.user,
        tags=memory.tags,
        priority=memory.priority,
        sources=memory.sources,
        links=memory.links,
        cost=memory.cost,
        happened=memory.happened,
        hops=memory.hops,
    )
    try:
        body = encode_record(payload)
        read(_fields, body)
    except (InvalidError, ValueError, OverflowError, TypeError) as error:
        # A struct does not check what it is made of.
        raise InvalidError(f"a memory that nobody could read: {error}") from error
    if len(body) > MAX_PAYLOAD_BYTES:
        raise TooLargeError(
            f"a memory of {len(body)} bytes; text, tags, sources and links together may take "
            f"{MAX_PAYLOAD_BYTES} (content has room of its own)"
        )
    return body


def _check_fields(memory: Payload) -> None:
    if not (isinstance(memory.priority, int | float) and 0.0 <= memory.priority <= 1.0):  # pyright: ignore[reportUnnecessaryIsInstance] - a struct does not check
        raise InvalidError(f"priority {memory.priority!r} must be from 0 to 1")
    if not memory.kind:
        raise InvalidError("kind must not be empty; leave it out for 'note'")
    for name, value in memory.tags.items():
        if not (isinstance(name, str) and isinstance(value, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidError(f"tag {name!r}={value!r}: names and values must be str")
    for name in ("kind", "session", "user", "text"):
        value = getattr(memory, name)
        if value is not None and not isinstance(value, str):
            raise InvalidError(f"{name}={value!r} must be str")
    if memory.happened is not None:
        check_moment("happened", memory.happened)


def decode(body: bytes) -> Payload:
    """Read the body of a memory's message; fields this version does not know are ignored.

    Raises:
        InvalidError: It is no JSON, or a field has a wrong type.
    """
    return read(_decoder, body)


class _Fields(Payload, frozen=True, kw_only=True):
    """A payload whose content is passed over."""

    content: msgspec.Raw = msgspec.Raw()


_decoder = decoder_of(Payload)
_fields = decoder_of(_Fields)
