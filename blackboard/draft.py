"""The writes of one handler, collected and stored as one atomic batch when it returns.

Reads through a draft see what was written into it. Nothing is on the board before the handler's
transaction commits, and then all of it is, with the record that says what it was made from.
"""

from collections import Counter

import msgspec

from blackboard.clock import now
from blackboard.codec import canonical, own_copy
from blackboard.envelope import Write
from blackboard.errors import TooManyOutputsError
from blackboard.log import Log
from blackboard.messages import Memory, Payload, memory_of
from blackboard.records import Cause
from blackboard.subjects import SHARED, Ref, derived_id

MAX_WRITES = 999
"""An atomic batch holds 1,000 messages; one is the record."""


class Binding:
    """What a handler's input gives to everything that the handler writes.

    Args:
        cause: Input, handler, version and run.
        inputs: The input, or all parts of a group.
        origin: What derived ids are made from: the input without revision, or the group.
        known: Whether this input may have outputs already, so that they have to be looked up.
        to: Where results go by default.
    """

    def __init__(
        self,
        cause: Cause,
        inputs: list[Memory],
        origin: str,
        *,
        known: bool,
        to: str | None = None,
    ) -> None:
        self.cause = cause
        self.sources = tuple(memory.pinned for memory in inputs)
        self.session = _common([memory.session for memory in inputs])
        self.user = _common([memory.user for memory in inputs])
        self.hops = max((memory.hops for memory in inputs), default=0) + 1
        self.labels = frozenset(memory.access for memory in inputs) - {SHARED}
        self.since = max(
            (memory.stored for memory in inputs if memory.stored is not None),
            default=now(),
        )
        self.known = known
        self.to = to
        self.given: set[str] = set()
        self._origin = origin

    def next_id(self) -> str:
        """The id of the next output: the same for the same input, however often it is handled."""
        number = len(self.given)
        identifier = derived_id(
            canonical([self.cause.agent, self.cause.handler, self._origin, number])
        )
        self.given.add(identifier)
        return identifier

    def request_id(self) -> str:
        """The id of the next question: the same for the same revisions of the inputs.

        Of a revised input another question is asked, and an answer cannot be revised.
        """
        inputs = [str(source) for source in self.sources]
        return derived_id(canonical([self.next_id(), self.cause.run, inputs]))


def _common(values: list[str | None]) -> str | None:
    """The one value all inputs agree on, or None."""
    return values[0] if values and all(value == values[0] for value in values) else None


class Draft:
    """Collected writes; reads through it see them."""

    def __init__(self, log: Log, cause: Cause) -> None:
        self.log = log
        self._cause = str(cause)
        # By reference and label: an output that changes its label takes a tombstone along.
        self._writes: dict[tuple[Ref, str], Write] = {}
        self._memories: dict[Ref, Memory] = {}
        self._edits: Counter[Ref] = Counter()

    def __contains__(self, ref: Ref) -> bool:
        return ref.unpinned in self._memories

    @property
    def writes(self) -> list[Write]:
        """What was collected, in order."""
        return list(self._writes.values())

    async def head(self, ref: Ref) -> Memory | None:
        """The newest revision: what this draft holds, else what the board holds."""
        return (await self.look(ref))[0]

    def edits(self, ref: Ref) -> int:
        """How often a memory was written here; tells tasks of one handler of each other."""
        return self._edits[ref.unpinned]

    async def look(self, ref: Ref) -> tuple[Memory | None, int]:
        """The newest revision and the sequence to expect, which `add` knows for what it holds."""
        drafted = self._memories.get(ref.unpinned)
        if drafted is None:
            return await self.log.look(ref)
        # The reader may change what it gets; what is going to be stored stays as it was put.
        return msgspec.structs.replace(drafted, content=own_copy(drafted.content)), 0

    def add(self, write: Write) -> Ref:
        """Collect a write. A second write to the same memory takes the place of the first.

        The broker checks a batch against the state before it, so both expect the same sequence.

        Raises:
            TooManyOutputsError: More than one batch holds.
        """
        before = self._writes.pop((write.ref, write.access), None)
        if before is None and write.ref.shared:
            # Shared state is checked over all labels, and against the state before the batch.
            before = next((w for (ref, _), w in self._writes.items() if ref == write.ref), None)
        if before is not None:
            write.expected, write.live = before.expected, before.live
        if len(self._writes) >= MAX_WRITES:
            raise TooManyOutputsError(
                f"a handler may put {MAX_WRITES} memories for one input; "
                "split the input, or use put(..., now=True) for some"
            )
        write.cause = self._cause
        self._edits[write.ref] += 1
        self._writes[write.ref, write.access] = write
        self._memories[write.ref] = _as_memory(write)
        return write.ref


def _as_memory(write: Write) -> Memory:
    return memory_of(
        write.memory or Payload(),
        agent=write.agent,
        access=write.access,
        topic=write.ref.topic,
        id=write.ref.id,
        revision=0,
        expires=write.expires,
        gone=write.gone,
        reason=write.reason,
    )
