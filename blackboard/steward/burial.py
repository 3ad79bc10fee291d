"""Taking memories away for good: looked at, written down, covered by a tombstone, deleted.

In this order, because each step needs what the next one removes: a tombstone is written against
what was looked at, so nothing can slip in between, and what is deleted was written down before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from blackboard.envelope import Write
from blackboard.errors import ConflictError
from blackboard.jetstream import Start, follow
from blackboard.journal import Journal
from blackboard.lineage import gist_of
from blackboard.log import Log
from blackboard.messages import Blob, Memory
from blackboard.steward.deletion import Unsure, delete
from blackboard.subjects import (
    ONCE,
    SHARED,
    STATE,
    Ref,
    blob_stream,
    blob_subject,
    claim_subject,
    reference_filter,
)


@dataclass(slots=True)
class Grave:
    """A memory as it lies on the board before it is taken away.

    Attributes:
        ref: The memory.
        head: Its newest revision; None when there is no honest one.
        tip: What a tombstone has to expect.
        sequences: Of all messages on its subjects.
        blobs: The large content that they name, with the label that it lies under.
        shown: The results of `once` that they show.
        leases: Sequences of the leases on it, if it is a result.
        marks: The ids of the writes that stored it.
    """

    ref: Ref
    head: Memory | None
    tip: int
    sequences: list[int] = field(default_factory=list[int])
    blobs: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    shown: set[Ref] = field(default_factory=set[Ref])
    leases: list[int] = field(default_factory=list[int])
    marks: list[str] = field(default_factory=list[str])

    @property
    def projected(self) -> bool:
        """Whether the key-value bucket shows it."""
        return self.ref.topic.split(".")[0] == STATE


class Burial:
    """Takes memories of one board away.

    Args:
        log: The board, and the name that this is done under.
        journal: Notes it.
        unsure: Learns of what may be deleted and not overwritten.
    """

    def __init__(self, log: Log, journal: Journal, unsure: Unsure) -> None:
        self.unsure = unsure
        self._log = log
        self._journal = journal

    async def look(self, ref: Ref) -> Grave:
        """What there is of a memory.

        Raises:
            UnavailableError: The broker does not answer.
        """
        head, tip = await self._log.look(ref)
        grave = Grave(ref, head, tip)
        subject = reference_filter(self._log.board, ref)
        sequence = 0
        while sequence < tip:
            message = await self._log.reads.next_after(subject, sequence + 1)
            if message is None or message.sequence > tip:
                break
            sequence = message.sequence
            if message.headers.get("Bb-Gone", "retired") != "retired" and not message.data:
                continue  # readers of one label may still have to see it; it says nothing
            grave.sequences.append(sequence)
            if mark := message.headers.get("Bb-Write"):
                grave.marks.append(mark)
            known = gist_of(message)
            if known is None:
                continue
            access, gist = known[0].access, known[1]
            if gist.blob is not None:
                grave.blobs.add(_place(access, gist.blob))
            if gist.content_of is not None:
                grave.shown.add(gist.content_of.unpinned)
        if ref.topic.split(".")[0] == ONCE:
            grave.leases = await self._leases(ref)
        return grave

    async def _leases(self, ref: Ref) -> list[int]:
        subject = claim_subject(self._log.board, "*", "*", f"o-{ref.id}")
        found: list[int] = []
        while message := await self._log.reads.next_after(subject, (found or [0])[-1] + 1):
            found.append(message.sequence)
        return found

    async def cover(self, graves: Sequence[Grave], reason: str) -> dict[Ref, int]:
        """Write the tombstones; gives their revisions.

        Those that moved since they were looked at are left out: look again.

        Raises:
            UnavailableError: The broker does not answer; some may be written.
            BoardFullError: There is no room for a tombstone.
        """
        done = {
            grave.ref: grave.tip
            for grave in graves
            if grave.head is None or grave.head.gone == "forgotten"
        }
        rest = [grave for grave in graves if grave.ref not in done]
        writes = [self._tombstone(grave, reason) for grave in rest]
        if not writes:
            return done
        try:
            revisions = await self._log.append_many(writes)
        except ConflictError:
            revisions = [await self._one(write) for write in writes]
        for grave, revision in zip(rest, revisions, strict=True):
            if revision is not None:
                done[grave.ref] = revision
                self._journal.audit("forget", str(grave.ref), revision=revision)
        return done

    async def _one(self, write: Write) -> int | None:
        try:
            return await self._log.append(write)
        except ConflictError:
            return None

    def _tombstone(self, grave: Grave, reason: str) -> Write:
        head = grave.head
        return Write(
            ref=grave.ref,
            access=SHARED if head is None else head.access,
            agent=self._log.agent if head is None else head.agent,
            expected=grave.tip,
            gone="forgotten",
            reason=reason or None,
            by=self._log.agent,
        )

    async def chunks(self, blobs: Iterable[tuple[str, str, str]]) -> dict[int, str]:
        """The chunks of large content that no other memory names: sequence and subject."""
        board = self._log.board
        found: dict[int, str] = {}
        for access, agent, blob in blobs:
            subject = blob_subject(board, access, agent, blob, "*")
            async with follow(
                self._log.connection, blob_stream(board), subject, Start.all(), headers_only=True
            ) as follower:
                while follower.pending:
                    message = await follower.step()
                    if message is not None:
                        found[message.sequence] = message.subject
        return found

    async def erase(self, stream: str, sequences: Iterable[int], what: str) -> None:
        """Delete messages and overwrite them, oldest first; those that are gone are passed over.

        Raises:
            BrokerError: The broker refused.
            UnavailableError: The broker does not answer; again later.
        """
        for sequence in sorted(sequences):
            await delete(
                self._log, self._journal, stream, sequence, what, erase=True, unsure=self.unsure
            )

    async def named_by_others(
        self, blobs: set[tuple[str, str, str]], buried: Iterable[Ref]
    ) -> set[tuple[str, str, str]]:
        """Which large content memories name that are not buried: it is theirs as well."""
        gone = set(buried)
        named: set[tuple[str, str, str]] = set()
        if not blobs:
            return named
        subject = f"mem.{self._log.board}.>"
        async with follow(self._log.connection, self._log.stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None or b'"blob"' not in message.data:
                    continue
                known = gist_of(message)
                if known is None or known[1].blob is None:
                    continue
                memory, gist = known
                if gist.blob is not None and memory.ref.unpinned not in gone:
                    named.add(_place(memory.access, gist.blob))
        return named & blobs


def _place(access: str, blob: Blob) -> tuple[str, str, str]:
    return access, blob.agent, blob.id
