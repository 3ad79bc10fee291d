"""Answers questions to one board's index: searches, selects and counts, within the asker's rights.

Rights enter the search itself, as one predicate and before the limit. They are held against the
newest revision once more, because the index may lag behind a memory that was moved.
"""

from collections.abc import Sequence

import anyio

from blackboard.clock import now
from blackboard.envelope import is_expired
from blackboard.errors import (
    BlackboardError,
    InvalidError,
    ModelBusyError,
    TerminalError,
    UnavailableError,
)
from blackboard.paging import Cursor
from blackboard.recall.index import Row, Vectors, Where
from blackboard.recall.kept import Kept
from blackboard.recall.library import Library
from blackboard.recall.rank import DEPTH, rank
from blackboard.recall.text import question
from blackboard.search import (
    Found,
    Grant,
    QueryAnswer,
    QueryRequest,
    RecallAnswer,
    RecallRequest,
)
from blackboard.subjects import Ref

Grants = tuple[Grant, ...] | None
"""What somebody may read; None when no rights are enforced."""
EMBED_S = 8.0
"""How long the text of a question may take to be embedded."""
AT_ONCE = 32
ROUNDS = 4
"""How often more rows are looked for when rights take rows away."""
WIDER = 4
"""How much deeper is looked when rights take hits away."""


class Desk:
    """Answers questions.

    Args:
        library: The board's indexes; to be kept by whoever owns the desk.
    """

    def __init__(self, library: Library) -> None:
        self.library = library

    async def recall(self, request: RecallRequest, grants: Grants) -> RecallAnswer:
        """Find memories by meaning.

        Raises:
            InvalidError: The request breaks a rule.
            SettingsError: The embedder cannot be used; the text says what to do.
            RetryableError: The embedder or the engine does not answer now.
        """
        request.check()
        self.library.check_embedder()
        kept, stale = await self._reached(request.reached, request.patience_s)
        async with kept.used():
            vectors = await self._vectors(kept, request.text)
            moment = now()
            where = Where(request.where, grants, moment)
            parts = await kept.index.search(vectors, where, max(DEPTH, request.limit))
            ranked = rank(
                parts,
                limit=request.limit if grants is None else WIDER * request.limit,
                now=moment,
                recency=request.recency,
                priority=request.priority,
            )
            state = kept.state(stale=stale)
        hits: list[Found] = []
        for start in range(0, len(ranked), request.limit):
            some = ranked[start : start + request.limit]
            allowed = await self._allowed([hit.ref for hit in some], grants)
            hits += [hit for hit in some if hit.ref in allowed]
            if len(hits) >= request.limit:
                break
        return RecallAnswer(hits=tuple(hits[: request.limit]), state=state)

    async def query(self, request: QueryRequest, grants: Grants) -> QueryAnswer:
        """Select memories by their metadata.

        Raises:
            InvalidError: The request breaks a rule.
            RetryableError: The engine does not answer now.
        """
        request.check()
        after: Row | None = None
        if request.cursor is not None:
            last = Cursor.parse(request.cursor, request.order_by)
            after = Row(last.ref, last.revision, last.value)
        kept, stale = await self._reached(request.reached, request.patience_s)
        async with kept.used():
            where = Where(request.where, grants, now())
            rows, more = await self._rows(kept, request, where, after)
            total, counts = None, {}
            if request.count_by:
                total, counts = await kept.index.count(where, request.count_by)
            state = kept.state(stale=stale)
        cursor = None
        if more:
            # A row that the asker has been given: a cursor can be read.
            end = rows[-1]
            cursor = str(Cursor(request.order_by, end.value, end.revision, end.ref))
        return QueryAnswer(
            rows=tuple(row.ref.pinned(row.revision) for row in rows),
            cursor=cursor,
            counts=counts,
            total=total,
            state=state,
        )

    async def _rows(
        self, kept: Kept, request: QueryRequest, where: Where, after: Row | None
    ) -> tuple[list[Row], bool]:
        """The rows that the asker may read, and whether there may be more behind them."""
        rows: list[Row] = []
        for _ in range(ROUNDS):
            missing = request.limit - len(rows)
            if not missing:
                return rows, bool(rows)
            page = await kept.index.select(where, request.order_by, missing, after)
            allowed = await self._allowed([row.ref for row in page], where.grants)
            rows += [row for row in page if row.ref in allowed]
            if len(page) < missing:
                return rows, False
            after = page[-1]
        if not rows:
            raise UnavailableError("the index lags behind what was moved or removed; try again")
        return rows, True

    async def _reached(self, revision: int, patience_s: float) -> tuple[Kept, bool]:
        kept = await self.library.active()
        if revision < 0:
            raise InvalidError(f"reached={revision} is no revision")
        reached = await kept.reach(revision, patience_s)
        # Another index may have come into service meanwhile.
        return await self.library.active(), not reached

    async def _vectors(self, kept: Kept, text: str) -> Vectors:
        embedder = await kept.ready()
        asked = question(text)
        with anyio.move_on_after(EMBED_S):
            row = (await embedder.embed([asked.bare], urgent=True))[0]
            return Vectors(row, asked.words)
        raise ModelBusyError(f"{embedder.name!r} took longer than {EMBED_S:g} s; try again")

    async def _allowed(self, refs: Sequence[Ref], grants: Grants) -> set[Ref]:
        """Those whose newest revision the asker may read."""
        if grants is None:
            return set(refs)
        found: set[Ref] = set()
        slots = anyio.Semaphore(AT_ONCE)
        failure: BlackboardError | None = None

        async def look(ref: Ref) -> None:
            nonlocal failure
            async with slots:
                try:
                    memory = await self.library.log.head(ref.unpinned)
                except TerminalError:
                    return
                except BlackboardError as error:
                    failure = error
                    return
            if memory is None or memory.gone is not None or is_expired(memory):
                return
            if any(grant.covers(memory) for grant in grants):
                found.add(ref)

        async with anyio.create_task_group() as group:
            for ref in refs:
                group.start_soon(look, ref)
        if failure is not None:
            raise failure
        return found
