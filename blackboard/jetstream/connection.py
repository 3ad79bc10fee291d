"""A connection to the broker: requests with a time limit, and reads and writes of streams.

A request that gets no answer raises `UnavailableError`: the broker may have done it or not, and the
caller finds out by reading back. While the broker is away the client reconnects by itself, for
ever.
"""

import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from uuid_utils import uuid4

from blackboard.access.identity import PREFIX, Identity
from blackboard.errors import UnavailableError
from blackboard.jetstream.api import Api
from blackboard.jetstream.client import Reader
from blackboard.jetstream.dial import close, connect
from blackboard.jetstream.errors import TOO_MANY_BATCHES, ApiError, BrokerError, from_api
from blackboard.jetstream.message import Outgoing
from blackboard.jetstream.requests import Requests, broken, subscribe

REQUEST_S = 5.0
"""How long one request to the broker may take."""
SECRET = re.compile(r"(?<=//)[^/,]*@|(?<![^,])[^/,]*@")
"""A token, or user and password, in one of several addresses."""
MAX_BATCH = 1000
STRIDE = 64
"""Messages of a batch after which it goes on its way: the broker works while we encode."""
BATCH_TRIES = 40
"""Tries at a free batch slot; with the jitter below, about four seconds."""


class _Ack(msgspec.Struct):
    seq: int = 0
    error: ApiError | None = None
    batch: str | None = None
    count: int = 0


_read_ack = msgspec.json.Decoder(_Ack).decode


