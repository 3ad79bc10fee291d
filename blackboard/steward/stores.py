"""The stores beside the board that name what was forgotten, or show it: emptied, and looked at.

    records     what handlers noted of a forgotten input; leases on a forgotten result
    letters     dead letters and wishes to try again: their tracebacks may quote the input
    spans       names only, but they go with the memory
    the bucket  a projection that keeps overwritten values on disk, so it is made anew
    indexes     each says itself how far it is clean (`IndexRecord`)

Records of groups keep references to parts, which their handlers take out when they see the
tombstone; the audit keeps that something was read, which is its purpose.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import msgspec

from blackboard.clock import now
from blackboard.codec import decode_record, encode_record
from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Outgoing, Start, StreamInfo, follow
from blackboard.journal import Journal, read_spans
from blackboard.layout import limits_of, streams_of
from blackboard.log import Log
from blackboard.receipts import Copy, Receipt, Store
from blackboard.records import Cause, DeadLetter, HandlerRecord, IndexRecord, Retry, SpanBatch
from blackboard.steward.account import Account
from blackboard.steward.burial import Burial
from blackboard.steward.files import Files
from blackboard.steward.replicas import Replicas
from blackboard.subjects import (
    FORGET,
    Ref,
    dead_stream,
    memory_stream,
    spans_stream,
    state_bucket,
)
from blackboard.telemetry import MESSAGE_ID, RECORD_ID

UNSURE = "perhaps not overwritten"
MAYBE = (
    "the broker died while it deleted these, and may not have come to their bytes; look with "
    "`blackboard forget verify --files`: they go when the broker writes that file anew"
)
DROPPED = "revisions dropped before"
OVERRUN = (
    "of the memories had more revisions than the board keeps, and the broker dropped those without "
    "overwriting them: they are in its files until it writes those anew"
)
SEE = "name the servers' JetStream directories to a steward on their machine: BLACKBOARD_STORE=DIR"
OVERWRITTEN = "deleted and overwritten on the one server that holds it"


class Stores:
    """The stores of one board.

    Args:
        log: The board.
        journal: Notes each deletion.
        burial: Deletes.
        replicas: Know the servers' logs.
        files: Know the servers' files, where they are on this machine.
    """

    def __init__(
        self, log: Log, journal: Journal, burial: Burial, replicas: Replicas, files: Files
    ) -> None:
        self._log = log
        self._journal = journal
        self._burial = burial
        self._replicas = replicas
        self._files = files

    async def remove(self, account: Account) -> None:
        """Remove all that is left of what an account lists; again and again with the same effect.

        Raises:
            BrokerError: The broker refuses.
            UnavailableError: The broker does not answer; again later.
        """
        board = self._log.board
        await self._find(
            account, memory_stream(board), f"claim.{board}.>", "records", input_of_record
        )
        await self._find(account, dead_stream(board), ">", "letters", input_of_letter)
        await self._clear_spans(account)
        for (stream, what), sequences in sorted(account.removed.items()):
            if what not in ("spans", UNSURE):
                await self._burial.erase(
                    stream, sequences, f"{what} of order {account.receipt.order}"
                )
        await self._note_unsure(account)
        if account.projected:
            await self._project_anew()

    async def _note_unsure(self, account: Account) -> None:
        """Write down what the broker may have deleted without overwriting it, when it died."""
        for stream in {name for name, _ in self._burial.unsure}:
            here = {sequence for name, sequence in self._burial.unsure if name == stream}
            for (name, what), removed in list(account.removed.items()):
                if name == stream and what != UNSURE and here & removed:
                    await account.note(stream, UNSURE, here & removed)

    async def _find(
        self,
        account: Account,
        stream: str,
        subject: str,
        what: str,
        of: Callable[[Message], Ref | None],
    ) -> None:
        """Write down the messages that were about something that is forgotten."""
        found: list[int] = []
        async with follow(self._log.connection, stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                ref = of(message)
                if ref is not None and account.holds(ref):
                    found.append(message.sequence)
        await account.note(stream, what, found)

    async def _clear_spans(self, account: Account) -> None:
        """Take spans that name a memory out of their batches.

        The rest of a batch is stored first: twice is the same as once, and not at all would be a
        loss.
        """
        board, connection = self._log.board, self._log.connection
        stream = spans_stream(board)
        rests: dict[int, tuple[Message, SpanBatch]] = {}
        async with follow(connection, stream, f"spans.{board}.>", Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                rest = spans_without(message, account.holds)
                if rest is not None:
                    rests[message.sequence] = message, rest
        await account.note(stream, "spans", rests)
        for sequence, (message, rest) in rests.items():
            if rest.spans:
                await connection.publish(Outgoing(message.subject, encode_record(rest)))
            await self._burial.erase(stream, [sequence], f"spans of order {account.receipt.order}")

    async def _project_anew(self) -> None:
        """Make the bucket anew from the board, which holds no more than the tombstones."""
        board, connection = self._log.board, self._log.connection
        name = f"KV_{state_bucket(board)}"
        limits = await limits_of(connection, board)
        await connection.delete_stream(name)
        for stream in streams_of(board, limits, connection.prefix):
            if stream.name == name:
                await connection.create_stream(stream)
        self._journal.audit("project", name)

    async def copies(self, account: Account) -> tuple[str, ...]:
        """Copies of the board that are known and lie out of reach."""
        stream = self._log.stream
        own = {f"KV_{state_bucket(self._log.board)}"}
        found: list[str] = []
        for name in await self._log.connection.streams():
            info = None if name in own else await self._log.connection.stream(name)
            if info is not None and _copies(info, stream):
                found.append(f"stream {name}, which copies {stream}")
        return (*found, *await self._exports(account))

    async def _exports(self, account: Account) -> list[str]:
        """Exports that were made after the first of what was removed was stored."""
        removed = account.removed[self._log.stream, "memories"]
        found: list[str] = []
        async for message in self._forgetting("x-"):
            try:
                copy = decode_record(message.data, Copy)
            except InvalidError:
                continue
            if removed and min(removed) <= copy.last:
                found.append(f"{copy.what}, of {copy.at.isoformat(timespec='seconds')}")
        return sorted(found)

    async def _forgetting(self, kind: str) -> AsyncGenerator[Message]:
        """The newest records of one kind among those of forgetting."""
        subject = f"claim.{self._log.board}.{FORGET}.>"
        async with AsyncExitStack() as stack:
            follower = await stack.enter_async_context(
                follow(self._log.connection, self._log.stream, subject, Start.newest())
            )
            while follower.pending:
                message = await follower.step()
                if message is not None and message.subject.split(".")[4].startswith(kind):
                    yield message

    async def dropped(self) -> set[str]:
        """Digests of the memories of which the broker dropped revisions, as far as was noted."""
        return {
            message.subject.rsplit(".", 1)[-1].removeprefix("d-")
            async for message in self._forgetting("d-")
        }

    async def state(self, account: Account, receipt: Receipt) -> list[Store]:
        """The stores with what was removed, and whether they are clean by now.

        Raises:
            UnavailableError: The broker does not answer.
        """
        board = self._log.board
        found = account.stores()
        await self._replicas.look(now())
        if account.overrun:
            found.append(Store(name=self._log.stream, what=DROPPED))
        stores = [await self._judged(store, account, receipt.removed or now()) for store in found]
        if account.projected:
            name = f"KV_{state_bucket(board)}"
            anew = Store(name=name, what="values", clean=True, how="made anew")
            stores.append(anew)
        return [*stores, *await self._indexes(receipt)]

    async def _judged(self, store: Store, account: Account, removed: datetime) -> Store:
        info = await self._log.connection.stream(store.name)
        clean, how = True, OVERWRITTEN
        if store.what in (UNSURE, DROPPED):
            clean, how = await self._looked(store, account, info)
        if clean and info is not None and int(info.config.get("num_replicas", 1)) > 1:
            clean, how = self._replicas.verdict(info, removed)
        return msgspec.structs.replace(store, clean=clean, how=how)

    async def _looked(
        self, store: Store, account: Account, info: StreamInfo | None
    ) -> tuple[bool, str]:
        """Whether what the broker does not know any more is out of its files, where they are seen.

        Only memories can be told there, by their subjects.
        """
        how = MAYBE if store.what == UNSURE else f"{account.overrun} {OVERRUN}"
        revisions = account.removed[self._log.stream, "memories"]
        told = store.what == DROPPED or account.removed[store.name, store.what] <= revisions
        if info is None or store.name != self._log.stream or not told:
            return False, how
        clean = await self._files.are_clean(info, account)
        if clean is None:
            return False, f"{how}; {SEE}"
        return clean, "no revision of them was found in its files" if clean else how

    async def _indexes(self, receipt: Receipt) -> list[Store]:
        """What the services that hold indexes say of them."""
        stores: list[Store] = []
        async for message in self._forgetting("i-"):
            try:
                record = decode_record(message.data, IndexRecord)
            except InvalidError:
                continue
            clean = record.clean >= receipt.last
            how = "written anew without it" if clean else "its service has to write it anew"
            stores.append(Store(name=record.index, what="entries", clean=clean, how=how))
        return sorted(stores, key=lambda store: store.name)


def input_of_record(message: Message) -> Ref | None:
    """The input that a handler's record is about; None if it is another record."""
    if not message.subject.split(".")[-1].startswith("h-"):
        return None
    try:
        return Cause.parse(decode_record(message.data, HandlerRecord).cause).input
    except InvalidError:
        return None


