"""Pulling work from a durable consumer: never more than there is room for.

The broker's own client fetches ahead of its worker, so that one replica sits on work that others
could do. Here each request asks for exactly the slots that are free; a slot that frees asks again.
What is asked for is counted per request, because a request ends in many ways: filled, expired,
consumer gone, server going down, or no word at all after a reconnect.
"""

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from blackboard.errors import UnavailableError
from blackboard.jetstream.connection import Connection
from blackboard.jetstream.message import Message, from_nanoseconds
from blackboard.jetstream.requests import subscribe
from blackboard.jetstream.stream import NANOSECONDS

logger = logging.getLogger(__name__)

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 2.5 * HEARTBEAT_S
STOP_S = 1.0
RECONNECTED = "reconnected"
DELETED = "Consumer Deleted"
"""The broker's words."""


@dataclass(slots=True)
class Delivery:
    """A message in hand, to be settled exactly once."""

    message: Message
    reply: str
    connection: Connection

    async def ack(self) -> None:
        """Done. The broker does not confirm it, and forgets it if it crashes right then."""
        await self._settle(b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not done: deliver it again after a delay, to any replica."""
        await self._settle(b'-NAK {"delay": %d}' % int(delay_s * NANOSECONDS))

    async def term(self) -> None:
        """Never deliver it again."""
        await self._settle(b"+TERM")

    async def extend(self) -> None:
        """Still working: start the acknowledgement's time limit anew."""
        await self._settle(b"+WPI")

    async def _settle(self, word: bytes) -> None:
        try:
            await self.connection.client.publish(self.reply, word)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the connection to the broker failed: {error}") from error


class Puller:
    """Deliveries of one durable consumer; see `pull`.

    Attributes:
        disturbed: Why the consumer may be another one now, or none: the broker said so, or the
            connection broke. Look, and set it to None before asking again.
    """

    def __init__(self, connection: Connection, stream: str, consumer: str) -> None:
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = connection.client.new_inbox()
        self._open: dict[str, int] = {}
        self._heard = anyio.current_time()
        self._send, self._receive = anyio.create_memory_object_stream[Delivery](float("inf"))
        self._subscription: Subscription | None = None
        self._forget = connection.on_reconnect(self._on_reconnect)
        self._changed = anyio.Event()
        self._stale = False
        self.disturbed: str | None = None

    async def begin(self) -> None:
        """Listen for deliveries; nothing is asked for yet."""
        self._subscription = await subscribe(
            self._connection.client, f"{self._inbox}.*", self._on_message
        )

    @property
    def asked(self) -> int:
        """Messages that were asked for and neither came nor were refused."""
        return sum(self._open.values())

    def wake(self) -> None:
        """End the wait of `next`: slots got free, or it is time to stop."""
        self._changed.set()

    async def ask(self, count: int) -> None:
        """Ask the broker for up to `count` messages more.

        Raises:
            UnavailableError: The connection is closed.
        """
        token = uuid.uuid4().hex[:16]
        self._open[token] = count
        if len(self._open) == 1:
            self._heard = anyio.current_time()
        body = {
            "batch": count,
            "expires": int(EXPIRES_S * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
        }
        try:
            await self._connection.client.publish(
                self._subject, msgspec.json.encode(body), reply=f"{self._inbox}.{token}"
            )
        except (nats.errors.Error, OSError) as error:
            self._open.pop(token, None)
            raise UnavailableError(f"the connection to the broker failed: {error}") from error

    async def next(self, free: int) -> Delivery | None:
        """Wait for a delivery while `free` slots are open; None when it is time to look around.

        Args:
            free: Slots without work; requests are topped up to as many.

        Raises:
            UnavailableError: The connection is closed.
        """
        self._changed = anyio.Event()
        if self._stale:
            await self._renew()
        want = free - self.asked - self._receive.statistics().current_buffer_used
        if want > 0:
            await self.ask(want)
        if free > 0:
            try:
                return self._receive.receive_nowait()
            except anyio.WouldBlock:
                pass
        with anyio.move_on_after(HEARTBEAT_S):
            await self._changed.wait()
        if self._open and anyio.current_time() - self._heard > SILENCE_S:
            # No heartbeat: the requests are lost, for example with a broker that was killed.
            self._disturb("silence")
        return None

    def _disturb(self, reason: str) -> None:
        self._open.clear()
        self._stale = True
        self.disturbed = reason
        self._changed.set()

    async def _renew(self) -> None:
        """Ask under another inbox: a broker that lives on still answers the requests from before.

        Besides those that are asked for now, their answers would be more than there are slots.
        """
        self._stale = False
        await self._drain()
        self._inbox = self._connection.client.new_inbox()
        try:
            await self.begin()
        except UnavailableError:
            self._stale = True
            raise

    async def _on_message(self, msg: Msg) -> None:
        self._heard = anyio.current_time()
        status = (msg.headers or {}).get("Status")
        if status is None:
            self._count()
            self._send.send_nowait(_delivery(self._connection, msg))
            self._changed.set()
        elif status != "100":
            # 404/408: nothing came in time; 409: consumer gone or server going down; 503: no one.
            self._open.pop(msg.subject.rpartition(".")[2], None)
            if status in ("409", "503"):
                self.disturbed = (msg.headers or {}).get("Description", "no responders")
            self._changed.set()

    def _count(self) -> None:
        # A delivery does not say which request it answers; the broker serves them oldest first.
        for token, left in self._open.items():
            if left > 1:
                self._open[token] = left - 1
            else:
                del self._open[token]
            return

    def _on_reconnect(self) -> None:
        self._disturb(RECONNECTED)

    async def _drain(self) -> None:
        with anyio.move_on_after(STOP_S, shield=True):
            if self._subscription is not None:
                try:
                    # Not `unsubscribe`: what is on its way would be dropped here, and lie with the
                    # broker as ours until its time is over.
                    await self._subscription.drain()
                except (nats.errors.Error, OSError):
                    logger.debug("puller.unsubscribe", exc_info=True)

    async def stop(self) -> list[Delivery]:
        """Take nothing new; returns what came and nobody took, to be given back."""
        self._forget()
        await self._drain()
        left: list[Delivery] = []
        while True:
            try:
                left.append(self._receive.receive_nowait())
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        self._send.close()
        self._receive.close()
        return left


@asynccontextmanager
async def pull(connection: Connection, stream: str, consumer: str) -> AsyncGenerator[Puller]:
    """Pull from a durable consumer; on leaving, what was delivered and not taken is given back."""
    puller = Puller(connection, stream, consumer)
    await puller.begin()
    try:
        yield puller
    finally:
        with anyio.move_on_after(2 * STOP_S, shield=True):
            for delivery in await puller.stop():
                try:
                    await delivery.nak()
                except UnavailableError:
                    logger.debug("puller.nak", exc_info=True)


def _delivery(connection: Connection, msg: Msg) -> Delivery:
    tokens = msg.reply.split(".")
    message = Message(
        msg.subject,
        msg.headers or {},
        msg.data,
        int(tokens[5]),
        from_nanoseconds(int(tokens[7])),
        int(tokens[4]),
        int(tokens[8]),
    )
    return Delivery(message, msg.reply, connection)
