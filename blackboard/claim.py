"""`once`: a piece of work whose result is stored once, however many agents ask for it.

The result is shared state at a key made from what the work is, so the broker's own check lets only
one be stored: that is the fence, and it needs neither clock nor lease. The lease only saves work:
it keeps the others from starting, and they wait for the result instead.
"""

import hashlib
import inspect
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import anyio
import anyio.to_thread
import msgspec

from blackboard.clock import check_span, now
from blackboard.codec import Json, canonical, content_hash, to_json
from blackboard.envelope import Write, is_expired
from blackboard.errors import (
    ConflictError,
    InvalidError,
    LabelError,
    MakeFailedError,
)
from blackboard.lease import Claim
from blackboard.log import Log
from blackboard.messages import Cost, Memory
from blackboard.reader import Reader
from blackboard.subjects import (
    ANY_AGENT,
    ONCE,
    SHARED,
    Ref,
    check_token,
)
from blackboard.telemetry import MAKE, ONCE as ONCE_NAME, ONCE_MADE, ONCE_REUSED, TOKENS_SAVED
from blackboard.writer import Writer, compose

logger = logging.getLogger(__name__)

MAX_LEASE_S = 24 * 3600.0
_making: ContextVar[frozenset[str]] = ContextVar("making", default=frozenset())
"""The pieces of work that this task is making, or was started to help make."""
Make = Callable[[], object]