class Connection(Api):
    """A connection to the broker and what the library asks of it.

    Attributes:
        client: The nats-py client, for what this class does not offer.
        url: Where the broker is, without the secret.
        identity: Whose credential this is; None at a broker without credentials.
        prefix: Before the subject of everything that a stream shall capture.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        *,
        identity: Identity | None = None,
        request_s: float = REQUEST_S,
    ) -> None:
        self.client = client
        self.url = url
        self.identity = identity
        self.prefix = "" if identity is None else PREFIX
        self._request_s = request_s
        self._requests = Requests(client)
        self._again: set[Callable[[], None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        identity: Identity | None = None,
        name: str = "blackboard",
    ) -> AsyncGenerator["Connection"]:
        """Connect, and close on leaving.

        Args:
            url: One address or several, separated by commas.
            token: The broker's token, if it wants one.
            identity: Whose credential to use, if the broker has credentials.
            name: Shown in the broker's monitoring.

        Raises:
            UnavailableError: No address answered within 5 s.
            SettingsError: The broker refused the token, or the address is no address.
        """
        client = Reader()  # its inboxes get their names when it connects
        connection = cls(client, SECRET.sub("", url), identity=identity)
        await connect(
            client,
            url,
            shown=connection.url,
            token=token,
            identity=identity,
            name=name,
            owner=connection,
        )
        try:
            await connection.begin()
            yield connection
        finally:
            # `drain` can hang when a fetch was cancelled before, so: close, within a limit.
            with anyio.move_on_after(5, shield=True):
                await close(client)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnect; returns how to stop that."""
        self._again.add(callback)
        return lambda: self._again.discard(callback)

    @property
    def closed(self) -> bool:
        """Whether it is closed for good; a lost connection is not, it comes back."""
        return self.client.is_closed

    @property
    def version(self) -> tuple[int, int, int]:
        """Of the server that this client is connected to."""
        found = self.client.connected_server_version
        return found.major, found.minor, found.patch

    @property
    def clustered(self) -> bool:
        """Whether its server is one of a cluster, so that streams may have replicas."""
        return isinstance(self.client, Reader) and self.client.cluster != ""

    @property
    def servers(self) -> int:
        """How many servers the client knows: those it was given, and those they told it of."""
        return len(self.client.servers)

    async def begin(self) -> None:
        """Listen for answers."""
        await self._requests.begin()

    async def check_write(self, access: str, topic: str) -> None:
        """Refuse what this client may not write; here, nothing: only the broker says."""

    async def check_read(self, subject: str) -> None:
        """Refuse a filter of which this client may read nothing; here, none."""

    def denied(self, subject: str) -> None:
        """The broker refused what was published to a subject, given in lower case."""
        self._requests.denied(subject)

    def lost(self) -> None:
        """The connection broke: no open request will be answered."""
        self._requests.lost()

    def reconnected(self) -> None:
        """Tell everyone who reads through a consumer that it may be gone."""
        for callback in tuple(self._again):
            callback()

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        again_s: float | None = None,
    ) -> Msg:
        """Send a request and wait for its one answer.

        Args:
            subject: Where somebody answers.
            data: The body.
            headers: Its headers.
            timeout_s: How long to wait; None takes the connection's limit.
            again_s: Ask again after each so many seconds, for what may be asked twice.

        Raises:
            NoStreamError: Nobody listens there.
            UnavailableError: No answer in time, or the connection is closed.
        """
        limit_s = timeout_s or self._request_s
        return await self._requests.send(subject, data, headers, limit_s, again_s)

    async def publish(self, message: Outgoing, *, expected: int | None = None) -> int:
        """Store one message and return its sequence; it is on disk when this returns.

        Args:
            message: With its checks in its headers.
            expected: Named in the conflict, for the reader of the error.

        Raises:
            ConflictError: A check failed.
            BoardFullError: No room.
            UnavailableError: No answer; stored or not.
        """
        answer = await self.request(self.prefix + message.subject, message.data, message.headers)
        ack = _read_ack(answer.data)
        if ack.error is not None:
            raise from_api(ack.error, message.subject, expected)
        return ack.seq

    async def publish_batch(self, messages: Sequence[Outgoing]) -> int:
        """Store up to 1,000 messages, all or none, and return the sequence of the last.

        Their sequences are contiguous. The broker holds at most 50 open batches a stream; when it
        has no slot this tries again with jitter.

        Raises:
            ConflictError: A check of one of them failed; nothing was stored.
            BoardFullError: No room, or no batch slot for seconds; nothing was stored.
            UnavailableError: No answer; all stored or none.
        """
        for attempt in range(BATCH_TRIES):
            try:
                return await self._batch(messages)
            except BrokerError as error:
                if error.code != TOO_MANY_BATCHES:
                    raise
            await anyio.sleep(random.uniform(0.01, min(0.2, 0.02 * (attempt + 1))))
        raise UnavailableError("the broker has 50 open batches on this board; try again")

    async def _batch(self, messages: Sequence[Outgoing]) -> int:
        batch = uuid4().hex
        last = len(messages)
        what = f"a batch of {last} on {messages[0].subject}"
        for number, message in enumerate(messages, 1):
            headers = {
                **message.headers,
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
            }
            if number == last:
                headers["Nats-Batch-Commit"] = "1"
            if number not in (1, last):
                await self._send(message, headers)
                if number % STRIDE == 0:
                    await anyio.lowlevel.checkpoint()
                continue
            subject = self.prefix + message.subject
            answer = await self.request(subject, message.data, headers)
            ack = _read_ack(answer.data) if answer.data else _Ack()
            if ack.error is not None:
                raise from_api(ack.error, what)
            if number == last:
                return ack.seq
        raise UnavailableError("an empty batch")

    async def _send(self, message: Outgoing, headers: dict[str, str]) -> None:
        try:
            await self.client.publish(self.prefix + message.subject, message.data, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise broken(error, len(message.data)) from error

    async def notify(self, subject: str, data: bytes = b"", *, reply: str = "") -> None:
        """Send a core message: nobody stores it, and it may be lost.

        Args:
            subject: Where to.
            data: The body.
            reply: Where an answer shall go, which is not waited for.

        Raises:
            UnavailableError: The connection is closed.
        """
        try:
            await self.client.publish(subject, data, reply=reply)
        except (nats.errors.Error, OSError) as error:
            raise broken(error, len(data)) from error

    @asynccontextmanager
    async def listen(self, subject: str) -> AsyncGenerator[Callable[[float], Awaitable[None]]]:
        """Listen for core messages; gives a function that waits for the next one, or some seconds.

        A message that came since the last wait ends the next wait at once. It may also be lost.
        """
        heard = anyio.Event()

        async def on_message(_: Msg) -> None:
            heard.set()

        async def wait(limit_s: float) -> None:
            nonlocal heard
            with anyio.move_on_after(limit_s):
                await heard.wait()
            heard = anyio.Event()

        subscription = await subscribe(self.client, subject, on_message)
        try:
            yield wait
        finally:
            with anyio.move_on_after(1, shield=True):
                await self._unsubscribe(subscription)
