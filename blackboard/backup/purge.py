"""Forgetting in a backup: what receipts cover, and what was made from it, leaves its files.

The same that happens on a board, on packed messages: what belongs to the memories that a receipt
names is found over their lineage in this backup, taken out of every stream, and covered by
tombstones, with the receipts beside them. So a board that is restored never held what was
forgotten, not for a moment and in no log of a replica, and knows it when it comes once more. It
goes on behind the highest sequence that any receipt names, so that no receipt speaks of a message
that is stored later.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import msgspec

from blackboard.backup.format import Backup, Block, Filed
from blackboard.backup.vault import Vault
from blackboard.backup.words import Words
from blackboard.codec import encode_record
from blackboard.envelope import Write, seal, to_memory
from blackboard.errors import InvalidError
from blackboard.jetstream import Message
from blackboard.jetstream.message import from_nanoseconds, read_headers, write_headers
from blackboard.jetstream.packed import Record
from blackboard.lineage import Kin, gist_of
from blackboard.messages import Memory
from blackboard.receipts import digest
from blackboard.steward.stores import input_of_letter, input_of_record, spans_without
from blackboard.subjects import (
    ONCE,
    STATE,
    Address,
    Ref,
    blob_stream,
    dead_stream,
    spans_stream,
    state_bucket,
)

BY = "cli"
BATCH = 2_000
"""Messages of what is added in one block."""
Sieve = Callable[[Record], Record | None]


def purge(
    vault: Vault,
    backup: Backup,
    words: Words,
    orders: Iterable[str],
    now: datetime,
    wishes: Sequence[Record] = (),
) -> Backup:
    """Forget in a backup; gives its new manifest, which is not kept yet. Runs in a thread.

    Args:
        vault: Where it lies.
        backup: It.
        words: What was forgotten on the board.
        orders: Those of them that are to be carried out.
        now: The time.
        wishes: Orders that the board shall work off when it is restored.

    Raises:
        InvalidError: A block is damaged.
    """
    return _Purging(vault, backup, words, sorted(orders), now, wishes).run()


class _Kept(Kin):
    """The lineage of what lies in a backup."""

    def __init__(self, memories: Callable[[], Iterator[Record]], digests: set[str]) -> None:
        super().__init__(lambda memory: digest(str(memory.ref.unpinned)) in digests)
        self._memories = memories

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncIterator[Message]]:
        yield self._messages()

    async def _messages(self) -> AsyncGenerator[Message]:
        for record in self._memories():
            if record.subject.startswith("mem."):
                yield message_of(record)

    def _honest(self, message: Message) -> Memory | None:
        try:
            return to_memory(message)
        except InvalidError:
            return None


class _Purging:
    """One run over one backup."""

    def __init__(
        self,
        vault: Vault,
        backup: Backup,
        words: Words,
        orders: list[str],
        now: datetime,
        wishes: Sequence[Record],
    ) -> None:
        self._vault = vault
        self._backup = backup
        self._words = [words.found[order] for order in orders]
        self._now = now
        self._wishes = wishes
        self._gone: set[Ref] = set()
        self._heads: dict[Ref, Memory] = {}
        self._blobs: set[str] = set()
        self._others: set[str] = set()
        self._leases: set[str] = set()
        self._shown: set[str] = set()
        self._spans: list[Record] = []
        self._orders = {f"f-{order}" for order in orders}

    def run(self) -> Backup:
        """Do it."""
        self._gone = self._find()
        board = self._backup.board
        prefix = f"$KV.{state_bucket(board)}."
        for ref in self._gone:
            tokens = [*ref.topic.split("."), ref.id]
            if tokens[0] == STATE:
                self._shown.add(prefix + ".".join(tokens[1:]))
            if tokens[0] == ONCE:
                self._leases.add(f"o-{ref.id}")
        # The board first: it tells which large content goes.
        memory = self._extend(self._sift(self._backup.memory, self._of_memory))
        self._blobs -= self._others
        sieves: dict[str, Sieve] = {
            blob_stream(board): self._of_blob,
            dead_stream(board): self._of_dead,
            spans_stream(board): self._of_spans,
            f"KV_{state_bucket(board)}": self._of_state,
        }
        streams: list[Filed] = []
        for stream in self._backup.streams:
            if stream.name == memory.name:
                streams.append(memory)
            else:
                sieve = sieves.get(stream.name)
                filed = stream if sieve is None else self._sift(stream, sieve)
                added = self._spans if stream.name == spans_stream(board) else []
                streams.append(self._added(self._behind(filed), added))
        done = {*self._backup.forgotten, *(word.order for word in self._words)}
        return msgspec.structs.replace(
            self._backup, streams=tuple(streams), forgotten=tuple(sorted(done))
        )

    def _find(self) -> set[Ref]:
        """The memories to forget: those that receipts name, and what was made from them here."""
        memory = self._backup.memory
        digests = {one for word in self._words for one in word.digests}
        kin = _Kept(lambda: self._vault.all_records(memory), digests)
        anyio.run(kin.close)
        return set(kin.found)

    def _sift(self, stream: Filed, sieve: Sieve) -> Filed:
        """Pass every message through a sieve; blocks of which all is kept stay as they are."""
        blocks: list[Block] = []
        for block in stream.blocks:
            found = list(self._vault.records(block))
            kept = [one for record in found if (one := sieve(record)) is not None]
            if kept == found:
                blocks.append(block)
            elif kept:
                blocks.append(self._vault.store(kept)[0])
        if blocks == list(stream.blocks):
            return stream
        messages = sum(block.messages for block in blocks)
        return msgspec.structs.replace(
            stream, blocks=tuple(blocks), messages=messages, altered=True
        )

    def _of_memory(self, record: Record) -> Record | None:
        if record.subject.startswith("mem."):
            return self._of_revision(record)
        name = record.subject.split(".")[-1]
        if name in self._leases or name in self._orders:
            return None
        about = input_of_record(message_of(record)) if name.startswith("h-") else None
        return None if about is not None and about.unpinned in self._gone else record

    def _of_revision(self, record: Record) -> Record | None:
        try:
            ref = Address.parse(record.subject).ref
        except InvalidError:
            return record
        buried = ref in self._gone
        known = gist_of(message_of(record)) if buried or b'"blob"' in record.data else None
        if known is None:
            return None if buried else record
        memory, gist = known
        if gist.blob is not None:
            (self._blobs if buried else self._others).add(gist.blob.id)
        if not buried:
            return record
        self._heads[ref] = memory
        # Readers of one label may still have to see these, and they say nothing.
        return record if memory.gone not in (None, "retired") and not record.data else None

    def _of_blob(self, record: Record) -> Record | None:
        return None if record.subject.split(".")[4] in self._blobs else record

    def _of_dead(self, record: Record) -> Record | None:
        about = input_of_letter(message_of(record))
        return None if about is not None and about.unpinned in self._gone else record

    def _of_spans(self, record: Record) -> Record | None:
        rest = spans_without(message_of(record), lambda ref: ref.unpinned in self._gone)
        if rest is None:
            return record
        if rest.spans:  # as on the board: under a new sequence, for receipts name the old one
            self._spans.append(record._replace(data=encode_record(rest)))
        return None

    def _of_state(self, record: Record) -> Record | None:
        return None if record.subject in self._shown else record

    def _behind(self, stream: Filed) -> Filed:
        """Have a stream go on behind what receipts name of it."""
        named = [
            span[1] for word in self._words for store, span in word.ranges() if store == stream.name
        ]
        return msgspec.structs.replace(stream, last=max(stream.last, *named, 0))

    def _extend(self, stream: Filed) -> Filed:
        """Put receipts, wishes and tombstones behind the board."""
        added = [record for word in self._words for record in word.kept.values()]
        added += self._wishes
        added.sort(key=lambda record: record.sequence)
        stream = self._behind(stream)
        last = max([stream.last, *(record.sequence for record in added)])
        added += self._tombstones()
        return self._added(msgspec.structs.replace(stream, last=last), added)

    def _added(self, stream: Filed, added: Sequence[Record]) -> Filed:
        if not added:
            return stream
        numbered = [
            record._replace(sequence=number) for number, record in enumerate(added, stream.last + 1)
        ]
        blocks = [
            self._vault.store(numbered[first : first + BATCH])[0]
            for first in range(0, len(numbered), BATCH)
        ]
        return msgspec.structs.replace(
            stream,
            last=numbered[-1].sequence,
            messages=stream.messages + len(numbered),
            blocks=(*stream.blocks, *blocks),
            altered=True,
        )

    def _tombstones(self) -> list[Record]:
        reasons = {one: word.reason for word in self._words for one in word.digests}
        made: list[Record] = []
        for ref, head in sorted(self._heads.items(), key=lambda one: str(one[0])):
            if head.gone == "forgotten":
                continue
            write = Write(
                ref=ref,
                access=head.access,
                agent=head.agent,
                expected=head.revision,
                gone="forgotten",
                reason=reasons.get(digest(str(ref))) or None,
                by=BY,
            )
            message = seal(write, self._backup.board, BY)
            time = int(self._now.timestamp() * 1_000_000) * 1_000
            block = write_headers(message.headers)
            made.append(Record(message.subject, 0, time, block, message.data))
        return made


def message_of(record: Record) -> Message:
    """A packed message as readers of a stream get it."""
    return Message(
        record.subject,
        read_headers(record.block),
        record.data,
        record.sequence,
        from_nanoseconds(record.time),
    )
