"""Taking memories back: retiring, undoing, and moving under another label.

Removal is a revision of its own, a tombstone, because expiry and deletion notify nobody.
"""

from itertools import count
from urllib.parse import quote

import msgspec

from blackboard.changes import Changes, required
from blackboard.envelope import Write, is_expired
from blackboard.errors import ConflictError, GoneError, InvalidError, LabelError, NotFoundError
from blackboard.messages import Memory
from blackboard.subjects import Ref, check_token

MAX_REASON_BYTES = 8 * 1024
"""Percent-encoded, because it travels in a header."""


class Removal(Changes):
    """Removals by one agent on one board."""

    async def retire(self, ref: Ref, reason: str) -> Ref:
        """Take a memory back; see `Blackboard.retire`."""
        if len(quote(reason)) > MAX_REASON_BYTES:
            raise InvalidError(
                f"a reason of {len(reason)} characters; it may take {MAX_REASON_BYTES} bytes"
            )

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
        return await self.change(ref, decide, self.draft)

    async def undo(self, ref: Ref) -> Ref:
        """Bring a retired memory back; see `Blackboard.undo`."""

        async def decide(head: Memory | None) -> Write:
            if head is None or is_expired(head):
                raise NotFoundError(f"no memory {str(ref)!r} on board {self.log.board!r}")
            if head.gone != "retired":
                raise InvalidError(f"{ref} is not retired, so there is nothing to undo")
            last = await self.log.content_before(head.revision, ref)
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
        return await self.change(ref, decide, None)

    async def reclassify(self, ref: Ref, access: str) -> Ref:
        """Move a memory under another label; see `Blackboard.reclassify`."""
        check_token("access", access)
        self.author(ref)
        for attempt in count():
            head, tip = await self.log.look(ref)
            live = required(ref, head)
            if live.access == access:
                raise LabelError(f"{ref} lies under access={access!r} already")
            body = await self._carried(live, access)
            target = await self.log.last_under(ref, access)
            gone = Write(
                ref=ref.unpinned,
                access=live.access,
                agent=self.author(ref),
                expected=tip,
                gone="moved",
            )
            copy = Write(
                ref=ref.unpinned,
                access=access,
                agent=self.author(ref),
                # Shared state is checked over all labels, and against the state before the batch.
                expected=tip if ref.shared else target,
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

    async def _carried(self, live: Memory, access: str) -> Memory:
        """The body of the copy: content that lies elsewhere under the old label comes along."""
        if live.blob is None and live.content_of is None:
            return live
        filled = await self.reader.filled(live)
        shown = () if live.content_of is None else (live.content_of,)
        sources = tuple(dict.fromkeys((*live.sources, *shown)))
        own = msgspec.structs.replace(filled, content_of=None, blob=None, sources=sources)
        return await self.stored(own, access)
