"""One run of a handler's function: what it puts and returns, committed with a record or not at all.

The record says which input, and which run, the outputs were made from. It is compared and set in
the same batch, so of two replicas that handle the same input only one stores anything.
"""

from dataclasses import dataclass
from typing import Any, cast

import msgspec

from blackboard.board import Blackboard
from blackboard.clock import now
from blackboard.draft import Binding, Draft
from blackboard.envelope import Write, is_expired
from blackboard.errors import TerminalError
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.records import Cause
from blackboard.runtime.commits import Commits
from blackboard.runtime.declared import Handler
from blackboard.subjects import Ref
from blackboard.telemetry import BATCH_COUNT, COMMIT, DELIVERIES, LAG_SECONDS, WRITES
from blackboard.writer import Writer, compose

RECORD_S = 90 * 24 * 3600.0
"""As long as tombstones: what is delivered again later than this is handled again."""
SURPLUS = "not made from the newest revision of its input"


@dataclass(frozen=True, slots=True)
class Bench:
    """What the handlers of one agent at one board work with."""

    board: Blackboard
    reader: Reader
    commits: Commits
    version: str

    def note(self, handler: Handler, memory: Memory) -> None:
        """Count and audit that a memory is given to a handler's function."""
        telemetry = self.board.telemetry
        telemetry.count(DELIVERIES)
        if memory.stored is not None and memory.delivery == 1:
            telemetry.observe(LAG_SECONDS, (now() - memory.stored).total_seconds())
        self.board.journal.audit(
            "delivery", str(memory.ref), revision=memory.revision, handler=handler.name
        )


class Transaction:
    """The writes of one run of a handler.

    Args:
        bench: The board and its parts.
        handler: Whose run it is.
        cause: Input, handler, version and run.
        inputs: The input, or all parts of a group.
        origin: What the ids of outputs are derived from.
        known: Whether there may be outputs already.
    """

    def __init__(
        self,
        bench: Bench,
        handler: Handler,
        cause: Cause,
        inputs: list[Memory],
        origin: str,
        *,
        known: bool,
    ) -> None:
        self._bench = bench
        self._handler = handler
        self._log = bench.board.log
        self.draft = Draft(self._log, cause)
        self.binding = Binding(cause, inputs, origin, known=known, to=handler.to)
        self.board = bench.board.bound(self.draft, self.binding)
        reader = bench.reader.through(self.draft)
        self.writer = Writer(self._log, reader, self.draft, self.binding)

    async def returned(self, value: Any) -> None:
        """Put what the function returned to `to`.

        Raises:
            TerminalError: There is no `to`.
        """
        for content in _several(value):
            if isinstance(content, Memory) and self._was_put(content):
                continue  # for example by `once`
            if self._handler.to is None:
                raise TerminalError(
                    f"handler {self._handler.name!r} returned a value, but has no to= to put it to"
                )
            await self.writer.put(
                self._handler.to,
                compose(content),
                key=None,
                access=None,
                ttl=None,
                expected=None,
                now=False,
            )

    def _was_put(self, memory: Memory) -> bool:
        # An output whose time is over already has its id, though it is not stored.
        return bool(memory.id) and (memory.ref in self.draft or memory.id in self.binding.given)

    @property
    def outputs(self) -> tuple[Ref, ...]:
        """What was put under derived ids."""
        given = self.binding.given
        return tuple(
            write.ref for write in self.draft.writes if write.gone is None and write.ref.id in given
        )

    async def retire_surplus(self, before: tuple[Ref, ...]) -> None:
        """Retire the outputs of an earlier run that were not put again."""
        for ref in before:
            if ref in self.draft:
                continue
            head = await self._log.head(ref.unpinned)
            if head is None or head.gone is not None or is_expired(head):
                continue
            self.draft.add(
                Write(
                    ref=ref.unpinned,
                    access=head.access,
                    agent=self._log.agent,
                    expected=head.revision,
                    gone="retired",
                    reason=SURPLUS,
                )
            )

    async def commit(self, subject: str, record: msgspec.Struct, expected: int) -> None:
        """Store everything and the record, if the record has not moved.

        Raises:
            ConflictError: It has, or one of the memories; nothing was stored.
        """
        writes = self.draft.writes
        await self._log.admit(writes)
        telemetry = self._log.telemetry
        with telemetry.span(COMMIT, attributes={BATCH_COUNT: len(writes) + 1}):
            messages = [self._log.outgoing(write) for write in writes]
            messages.append(self._log.record(subject, record, expected=expected, ttl_s=RECORD_S))
            await self._bench.commits.send(messages)
        telemetry.count(WRITES, len(writes))


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        items = cast("list[Any]", list(value))  # pyright: ignore[reportUnknownArgumentType]
        if all(isinstance(item, Memory) for item in items):
            return items
    return [value]
