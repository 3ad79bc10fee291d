"""How a memory is changed: read the newest revision, decide, write against it, again on a conflict.

In a handler the write goes into its draft instead, and the handler runs again on a conflict.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import count

import anyio
import msgspec

from blackboard.blobs import store_blob
from blackboard.clock import check_span, now
from blackboard.codec import encode_content, to_json
from blackboard.draft import Binding, Draft
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, GoneError, InvalidError, LabelError, NotFoundError
from blackboard.log import Log
from blackboard.messages import MAX_INLINE_BYTES, Memory
from blackboard.reader import Reader
from blackboard.subjects import SHARED, Ref, check_token
from blackboard.telemetry import CONFLICTS

MIN_TTL = timedelta(seconds=1)
JITTER_S = 0.005
"""A round of read and write takes a millisecond or two, so 8 writers of one key spread over it."""
MAX_JITTER_S = 0.05

Change = Callable[[Memory | None], Awaitable[Write]]


class Changes:
    """Changes by one agent on one board; into a draft when it has one."""

    def __init__(
        self, log: Log, reader: Reader, draft: Draft | None = None, binding: Binding | None = None
    ) -> None:
        self.log = log
        self.reader = reader
        self.draft = draft
        self.binding = binding

    async def change(self, ref: Ref, decide: Change, draft: Draft | None) -> Ref:
        """Write what `decide` makes of the newest revision; again on a conflict, until it holds.

        Args:
            ref: The memory.
            decide: Gets the newest revision, gone or expired too, and returns the write. Raises
                `ConflictError` when that is not the revision that its caller named.
            draft: Where the write goes; None stores it.
        """
        for attempt in count():
            edits = 0 if draft is None else draft.edits(ref)
            head, tip = await (self.log.look(ref) if draft is None else draft.look(ref))
            write = await decide(head)
            if draft is not None and draft.edits(ref) != edits:
                continue  # another task of the same handler was first
            write.expected = max(write.expected, tip)
            try:
                return await self.store(write, draft)
            except ConflictError:
                await self.contended(attempt)
        raise AssertionError("unreachable")

    async def contended(self, attempt: int) -> None:
        """Count a conflict, and wait a little before the next try."""
        self.log.telemetry.count(CONFLICTS)
        # Without jitter, writers that met once would meet again at every try.
        await anyio.sleep(random.uniform(0, min(MAX_JITTER_S, JITTER_S * (attempt + 1))))

    async def store(self, write: Write, draft: Draft | None) -> Ref:
        """Store a write, or collect it; returns the reference with the revision, if it has one."""
        if draft is not None:
            return draft.add(write)
        if self.binding is not None:
            write.cause = str(self.binding.cause)
        revision = await self.log.append(write)
        return Ref(write.ref.agent, write.ref.topic, write.ref.id, None, revision)

    def author(self, ref: Ref) -> str:
        """Under whose name a memory is changed.

        Raises:
            InvalidError: It belongs to another agent.
        """
        if not ref.shared and ref.agent != self.log.agent:
            raise InvalidError(
                f"{ref} belongs to agent {ref.agent!r}; only its agent may change it "
                f"(this is {self.log.agent!r}). Shared state, put with key=, is open to all"
            )
        return self.log.agent

    def label(self, access: str | None) -> str:
        """The label of something new: the one given, that of the inputs, or `shared`.

        Raises:
            LabelError: The inputs lie under several.
        """
        if access is not None:
            return check_token("access", access)
        labels = self.binding.labels if self.binding is not None else frozenset[str]()
        if len(labels) > 1:
            raise LabelError(f"the inputs lie under {sorted(labels)}; name access= for the output")
        return next(iter(labels), SHARED)

    def expires(self, ttl: timedelta | None, live: Memory | None) -> datetime | None:
        """When the next revision of `live` ends: as given, else as inherited.

        Raises:
            InvalidError: Less than a second, or sooner than the revision before.
        """
        inherited = None if live is None else live.expires
        if ttl is None:
            return inherited
        if check_span("ttl", ttl) < MIN_TTL:
            raise InvalidError(f"ttl={ttl} must be at least 1 s; leave it out to keep for good")
        since = now() if self.binding is None else self.binding.since
        try:
            expires = since + ttl
        except OverflowError as error:
            raise InvalidError(f"ttl={ttl} is too long; leave it out to keep for good") from error
        if live is not None and (inherited is None or expires < inherited):
            raise InvalidError(
                "a ttl cannot be shortened by a revision, because the revision before would "
                "come back; retire the memory instead"
            )
        return expires

    async def stored(self, memory: Memory, access: str) -> Memory:
        """The memory as it is stored: with content as JSON, or put aside, or in what it shows.

        A memory that was read through `content_of` and given other content has that content, and
        what it showed before is one of its sources.
        """
        content = to_json(memory.content)
        shown = memory.content_of
        if shown is not None:
            if content is None or await self.reader.is_shown(content, shown):
                await self.reader.check_shown(shown, access)
                return memory
            sources = tuple(dict.fromkeys((*memory.sources, shown)))
            memory = msgspec.structs.replace(memory, content_of=None, sources=sources)
        if isinstance(content, str) and len(content) < MAX_INLINE_BYTES // 8:
            return msgspec.structs.replace(memory, content=content, blob=None)
        body = encode_content(content)
        if len(body) <= MAX_INLINE_BYTES:
            return msgspec.structs.replace(memory, content=content, blob=None)
        blob = await store_blob(self.log, access, body)
        return msgspec.structs.replace(memory, content=None, blob=blob)


def live_one(head: Memory | None) -> Memory | None:
    """The newest revision if it is neither gone nor expired."""
    return None if head is None or head.gone is not None or is_expired(head) else head


def required(ref: Ref, head: Memory | None) -> Memory:
    """The newest revision.

    Raises:
        NotFoundError: Absent, or expired.
        GoneError: Taken back.
    """
    if head is None or is_expired(head):
        raise NotFoundError(f"no memory {str(ref)!r} on this board")
    if head.gone is not None:
        raise GoneError(str(ref), head.gone)
    return head