def input_of_letter(message: Message) -> Ref | None:
    """The input that a dead letter, or a wish to try it again, is about."""
    try:
        if message.subject.startswith("dead."):
            return decode_record(message.data, DeadLetter).input
        return decode_record(message.data, Retry).input
    except InvalidError:
        return None


def spans_without(message: Message, holds: Callable[[Ref], bool]) -> SpanBatch | None:
    """The batch without the spans that name a forgotten memory; None when it has none of them."""
    try:
        batch = read_spans(message.subject, message.data)
    except InvalidError:
        return None
    kept = tuple(span for span in batch.spans if not _names(span.attributes, holds))
    return None if len(kept) == len(batch.spans) else SpanBatch(kept, batch.dropped)


def _names(attributes: Mapping[str, Any], holds: Callable[[Ref], bool]) -> bool:
    for name in (RECORD_ID, MESSAGE_ID):
        value = attributes.get(name)
        if isinstance(value, str):
            try:
                if holds(Ref.parse(value)):
                    return True
            except InvalidError:
                continue
    return False


def _copies(info: StreamInfo, stream: str) -> bool:
    mirror: dict[str, Any] = info.config.get("mirror") or {}
    sources: list[dict[str, Any]] = info.config.get("sources") or []
    return any(one.get("name") == stream for one in [mirror, *sources])
