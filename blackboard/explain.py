"""Where a memory comes from and what became of it: agent, handler, sources, cost, who reuses it.

Everything is read from the board itself. What a memory was made from stands in it; who uses it is
found by reading the stream from its first kept revision on, for uses can only come later. Contents
are not loaded.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from blackboard.board import Blackboard
from blackboard.errors import GoneError, InvalidError, NotFoundError, TerminalError
from blackboard.jetstream import Start
from blackboard.messages import Cost, Memory
from blackboard.records import Cause
from blackboard.subjects import ONCE, Pattern, Ref

DEPTH = 6
"""Sources of sources that are followed."""
NODES = 100
"""Memories that are looked up, together."""
SCAN = 200_000
"""Messages of the stream that are read in search of uses."""
TRACE_DIGITS = 32


class Spent(msgspec.Struct, kw_only=True):
    """Costs, of one memory or added up."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    models: list[str] = []

    @classmethod
    def of(cls, costs: Iterable[Cost | None]) -> "Spent":
        """Add costs up; a memory without any counts nothing."""
        known = [cost for cost in costs if cost is not None]
        return cls(
            calls=sum(cost.calls for cost in known),
            tokens=sum(cost.tokens for cost in known),
            seconds=sum(cost.seconds for cost in known),
            models=sorted({cost.model for cost in known} - {""}),
        )

    def __str__(self) -> str:
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        models = f" to {', '.join(self.models)}" if self.models else ""
        return f"{calls}{models}, {self.tokens} tokens, {_took(self.seconds)}"


def _took(seconds: float) -> str:
    if 0 < seconds < 0.001:
        return "under 1 ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


