"""The lease on a piece of work: who is making the result right now.

It only saves work. What is stored is decided by the result's key alone, so a lease that is lost, or
held by somebody who stalls, costs a second run of the work and nothing else.
"""

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Literal

import anyio

from blackboard.clock import now
from blackboard.codec import printable
from blackboard.errors import BlackboardError, ConflictError, MakeFailedError
from blackboard.jetstream import Outgoing
from blackboard.log import Log
from blackboard.records import Lease
from blackboard.subjects import claim_subject, hint_subject

logger = logging.getLogger(__name__)

END_S = 5.0
ERROR_CHARACTERS = 2000


class Claim:
    """The lease on a piece of work: at most one caller holds it, as far as leases go.

    Args:
        log: Of the caller.
        name: Of the kind of work, for errors.
        access: The label of the result.
        digest: Of the work.
        lease_s: Seconds it lasts without being renewed.

    Attributes:
        lost: Another may hold it now.
    """

    def __init__(self, log: Log, name: str, *, access: str, digest: str, lease_s: float) -> None:
        self._log = log
        self._name = name
        self._lease_s = lease_s
        self._holder = uuid.uuid4().hex
        record = f"o-{digest}"
        self._subject = claim_subject(log.board, access, log.agent, record)
        self._over = claim_subject(log.board, access, "*", record)
        self._hint = hint_subject(log.board, access, digest)
        self._token = 0
        self._renewing = anyio.Lock()
        self._first: int | None = None
        self.lost = False

    @asynccontextmanager
    async def hints(self) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        """Give a function that waits until the holder says it is done, or half a lease."""
        async with self._log.connection.listen(self._hint) as heard:
            yield lambda: heard(self._lease_s / 2)

    async def take(self) -> bool:
        """Take the lease; False when another holds it.

        Raises:
            MakeFailedError: A holder failed since this call began to wait.
        """
        record, sequence = await self._log.record_at(self._over, Lease)
        if self._first is None:
            self._first = sequence
        if record is not None and record.state == "held" and record.holder != self._holder:
            return False
        if record is not None and record.state == "failed" and sequence > self._first:
            raise MakeFailedError(f"once({self._name!r}) failed elsewhere: {record.error}")
        try:
            self._token = await self._put("held", sequence)
        except ConflictError:
            return False
        self.lost = False
        return True

    async def commit(self, store: Callable[[Outgoing], Awaitable[int]]) -> None:
        """Store something in one atomic batch with a renewal: only if the lease is still held.

        Args:
            store: Gets the renewal, stores a batch that contains it, and returns its sequence.

        Raises:
            ConflictError: The lease, or what else the batch expects, moved; nothing was stored.
        """
        async with self._renewing:
            self._token = await store(self._message("held", self._token))

    async def _put(
        self, state: Literal["held", "failed", "released"], expected: int, error: str | None = None
    ) -> int:
        return await self._log.send([self._message(state, expected, error)])

    def _message(
        self, state: Literal["held", "failed", "released"], expected: int, error: str | None = None
    ) -> Outgoing:
        # Every record lives as long as those before it: a shorter one would bring them back.
        until = now() + timedelta(seconds=self._lease_s)
        record = Lease(self._holder, until, state, error)
        return self._log.record(
            self._subject, record, expected=expected, ttl_s=self._lease_s, over=self._over
        )

    async def keep(self) -> None:
        """Renew the lease until it is lost."""
        while not self.lost:
            await anyio.sleep(self._lease_s / 3)
            try:
                # Shielded: a renewal that is cut off would leave us without the token to release.
                with anyio.CancelScope(shield=True):
                    async with self._renewing:
                        self._token = await self._put("held", self._token)
            except ConflictError:
                self.lost = True
            except BlackboardError as error:
                # Without an answer the lease may run out; storing the result is checked anyway.
                logger.debug("claim.renew", extra={"error": str(error)})

    async def release(self) -> None:
        """Let go, and tell those who wait."""
        await self._end("released", None)

    async def fail(self, error: Exception) -> None:
        """Let go with an error, which reaches those who wait."""
        await self._end("failed", printable(f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]))

    async def _end(self, state: Literal["failed", "released"], error: str | None) -> None:
        with anyio.move_on_after(END_S, shield=True):
            try:
                if not self.lost:
                    await self._put(state, self._token, error)
                await self._log.connection.notify(self._hint)
            except BlackboardError as problem:
                # The lease runs out by itself.
                logger.debug("claim.release", extra={"error": str(problem)})
