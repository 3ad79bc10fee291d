"""The work on one group: write summaries, put them, wait for the index, retire what they stand for.

Under a lease, which is part of what is stored: every batch renews it, so a worker that lost it
stores nothing more. Whoever takes it over reads everything that was stored before the lease was his
own, and finds each summary that his predecessor put, before he decides what is left to do.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import anyio
import msgspec

from blackboard import clock
from blackboard.background import background
from blackboard.codec import canonical
from blackboard.consolidate.extract import Said
from blackboard.consolidator.groups import AGENT, Candidate, Groups, Key
from blackboard.consolidator.plan import SUMMARY_TOKENS, length, parts, summary_of
from blackboard.consolidator.policy import Policy
from blackboard.consolidator.undoing import give_back
from blackboard.consolidator.writers import Writer, Written
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, TerminalError, UnavailableError
from blackboard.finder import Finder
from blackboard.jetstream import Outgoing
from blackboard.lease import Claim
from blackboard.messages import CONDENSED, Memory
from blackboard.plaintext import day_of, plain
from blackboard.records import Lease
from blackboard.search import Filter, QueryRequest, RecallRequest
from blackboard.session import Desk
from blackboard.subjects import Pattern, Ref, claim_subject, derived_id, reference_filter
from blackboard.tokens import tokens

logger = logging.getLogger(__name__)

LEASE_S = 20.0
GUARD_S = 1.0
"""How long the checks of a batch lie on the board; their work is done when they are stored."""
MAX_CHARS = 400_000
"""Of one memory."""
AT_ONCE = 16
BATCH = 400
INDEX_S = 20.0
"""How long the index may take to have a new summary; then its sources are retired later."""
TRIES = 5
NEAR = 100
"""Memories close in meaning that are looked for at once."""


class WaitingError(UnavailableError):
    """Something is not ready yet; what is half done will be finished later."""


class Outcome(msgspec.Struct):
    """What was done."""

    summaries: int = 0
    condensed: int = 0
    retired: int = 0
    restored: int = 0
    read: int = 0
    """Tokens of what was condensed."""
    kept: int = 0
    """Tokens of the summaries."""
    spent: int = 0
    """Tokens that a model took."""

    def add(self, other: "Outcome") -> None:
        """Add another's figures."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Bench:
    """What working on groups of one board needs.

    Attributes:
        desk: At the board, under the consolidator's name.
        groups: What is known of it.
        reached: Waits until `groups` has taken in a revision.
        lease_s: How long a group is held without a sign of life.
        outcome: What was done.
    """

    def __init__(
        self,
        desk: Desk,
        groups: Groups,
        reached: Callable[[int], Awaitable[None]],
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self.desk = desk
        self._lease_s = lease_s
        self.groups = groups
        self.reached = reached
        self.outcome = Outcome()
        self.finder = Finder(desk.log, desk.reader, desk.journal)

    async def run(self, key: Key, members: Callable[[], list[Candidate]], writer: Writer) -> bool:
        """Work on a group, unless another does.

        Args:
            key: The group.
            members: What is to be condensed; asked when the group is ours.
            writer: Writes the summaries.

        Returns:
            False when another works on it.

        Raises:
            BlackboardError: Something could not be done; what is half done will be found again.
        """
        log = self.desk.log
        digest = derived_id(canonical([key.access, key.topic, key.session, key.user]))
        claim = Claim(log, AGENT, access=key.access, digest=digest, lease_s=self._lease_s)
        if not await claim.take():
            return False
        try:
            async with background() as group:
                # A worker that lost its lease can store nothing, so it need not be stopped.
                group.start_soon(claim.keep)
                last = await log.reads.last(Pattern(">").subject(log.board))
                await self.reached(0 if last is None else last.sequence)
                await _Work(self, key, claim, writer).run(members)
        finally:
            await claim.release()
        return True


class _Work:
    """The work on one group, while its lease is held."""

    def __init__(self, bench: Bench, key: Key, claim: Claim, writer: Writer) -> None:
        self._bench = bench
        self._log = bench.desk.log
        self._groups = bench.groups
        self._key = key
        self._claim = claim
        self._writer = writer
        self._policy: Policy = bench.groups.rules.of(key.topic)

    async def run(self, members: Callable[[], list[Candidate]]) -> None:
        made = self._groups.unfinished(self._key).get(self._key, [])
        left = members()
        if left and self._policy.sources == "retire":
            await self._ask_index()
        while left and self._is_enough(left):
            part = await self._near(left) if self._key.loose else parts(left, self._policy)[0]
            summary = await self._condense(part)
            if summary is not None:
                made.append(summary)
            done = {one.ref for one in part}
            left = [one for one in left if one.ref not in done]
        # Behind all of them, so that the index takes them in while others are written.
        for summary in made:
            await self._finish(summary)

    def _is_enough(self, members: Sequence[Candidate]) -> bool:
        """Two memories, or one that is long."""
        return len(members) > 1 or members[0].tokens >= SUMMARY_TOKENS * self._policy.ratio

    async def _ask_index(self) -> None:
        """Write no summaries where nobody will retire what they stand for.

        Raises:
            WaitingError: No index answers for this board.
        """
        request = QueryRequest(where=Filter(kinds=("summary",)), limit=1)
        try:
            await self._bench.finder.query(request, None)
        except UnavailableError as error:
            raise WaitingError(f"{self._key} waits for recall, which does not answer") from error

    # Condensing

    async def _near(self, members: Sequence[Candidate]) -> list[Candidate]:
        """The oldest memory and those that are close to it in meaning, in order."""
        by_ref = {one.ref.unpinned: one for one in members}
        first = members[0]
        if len(parts(members, self._policy)) == 1:
            return list(members)
        memory = await self._bench.desk.reader.pinned(first.ref)
        hits = await self._bench.finder.recall(
            RecallRequest(
                text=plain(memory, 2_000),
                where=Filter(topic=self._key.topic, access=(self._key.access,)),
                limit=NEAR,
            )
        )
        near = [first]
        for hit in hits:
            one = by_ref.get(hit.memory.ref.unpinned)
            if one is not None and one is not first:
                near.append(one)
        chosen = parts(near, self._policy)[0]
        return sorted(chosen, key=lambda one: one.ref.revision or 0)

    async def _condense(self, part: Sequence[Candidate]) -> Ref | None:
        """Write and put a summary of some memories; None when there is none to be put."""
        ref = summary_of(self._key, part[0].ref)
        head = await self._log.head(ref)
        if head is not None and head.gone != "forgotten":
            # Somebody took it back; what it stood for is not condensed again.
            self._groups.undone.update(one.ref.unpinned for one in part)
            return None
        memories = await self._read(part)
        if not memories:
            return None
        said = [Said(plain(one, MAX_CHARS), one.agent, day_of(one)) for one in memories]
        read = sum(tokens(one.text) for one in said)
        written = await self._writer.write(said, length(read, self._policy))
        if not written.text:
            return None
        try:
            memory = self._memory(memories, written, read)
            revision = await self._put(ref, memory, memories, 0 if head is None else head.revision)
        except ConflictError:
            logger.info("board %s: %s changed meanwhile", self._log.board, self._key)
            return None
        await self._bench.reached(revision)
        done = Outcome(summaries=1, condensed=len(memories), read=read, kept=tokens(written.text))
        done.spent = written.cost.tokens
        self._bench.outcome.add(done)
        self._bench.desk.journal.audit("condense", str(ref), revision=revision, count=len(memories))
        return ref

    async def _read(self, part: Sequence[Candidate]) -> list[Memory]:
        """The memories as they were seen, those that are still so; with content."""
        found: list[Memory | None] = [None] * len(part)
        slots = anyio.Semaphore(AT_ONCE)

        async def one(place: int, ref: Ref) -> None:
            async with slots:
                try:
                    head = await self._log.head(ref.unpinned)
                    if head is None or head.revision != ref.revision or is_expired(head):
                        return
                    found[place] = await self._bench.desk.reader.filled(head)
                except TerminalError as error:
                    logger.info("board %s: %s is left out: %s", self._log.board, ref, error)

        async with background() as group:
            for place, candidate in enumerate(part):
                group.start_soon(one, place, candidate.ref)
            for _ in range(AT_ONCE):
                await slots.acquire()
        return [memory for memory in found if memory is not None]

    def _memory(self, memories: Sequence[Memory], written: Written, read: int) -> Memory:
        common: Mapping[str, str] = {
            name: value
            for name, value in memories[0].tags.items()
            if all(memory.tags.get(name) == value for memory in memories)
        }
        tags = {**common, "memories": str(len(memories)), "tokens": str(read)}
        if written.prompt is not None:
            tags["prompt"] = written.prompt
        return Memory(
            content=written.text,
            kind="summary",
            session=self._key.session,
            user=self._key.user,
            tags=tags,
            priority=max(memory.priority for memory in memories),
            sources=tuple(memory.pinned for memory in memories),
            cost=written.cost,
            happened=max(map(_moment, memories)),
            hops=max(memory.hops for memory in memories),
        )

    async def _put(self, ref: Ref, memory: Memory, sources: Sequence[Memory], expected: int) -> int:
        """Store a summary, if every source is what was read and the group is still ours.

        Raises:
            ConflictError: One of them is not, or the summary is there; nothing was stored.
        """
        write = Write(
            ref=ref, access=self._key.access, agent=AGENT, expected=expected, memory=memory
        )
        guards = [
            self._guard(f"s-{ref.id}-{number}", source.pinned)
            for number, source in enumerate(sources)
        ]
        revision = 0

        async def store(renewal: Outgoing) -> int:
            nonlocal revision
            (revision,) = await self._log.append_many([write], [renewal, *guards])
            return revision + 1

        await self._claim.commit(store)
        return revision

    def _guard(self, name: str, ref: Ref) -> Outgoing:
        """A record that is stored only if a memory is still at the revision that is pinned."""
        return self._log.record(
            claim_subject(self._log.board, self._key.access, AGENT, name),
            Lease(AGENT, clock.now()),
            expected=ref.revision or 0,
            ttl_s=GUARD_S,
            over=reference_filter(self._log.board, ref),
        )

    # Retiring

    async def _finish(self, summary: Ref) -> None:
        """Retire what a summary stands for; or give it back, if some of that was forgotten."""
        for _ in range(TRIES):
            if summary in self._groups.tainted:
                back = await give_back(
                    self._bench.desk, summary, self._groups.summaries[summary], gone="forgotten"
                )
                self._bench.outcome.restored += back
                return
            if self._policy.sources != "retire":
                return
            sources = self._groups.unretired(summary)
            if not sources:
                return
            await self._indexed(summary)
            try:
                await self._retire(summary, sources[:BATCH])
            except ConflictError:
                # One of them was revised or taken back: it is known to us as soon as we have it.
                last = await self._log.reads.last(Pattern(">").subject(self._log.board))
                await self._bench.reached(0 if last is None else last.sequence)
        logger.info("board %s: not all of %s is retired yet", self._log.board, summary)

    async def _indexed(self, summary: Ref) -> None:
        """Wait until recall has a summary.

        Raises:
            WaitingError: It has not, or nobody answers.
        """
        head = await self._log.head(summary)
        if head is None or head.gone is not None:
            raise WaitingError(f"{summary} is not there any more")
        request = QueryRequest(
            where=Filter(kinds=("summary",), agents=(AGENT,), sources=head.sources[:1]),
            limit=10,
            reached=head.revision,
            patience_s=5.0,
        )
        began = anyio.current_time()
        while True:
            try:
                rows = await self._bench.finder.query(request, None)
            except UnavailableError as error:
                raise WaitingError(
                    f"the sources of {summary} are retired when it is indexed: {error}"
                ) from error
            if not rows.degraded and any(row.ref == summary for row in rows):
                return
            if anyio.current_time() - began > INDEX_S:
                raise WaitingError(f"recall does not have {summary} yet; its sources stay")
            await anyio.sleep(0.2)

    async def _retire(self, summary: Ref, sources: Sequence[Ref]) -> None:
        """Put tombstones over sources, all or none, if each and the summary are as they were."""
        head = await self._log.head(summary)
        if head is None or head.gone is not None:
            raise ConflictError(str(summary))
        writes = [
            Write(
                ref=source.unpinned,
                access=self._key.access,
                agent=source.agent,
                expected=source.revision or 0,
                gone="retired",
                reason=CONDENSED + str(summary),
                by=AGENT,
            )
            for source in sources
        ]
        guard = self._guard(f"t-{summary.id}", head.pinned)
        revision = 0

        async def store(renewal: Outgoing) -> int:
            nonlocal revision
            revision = (await self._log.append_many(writes, [renewal, guard]))[-1]
            return revision + 1

        await self._claim.commit(store)
        await self._bench.reached(revision)
        self._bench.outcome.retired += len(writes)
        self._bench.desk.journal.audit("retire", str(summary), revision=revision, count=len(writes))


def _moment(memory: Memory) -> datetime:
    return memory.happened or memory.stored or clock.now()