class Origin(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One memory, and recursively what it was made from.

    Attributes:
        ref: Pinned to the revision that is meant.
        state: ok, retired, forgotten, moved, or missing when that revision is not kept.
        cost: Its own; a memory that shows a result of `once` has none, the result has it.
        shows: The result of `once` whose content it shows.
        handler: Which made it; None when no handler did.
        input: What triggered the handler, pinned.
        seen: It stands elsewhere in the tree, with its sources.
        cut: It has sources that were not looked up, because there are too many.
    """

    ref: str
    state: str = "ok"
    kind: str = ""
    agent: str = ""
    stored: datetime | None = None
    session: str | None = None
    handler: str | None = None
    version: str | None = None
    run: int | None = None
    input: str | None = None
    cost: Spent | None = None
    trace: str | None = None
    shows: "Origin | None" = None
    sources: "list[Origin]" = []
    seen: bool = False
    cut: bool = False

    @property
    def made_from(self) -> "list[Origin]":
        """Its sources, and those of the result that it shows."""
        return [*self.sources, *(self.shows.made_from if self.shows is not None else [])]

    @property
    def spent(self) -> Spent | None:
        """What its content cost, wherever that was made."""
        return self.shows.spent if self.shows is not None else self.cost


class Use(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A memory that shows it, or was made from it."""

    ref: str
    agent: str
    kind: str
    stored: datetime | None = None
    session: str | None = None


class Explanation(msgspec.Struct, kw_only=True):
    """What is known of a memory.

    Attributes:
        memory: It, and what it was made from.
        total: What it and everything in the tree cost together, each counted once.
        shown_by: Memories that show it, or the same result of `once`; their makers reused it.
        used_by: Memories that name it as a source.
        saved: What the reuses among `shown_by` would have cost.
        complete: Whether the stream was read to its end.
    """

    memory: Origin
    total: Spent
    shown_by: list[Use]
    used_by: list[Use]
    saved: Spent
    complete: bool


async def explain(
    board: Blackboard, ref: Ref, *, depth: int = DEPTH, nodes: int = NODES, scan: int = SCAN
) -> Explanation:
    """Explain a memory.

    Args:
        board: Where it is.
        ref: The newest revision, or the pinned one.
        depth: How far sources of sources are followed.
        nodes: How many memories are looked up at most.
        scan: How many messages are read at most in search of uses.

    Raises:
        NotFoundError: It is not there, or expired.
        GoneError: It was taken back.
        HistoryGoneError: The pinned revision is not kept.
    """
    await board.get(ref)  # with the errors, and the audit, of any other read
    tree = _Tree(board, nodes)
    origin = await tree.grow(ref, depth)
    result = origin.shows
    wanted = {ref.unpinned}
    if result is not None:
        wanted.add(Ref.parse(result.ref).unpinned)
    uses, complete = await _uses(board, ref, result, wanted, scan)
    shown = [
        use for use in uses if use.content_of is not None and use.content_of.unpinned in wanted
    ]
    made_from = [use for use in uses if ref.unpinned in {source.unpinned for source in use.sources}]
    reuses = [use for use in shown if use.kind == "reuse"]
    return Explanation(
        memory=origin,
        total=Spent.of(tree.costs.values()),
        shown_by=[_use(memory) for memory in shown],
        used_by=[_use(memory) for memory in made_from if memory not in shown],
        saved=Spent.of(memory.cost for memory in reuses),
        complete=complete,
    )


class _Tree:
    """Looks memories up, each once."""

    def __init__(self, board: Blackboard, nodes: int) -> None:
        self.costs: dict[str, Cost] = {}
        self._board = board
        self._left = nodes
        self._seen: set[Ref] = set()

    async def grow(self, ref: Ref, depth: int) -> Origin:
        """The memory, and what it was made from."""
        self._left -= 1
        memory, state = await self._look_up(ref)
        if memory is None:
            return Origin(ref=str(ref), state=state)
        origin = _origin(memory, state)
        if memory.pinned in self._seen:
            origin.seen = bool(memory.sources)
            return origin
        self._seen.add(memory.pinned)
        if memory.content_of is not None and self._left > 0:
            origin.shows = await self.grow(memory.content_of, depth - 1)
        elif memory.content_of is None and memory.cost is not None:
            self.costs[origin.ref] = memory.cost
        for source in memory.sources:
            if depth <= 0 or self._left <= 0:
                origin.cut = True
                break
            origin.sources.append(await self.grow(source, depth - 1))
        return origin

    async def _look_up(self, ref: Ref) -> tuple[Memory | None, str]:
        log = self._board.log
        try:
            head = await log.head(ref.unpinned)
            if head is None:
                return None, "missing"
            state = head.gone or "ok"
            if ref.revision in (None, head.revision):
                return head, state
            memory = await log.at_sequence(ref.revision or 0, ref)
            # A copy keeps its references, so a pin may name a revision of the board it came from.
            if memory is None or memory.origin is not None:
                memory = await self._board.get(ref)
        except GoneError as error:
            return None, error.reason
        except (NotFoundError, TerminalError):
            return None, "missing"
        return memory, state


def _origin(memory: Memory, state: str) -> Origin:
    cause = _cause(memory.cause)
    return Origin(
        ref=str(memory.pinned),
        state=state,
        kind=memory.kind,
        agent=memory.agent,
        stored=memory.stored,
        session=memory.session,
        handler=None if cause is None else cause.handler,
        version=None if cause is None else cause.version,
        run=None if cause is None else cause.run,
        input=None if cause is None else str(cause.input),
        cost=None if memory.content_of or memory.cost is None else Spent.of([memory.cost]),
        trace=trace_of(memory),
    )


def _cause(text: str | None) -> Cause | None:
    try:
        return None if text is None else Cause.parse(text)
    except InvalidError:
        return None


def trace_of(memory: Memory) -> str | None:
    """The trace in which a memory was written, as 32 hex digits."""
    parts = (memory.trace or "").split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == TRACE_DIGITS else None


async def _uses(
    board: Blackboard, ref: Ref, result: Origin | None, wanted: set[Ref], scan: int
) -> tuple[list[Memory], bool]:
    """The live memories that show one of those wanted or name it as source."""
    begin = await _first(board, ref)
    if result is not None:
        begin = min(begin, await _first(board, Ref.parse(result.ref).unpinned))
    found: dict[Ref, Memory] = {}
    subject = Pattern.parse(">").subject(board.name)
    async with board.log.follow(subject, Start.after(begin)) as following:
        while following.pending and scan > 0:
            scan -= 1
            memory = await following.step()
            if memory is None:
                continue
            name = memory.ref.unpinned
            if memory.gone is None and wanted & _named(memory):
                found[name] = memory
            elif memory.topic.split(".")[0] != ONCE:
                found.pop(name, None)
        complete = following.pending == 0
    return list(found.values()), complete


def _named(memory: Memory) -> set[Ref]:
    names = {source.unpinned for source in memory.sources}
    if memory.content_of is not None:
        names.add(memory.content_of.unpinned)
    return names


async def _first(board: Blackboard, ref: Ref) -> int:
    """The first revision of a memory that is kept; 1 when there is none."""
    memory = await board.log.next_after(1, ref.unpinned)
    return 1 if memory is None else memory.revision


def _use(memory: Memory) -> Use:
    return Use(
        ref=str(memory.pinned),
        agent=memory.agent,
        kind=memory.kind,
        stored=memory.stored,
        session=memory.session,
    )
