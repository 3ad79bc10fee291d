"""Retiring what summaries stand for, when they are on disk and in the index."""

import logging
from collections.abc import Mapping, Sequence

import anyio

from blackboard.consolidator.bench import Bench, Hold, WaitingError
from blackboard.consolidator.groups import AGENT
from blackboard.consolidator.policy import Policy
from blackboard.envelope import Write
from blackboard.errors import ConflictError, UnavailableError
from blackboard.jetstream import Outgoing
from blackboard.messages import CONDENSED
from blackboard.search import MAX_LIMIT, Filter, QueryRequest
from blackboard.subjects import Ref

logger = logging.getLogger(__name__)

BATCH = 800
"""Tombstones in a batch, beside a check for each of their summaries."""
RETRY_S = 0.1
INDEX_S = 20.0
"""How long the index may take to have new summaries; then their sources are retired later."""
TRIES = 5


class Retiring:
    """The retirement of sources of one group, while it is held."""

    def __init__(self, bench: Bench, hold: Hold, policy: Policy) -> None:
        self._bench = bench
        self._log = bench.desk.log
        self._groups = bench.groups
        self._hold = hold
        self._key = hold.key
        self._policy = policy

    async def finish(self, made: Sequence[Ref]) -> None:
        """Retire what summaries stand for, but for those of which something was forgotten."""
        conflicts = 0
        while conflicts < TRIES:
            left = self._left(made)
            if not left:
                return
            await self._indexed(list(left))
            try:
                await self._retire(left)
            except ConflictError:
                conflicts += 1
                # Something was revised or taken back: it is known to us as soon as we have it.
                await self._bench.catch_up()
        logger.info("board %s: not all of %s is retired yet", self._log.board, self._key)

    def _left(self, made: Sequence[Ref]) -> dict[Ref, list[Ref]]:
        """Sources to be retired, by summary, as many as go into one batch."""
        left: dict[Ref, list[Ref]] = {}
        room = BATCH if self._policy.sources == "retire" else 0
        for summary in made:
            sources = self._groups.unretired(summary)[:room]
            if sources and summary not in self._groups.tainted:
                left[summary] = sources
                room -= len(sources)
        return left

    async def _indexed(self, made: Sequence[Ref]) -> None:
        """Wait until recall has some summaries.

        Raises:
            WaitingError: It has not, or nobody answers.
        """
        firsts = tuple(self._groups.summaries[summary][0].unpinned for summary in made)
        request = QueryRequest(
            where=Filter(kinds=("summary",), agents=(AGENT,), sources=firsts),
            limit=MAX_LIMIT,
            reached=self._groups.position,
            patience_s=5.0,
        )
        began = anyio.current_time()
        while True:
            try:
                rows = await self._bench.finder.query(request, None)
            except UnavailableError as error:
                raise WaitingError(
                    f"the sources of {made[0]} are retired when it is indexed: {error}"
                ) from error
            missing = set(made) - {row.ref.unpinned for row in rows}
            if not rows.degraded and not missing:
                return
            if anyio.current_time() - began > INDEX_S:
                raise WaitingError(f"recall does not have {min(missing, key=str)}; sources stay")
            await anyio.sleep(RETRY_S)

    async def _retire(self, left: Mapping[Ref, Sequence[Ref]]) -> None:
        """Put tombstones over sources, all or none, if each and its summary are as they were."""
        writes: list[Write] = []
        guards: list[Outgoing] = []
        for summary, sources in left.items():
            head = await self._log.head(summary)
            if head is None or head.gone is not None:
                raise ConflictError(str(summary))
            guards.append(self._hold.guard(f"t-{summary.id}", head.pinned))
            writes += [self._tombstone(source, summary) for source in sources]
        revision = 0

        async def store(renewal: Outgoing) -> int:
            nonlocal revision
            revision = (await self._log.append_many(writes, [renewal, *guards]))[-1]
            return revision + 1

        await self._hold.commit(store)
        await self._bench.reached(revision)
        self._bench.outcome.retired += len(writes)
        for summary, sources in left.items():
            self._bench.desk.journal.audit(
                "retire", str(summary), revision=revision, count=len(sources)
            )

    def _tombstone(self, source: Ref, summary: Ref) -> Write:
        return Write(
            ref=source.unpinned,
            access=self._key.access,
            agent=source.agent,
            expected=source.revision or 0,
            gone="retired",
            reason=CONDENSED + str(summary),
            by=AGENT,
        )
