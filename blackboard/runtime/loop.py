"""The pull loop: as many deliveries in hand as there are slots, and each of them settled once.

While work goes on its time limit is extended; when the broker goes away the loop waits for it. On
stopping, nothing new is taken; what is not finished in time is given back to other replicas.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from blackboard.errors import UnavailableError
from blackboard.jetstream import Connection, Delivery, Puller, pull
from blackboard.jetstream.puller import RECONNECTED
from blackboard.runtime.generation import Generation

logger = logging.getLogger(__name__)

RETRY_S = 0.25
GIVE_BACK_S = 2.0
EXTENSIONS = 3
"""Times that the limit is extended within its length."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the broker about a delivery."""

    word: Literal["ack", "nak", "term"]
    delay_s: float = 0.0


ACK = Verdict("ack")
SKIP = Verdict("ack")
"""The function was not called: nothing to do, or done before."""
TERM = Verdict("term")

Process = Callable[[Delivery, Generation], Awaitable[Verdict]]
Again = Callable[[str], Awaitable[Generation]]


class Loop:
    """Pulls from one durable consumer and has each delivery processed.

    Args:
        connection: To the broker.
        stream: The stream's name.
        consumer: The consumer's name.
        slots: Deliveries in hand at once.
        ack_wait_s: The consumer's time limit.
        process: Says what becomes of a delivery; what it raises ends the loop.
        again: Looks at the consumer after a disturbance.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        slots: int,
        ack_wait_s: float,
        process: Process,
        again: Again,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._slots = slots
        self._ack_wait_s = ack_wait_s
        self._process = process
        self._again = again
        self._deliveries: dict[int, Delivery] = {}
        self._numbers = 0
        self._puller: Puller | None = None
        self._stopping = False
        self._empty = anyio.Event()
        self.ended = anyio.Event()
        """Set when nothing is pulled any more and nothing is in hand."""

    @property
    def in_hand(self) -> int:
        """Deliveries that are being worked on."""
        return len(self._deliveries)

    def stop(self) -> None:
        """Take nothing new; `run` returns when what is in hand is done."""
        self._stopping = True
        if self._puller is not None:
            self._puller.wake()

    async def run(self, generation: Generation) -> None:
        """Pull until stopped. Cancelled, it gives back what it has in hand.

        Raises:
            SettingsError: The consumer was removed or replaced by one that does not fit.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._extend)
                await self._pull(group, generation)
                while self._deliveries:
                    self._empty = anyio.Event()
                    await self._empty.wait()
                group.cancel_scope.cancel()
        finally:
            self.ended.set()

    async def _pull(self, group: TaskGroup, generation: Generation) -> None:
        async with pull(self._connection, self._stream, self._consumer) as puller:
            self._puller = puller
            while not self._stopping:
                if puller.disturbed is not None:
                    generation = await self._look_again(puller, generation)
                else:
                    await self._take(puller, group, generation)

    async def _take(self, puller: Puller, group: TaskGroup, generation: Generation) -> None:
        try:
            delivery = await puller.next(self._slots - len(self._deliveries))
        except UnavailableError as error:
            logger.debug("loop.waiting", extra={"error": str(error)})
            await anyio.sleep(RETRY_S)
            return
        if delivery is not None:
            self._numbers += 1
            self._deliveries[self._numbers] = delivery
            group.start_soon(self._one, self._numbers, delivery, generation)

    async def _look_again(self, puller: Puller, generation: Generation) -> Generation:
        reason = puller.disturbed or ""
        puller.disturbed = None
        # A broker that refuses request after request is not asked at full speed.
        await anyio.sleep(0 if reason == RECONNECTED else random.uniform(0, RETRY_S))
        try:
            found = await self._again(reason)
        except UnavailableError as error:
            logger.debug("loop.waiting", extra={"reason": reason, "error": str(error)})
            puller.disturbed = puller.disturbed or reason
            await anyio.sleep(RETRY_S)
            return generation
        logger.info("loop.again", extra={"consumer": self._consumer, "reason": reason})
        if found.run != generation.run:
            generation.ended = True
            return found
        return generation

    async def _one(self, number: int, delivery: Delivery, generation: Generation) -> None:
        verdict = Verdict("nak")  # cut off in the middle: to another replica, at once
        try:
            verdict = await self._process(delivery, generation)
        finally:
            with anyio.move_on_after(GIVE_BACK_S, shield=True):
                await _settle(delivery, verdict, generation)
            del self._deliveries[number]
            if self._puller is not None:
                self._puller.wake()
            if not self._deliveries:
                self._empty.set()

    async def _extend(self) -> None:
        while True:
            await anyio.sleep(self._ack_wait_s / EXTENSIONS)
            for delivery in list(self._deliveries.values()):
                try:
                    await delivery.extend()
                except UnavailableError:
                    logger.debug("loop.extend", exc_info=True)


async def _settle(delivery: Delivery, verdict: Verdict, generation: Generation) -> None:
    if generation.ended:
        return  # it would settle the new run's delivery of the same memory
    try:
        if verdict.word == "ack":
            await delivery.ack()
        elif verdict.word == "term":
            await delivery.term()
        else:
            await delivery.nak(verdict.delay_s)
    except UnavailableError:
        # The broker delivers it again after the time limit; the record says if it was done.
        logger.debug("loop.settle", exc_info=True)
