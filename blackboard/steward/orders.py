"""Working off orders to forget: found, written down, covered, deleted, and a receipt for it.

An order lies on the board until what it selects is gone from every reader; then it is erased, and
the receipt goes on until every store was seen clean. So whatever is killed, whoever comes next
finds on the board what is left to do. Passes over the stream are repeated until one finds nothing,
and only then is anything deleted: what was made from a memory is found through its sources.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

from blackboard import clock
from blackboard.access.identity import SERVICES
from blackboard.codec import decode_record
from blackboard.errors import BlackboardError, ConflictError, InvalidError, UnavailableError
from blackboard.jetstream import Message, Start, follow
from blackboard.lease import Claim
from blackboard.lineage import SELECTED, Lineage
from blackboard.messages import OUTLIVED
from blackboard.receipts import Order, Receipt, Signer, digest
from blackboard.session import Desk
from blackboard.steward.account import Account, read_order
from blackboard.steward.arrivals import Arrivals
from blackboard.steward.burial import Burial, Grave
from blackboard.steward.files import Files
from blackboard.steward.replicas import Replicas
from blackboard.steward.stores import Stores
from blackboard.steward.tombstones import Tombstones
from blackboard.subjects import FORGET, blob_stream, order_subject

logger = logging.getLogger(__name__)

CHUNK = 250
"""Memories that are covered at once."""
LEASE_S = 10.0
LOOK_S = 2.0
"""How often what a receipt waits for is looked at."""
RETRY_S = 1.0


class Orders:
    """The orders of one board.

    Args:
        desk: The steward's place.
        tombstones: Know what was forgotten, and learn of more.
        arrivals: See to what comes while an order is worked off.
        replicas: Know whether servers still hold in their logs what was deleted.
        files: Know what is left in the files of servers on this machine.
        signer: Gives what vouches for receipts; None leaves them unsigned.
    """

    def __init__(
        self,
        desk: Desk,
        tombstones: Tombstones,
        arrivals: Arrivals,
        replicas: Replicas,
        files: Files,
        signer: Callable[[], Signer | None],
    ) -> None:
        self._log = desk.log
        self._gone = tombstones.forgotten
        self._arrivals = arrivals
        self._signer = signer
        self._burial = Burial(desk.log, desk.journal, tombstones.unsure)
        self._stores = Stores(desk.log, desk.journal, self._burial, replicas, files)
        self._dropped: set[str] = set()
        self._orders: dict[str, tuple[Order, int]] = {}
        self._open: set[str] = set()
        self._some = anyio.Event()

    async def watch(self) -> None:
        """Take up orders and receipts, those that lie there and those that come; never returns.

        Raises:
            UnavailableError: There is no such board, or the broker does not answer at first.
        """
        subject = f"claim.{self._log.board}.{FORGET}.>"
        async with follow(
            self._log.connection, self._log.stream, subject, Start.newest()
        ) as follower:
            async for message in follower:
                self._see(message)

    def _see(self, message: Message) -> None:
        author, name = message.subject.split(".")[3:5]
        if message.headers.get("Bb-Agent") != author:
            return
        try:
            if name.startswith("f-"):
                order = read_order(message.data, author)
                if message.subject == order_subject(self._log.board, author, order.id):
                    self._orders[order.id] = order, message.sequence
            elif name.startswith("e-") and name.count("-") == 1 and author == self._log.agent:
                receipt = decode_record(message.data, Receipt)
                (self._open.add if receipt.state == "pending" else self._open.discard)(
                    receipt.order
                )
        except InvalidError as error:
            logger.warning("board %s: no order: %s", self._log.board, error)
            return
        self._some.set()

    async def work(self) -> None:
        """Work off what was taken up; never returns."""
        while True:
            with anyio.move_on_after(LOOK_S if self._open else None):
                await self._some.wait()
            self._some = anyio.Event()
            for number, (order, sequence) in list(self._orders.items()):
                if await self._tried(number, self._work_off(order, sequence)):
                    del self._orders[number]
                else:
                    self._some.set()
            for number in sorted(self._open - self._orders.keys()):
                await self._tried(number, self._look_again(number))
            if self._orders:
                await anyio.sleep(RETRY_S)

    async def _tried(self, number: str, work: Awaitable[bool]) -> bool:
        try:
            return await work
        except ConflictError as error:
            logger.info("board %s: order %s: %s", self._log.board, number, error)
        except BlackboardError as error:
            logger.warning("board %s: order %s waits: %s", self._log.board, number, error)
        return False

    async def _work_off(self, order: Order, sequence: int) -> bool:
        """Do what is left of an order; False when another steward does."""
        if self._log.connection.identity is not None and order.agent not in SERVICES:
            await self._refuse(order, sequence)
            return True
        claim = Claim(self._log, "forget", access=FORGET, digest=order.id, lease_s=LEASE_S)
        if not await claim.take():
            return False
        done = False
        failure: BlackboardError | None = None
        try:
            async with anyio.create_task_group() as group:

                async def keep() -> None:
                    await claim.keep()
                    group.cancel_scope.cancel()

                group.start_soon(keep)
                try:
                    await self._fulfil(order)
                    await self._burial.erase(self._log.stream, [sequence], f"order {order.id}")
                    done = True
                except BlackboardError as error:
                    failure = error
                group.cancel_scope.cancel()
        finally:
            await claim.release()
        if failure is not None:
            raise failure
        return done

    async def _refuse(self, order: Order, sequence: int) -> None:
        info = await self._log.connection.stream(self._log.stream)
        account = await Account.begun(self._log, order, "" if info is None else info.created)
        note = f"agent {order.agent!r} may not forget: that takes an operator's credential"
        refused = msgspec.structs.replace(account.receipt, state="refused", notes=(note,))
        await account.keep(refused, self._signer())
        await self._burial.erase(self._log.stream, [sequence], f"order {order.id}")

    async def _fulfil(self, order: Order) -> None:
        info = await self._log.connection.stream(self._log.stream)
        if info is None:
            raise UnavailableError(f"there is no board {self._log.board!r}")
        account = await Account.begun(self._log, order, info.created)
        if account.receipt.state != "removing":
            return
        last = max(account.receipt.last, await self._bury_all(order, account))
        await self._stores.remove(account)
        now = clock.now()
        receipt = msgspec.structs.replace(
            account.receipt,
            state="pending",
            last=last,
            removed=now,
            elsewhere=await self._stores.copies(account),
        )
        await self._settle(account, receipt)

    async def _bury_all(self, order: Order, account: Account) -> int:
        """Take away what an order selects, and what was made from it up to now.

        What is made from it later, and what was stored while the board was read, is seen to by
        those who look at arrivals; they begin where the reading ended.

        Returns:
            The revision of the last tombstone; 0 when there was nothing.
        """
        lineage = Lineage(self._log, order.selects, self._gone, order.shown)
        if order.agent == self._log.agent and not order.shown:
            lineage.found.update(dict.fromkeys(order.refs, SELECTED))  # followed up already
        else:
            await lineage.close()
        last = 0
        self._dropped = await self._stores.dropped() if lineage.found else set()
        while lineage.found:
            last = max(last, await self._bury(order, lineage, account))
        if last and lineage.position:
            await self._arrivals.rewind(lineage.position, last)
        return last

    async def _bury(self, order: Order, lineage: Lineage, account: Account) -> int:
        """Write down and cover all that was found; those that moved meanwhile stay found."""
        last = 0
        found = list(lineage.found)
        for first in range(0, len(found), CHUNK):
            graves = [await self._burial.look(ref) for ref in found[first : first + CHUNK]]
            await self._write_down(graves, lineage, account)
            for ref, revision in (await self._burial.cover(graves, order.reason)).items():
                lineage.settle(ref, revision)
                if not order.reason.startswith(OUTLIVED):
                    self._gone[ref] = max(revision, self._gone.get(ref, 0))
                last = max(last, revision)
        return last

    async def _write_down(
        self, graves: Sequence[Grave], lineage: Lineage, account: Account
    ) -> None:
        blobs = {blob for grave in graves for blob in grave.blobs}
        if blobs:
            buried = [*lineage.found, *(grave.ref for grave in graves)]
            blobs -= await self._burial.named_by_others(blobs, buried)
        chunks = await self._burial.chunks(blobs)
        await account.note(
            blob_stream(self._log.board), "chunks", chunks, marks=[blob for _, _, blob in blobs]
        )
        leases = [one for grave in graves for one in grave.leases]
        await account.note(self._log.stream, "records", leases)
        await account.note(
            self._log.stream,
            "memories",
            [one for grave in graves for one in grave.sequences],
            [grave.ref for grave in graves],
            projected=any(grave.projected for grave in graves),
            marks=[mark for grave in graves for mark in grave.marks],
            overrun=sum(self._is_overrun(grave) for grave in graves),
        )

    def _is_overrun(self, grave: Grave) -> bool:
        """Whether the broker may have dropped revisions of a memory by itself."""
        kept = self._log.limits.history
        return len(grave.sequences) >= kept or digest(str(grave.ref)) in self._dropped

    async def _look_again(self, number: str) -> bool:
        """See whether the stores of a receipt are clean by now."""
        account = await Account.read(self._log, number)
        if account is None or account.receipt.state != "pending":
            self._open.discard(number)
            return True
        await self._settle(account, account.receipt)
        return True

    async def _settle(self, account: Account, receipt: Receipt) -> None:
        """Write the receipt as the stores are now."""
        stores = tuple(await self._stores.state(account, receipt))
        clean = all(store.clean for store in stores)
        after = msgspec.structs.replace(
            receipt,
            stores=stores,
            state="complete" if clean else "pending",
            completed=clock.now() if clean else None,
        )
        if after.state == account.receipt.state and after.stores == account.receipt.stores:
            return
        await account.keep(after, self._signer())
        logger.info("board %s: order %s is %s", self._log.board, receipt.order, after.state)
