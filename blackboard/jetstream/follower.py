"""Reading a stream in order, history first and then live, without a gap and without a duplicate.

Each reader has a consumer of its own: in the broker's memory, unacknowledged, pushed to this
process. Its messages are numbered, so a lost one shows at the next message or heartbeat; a broker
that died shows as silence or a reconnect, one that does not get on by what the leader has. In every
case the consumer is made again behind the last
message that was handed on. History and live are one sequence, so there is no seam between them.
"""

import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from blackboard.errors import RetryableError, TerminalError, UnavailableError
from blackboard.jetstream.connection import Connection
from blackboard.jetstream.consumer import ConsumerInfo, Start, delete_consumer
from blackboard.jetstream.errors import NoStreamError
from blackboard.jetstream.message import Message, from_nanoseconds
from blackboard.jetstream.requests import subscribe
from blackboard.jetstream.stream import NANOSECONDS

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
SILENCE_S = 2.5 * HEARTBEAT_S
"""Without message or heartbeat for this long, the consumer counts as gone."""
STRIDE = 64
RETRY_S = 0.25
INACTIVE_S = 60.0
DELETED_S = 2.0
"""When the broker has said for this long that there is no such stream, it was deleted."""


class Follower:
    """An iterator over the messages of a stream that the filter selects; see `follow`."""

    def __init__(
        self, connection: Connection, stream: str, subject: str, start: Start, *, headers_only: bool
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._start = start
        self._headers_only = headers_only
        self._arrived: deque[Msg] = deque()
        self._wake = anyio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._position: int | None = None
        self._number = 0
        self._taken = 0
        self._least = 0
        self._clustered = False
        self._lagged_at: int | None = None
        self._broken = False
        self._forget = connection.on_reconnect(self._on_reconnect)
        self.pending = 0
        """Messages the broker still holds for us; 0 means caught up."""
        self.restarts = 0
        """How often the consumer was made again."""

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> Message:
        """The next message; waits for it as long as it takes.

        Raises:
            TerminalError: The stream was deleted.
        """
        while True:
            message = await self.step()
            if message is not None:
                return message

    async def step(self) -> Message | None:
        """The next message; None when the broker says that there is none for now.

        So a caller that reads until `pending` is 0 is not held up by messages that expired before
        they were delivered.
        """
        while True:
            if self._broken:
                await self._restart()
            if not self._arrived:
                await self._wait()
                continue
            self._taken += 1
            if self._taken % STRIDE == 0:
                # Others get a turn too, however much has arrived already.
                await anyio.lowlevel.checkpoint()
            msg = self._arrived.popleft()
            if msg.headers and "Status" in msg.headers:
                await self._on_status(msg)
                if self._clustered and self._idle(msg):
                    await self._notice_lag()
                if self._idle(msg) and not (self._behind and await self._is_behind()):
                    self.pending = 0
                    return None
                continue
            message, number, consumer = self.parse(msg)
            if consumer != self._consumer:
                continue
            if number != self._number + 1:
                self._break("gap")
                continue
            self._number = number
            self._position = message.sequence
            self.pending = message.pending or int(self._behind)
            return message

    @staticmethod
    def parse(msg: Msg) -> tuple[Message, int, str]:
        """A delivery: the message, its number of this consumer's, and the consumer."""
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>
        tokens = msg.reply.split(".")
        message = Message(
            msg.subject,
            msg.headers or {},
            msg.data,
            int(tokens[5]),
            from_nanoseconds(int(tokens[7])),
            0,  # which delivery it is means something in handlers only
            int(tokens[8]),
        )
        return message, int(tokens[6]), tokens[3]

    async def _wait(self) -> None:
        self._wake = anyio.Event()
        with anyio.move_on_after(SILENCE_S) as scope:
            await self._wake.wait()
        if scope.cancelled_caught and not self._arrived:
            self._break("silence")

    @property
    def _behind(self) -> bool:
        return self._least > (self._position or 0)

    async def _is_behind(self) -> bool:
        """Look again what there is to come: what was may have been deleted, or have expired."""
        try:
            await self._look_ahead(self._start)
        except RetryableError:
            return True
        return self._behind

    async def _look_ahead(self, start: Start) -> None:
        # The consumer lies on one server, whose replica may lag; it then counts as pending only
        # what it knows of. So what the leader has is what tells whether all of it was handed on.
        last = await self._connection.leader_last(self._stream, self._subject)
        due = (
            last is not None
            and last.sequence >= (start.sequence or 0)
            and (start.time is None or last.stored >= start.time)
        )
        self._least = last.sequence if due and last is not None else 0

    async def _notice_lag(self) -> None:
        """Leave a server whose replica does not get on: its consumer beats, and has nothing new.

        Seen on three servers after a one-way cut: one could not catch up for a minute. Two
        heartbeats without a step, with something to come, are enough; the next consumer may lie on
        another server.
        """
        position = self._position or 0
        if not await self._is_behind():
            self._lagged_at = None
        elif self._lagged_at == position:
            self._lagged_at = None
            self._break("lag")
        else:
            self._lagged_at = position

    def _idle(self, msg: Msg) -> bool:
        headers = msg.headers or {}
        # A stalled consumer has more for us, which it sends when flow control is answered.
        waits = "Nats-Last-Consumer" in headers and "Nats-Consumer-Stalled" not in headers
        return waits and not self._broken and not self._arrived

    async def _on_status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        # Flow control: the answer says that everything before it was taken, so the broker sends on.
        answer = msg.reply or headers.get("Nats-Consumer-Stalled", "")
        if answer:
            try:
                await self._connection.client.publish(answer)
            except nats.errors.Error:
                self._break("connection")
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) > self._number:
            self._break("heartbeat")
        if headers["Status"] == "409":
            self._break("deleted")

    def _break(self, reason: str) -> None:
        logger.debug("follower.broken", extra={"stream": self._stream, "reason": reason})
        self._broken = True

    def _on_reconnect(self) -> None:
        self._break("reconnect")
        self._wake.set()

    async def _on_message(self, msg: Msg) -> None:
        self._arrived.append(msg)
        self._wake.set()

    async def _restart(self) -> None:
        self.restarts += 1
        missing: float | None = None
        while True:
            try:
                await self.stop()
                await self._check_stream()
                await self.begin()
            except RetryableError as error:
                logger.debug("follower.waiting", extra={"error": str(error)})
                if not isinstance(error, NoStreamError):
                    missing = None
                elif missing is None:
                    missing = anyio.current_time()
                elif anyio.current_time() - missing > DELETED_S:
                    raise TerminalError(f"the stream {self._stream!r} was deleted") from error
                await anyio.sleep(RETRY_S)
            else:
                return

    async def _check_stream(self) -> None:
        """Notice a stream that was made anew: its sequences begin again below our position.

        Raises:
            TerminalError: It was.
        """
        info = await self._connection.stream(self._stream)
        if info is not None and self._position and info.state.last_seq < self._position:
            raise TerminalError(f"the stream {self._stream!r} was deleted and made anew")

    async def begin(self) -> None:
        """Make the consumer behind the last message handed on, or at the start.

        Raises:
            UnavailableError: The broker is away, or the stream does not exist.
        """
        start = self._start if self._position is None else Start.after(self._position)
        self._arrived.clear()
        self._number = 0
        self._broken = False
        inbox = self._connection.client.new_inbox()
        self._subscription = await subscribe(self._connection.client, inbox, self._on_message)
        self._consumer = f"follow-{uuid.uuid4().hex}"
        config = {
            "name": self._consumer,
            "filter_subject": self._subject,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
            "inactive_threshold": int(INACTIVE_S * NANOSECONDS),
            "num_replicas": 1,
            "mem_storage": True,
            "headers_only": self._headers_only,
            **start.config(),
        }
        verb = f"CONSUMER.CREATE.{self._stream}.{self._consumer}.{self._subject}"
        answer = await self._connection.api(verb, {"stream_name": self._stream, "config": config})
        info = msgspec.json.decode(answer, type=ConsumerInfo)
        self._clustered = info.clustered
        self.pending = info.num_pending
        if start.policy == "new" and self._position is None:
            # What is stored from here on must not be missed if the consumer is lost before it
            # delivers anything.
            self._position = info.delivered.stream_seq
        elif info.clustered:
            await self._look_ahead(start)
            self.pending = info.num_pending or int(self._behind)

    async def stop(self) -> None:
        """Unsubscribe and delete the consumer, as far as the broker answers."""
        subscription, self._subscription = self._subscription, None
        with anyio.move_on_after(1, shield=True):
            if subscription is not None:
                try:
                    await subscription.unsubscribe()
                except (nats.errors.Error, OSError):
                    logger.debug("follower.unsubscribe", exc_info=True)
            if self._consumer and self._connection.client.is_connected:
                try:
                    await delete_consumer(self._connection, self._stream, self._consumer)
                except (RetryableError, TerminalError):
                    # It goes by itself after `INACTIVE_S`.
                    logger.debug("follower.delete", exc_info=True)

    def forget(self) -> None:
        """Stop listening for reconnects."""
        self._forget()


@asynccontextmanager
async def follow(
    connection: Connection,
    stream: str,
    subject: str,
    start: Start,
    *,
    headers_only: bool = False,
    kind: type[Follower] = Follower,
) -> AsyncGenerator[Follower]:
    """Follow a stream: every message that the filter selects, once, in order, from `start` on.

    Args:
        connection: Survives reconnects and broker restarts; the follower goes on by itself.
        stream: The stream's name.
        subject: One filter.
        start: Where to begin.
        headers_only: Leave the bodies at the broker.
        kind: Of what follows, where messages are to be read in another way.

    Raises:
        NoStreamError: The stream does not exist.
        UnavailableError: The broker does not answer at the beginning; later it is waited for.
    """
    follower = kind(connection, stream, subject, start, headers_only=headers_only)
    try:
        try:
            await follower.begin()
        except NoStreamError:
            raise
        except UnavailableError:
            if not connection.client.is_connected:
                raise
            # Of several servers it may have been given to one that is just coming back; the next
            # will hardly be.
            await follower.stop()
            await follower.begin()
        yield follower
    finally:
        follower.forget()
        await follower.stop()
