"""Chunks of large content that no memory names, deleted when they are a day old.

A memory is stored after its chunks, so a young chunk without a memory may be one on its way. Any
revision that is still on the board keeps the chunks it names: the older ones can be read by their
pin, and a retired one can be brought back.

Chunks and bodies are each read once in the life of the steward; later passes read what is new, and
ask for the revisions that named old chunks. A board without old chunks is not read at all.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from blackboard.codec import decoder_of, read
from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.journal import Journal
from blackboard.log import Log
from blackboard.messages import Blob
from blackboard.steward.deletion import delete
from blackboard.subjects import blob_stream

CHUNK_AGE = timedelta(hours=24)


class _Naming(msgspec.Struct):
    blob: Blob | None = None


_naming = decoder_of(_Naming)


class Chunks:
    """The old chunks of one board, and which revisions name them.

    Args:
        log: The board.
        journal: Notes each deletion.
        age: How old a chunk must be, by the broker's stamp, to be deleted.
        now: The time, to be held against the broker's stamps.

    Attributes:
        deleted: Chunks deleted so far.
    """

    def __init__(
        self, log: Log, journal: Journal, *, age: timedelta, now: Callable[[], datetime]
    ) -> None:
        self._log = log
        self._journal = journal
        self._age = age
        self._now = now
        self._stream = blob_stream(log.board)
        self._chunk_position = 0
        self._position = 0
        self._chunks: dict[str, dict[int, str]] = {}
        self._naming: dict[str, set[int]] = {}
        self._suspects: set[str] = set()
        self.deleted = 0

    async def collect(self) -> None:
        """Look for old chunks that no memory names, and delete those also found the last time.

        Twice, because an `undo` at the end of the grace period may have read a revision that is
        deleted by now, and be about to store one that names the same chunks.

        Raises:
            UnavailableError: The broker does not answer, or there is no such board.
            BrokerError: The broker refuses.
        """
        await self._read_chunks()
        if self._chunks:
            await self._read_memories()
        suspects: set[str] = set()
        for name, chunks in list(self._chunks.items()):
            if await self._is_named(name):
                continue
            if name in self._suspects:
                await self._delete(chunks)
                del self._chunks[name]
            else:
                suspects.add(name)
        self._suspects = suspects

    async def _read_chunks(self) -> None:
        subject = f"blob.{self._log.board}.>"
        # Asked first, because on most boards there is nothing and a consumer costs more.
        first = await self._log.connection.next_after(
            self._stream, subject, self._chunk_position + 1
        )
        limit = self._now() - self._age
        if first is None or first.stored > limit:
            return
        start = Start.after(self._chunk_position)
        async with follow(
            self._log.connection, self._stream, subject, start, headers_only=True
        ) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                if message.stored > limit:
                    return
                chunks = self._chunks.setdefault(_name(message.subject), {})
                chunks[message.sequence] = message.subject
                self._chunk_position = message.sequence

    async def _read_memories(self) -> None:
        subject = f"mem.{self._log.board}.>"
        start = Start.after(self._position)
        async with follow(self._log.connection, self._log.stream, subject, start) as follower:
            while follower.pending:
                message = await follower.step()
                if message is not None:
                    self._read_memory(message)
                    self._position = message.sequence

    def _read_memory(self, message: Message) -> None:
        if b'"blob"' not in message.data:
            return
        try:
            blob = read(_naming, message.data).blob
        except InvalidError:
            return  # no reader finds a chunk through it either
        if blob is not None:
            # Whoever wrote it: a message that readers skip costs room here, and no content.
            access = message.subject.split(".")[2]
            self._naming.setdefault(f"{access}.{blob.agent}.{blob.id}", set()).add(message.sequence)

    async def _is_named(self, name: str) -> bool:
        naming = self._naming.get(name, set())
        for sequence in sorted(naming, reverse=True):
            if await self._log.reads.at_sequence(sequence) is not None:
                return True
            naming.discard(sequence)
        self._naming.pop(name, None)
        return False

    async def _delete(self, chunks: Mapping[int, str]) -> None:
        for sequence, subject in chunks.items():
            # Overwritten, because they may be all that is left of what was forgotten.
            if await delete(self._log, self._journal, self._stream, sequence, subject, erase=True):
                self.deleted += 1


def _name(subject: str) -> str:
    """What a memory has to say to name a chunk: label, agent and blob."""
    return ".".join(subject.split(".")[2:5])
