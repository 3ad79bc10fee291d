"""Writing memories: new ones, revisions, tombstones, and the rules that hold for each.

Every change reads the newest revision, decides, and writes against the sequence it saw, again on a
conflict. In a handler the writes go into its draft instead, and the handler runs again on a
conflict.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from uuid_utils import uuid7

from blackboard.changes import Changes, live_one, required
from blackboard.clock import now as time_now
from blackboard.codec import Json, to_json
from blackboard.draft import Draft
from blackboard.envelope import Write
from blackboard.errors import ConflictError, InvalidError, LabelError, NotFoundError
from blackboard.messages import Memory, Payload, memory_of
from blackboard.room import weight
from blackboard.subjects import ANY_AGENT, Ref, check_key, check_topic

BATCH = 1000
BATCH_BYTES = 32 * 1024 * 1024


class Writer(Changes):
    """Writes of one agent on one board; into a draft when it has one."""

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
        until: datetime | None = None,
    ) -> Ref:
        """Put a new memory, or the next revision of shared state; see `Blackboard.put`.

        A new one ends `until` then at the latest, whatever its ttl.
        """
        check_topic(topic)
        draft = None if now else self.draft
        if key is None:
            if expected not in (None, 0):
                raise InvalidError("expected= belongs to key=; use revise for a memory with an id")
            return await self._put_new(topic, memory, access, ttl, draft, until)
        ref = Ref(ANY_AGENT, topic, check_key(key))
        memory = await self.bound(memory, draft)

        async def decide(head: Memory | None) -> Write:
            live = live_one(head)
            if live is not None and access not in (None, live.access):
                raise LabelError(
                    f"{ref} lies under access={live.access!r}; reclassify it to change that"
                )
            if expected is not None and expected != (0 if live is None else live.revision):
                raise ConflictError(str(ref), expected)
            label = self._of_live(ref, live, access)
            return Write(
                ref=ref,
                access=label,
                agent=self.log.agent,
                expected=0 if head is None else head.revision,
                memory=await self.stored(memory, label),
                expires=self.expires(ttl, live),
                live=live,
            )

        return await self.change(ref, decide, draft)

    async def _put_new(
        self,
        topic: str,
        memory: Memory,
        access: str | None,
        ttl: timedelta | None,
        draft: Draft | None,
        until: datetime | None,
    ) -> Ref:
        binding = self.binding if draft is not None else None
        identifier = uuid7().hex if binding is None else binding.next_id()
        ref = Ref(self.log.agent, topic, identifier)
        memory = await self.bound(memory, draft)  # the id came first: it counts the calls of put
        head = await self.log.head(ref) if binding is not None and binding.known else None
        live = live_one(head)
        label = self.label(access)
        expires = self._end(ttl, until, live)
        if expires is not None and expires <= time_now():
            return ref  # its time, counted from the input's, is over already
        expected = 0 if head is None else head.revision
        if draft is not None and head is not None and head.access != label:
            expected = await self.log.last_under(ref, label)
            if head.gone is None:
                draft.add(self._moved(ref, head))
        write = Write(
            ref=ref,
            access=label,
            agent=self.log.agent,
            expected=expected,
            memory=await self.stored(memory, label),
            expires=expires,
            live=live,
        )
        return await self.store(write, draft)

    def _end(
        self, ttl: timedelta | None, until: datetime | None, live: Memory | None
    ) -> datetime | None:
        """When a new memory ends, or the next revision of a handler's output."""
        inherited = None if live is None else live.expires
        if live is not None and ttl is None and (inherited is None or until is None):
            return inherited
        expires = self.expires(ttl, None)
        if until is None:
            return expires
        end = until if expires is None else min(until, expires)
        # Sooner than the revision before, and that would come back.
        return end if inherited is None else max(end, inherited)

    def _moved(self, ref: Ref, head: Memory) -> Write:
        """The tombstone that an output leaves behind when its next revision has another label."""
        return Write(
            ref=ref,
            access=head.access,
            agent=self.log.agent,
            expected=head.revision,
            gone="moved",
        )

    def _of_live(self, ref: Ref, live: Memory | None, access: str | None) -> str:
        """The label of the next revision: what the memory has, if the inputs allow that.

        Raises:
            LabelError: The inputs of this handler lie under a label that the memory does not.
        """
        if live is None:
            return self.label(access)
        labels = self.binding.labels if self.binding is not None and access is None else ()
        if any(label != live.access for label in labels):
            raise LabelError(
                f"the inputs lie under {sorted(labels)}, but {ref} under {live.access!r}; "
                "reclassify it, use another key, or name access= if that is meant"
            )
        return live.access

    async def request(self, topic: str, memory: Memory, access: str | None) -> Ref:
        """Put a request at once, under a derived id in a handler; see `Blackboard.ask`."""
        binding = self.binding
        identifier = uuid7().hex if binding is None else binding.request_id()
        ref = Ref(self.log.agent, topic, identifier)
        label = self.label(access)
        bound = await self.bound(memory, None)
        write = Write(
            ref=ref,
            access=label,
            agent=self.log.agent,
            expected=0,
            memory=await self.stored(bound, label),
        )
        try:
            return await self.store(write, None)
        except ConflictError:
            if binding is None:
                raise
            return ref  # asked before, in an earlier delivery of the same input

    async def put_many(
        self,
        topic: str,
        contents: Sequence[Json],
        fields: Mapping[str, object],
        *,
        access: str | None,
        ttl: timedelta | None,
    ) -> list[Ref]:
        """Put new memories in atomic batches of up to 1,000; see `Blackboard.put_many`."""
        check_topic(topic)
        if self.draft is not None:
            memories = [compose(content, **fields) for content in contents]
            return [
                await self.put(
                    topic, memory, key=None, access=access, ttl=ttl, expected=None, now=False
                )
                for memory in memories
            ]
        label = self.label(access)
        expires = self.expires(ttl, None)
        writes = [
            Write(
                ref=Ref(self.log.agent, topic, uuid7().hex),
                access=label,
                agent=self.log.agent,
                expected=0,
                memory=await self.stored(memory, label),
                expires=expires,
            )
            for memory in await self._alike(contents, fields)
        ]
        refs: list[Ref] = []
        for batch in _batches(writes):
            revisions = await self.log.append_many(batch)
            refs += [
                Ref(write.ref.agent, topic, write.ref.id, None, revision)
                for write, revision in zip(batch, revisions, strict=True)
            ]
        return refs

    async def _alike(self, contents: Sequence[Json], fields: Mapping[str, object]) -> list[Memory]:
        """Memories with the same fields; what contents share is looked up and made once."""
        template = await self.bound(compose(None, **fields), None)
        return [
            await self.bound(compose(content, **fields), None)
            if isinstance(content, Payload)
            else msgspec.structs.replace(template, content=content)
            for content in contents
        ]

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
            live = required(ref, head)
            if expected is not None and expected != live.revision:
                raise ConflictError(str(ref), expected)
            memory = change(live)
            if self.binding is not None and memory.sources is live.sources:
                # As in `update`: the inputs are the sources.
                memory = msgspec.structs.replace(memory, sources=())
            memory = await self.bound(memory, self.draft)
            return Write(
                ref=ref.unpinned,
                access=self._of_live(ref, live, None),
                agent=self.author(ref),
                expected=live.revision,
                memory=await self.stored(memory, live.access),
                expires=self.expires(ttl, live),
                live=live,
            )

        self.author(ref)
        return await self.change(ref, decide, self.draft)

    async def update(
        self,
        ref: Ref,
        function: Callable[[Memory | None], object],
    ) -> Memory:
        """Read, change, compare and set, again on conflict; see `Blackboard.update`."""
        written = Memory()

        async def decide(head: Memory | None) -> Write:
            live = live_one(head)
            label = self._of_live(ref, live, None)
            before = None if live is None else await self.reader.filled(live)
            after = function(before)
            if inspect.isawaitable(after):
                after = await after
            if after is None:
                raise InvalidError(
                    "the function given to update must return the new content or Memory; "
                    "to take a memory back, use retire"
                )
            memory = await self.bound(self._next(before, after), self.draft)
            body = await self.stored(memory, label)
            nonlocal written
            written = msgspec.structs.replace(body, content=to_json(memory.content), access=label)
            return Write(
                ref=ref.unpinned,
                access=label,
                agent=self.author(ref),
                expected=0 if head is None else head.revision,
                memory=body,
                expires=self.expires(None, live),
                live=live,
            )

        self.author(ref)
        check_topic(ref.topic)
        done = await self.change(ref, decide, self.draft)
        return msgspec.structs.replace(
            written,
            agent=self.log.agent,
            topic=ref.topic,
            id=ref.id,
            revision=done.written or 0,
            stored=time_now(),
        )

    def _next(self, before: Memory | None, after: object) -> Memory:
        if isinstance(after, Payload) or before is None:
            return compose(after)
        # In a handler the inputs are the sources: those of every revision would add up for ever.
        sources = before.sources if self.binding is None else ()
        return msgspec.structs.replace(
            before, content=after, content_of=None, blob=None, sources=sources
        )

    async def bound(self, memory: Memory, draft: Draft | None = None) -> Memory:
        """The memory with what the input of a handler gives to everything that is put in it."""
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
            if not isinstance(source, Ref):  # pyright: ignore[reportUnnecessaryIsInstance] - a struct does not check
                raise InvalidError(f"the source {source!r} of a Memory must be a Ref")
            if source.revision is not None:
                sources[source] = None
            elif draft is not None and source in draft:
                sources[source.unpinned] = None
            elif source.written is not None:
                sources[source.pinned()] = None
            else:
                head = await self.log.head(source)
                if head is None:
                    raise NotFoundError(f"the source {str(source)!r} does not exist")
                sources[head.pinned] = None
        return msgspec.structs.replace(memory, sources=tuple(sources))


def compose(content: Json, **fields: object) -> Memory:
    """Make a memory from content, or from a `Memory` whose fields `fields` replace; None keeps."""
    given = {name: value for name, value in fields.items() if value is not None}
    payload = content if isinstance(content, Payload) else Payload(content=content)
    return memory_of(payload, **{"blob": None, **given})


def _batches(writes: Sequence[Write]) -> list[list[Write]]:
    batches: list[list[Write]] = [[]]
    size = 0
    for write in writes:
        more = weight(write)
        if len(batches[-1]) == BATCH or (batches[-1] and size + more > BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(write)
        size += more
    return [batch for batch in batches if batch]
