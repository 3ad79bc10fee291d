"""The work on one group: write summaries, put them, and have what they stand for retired."""

import logging
from collections.abc import Callable, Sequence

import anyio

from blackboard.background import background
from blackboard.consolidator.bench import Bench, Hold, WaitingError
from blackboard.consolidator.drafting import draft
from blackboard.consolidator.groups import AGENT, Candidate, Key
from blackboard.consolidator.plan import SUMMARY_TOKENS, parts, summary_of
from blackboard.consolidator.policy import Policy
from blackboard.consolidator.remaking import remake
from blackboard.consolidator.retiring import Retiring
from blackboard.consolidator.writers import Writer
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, TerminalError, UnavailableError
from blackboard.jetstream import Outgoing
from blackboard.messages import Memory
from blackboard.plaintext import plain
from blackboard.search import Filter, QueryRequest, RecallRequest
from blackboard.subjects import Ref

logger = logging.getLogger(__name__)

MAX_CHARS = 400_000
"""Of one memory."""
AT_ONCE = 16
NEAR = 100
"""Memories close in meaning that are looked for at once."""


async def work_on(
    bench: Bench, key: Key, members: Callable[[], list[Candidate]], writer: Writer
) -> bool:
    """Work on a group, unless another does.

    Args:
        bench: Of the board.
        key: The group.
        members: What is to be condensed; asked when the group is ours.
        writer: Writes the summaries.

    Returns:
        False when another works on it.

    Raises:
        BlackboardError: Something could not be done; what is half done will be found again.
    """
    async with bench.holding(key) as hold:
        if hold is None:
            return False
        await _Work(bench, hold, writer).run(members)
    return True


class _Work:
    """The work on one group, while its lease is held."""

    def __init__(self, bench: Bench, hold: Hold, writer: Writer) -> None:
        self._bench = bench
        self._log = bench.desk.log
        self._groups = bench.groups
        self._hold = hold
        self._key = hold.key
        self._writer = writer
        self._policy: Policy = bench.groups.rules.of(hold.key.topic)

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
        retiring = Retiring(self._bench, self._hold, self._policy)
        await retiring.finish(made)
        while made := await remake(self._bench, self._hold, self._writer):
            await retiring.finish(made)

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
        made = await draft(self._writer, self._key, await self._read(part), self._policy)
        if made is None:
            return None
        try:
            revision = await self._put(ref, made.memory, 0 if head is None else head.revision)
        except ConflictError:
            logger.info("board %s: %s changed meanwhile", self._log.board, self._key)
            return None
        await self._bench.reached(revision)
        self._bench.note(ref, made, revision)
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

    async def _put(self, ref: Ref, memory: Memory, expected: int) -> int:
        """Store a summary, if every source is what was read and the group is still ours.

        Raises:
            ConflictError: One of them is not, or the summary is there; nothing was stored.
        """
        write = Write(
            ref=ref, access=self._key.access, agent=AGENT, expected=expected, memory=memory
        )
        guards = [
            self._hold.guard(f"s-{ref.id}-{number}", source)
            for number, source in enumerate(memory.sources)
        ]
        revision = 0

        async def store(renewal: Outgoing) -> int:
            nonlocal revision
            (revision,) = await self._log.append_many([write], [renewal, *guards])
            return revision + 1

        await self._hold.commit(store)
        return revision
