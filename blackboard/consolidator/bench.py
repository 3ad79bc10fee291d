"""What the work on a group needs: the board, what is known of it, and the group's lease.

Under the lease, which is part of what is stored: every batch renews it, so a worker that lost it
stores nothing more. Whoever takes it over reads everything that was stored before the lease was his
own, and finds each summary that his predecessor put, before he decides what is left to do.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from blackboard import clock
from blackboard.background import background
from blackboard.codec import canonical
from blackboard.consolidator.drafting import Draft
from blackboard.consolidator.groups import AGENT, Groups, Key
from blackboard.errors import UnavailableError
from blackboard.finder import Finder
from blackboard.jetstream import Outgoing
from blackboard.lease import Claim
from blackboard.log import Log
from blackboard.records import Lease
from blackboard.session import Desk
from blackboard.subjects import Pattern, Ref, claim_subject, derived_id, reference_filter

LEASE_S = 20.0
GUARD_S = 1.0
"""How long the checks of a batch lie on the board; their work is done when they are stored."""


class WaitingError(UnavailableError):
    """Something is not ready yet; what is half done will be finished later."""


class Outcome(msgspec.Struct):
    """What was done."""

    summaries: int = 0
    condensed: int = 0
    retired: int = 0
    remade: int = 0
    """Summaries that took the place of one of which a source was forgotten."""
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

    async def catch_up(self) -> None:
        """Wait until everything is known that is on the board now."""
        log = self.desk.log
        last = await log.reads.last(Pattern(">").subject(log.board))
        await self.reached(0 if last is None else last.sequence)

    def note(self, ref: Ref, made: Draft, revision: int) -> None:
        """Count a summary that is stored."""
        count = len(made.memory.sources)
        self.outcome.add(Outcome(1, count, read=made.read, kept=made.kept, spent=made.spent))
        self.desk.journal.audit("condense", str(ref), revision=revision, count=count)

    @asynccontextmanager
    async def holding(self, key: Key) -> AsyncGenerator["Hold | None"]:
        """Hold a group for the block, knowing all that was done to it; None when another does."""
        log = self.desk.log
        digest = derived_id(canonical([key.access, key.topic, key.session, key.user]))
        claim = Claim(log, AGENT, access=key.access, digest=digest, lease_s=self._lease_s)
        if not await claim.take():
            yield None
            return
        try:
            async with background() as group:
                # A worker that lost its lease can store nothing, so it need not be stopped.
                group.start_soon(claim.keep)
                await self.catch_up()
                yield Hold(log, key, claim)
        finally:
            await claim.release()


class Hold:
    """A group that is held.

    Attributes:
        key: The group.
    """

    def __init__(self, log: Log, key: Key, claim: Claim) -> None:
        self.key = key
        self._log = log
        self._claim = claim

    async def commit(self, store: Callable[[Outgoing], Awaitable[int]]) -> None:
        """Store a batch that renews the lease; see `Claim.commit`."""
        await self._claim.commit(store)

    def guard(self, name: str, ref: Ref) -> Outgoing:
        """A record that is stored only if a memory is still at the revision that is pinned."""
        return self._log.record(
            claim_subject(self._log.board, self.key.access, AGENT, name),
            Lease(AGENT, clock.now()),
            expected=ref.revision or 0,
            ttl_s=GUARD_S,
            over=reference_filter(self._log.board, ref),
        )
