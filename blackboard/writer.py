"""Writing memories: new ones, revisions, tombstones, and the rules that hold for each.

Every change reads the newest revision, decides, and writes against the sequence it saw, again on a
conflict. In a handler the writes go into its draft instead, and the handler runs again on a
conflict.
"""

import inspect
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import count

import anyio
import msgspec
from uuid6 import uuid7

from blackboard.blobs import store_blob
from blackboard.clock import now
from blackboard.codec import Json, encode_content, to_json
from blackboard.draft import Binding, Draft
from blackboard.envelope import Write, is_expired
from blackboard.errors import (
    BoardFullError,
    ConflictError,
    GoneError,
    InvalidError,
    LabelError,
    NotFoundError,
    UnavailableError,
)
from blackboard.log import Log
from blackboard.messages import MAX_INLINE_BYTES, Memory, Payload, memory_of
from blackboard.reader import Reader
from blackboard.subjects import ANY_AGENT, SHARED, Ref, check_key, check_token, check_topic
from blackboard.telemetry import CONFLICTS

BATCH = 1000
BATCH_BYTES = 32 * 1024 * 1024
MIN_TTL = timedelta(seconds=1)
FULL_AT = 0.95
"""Writers stop here; the rest of the board is for claims, tombstones and receipts."""
FULL_CHECK_S = 5.0
FULL_ANSWER_S = 1.0
WRITERS = 16
"""A writer looks again when it has used this part of the room there was: others write as well."""
JITTER_S = 0.005
"""A round of read and write takes a millisecond or two, so 8 writers of one key spread over it."""
MAX_JITTER_S = 0.05

Change = Callable[[Memory | None], "Awaitable[Write]"]


