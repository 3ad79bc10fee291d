"""Taking memories back: retiring, undoing, and moving under another label.

Removal is a revision of its own, a tombstone, because expiry and deletion notify nobody.
"""

from itertools import count

from blackboard.changes import Changes, required
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, GoneError, InvalidError, LabelError, NotFoundError
from blackboard.messages import Memory
from blackboard.subjects import Ref, check_token


class Removal(Changes):
    """Removals by one agent on one board."""

    async def retire(self, ref: Ref, reason: str) -> Ref:
        """Take a memory back; see `Blackboard.retire`."""

        async def decide(head: Memory | None) -> Write:
            live = required(ref, head)
            return Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self.author(ref),
                expected=live.revision,
                gone="retired",
                reason=reason,
            )

        self.author(ref)
        return await self.change(ref, decide, self.draft, again=True)

    async def undo(self, ref: Ref) -> Ref:
        """Bring a retired memory back; see `Blackboard.undo`."""

        async def decide(head: Memory | None) -> Write:
            if head is None or is_expired(head):
                raise NotFoundError(f"no memory {str(ref)!r} on board {self.log.board!r}")
            if head.gone != "retired":
                raise InvalidError(f"{ref} is not retired, so there is nothing to undo")
            last = await self._before(ref, head.revision)
            if last is None:
                raise GoneError(str(ref), "forgotten")
            return Write(
                ref=ref.unpinned,
                access=last.access,
                agent=self.author(ref),
                expected=head.revision,
                memory=last,
                expires=last.expires,
            )

        self.author(ref)
        return await self.change(ref, decide, None, again=True)

    async def _before(self, ref: Ref, tombstone: int) -> Memory | None:
        found: Memory | None = None
        sequence = 0
        while True:
            memory = await self.log.next_after(sequence + 1, ref)
            if memory is None or memory.revision >= tombstone:
                return None if found is None or is_expired(found) else found
            sequence = memory.revision
            found = memory if memory.gone is None else None

    async def reclassify(self, ref: Ref, access: str) -> Ref:
        """Move a memory under another label; see `Blackboard.reclassify`."""
        check_token("access", access)
        self.author(ref)
        for attempt in count():
            live = required(ref, await self.log.head(ref))
            if live.access == access:
                raise LabelError(f"{ref} lies under access={access!r} already")
            body = live
            if live.blob is not None:
                filled = await self.reader.filled(live)
                body = await self.stored(filled, access)
            target = await self.log.last_under(ref, access)
            gone = Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self.author(ref),
                expected=live.revision,
                gone="moved",
            )
            copy = Write(
                ref=ref.unpinned,
                access=access,
                agent=self.author(ref),
                # Shared state is checked over all labels, and against the state before the batch.
                expected=live.revision if ref.shared else target,
                memory=body,
                expires=live.expires,
            )
            try:
                revisions = await self.log.append_many([gone, copy])
            except ConflictError:
                await self.contended(attempt)
            else:
                return Ref(ref.agent, ref.topic, ref.id, None, revisions[1])
        raise AssertionError("unreachable")