@dataclass(slots=True)
class Flight:
    """One run of `once` in this process that others here wait for."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


@dataclass(slots=True)
class Work:
    """A piece of work: what identifies it and what it is made from."""

    name: str
    access: str
    digest: str
    sources: tuple[Ref, ...]
    max_age: timedelta | None
    lease_s: float

    @property
    def ref(self) -> Ref:
        """Where its result lies."""
        return Ref(ANY_AGENT, f"{ONCE}.{self.name}", self.digest)


class Once:
    """Single flight over one board."""

    def __init__(
        self, log: Log, reader: Reader, writer: Writer, flights: dict[str, Flight]
    ) -> None:
        self._log = log
        self._reader = reader
        self._writer = writer
        self._flights = flights

    async def work(
        self,
        name: str,
        inputs: Json,
        *,
        version: str,
        access: str | None,
        max_age: timedelta | None,
        lease_s: float,
    ) -> Work:
        """Identify a piece of work; see `Blackboard.once`.

        Raises:
            InvalidError: The inputs have no canonical JSON form, or the lease is under a second.
            LabelError: The inputs lie under two labels other than `shared`.
        """
        check_token("name", name)
        if not (isinstance(lease_s, int | float) and 1 <= lease_s <= MAX_LEASE_S):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidError(f"lease={lease_s!r} must be seconds, from 1 to {MAX_LEASE_S:g}")
        if max_age is not None:
            check_span("max_age", max_age)
        found: list[Memory] = []
        try:
            fingerprint = await self._fingerprint(inputs, found)
        except RecursionError:
            raise InvalidError("the inputs are nested too deeply, or contain themselves") from None
        labels = {memory.access for memory in found} - {SHARED}
        if self._writer.binding is not None:
            labels |= self._writer.binding.labels
        if access is None and len(labels) > 1:
            raise LabelError(f"the inputs lie under {sorted(labels)}; name access= for the result")
        label = access or next(iter(labels), SHARED)
        material: list[Json] = ["once", name, version, check_token("access", label), fingerprint]
        users = sorted({memory.user for memory in found if memory.user is not None})
        if users and label == SHARED:
            # What was made from one person's data is not served to another under an open label.
            material.append(users)
        digest = hashlib.sha256(canonical(material)).hexdigest()
        sources = tuple(memory.pinned for memory in found if memory.revision)
        return Work(name, label, digest, sources, max_age, lease_s)

    async def _fingerprint(self, value: Json, found: list[Memory]) -> Json:
        if isinstance(value, Ref):
            read = self._reader.newest if value.revision is None else self._reader.pinned
            value = await read(value)
        if isinstance(value, Memory):
            found.append(value)
            return {"sha256": content_hash(value.content)}
        if isinstance(value, dict):
            items = cast("dict[str, Json]", value).items()
            return {key: await self._fingerprint(item, found) for key, item in items}
        if isinstance(value, list | tuple):
            return [await self._fingerprint(item, found) for item in cast("list[Json]", value)]
        return to_json(value)

    async def result(self, work: Work, make: Make) -> tuple[Memory, bool]:
        """Return the stored result, and whether this call's `make` made it."""
        # One future per key and process; callers of one process must not share a lease.
        key = f"{self._log.board}/{work.digest}"
        while True:
            stored = await self._stored(work)
            if stored is not None:
                return stored, False
            flight = self._flights.get(key)
            if flight is None:
                break
            if key in _making.get():
                raise InvalidError(
                    f"once({work.name!r}): its make asks for the very work that it makes, and "
                    "would wait for itself; give the inner call other inputs or another name"
                )
            await flight.done.wait()
            if flight.error is not None:
                raise MakeFailedError(
                    f"once({work.name!r}) failed in this process: {flight.error}"
                ) from flight.error
        flight = self._flights[key] = Flight()
        token = _making.set(_making.get() | {key})
        try:
            return await self._make_or_wait(work, make)
        except Exception as error:
            flight.error = error
            raise
        finally:
            _making.reset(token)
            del self._flights[key]
            flight.done.set()

    async def _stored(self, work: Work) -> Memory | None:
        head = await self._log.head(work.ref)
        if head is None or head.gone is not None or is_expired(head) or head.stored is None:
            return None
        if work.max_age is not None and now() - head.stored > work.max_age:
            return None
        return await self._reader.filled(head)

    async def _make_or_wait(self, work: Work, make: Make) -> tuple[Memory, bool]:
        claim = Claim(
            self._log, work.name, access=work.access, digest=work.digest, lease_s=work.lease_s
        )
        async with claim.hints() as hint:
            while True:
                stored = await self._stored(work)
                if stored is not None:
                    return stored, False
                if not await claim.take():
                    await hint()
                    continue
                # Between the look and the lease another may have stored it and let go.
                stored = await self._stored(work)
                if stored is not None:
                    await claim.release()
                    return stored, False
                made = await self._make(work, make, claim)
                if made is not None:
                    return made, True

    async def _make(self, work: Work, make: Make, claim: Claim) -> Memory | None:
        """Run `make` under the lease and store what it returns; None when another was first."""
        try:
            with self._log.telemetry.span(MAKE, attributes={ONCE_NAME: work.name}):
                result = await _run_while_held(make, claim)
            memory = None if result is None else await self._store(work, result)
        except Exception as error:
            await claim.fail(error)
            raise
        except BaseException:
            await claim.release()
            raise
        await claim.release()
        return memory

    async def _store(self, work: Work, result: Memory) -> Memory | None:
        head, tip = await self._log.look(work.ref)
        if head is not None and await self._stored(work) is not None:
            return None
        plain = msgspec.structs.replace(
            result, kind="result", session=None, user=None, tags={}, sources=work.sources, hops=0
        )
        memory = await self._writer.stored(plain, work.access)
        binding = self._writer.binding
        write = Write(
            ref=work.ref,
            access=work.access,
            agent=self._log.agent,
            expected=tip,
            memory=memory,
            # Inputs given as plain content leave no source; forgetting then goes by the handler's.
            cause=None if binding is None else str(binding.cause),
        )
        try:
            revision = await self._log.append(write)
        except ConflictError:
            return None
        return msgspec.structs.replace(
            memory,
            content=result.content,
            agent=self._log.agent,
            access=work.access,
            topic=work.ref.topic,
            id=work.ref.id,
            revision=revision,
            stored=now(),
            expires=write.expires,
        )

    async def light(
        self, result: Memory, topic: str, fields: Memory, *, made: bool, ttl: timedelta | None
    ) -> Memory:
        """Put a memory that shows the result in the caller's own topic and session."""
        shown = msgspec.structs.replace(
            fields,
            content_of=result.pinned,
            kind="result" if made else "reuse",
            cost=result.cost,
        )
        if result.blob is None:
            self._reader.keep(result.pinned, result.access, result.content)
        ref = await self._writer.put(
            topic,
            shown,
            key=None,
            access=result.access,
            ttl=ttl,
            expected=None,
            now=False,
            until=result.expires,  # what it shows is gone by then
        )
        return msgspec.structs.replace(
            await self._writer.bound(shown),
            content=result.content,
            agent=ref.agent,
            access=result.access,
            topic=topic,
            id=ref.id,
            revision=ref.written or 0,
            stored=now(),
        )

    def count(self, result: Memory, *, made: bool) -> None:
        """Count what this call made or saved."""
        telemetry = self._log.telemetry
        telemetry.count(ONCE_MADE if made else ONCE_REUSED)
        if not made and result.cost is not None:
            telemetry.count(TOKENS_SAVED, result.cost.tokens)


async def _run_while_held(make: Make, claim: Claim) -> Memory | None:
    """Run `make`; None when the lease was lost under it, which cancels it."""
    result: Memory | None = None
    error: Exception | None = None
    async with anyio.create_task_group() as group:

        async def keep() -> None:
            await claim.keep()
            group.cancel_scope.cancel()

        group.start_soon(keep)
        try:
            result = await _run(make)
        except Exception as problem:  # noqa: BLE001 - told to the waiters, then raised
            error = problem
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    return result


async def _run(make: Make) -> Memory:
    """Call `make`, a plain function in a thread, and measure it."""
    started = time.monotonic()
    if inspect.iscoroutinefunction(make):
        value = await make()
    else:
        value = await anyio.to_thread.run_sync(make, abandon_on_cancel=True)
        if inspect.isawaitable(value):
            value = await value
    seconds = round(time.monotonic() - started, 6)
    memory = compose(value)
    cost = memory.cost or Cost()
    cost = msgspec.structs.replace(cost, seconds=cost.seconds or seconds)
    return msgspec.structs.replace(memory, content=to_json(memory.content), cost=cost)
