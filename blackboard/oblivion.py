"""Asking that something is forgotten: what it would be, the order, and the receipt.

Nothing is forgotten here. An order is put on the board, where the steward finds it, even if it does
not run now; so whoever asks may end, and what was asked for is done all the same.
"""

import uuid
from collections.abc import Callable, Sequence

import anyio
from msgspec import Struct

from blackboard.clock import now
from blackboard.codec import decode_record
from blackboard.errors import DeniedError, InvalidError, NoAnswerError, NotFoundError
from blackboard.jetstream import Start, follow
from blackboard.lineage import SELECTED, Lineage
from blackboard.log import Log
from blackboard.receipts import MAX_REFS, Order, Part, Receipt, digest_of
from blackboard.search import Filter
from blackboard.subjects import FORGET, Ref, order_subject, receipt_subject

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
ANYONE = "*"


class Doomed(Struct, frozen=True):
    """A memory that would be forgotten, and why: it is selected, or what it was made from is."""

    ref: Ref
    why: str


class Plan(Struct, frozen=True):
    """What an order would take away.

    Attributes:
        memories: In the order in which they were found.
        scanned: Revisions that were read.
        everything: Nothing would be left on the board.
    """

    memories: list[Doomed]
    scanned: int
    everything: bool

    @property
    def selected(self) -> int:
        """How many are named by the order itself."""
        return sum(one.why == SELECTED for one in self.memories)


class Oblivion:
    """Orders of one agent on one board."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def order(self, refs: Sequence[Ref], where: Filter, reason: str) -> Order:
        """An order as it will stand on the board.

        Raises:
            InvalidError: It selects nothing by itself, or is too long.
            DeniedError: This agent may not forget.
        """
        identity = self._log.connection.identity
        if identity is not None and identity.restricted:
            raise DeniedError(
                f"agent {self._log.agent!r} may not forget: that takes an operator's credential"
            )
        if len(refs) > MAX_REFS:
            raise InvalidError(f"{len(refs)} references; order at most {MAX_REFS} at once")
        if where == Filter() and not refs:
            raise InvalidError(
                "say what to forget: a reference, user=, topic=, tags=, session=, agent=, access=, "
                "since= or until=; topic='>' is the whole board"
            )
        return Order(
            id=uuid.uuid4().hex,
            agent=self._log.agent,
            at=now(),
            reason=reason,
            refs=tuple(ref.unpinned for ref in refs),
            where=None if where == Filter() else where,
        )

    async def plan(self, order: Order) -> Plan:
        """What an order would take away now; reads the whole board, 100,000 memories in 2 s.

        Raises:
            UnavailableError: The broker does not answer.
        """
        lineage = Lineage(self._log, order.selects)
        await lineage.close()
        found = lineage.found
        everything = bool(found) and lineage.live <= found.keys()
        return Plan([Doomed(ref, why) for ref, why in found.items()], lineage.scanned, everything)

    @staticmethod
    def check(plan: Plan) -> None:
        """Refuse what is more likely a mistake.

        Raises:
            NotFoundError: Nothing would be forgotten.
            InvalidError: Everything would be.
        """
        if not plan.memories:
            raise NotFoundError(
                f"none of {plan.scanned} revisions on this board matches, so nothing was done; "
                "confirm it to get a receipt that says so"
            )
        if plan.everything:
            raise InvalidError(
                f"that is every memory on the board ({len(plan.memories)}); nothing was done: "
                "confirm it if it is meant"
            )

    async def place(self, order: Order) -> None:
        """Put an order on the board; it will be worked off, when this returns.

        Raises:
            UnavailableError: The broker does not answer; ordered or not.
        """
        subject = order_subject(self._log.board, self._log.agent, order.id)
        await self._log.send([self._log.record(subject, order, expected=0, ttl_s=None)])

    async def wait(
        self, order: str, timeout: float | None, done: Callable[[Receipt], bool]
    ) -> Receipt:
        """Wait for a receipt to come so far.

        Raises:
            NoAnswerError: It did not in time; the order stands.
            DeniedError: The order was refused.
        """
        pause_s = FIRST_PAUSE_S
        with anyio.move_on_after(timeout):
            while True:
                receipt = await self.receipt(order)
                if receipt is not None and receipt.state == "refused":
                    raise DeniedError("; ".join(receipt.notes))
                if receipt is not None and done(receipt):
                    return receipt
                await anyio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)
        raise NoAnswerError(
            f"order {order} is not worked off after {timeout:g} s, and stands; see that a steward "
            f"runs (`python -m blackboard.steward`), then `blackboard forget verify {order}`"
        )

    async def receipt(self, order: str) -> Receipt | None:
        """The receipt of an order; None as long as there is none."""
        subject = receipt_subject(self._log.board, ANYONE, order)
        return (await self._log.record_at(subject, Receipt))[0]

    async def parts(self, receipt: Receipt) -> list[Part]:
        """The parts of a receipt.

        Raises:
            InvalidError: One is missing, or they are not those that the receipt was made over.
        """
        parts: list[Part] = []
        for number in range(receipt.parts):
            subject = receipt_subject(self._log.board, ANYONE, receipt.order, number)
            part, _ = await self._log.record_at(subject, Part)
            if part is None:
                raise InvalidError(f"part {number} of receipt {receipt.order} is missing")
            parts.append(part)
        if digest_of(parts) != receipt.digest:
            raise InvalidError(f"the parts of receipt {receipt.order} were changed")
        return parts

    async def receipts(self) -> list[Receipt]:
        """All receipts on the board, in the order in which they were asked for."""
        found: list[Receipt] = []
        subject = f"claim.{self._log.board}.{FORGET}.>"
        async with follow(
            self._log.connection, self._log.stream, subject, Start.newest()
        ) as follower:
            while follower.pending:
                message = await follower.step()
                name = "" if message is None else message.subject.split(".")[4]
                if message is None or not name.startswith("e-") or name.count("-") > 1:
                    continue
                try:
                    found.append(decode_record(message.data, Receipt))
                except InvalidError:
                    continue
        return sorted(found, key=lambda receipt: receipt.asked)
