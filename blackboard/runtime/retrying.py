"""Dead letters that an operator wants tried again, brought back to their handler.

The wishes lie on the stream of dead letters, under a durable consumer per handler, so one that is
made while the agent is down waits for it.
"""

import logging

import msgspec

from blackboard.codec import decode_record
from blackboard.errors import (
    BlackboardError,
    GoneError,
    HistoryGoneError,
    InvalidError,
    NotFoundError,
)
from blackboard.jetstream import Delivery, Durable, Start
from blackboard.jetstream.puller import DELETED
from blackboard.records import Retry
from blackboard.runtime.declared import Handler
from blackboard.runtime.generation import MAX_ACK_PENDING, Generation, Place
from blackboard.runtime.intake import Arrival, Intake
from blackboard.runtime.loop import ACK, TERM, Loop, Verdict
from blackboard.runtime.transaction import Bench
from blackboard.subjects import consumer_name, dead_stream, retry_subject

logger = logging.getLogger(__name__)


class Retrying:
    """The retries of one handler."""

    def __init__(self, bench: Bench, handler: Handler, intake: Intake, place: Place) -> None:
        self._bench = bench
        self._log = bench.board.log
        self._handler = handler
        self._intake = intake
        self._place = place
        self._durable = Durable(
            self._log.connection,
            dead_stream(self._log.board),
            consumer_name(self._log.agent, handler.name),
        )

    def loop(self) -> Loop:
        """The loop that pulls them, one at a time."""
        return Loop(
            self._log.connection,
            self._durable.stream,
            self._durable.name,
            slots=1,
            ack_wait_s=self._handler.ack_wait_s,
            process=self.process,
            again=self.again,
        )

    async def enter(self) -> Generation:
        """Make the consumer if it is not there; all replicas share it."""
        if await self._durable.info() is None:
            await self._durable.create(
                retry_subject(self._log.board, self._log.agent, self._handler.name),
                Start.all(),
                ack_wait_s=self._handler.ack_wait_s,
                max_ack_pending=MAX_ACK_PENDING,
                metadata={},
            )
        return Generation(run=0, made_here=False)

    async def again(self, _: str) -> Generation:
        """Make the consumer again if it is gone."""
        return await self.enter()

    async def process(self, delivery: Delivery, _: Generation) -> Verdict:
        """Take one wish: fetch the input as it was, and handle it as if it came now."""
        message = delivery.message
        try:
            wish = decode_record(message.data, Retry)
            generation = await self._place.again(DELETED)
            memory = await self._bench.reader.pinned(wish.input)
        except (InvalidError, NotFoundError, GoneError, HistoryGoneError) as error:
            logger.warning("retry.dropped", extra={"error": str(error)})
            return TERM
        except BlackboardError as error:
            logger.debug("retry.waiting", extra={"error": str(error)})
            return Verdict("nak", 1.0)
        memory = msgspec.structs.replace(memory, delivery=message.delivery)
        headers = {} if memory.trace is None else {"traceparent": memory.trace}
        arrival = Arrival(memory, headers, generation.run, message.sequence)
        verdict = await self._intake.receive(arrival)
        if verdict in (ACK, TERM):
            await self._forget(message.sequence)
        return verdict

    async def _forget(self, sequence: int) -> None:
        try:
            await self._log.connection.delete(self._durable.stream, sequence)
        except BlackboardError as error:
            # It is settled, so it does not come again; the stream drops it when it is full.
            logger.debug("retry.kept", extra={"error": str(error)})
