"""What lies beside the memories: records of handlers, letters, spans, orders, receipts, copies."""

from typing import Any

from blackboard.batches import each_span_batch
from blackboard.board import Blackboard
from blackboard.codec import decode_record
from blackboard.errors import InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.receipts import Copy, Order, Receipt, digest
from blackboard.records import (
    Cause,
    DeadLetter,
    GroupRecord,
    HandlerRecord,
    IndexRecord,
    Lease,
    Retry,
    SpanBatch,
)
from blackboard.report.document import Forgotten, Noted
from blackboard.report.kin import Kin
from blackboard.report.spool import Spool
from blackboard.subjects import FORGET, Ref, dead_stream, dead_subject, memory_stream, state_bucket
from blackboard.telemetry import MESSAGE_ID, RECORD_ID


class Beside:
    """The stores beside the memories of one person.

    Args:
        board: The board.
        user: The person.
        kin: Their memories.
        spool: Takes the long lists.

    Attributes:
        forgotten: Orders and receipts that name the person, or one of the memories.
        copies: Copies that may hold some of it.
        indexes: Of services.
    """

    def __init__(self, board: Blackboard, user: str, kin: Kin, spool: Spool) -> None:
        self.forgotten: list[Forgotten] = []
        self.copies: list[str] = []
        self.indexes: list[str] = []
        self._board = board
        self._connection = board.session.connection
        self._user = user
        self._kin = kin
        self._spool = spool
        self._orders: dict[str, Order] = {}
        self._receipts: dict[str, Receipt] = {}
        self._first: int | None = None
        self._results: dict[str, Ref] = {}
        self._digests: set[str] = set()

    async def read(self, first: int | None) -> None:
        """Read them.

        Args:
            first: The revision of the first of the memories that is left; None when none is.

        Raises:
            UnavailableError: The broker does not answer.
        """
        self._first = first
        self._results = {ref.id: ref for ref in self._kin if ref.shared}
        self._digests = {digest(str(ref)) for ref in self._kin}
        await self._copying()
        stream = memory_stream(self._board.name)
        await self._each(stream, f"claim.{self._board.name}.>", self._take_claim)
        await self._each(dead_stream(self._board.name), ">", self._take_letter)
        await each_span_batch(self._board, Start.all(), self._take_spans)
        self._settle()

    async def _each(self, stream: str, subject: str, take: Any) -> None:
        if await self._connection.stream(stream) is None:
            return
        async with follow(self._connection, stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                try:
                    take(message)
                except InvalidError:
                    continue  # not from this library

    async def _copying(self) -> None:
        stream = memory_stream(self._board.name)
        bucket = f"KV_{state_bucket(self._board.name)}"
        for name in await self._connection.streams():
            info = None if name == bucket else await self._connection.stream(name)
            config = {} if info is None else info.config
            parents: list[dict[str, Any]] = [
                config.get("mirror") or {},
                *(config.get("sources") or []),
            ]
            if self._first is not None and any(one.get("name") == stream for one in parents):
                self.copies.append(f"stream {name}, which copies {stream}")

    # What lies in the board's own stream

    def _take_claim(self, message: Message) -> None:
        access, agent, name = message.subject.split(".", 4)[2:]
        if message.headers.get("Bb-Agent") != agent:
            return
        if access == FORGET:
            self._take_forgetting(name, message)
        elif name.startswith("h-"):
            self._take_handled(message, agent)
        elif name.startswith("g-"):
            self._take_group(message, agent)
        elif name.startswith("o-"):
            self._take_lease(message, agent, name.removeprefix("o-"))

    def _take_handled(self, message: Message, agent: str) -> None:
        record = decode_record(message.data, HandlerRecord)
        cause = Cause.parse(record.cause)
        if cause.input.unpinned in self._kin:
            by = f"{cause.handler} v{cause.version}"
            self._note(
                message, agent, "handled", cause.input, by=by, outputs=self._ours(record.refs)
            )

    def _take_group(self, message: Message, agent: str) -> None:
        record = decode_record(message.data, GroupRecord)
        for part in self._ours(record.parts):
            self._note(message, agent, "gathered", part, outputs=self._ours(record.refs))

    def _take_lease(self, message: Message, agent: str, result: str) -> None:
        ref = self._results.get(result)
        if ref is not None:
            lease = decode_record(message.data, Lease)
            self._note(message, agent, "made", ref, text=lease.error or "")

    def _ours(self, refs: tuple[Ref, ...]) -> tuple[Ref, ...]:
        return tuple(ref for ref in refs if ref.unpinned in self._kin)

    def _note(self, message: Message, agent: str, what: Any, ref: Ref, **more: Any) -> None:
        self._spool.add_noted(Noted(at=message.stored, agent=agent, what=what, ref=ref, **more))

    # Forgetting

    def _take_forgetting(self, name: str, message: Message) -> None:
        kind, _, rest = name.partition("-")
        if kind == "f":
            order = decode_record(message.data, Order)
            self._orders[order.id] = order
        elif kind == "e" and "-" not in rest:
            receipt = decode_record(message.data, Receipt)
            self._receipts[receipt.order] = receipt
        elif kind == "x":
            copy = decode_record(message.data, Copy)
            if self._first is not None and copy.last >= self._first:
                self.copies.append(f"{copy.what}, of {copy.at.isoformat(timespec='seconds')}")
        elif kind == "i" and self._first is not None:
            self.indexes.append(decode_record(message.data, IndexRecord).index)

    def _settle(self) -> None:
        self.indexes = sorted(set(self.indexes))
        named = digest(self._user)
        for receipt in self._receipts.values():
            self._orders.pop(receipt.order, None)
            selectors = receipt.selectors
            users, refs = selectors.get("users", ()), selectors.get("reference", ())
            if named in users or not self._digests.isdisjoint(refs):
                self.forgotten.append(_forgotten(receipt))
        for order in self._orders.values():
            users = () if order.where is None else order.where.users
            if self._user in users or any(ref.unpinned in self._kin for ref in order.refs):
                self.forgotten.append(
                    Forgotten(
                        order=order.id, agent=order.agent, asked=order.at, reason=order.reason
                    )
                )
        self.forgotten.sort(key=lambda one: one.asked)

    # Beside the board

    def _take_letter(self, message: Message) -> None:
        if message.subject.startswith("dead."):
            letter = decode_record(message.data, DeadLetter)
            place = dead_subject(self._board.name, letter.agent, letter.handler)
            if letter.input.unpinned in self._kin and message.subject == place:
                text = "\n".join(filter(None, (letter.error, letter.traceback)))
                by = f"{letter.handler} v{letter.version}"
                self._note(message, letter.agent, "failed", letter.input, by=by, text=text)
            return
        wish = decode_record(message.data, Retry)
        if wish.input.unpinned in self._kin:
            _, _, agent, handler = message.subject.split(".", 3)
            self._note(message, agent, "retried", wish.input, by=handler)

    def _take_spans(self, batch: SpanBatch) -> None:
        for span in batch.spans:
            names = (span.attributes.get(name) for name in (RECORD_ID, MESSAGE_ID))
            if any(isinstance(name, str) and self._names(name) for name in names):
                self._spool.add_span(span)

    def _names(self, text: str) -> bool:
        try:
            return Ref.parse(text).unpinned in self._kin
        except InvalidError:
            return False


def _forgotten(receipt: Receipt) -> Forgotten:
    return Forgotten(
        order=receipt.order,
        agent=receipt.agent,
        asked=receipt.asked,
        reason=receipt.reason,
        state=receipt.state,
        memories=receipt.memories,
        removed=receipt.removed,
        completed=receipt.completed,
        elsewhere=receipt.elsewhere,
    )
