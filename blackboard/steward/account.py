"""The account of an order: the parts that say what is removed, and the receipt over them.

A part is on disk before anything that it lists is touched, so a steward that is killed leaves an
account of what may be half done, and the next one does all of it again; removing twice is removing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from blackboard.codec import decode_record
from blackboard.errors import InvalidError
from blackboard.log import Log
from blackboard.receipts import (
    Order,
    Part,
    Range,
    Receipt,
    Signer,
    Store,
    digest,
    digest_of,
    ranges_of,
    sequences_of,
)
from blackboard.subjects import Ref, receipt_subject

REFS = 2_000
"""References in one part; it is a message."""
RANGES = 20_000
SHOWN_RANGES = 500
"""In a receipt; the parts have all of them."""


class Account:
    """What is removed for one order, as far as it is written down.

    Attributes:
        receipt: As it was last written.
        refs: Digests of the references that were taken away.
        removed: Sequences by store and kind.
        projected: The key-value bucket showed one of them.
        overrun: How many of them had as many revisions as the board keeps.
    """

    def __init__(self, log: Log, receipt: Receipt, sequence: int) -> None:
        self.receipt = receipt
        self.refs: set[str] = set()
        self.removed: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.projected = False
        self.overrun = 0
        self._log = log
        self._sequence = sequence
        self._parts: list[Part] = []

    @classmethod
    async def begun(cls, log: Log, order: Order, created: str) -> "Account":
        """The account of an order; begun when there is none yet."""
        account = await cls.read(log, order.id)
        if account is not None:
            return account
        receipt = Receipt(
            order=order.id,
            board=log.board,
            created=created,
            agent=order.agent,
            asked=order.at,
            reason=order.reason,
            selectors=order.selectors(),
        )
        account = cls(log, receipt, 0)
        await account.keep(receipt)
        return account

    @classmethod
    async def read(cls, log: Log, order: str) -> "Account | None":
        """The account of an order with all its parts; None when there is none."""
        subject = receipt_subject(log.board, log.agent, order)
        receipt, sequence = await log.record_at(subject, Receipt)
        if receipt is None:
            return None
        account = cls(log, receipt, sequence)
        while True:
            number = len(account._parts)
            part, _ = await log.record_at(
                receipt_subject(log.board, log.agent, order, number), Part
            )
            if part is None:
                return account
            account._take(part)

    def holds(self, ref: Ref) -> bool:
        """Whether a memory was taken away."""
        return digest(str(ref.unpinned)) in self.refs

    async def note(
        self,
        store: str,
        what: str,
        sequences: Iterable[int],
        refs: Sequence[Ref] = (),
        *,
        projected: bool = False,
        overrun: int = 0,
        marks: Sequence[str] = (),
    ) -> None:
        """Write down what is about to be removed; on disk when this returns.

        Raises:
            ConflictError: Another steward works on the same order.
        """
        names = [digest(str(ref)) for ref in refs]
        ranges = ranges_of(set(sequences) - self.removed[store, what])
        while ranges or marks or any(name not in self.refs for name in names):
            part = Part(
                store=store,
                what=what,
                refs=tuple(names[:REFS]),
                ranges=ranges[:RANGES],
                projected=projected,
                overrun=overrun,
                marks=tuple(digest(mark) for mark in marks[:REFS]),
            )
            overrun, marks = 0, marks[REFS:]
            names, ranges = names[REFS:], ranges[RANGES:]
            subject = receipt_subject(
                self._log.board, self._log.agent, self.receipt.order, len(self._parts)
            )
            await self._log.send([self._log.record(subject, part, expected=0, ttl_s=None)])
            self._take(part)

    def _take(self, part: Part) -> None:
        self._parts.append(part)
        self.refs.update(part.refs)
        self.projected = self.projected or part.projected
        self.overrun += part.overrun
        self.removed[part.store, part.what].update(sequences_of(part.ranges))

    def stores(self) -> list[Store]:
        """What was removed, by store and kind."""
        return [
            Store(name=name, what=what, removed=len(found), ranges=_shown(ranges_of(found)))
            for (name, what), found in sorted(self.removed.items())
            if found
        ]

    async def keep(self, receipt: Receipt, signer: Signer | None = None) -> None:
        """Write the receipt; signed if there is a key.

        Raises:
            ConflictError: Another steward wrote it meanwhile.
        """
        receipt = msgspec.structs.replace(
            receipt,
            memories=len(self.refs),
            parts=len(self._parts),
            digest=digest_of(self._parts),
        )
        if signer is not None:
            receipt = receipt.signed(signer)
        subject = receipt_subject(self._log.board, self._log.agent, receipt.order)
        message = self._log.record(subject, receipt, expected=self._sequence, ttl_s=None)
        self._sequence = await self._log.send([message])
        self.receipt = receipt


def _shown(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """Ranges as a receipt shows them: all, or none if they are many."""
    return ranges if len(ranges) <= SHOWN_RANGES else ()


def read_order(body: bytes, agent: str) -> Order:
    """Read an order.

    Raises:
        InvalidError: It is none, or names another agent than asked.
    """
    order = decode_record(body, Order)
    if order.agent != agent:
        raise InvalidError(f"an order of {agent!r} that names {order.agent!r}")
    if order.where is not None:
        order.where.check()
    return order