class Writer:
    """Writes of one agent on one board; into a draft when it has one."""

    def __init__(
        self, log: Log, reader: Reader, draft: Draft | None = None, binding: Binding | None = None
    ) -> None:
        self._log = log
        self._reader = reader
        self._draft = draft
        self.binding = binding
        self._full_checked = 0.0
        self._room = 0.0

    async def put(
        self,
        topic: str,
        memory: Memory,
        *,
        key: str | None,
        access: str | None,
        ttl: timedelta | None,
        expected: int | None,
        now: bool,
    ) -> Ref:
        """Put a new memory, or the next revision of shared state; see `Blackboard.put`."""
        check_topic(topic)
        draft = None if now else self._draft
        memory = await self._bound(memory, draft)
        if key is None:
            if expected not in (None, 0):
                raise InvalidError("expected= belongs to key=; use revise for a memory with an id")
            return await self._put_new(topic, memory, access, ttl, draft)
        ref = Ref(ANY_AGENT, topic, check_key(key))

        async def decide(head: Memory | None) -> Write:
            live = _live(head)
            if live is not None and access not in (None, live.access):
                raise LabelError(
                    f"{ref} lies under access={live.access!r}; reclassify it to change that"
                )
            if expected is not None and expected != (0 if live is None else live.revision):
                raise ConflictError(str(ref), expected)
            label = live.access if live is not None else self._label(access)
            return Write(
                ref=ref,
                access=label,
                agent=self._log.agent,
                expected=0 if head is None else head.revision,
                memory=await self.stored(memory, label),
                expires=self._expires(ttl, live),
            )

        return await self._change(ref, decide, draft, again=expected is None)

    async def _put_new(
        self,
        topic: str,
        memory: Memory,
        access: str | None,
        ttl: timedelta | None,
        draft: Draft | None,
    ) -> Ref:
        binding = self.binding if draft is not None else None
        identifier = uuid7().hex if binding is None else binding.next_id()
        ref = Ref(self._log.agent, topic, identifier)
        head = await self._log.head(ref) if binding is not None and binding.known else None
        label = self._label(access) if head is None or access is not None else head.access
        expires = self._expires(ttl, None)
        write = Write(
            ref=ref,
            access=label,
            agent=self._log.agent,
            expected=0 if head is None else head.revision,
            memory=await self.stored(memory, label),
            expires=expires,
        )
        if expires is not None and expires <= now():
            return ref  # its time, counted from the input's, is over already
        return await self._store(write, draft)

    async def request(self, topic: str, memory: Memory, access: str | None) -> Ref:
        """Put a request at once, under a derived id in a handler; see `Blackboard.ask`."""
        binding = self.binding
        identifier = uuid7().hex if binding is None else binding.next_id()
        ref = Ref(self._log.agent, topic, identifier)
        label = self._label(access)
        bound = await self._bound(memory, None)
        write = Write(
            ref=ref,
            access=label,
            agent=self._log.agent,
            expected=0,
            memory=await self.stored(bound, label),
        )
        try:
            return await self._store(write, None)
        except ConflictError:
            if binding is None:
                raise
            return ref  # asked before, in an earlier delivery of the same input

    async def put_many(
        self,
        topic: str,
        memories: Sequence[Memory],
        *,
        access: str | None,
        ttl: timedelta | None,
    ) -> list[Ref]:
        """Put new memories in atomic batches of up to 1,000; see `Blackboard.put_many`."""
        check_topic(topic)
        if self._draft is not None:
            return [
                await self.put(
                    topic, memory, key=None, access=access, ttl=ttl, expected=None, now=False
                )
                for memory in memories
            ]
        label = self._label(access)
        expires = self._expires(ttl, None)
        writes = [
            Write(
                ref=Ref(self._log.agent, topic, uuid7().hex),
                access=label,
                agent=self._log.agent,
                expected=0,
                memory=await self.stored(await self._bound(memory, None), label),
                expires=expires,
            )
            for memory in memories
        ]
        refs: list[Ref] = []
        for batch in _batches(writes):
            await self._check_room(sum(_weight(write) for write in batch))
            revisions = await self._log.append_many(batch)
            refs += [
                Ref(write.ref.agent, topic, write.ref.id, None, revision)
                for write, revision in zip(batch, revisions, strict=True)
            ]
        return refs

    async def revise(
        self,
        ref: Ref,
        change: Callable[[Memory], Memory],
        *,
        expected: int | None,
        ttl: timedelta | None,
    ) -> Ref:
        """Put the next revision of a memory that is there; see `Blackboard.revise`."""

        async def decide(head: Memory | None) -> Write:
            live = _required(ref, head)
            if expected is not None and expected != live.revision:
                raise ConflictError(str(ref), expected)
            memory = await self._sourced(change(live), self._draft)
            return Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self._author(ref),
                expected=live.revision,
                memory=await self.stored(memory, live.access),
                expires=self._expires(ttl, live),
            )

        self._author(ref)
        return await self._change(ref, decide, self._draft, again=expected is None)

    async def update(
        self,
        ref: Ref,
        function: Callable[[Memory | None], object],
    ) -> Memory:
        """Read, change, compare and set, again on conflict; see `Blackboard.update`."""
        written = Memory()

        async def decide(head: Memory | None) -> Write:
            live = _live(head)
            label = self._label(None) if live is None else live.access
            before = None if live is None else await self._reader.filled(live)
            after = function(before)
            if inspect.isawaitable(after):
                after = await after
            if after is None:
                raise InvalidError(
                    "the function given to update must return the new content or Memory; "
                    "to take a memory back, use retire"
                )
            memory = await self._bound(self._next(before, after), self._draft)
            nonlocal written
            written = msgspec.structs.replace(memory, content=to_json(memory.content), access=label)
            return Write(
                ref=ref.unpinned,
                access=label,
                agent=self._author(ref),
                expected=0 if head is None else head.revision,
                memory=await self.stored(memory, label),
                expires=self._expires(None, live),
            )

        self._author(ref)
        check_topic(ref.topic)
        done = await self._change(ref, decide, self._draft, again=True)
        return msgspec.structs.replace(
            written,
            agent=self._log.agent,
            topic=ref.topic,
            id=ref.id,
            revision=done.written or 0,
            stored=now(),
        )

    async def retire(self, ref: Ref, reason: str) -> Ref:
        """Take a memory back; see `Blackboard.retire`."""

        async def decide(head: Memory | None) -> Write:
            live = _required(ref, head)
            return Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self._author(ref),
                expected=live.revision,
                gone="retired",
                reason=reason,
            )

        self._author(ref)
        return await self._change(ref, decide, self._draft, again=True)

    async def undo(self, ref: Ref) -> Ref:
        """Bring a retired memory back; see `Blackboard.undo`."""

        async def decide(head: Memory | None) -> Write:
            if head is None or is_expired(head):
                raise NotFoundError(f"no memory {str(ref)!r} on board {self._log.board!r}")
            if head.gone != "retired":
                raise InvalidError(f"{ref} is not retired, so there is nothing to undo")
            last = await self._before(ref, head.revision)
            if last is None:
                raise GoneError(str(ref), "forgotten")
            return Write(
                ref=ref.unpinned,
                access=last.access,
                agent=self._author(ref),
                expected=head.revision,
                memory=last,
                expires=last.expires,
            )

        self._author(ref)
        return await self._change(ref, decide, None, again=True)

    async def _before(self, ref: Ref, tombstone: int) -> Memory | None:
        found: Memory | None = None
        sequence = 0
        while True:
            memory = await self._log.next_after(sequence + 1, ref)
            if memory is None or memory.revision >= tombstone:
                return None if found is None or is_expired(found) else found
            sequence = memory.revision
            found = memory if memory.gone is None else None

    async def reclassify(self, ref: Ref, access: str) -> Ref:
        """Move a memory under another label; see `Blackboard.reclassify`."""
        check_token("access", access)
        self._author(ref)
        for attempt in count():
            live = _required(ref, await self._log.head(ref))
            if live.access == access:
                raise LabelError(f"{ref} lies under access={access!r} already")
            body = live
            if live.blob is not None:
                filled = await self._reader.filled(live)
                body = await self.stored(filled, access)
            target = await self._log.last_under(ref, access)
            gone = Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self._author(ref),
                expected=live.revision,
                gone="moved",
            )
            copy = Write(
                ref=ref.unpinned,
                access=access,
                agent=self._author(ref),
                # Shared state is checked over all labels, and against the state before the batch.
                expected=live.revision if ref.shared else target,
                memory=body,
                expires=live.expires,
            )
            try:
                revisions = await self._log.append_many([gone, copy])
            except ConflictError:
                await self._contended(attempt)
            else:
                return Ref(ref.agent, ref.topic, ref.id, None, revisions[1])
        raise AssertionError("unreachable")

    def _next(self, before: Memory | None, after: object) -> Memory:
        if isinstance(after, Payload) or before is None:
            return compose(after)
        # In a handler the inputs are the sources: those of every revision would add up for ever.
        sources = before.sources if self.binding is None else ()
        return msgspec.structs.replace(
            before, content=after, content_of=None, blob=None, sources=sources
        )

    async def _change(self, ref: Ref, decide: Change, draft: Draft | None, *, again: bool) -> Ref:
        for attempt in count():
            head = await (self._log.head(ref) if draft is None else draft.head(ref))
            write = await decide(head)
            try:
                return await self._store(write, draft)
            except ConflictError:
                if not again:
                    raise
            await self._contended(attempt)
        raise AssertionError("unreachable")

    async def _contended(self, attempt: int) -> None:
        self._log.telemetry.count(CONFLICTS)
        # Without jitter, writers that met once would meet again at every try.
        await anyio.sleep(random.uniform(0, min(MAX_JITTER_S, JITTER_S * (attempt + 1))))

    async def _store(self, write: Write, draft: Draft | None) -> Ref:
        if draft is not None:
            return draft.add(write)
        if write.gone is None:
            await self._check_room(_weight(write))
        if self.binding is not None:
            write.cause = str(self.binding.cause)
        revision = await self._log.append(write)
        return Ref(write.ref.agent, write.ref.topic, write.ref.id, None, revision)

    async def _check_room(self, size: int) -> None:
        self._room -= size
        if self._room > 0 and anyio.current_time() - self._full_checked < FULL_CHECK_S:
            return
        info = None
        try:
            with anyio.move_on_after(FULL_ANSWER_S):
                info = await self._log.connection.stream(self._log.stream)
        except UnavailableError:
            pass
        if info is None:
            return  # the write itself finds out, and has its own time limit
        limit = int(info.config.get("max_bytes", -1))
        left = FULL_AT * limit - info.state.bytes if limit > 0 else math.inf
        if left < size:
            raise BoardFullError(
                f"board {self._log.board!r} holds {info.state.bytes} of {limit} bytes; "
                "the last 5 % are kept for tombstones. Retire memories, or raise its limit"
            )
        self._room = left / WRITERS
        self._full_checked = anyio.current_time()

    def _author(self, ref: Ref) -> str:
        if not ref.shared and ref.agent != self._log.agent:
            raise InvalidError(
                f"{ref} belongs to agent {ref.agent!r}; only its agent may change it "
                f"(this is {self._log.agent!r}). Shared state, put with key=, is open to all"
            )
        return self._log.agent

    def _label(self, access: str | None) -> str:
        if access is not None:
            return check_token("access", access)
        labels = self.binding.labels if self.binding is not None else frozenset[str]()
        if len(labels) > 1:
            raise LabelError(f"the inputs lie under {sorted(labels)}; name access= for the output")
        return next(iter(labels), SHARED)

    def _expires(self, ttl: timedelta | None, live: Memory | None) -> datetime | None:
        inherited = None if live is None else live.expires
        if ttl is None:
            return inherited
        if ttl < MIN_TTL:
            raise InvalidError(f"ttl={ttl} must be at least 1 s; leave it out to keep for good")
        since = now() if self.binding is None else self.binding.since
        expires = since + ttl
        if live is not None and (inherited is None or expires < inherited):
            raise InvalidError(
                "a ttl cannot be shortened by a revision, because the revision before would "
                "come back; retire the memory instead"
            )
        return expires

    async def _bound(self, memory: Memory, draft: Draft | None) -> Memory:
        binding = self.binding
        if binding is not None:
            memory = msgspec.structs.replace(
                memory,
                session=memory.session or binding.session,
                user=memory.user or binding.user,
                hops=binding.hops,
                sources=(*binding.sources, *memory.sources),
            )
        return await self._sourced(memory, draft)

    async def _sourced(self, memory: Memory, draft: Draft | None) -> Memory:
        """Pin the sources; those of the same batch stay unpinned: "the revision of this batch"."""
        sources: dict[Ref, None] = {}
        for source in memory.sources:
            if source.revision is not None:
                sources[source] = None
            elif draft is not None and source in draft:
                sources[source.unpinned] = None
            elif source.written is not None:
                sources[source.pinned()] = None
            else:
                head = await self._log.head(source)
                if head is None:
                    raise NotFoundError(f"the source {str(source)!r} does not exist")
                sources[head.pinned] = None
        return msgspec.structs.replace(memory, sources=tuple(sources))

    async def stored(self, memory: Memory, access: str) -> Memory:
        """The memory with content as JSON, or with large content put aside."""
        if memory.content_of is not None:
            return memory
        content = to_json(memory.content)
        if isinstance(content, str) and len(content) < MAX_INLINE_BYTES // 8:
            return msgspec.structs.replace(memory, content=content, blob=None)
        body = encode_content(content)
        if len(body) <= MAX_INLINE_BYTES:
            return msgspec.structs.replace(memory, content=content, blob=None)
        blob = await store_blob(self._log, access, body)
        return msgspec.structs.replace(memory, content=None, blob=blob)


def compose(content: Json, **fields: object) -> Memory:
    """Make a memory from content, or from a `Memory` whose fields `fields` replace; None keeps."""
    given = {name: value for name, value in fields.items() if value is not None}
    payload = content if isinstance(content, Payload) else Payload(content=content)
    return memory_of(payload, **{"blob": None, **given})


def _live(head: Memory | None) -> Memory | None:
    return None if head is None or head.gone is not None or is_expired(head) else head


def _required(ref: Ref, head: Memory | None) -> Memory:
    if head is None or is_expired(head):
        raise NotFoundError(f"no memory {str(ref)!r} on this board")
    if head.gone is not None:
        raise GoneError(str(ref), head.gone)
    return head


def _batches(writes: Sequence[Write]) -> list[list[Write]]:
    batches: list[list[Write]] = [[]]
    size = 0
    for write in writes:
        weight = _weight(write)
        if len(batches[-1]) == BATCH or (batches[-1] and size + weight > BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(write)
        size += weight
    return [batch for batch in batches if batch]


def _weight(write: Write) -> int:
    """About how many bytes it takes on the board."""
    content = None if write.memory is None else write.memory.content
    return 1024 + len(content if isinstance(content, str) else str(content))
