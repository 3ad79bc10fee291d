"""`on` and `answers`: each memory by itself, with a record of what was made from it."""

import random

import anyio
import msgspec

from blackboard.codec import canonical, own_copy
from blackboard.errors import ConflictError, GoneError
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.records import Cause, HandlerRecord
from blackboard.runtime.declared import Handler
from blackboard.runtime.intake import Arrival
from blackboard.runtime.loop import ACK, SKIP, Verdict
from blackboard.runtime.transaction import Bench, Transaction
from blackboard.subjects import ANSWERS, ANY_AGENT, SHARED, Ref, claim_subject, derived_id
from blackboard.telemetry import ANSWERS_DROPPED
from blackboard.writer import compose

CONFLICT_TRIES = 5
CONFLICT_PAUSE_S = 0.01
"""With jitter, and longer each time: those who met would meet again."""


class Handling:
    """The work of an `on` or `answers` handler on one memory."""

    def __init__(self, bench: Bench, handler: Handler) -> None:
        self._bench = bench
        self._handler = handler
        self._log = bench.board.log

    async def work(self, arrival: Arrival) -> Verdict:
        """Call the function, unless the memory was taken back or was handled before.

        Raises:
            ConflictError: What it read or wrote moved under it five times.
            Exception: What the function raised.
        """
        memory = arrival.memory
        head = await self._log.head(memory.ref)
        if head is None or (head.gone is not None and head.gone != "moved"):
            return SKIP
        try:
            shown = await self._bench.reader.filled(memory)
        except GoneError:
            return SKIP
        subject = record_subject(self._log, self._handler.name, memory.ref)
        for attempt in range(CONFLICT_TRIES):
            await anyio.sleep(random.uniform(0, CONFLICT_PAUSE_S * attempt))
            try:
                done = await self._once(arrival, shown, subject, again=attempt > 0)
            except ConflictError:
                if attempt == CONFLICT_TRIES - 1:
                    raise
            else:
                return ACK if done else SKIP
        raise AssertionError("unreachable")

    async def _once(self, arrival: Arrival, shown: Memory, subject: str, *, again: bool) -> bool:
        """Run the function and commit; False when that was done before."""
        memory, handler = arrival.memory, self._handler
        cause = Cause(
            memory.pinned, self._log.agent, handler.name, self._bench.version, arrival.run
        )
        record, sequence = await self._log.record_at(subject, HandlerRecord)
        if record is not None and await is_done(self._log, Cause.parse(record.cause), cause):
            return False
        if handler.kind == "answers" and not await self._is_open(memory, again=again):
            return False
        known = again or record is not None
        origin = str(memory.ref.unpinned)
        transaction = Transaction(self._bench, handler, cause, [memory], origin, known=known)
        if not again:
            self._bench.note(handler, memory)
        # What the function changes in it must not reach the next try.
        given = msgspec.structs.replace(shown, content=own_copy(shown.content))
        value = await handler.function(given, transaction.board)
        if handler.kind == "answers":
            await self._answer(transaction, memory, value)
        else:
            await transaction.returned(value)
        if record is not None:
            await transaction.retire_surplus(record.refs)
        done = HandlerRecord(str(cause), transaction.outputs)
        await transaction.commit(subject, done, sequence)
        return True

    async def _is_open(self, request: Memory, *, again: bool) -> bool:
        if request.kind != "request":
            return False
        if await self._log.head(_answer_to(request)) is None:
            return True
        if again:
            # Ours was made, and another came first.
            self._log.telemetry.count(ANSWERS_DROPPED)
        return False

    async def _answer(self, transaction: Transaction, request: Memory, value: object) -> None:
        if value is None:
            return
        answer = _answer_to(request)
        await transaction.writer.put(
            answer.topic,
            compose(value, kind="answer"),
            key=answer.id,
            access=None,
            ttl=None,
            expected=0,
            now=False,
        )


def _answer_to(request: Memory) -> Ref:
    return Ref(ANY_AGENT, f"{ANSWERS}.{request.topic}", f"a-{request.id}")


def record_subject(log: Log, handler: str, ref: Ref) -> str:
    """Where the record of a handler's work on an input lies."""
    name = f"h-{derived_id(canonical([handler, str(ref.unpinned)]))}"
    return claim_subject(log.board, SHARED, log.agent, name)


async def is_done(log: Log, done: Cause, cause: Cause) -> bool:
    """Whether what was done is the same or newer than what is asked for.

    A copy under another label is the same input as what was moved.
    """
    if done.age >= cause.age:
        return True
    if done.run < cause.run:
        return False
    return await is_moved_copy(log, cause.input, done.input.revision or 0)


async def is_moved_copy(log: Log, ref: Ref, before: int) -> bool:
    """Whether a pinned revision only moved what stood at the revision `before`."""
    revision = before
    while revision < (ref.revision or 0):
        following = await log.next_after(revision + 1, ref.unpinned)
        if following is None or following.gone != "moved":
            return False
        # The copy follows its tombstone in the same batch.
        revision = following.revision + 1
    return revision == ref.revision
