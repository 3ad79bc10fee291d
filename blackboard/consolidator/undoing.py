"""Taking a summary back: its sources come back as they were condensed, and the summary goes.

In one atomic batch, so there is never both or neither. What was forgotten, revised or put again
meanwhile stays as it is.
"""

from collections.abc import Sequence

import msgspec

from blackboard.consolidator.groups import AGENT
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, GoneError, InvalidError, NotFoundError
from blackboard.jetstream import Outgoing
from blackboard.messages import CONDENSED, Memory
from blackboard.session import Desk
from blackboard.subjects import Ref, claim_subject

TRIES = 5
BATCH = 900


class Undone(msgspec.Struct, frozen=True):
    """A record of memories that are not to be condensed again; it has no end."""

    summary: Ref
    sources: tuple[Ref, ...]


async def undo(desk: Desk, summary: Ref) -> int:
    """Take a summary back on purpose; its sources are not condensed again.

    Returns:
        How many sources came back. Those that were never retired are there anyway.

    Raises:
        NotFoundError: There is no such summary.
        GoneError: It was taken back before, or what was condensed was deleted meanwhile.
        InvalidError: It is no summary of the consolidator.
        ConflictError: It, or its sources, changed all the time; try again.
    """
    head = await desk.log.head(summary.unpinned)
    if head is None:
        raise NotFoundError(f"no memory {str(summary)!r} on board {desk.log.board!r}")
    if head.gone is not None:
        raise GoneError(str(summary), head.gone)
    if head.agent != AGENT or head.kind != "summary":
        raise InvalidError(f"{summary} is no summary that the consolidator made")
    lost = [source for source in head.sources if await _is_lost(desk, head, source)]
    if lost:
        raise GoneError(
            f"{lost[0]} and {len(lost) - 1} more that {summary} stands for", "deleted for good"
        )
    return await _give_back(desk, summary.unpinned, head.sources)


async def _give_back(desk: Desk, summary: Ref, sources: Sequence[Ref]) -> int:
    """Put a tombstone over a summary, and on each source that it retired what was condensed."""
    log = desk.log
    for _ in range(TRIES):
        head = await log.head(summary)
        writes = [
            write
            for source in sources
            if (write := await _restored(desk, summary, source)) is not None
        ]
        records: list[Outgoing] = []
        if head is not None and head.gone is None:
            taken = Write(
                ref=summary,
                access=head.access,
                agent=AGENT,
                expected=head.revision,
                gone="retired",
                reason="its sources are back",
            )
            writes.insert(0, taken)
            records.append(_record(desk, head))
        try:
            for start in range(0, len(writes), BATCH):
                await log.append_many(writes[start : start + BATCH], records if not start else ())
        except ConflictError:
            continue
        back = sum(write.gone is None for write in writes)
        desk.journal.audit("undo", str(summary), count=max(1, back))
        return back
    raise ConflictError(str(summary))


def _record(desk: Desk, summary: Memory) -> Outgoing:
    subject = claim_subject(desk.log.board, summary.access, AGENT, f"u-{summary.id}")
    sources = tuple(source.unpinned for source in summary.sources)
    return desk.log.record(subject, Undone(summary.ref.unpinned, sources), expected=0, ttl_s=None)


async def _restored(desk: Desk, summary: Ref, source: Ref) -> Write | None:
    """The write that brings a source back; None where there is nothing to bring back."""
    head = await desk.log.head(source.unpinned)
    if head is None or head.gone != "retired" or head.reason != CONDENSED + str(summary):
        return None
    memory = await desk.log.at_sequence(source.revision or 0, source)
    if memory is None or memory.gone is not None or is_expired(memory):
        return None
    return Write(
        ref=source.unpinned,
        access=memory.access,
        agent=source.agent,
        expected=head.revision,
        memory=memory,
        expires=memory.expires,
        cause=memory.cause,
        by=AGENT,
    )


async def _is_lost(desk: Desk, summary: Memory, source: Ref) -> bool:
    """Whether a source was retired for a summary and then deleted."""
    head = await desk.log.head(source.unpinned)
    if head is None or head.gone != "retired":
        return False
    if head.reason != CONDENSED + str(summary.ref.unpinned):
        return False
    return await desk.log.at_sequence(source.revision or 0, source) is None
