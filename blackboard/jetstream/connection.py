"""A connection to the broker: requests with a time limit, and reads and writes of streams.

A request that gets no answer raises `UnavailableError`: the broker may have done it or not, and the
caller finds out by reading back. While the broker is away the client reconnects by itself, for
ever.
"""

import logging
import random
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import anyio
import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from blackboard.errors import SettingsError, UnavailableError
from blackboard.jetstream.errors import (
    NO_MESSAGE,
    STREAM_MISSING,
    TOO_MANY_BATCHES,
    ApiError,
    BrokerError,
    NoStreamError,
    from_api,
)
from blackboard.jetstream.message import Message, Outgoing, rfc3339
from blackboard.jetstream.requests import Requests, subscribe
from blackboard.jetstream.stream import Stream, StreamInfo

logger = logging.getLogger(__name__)

REQUEST_S = 5.0
"""How long one request to the broker may take."""
CONNECT_S = 5.0
SECRET = re.compile(r"(?<=//)[^/,]*@|(?<![^,])[^/,]*@")
"""A token, or user and password, in one of several addresses."""
MAX_BATCH = 1000
BATCH_TRIES = 40
"""Tries at a free batch slot; with the jitter below, about four seconds."""


class _Ack(msgspec.Struct):
    seq: int = 0
    error: ApiError | None = None
    batch: str | None = None
    count: int = 0


class _Answer(msgspec.Struct):
    error: ApiError | None = None
    success: bool = False


class _Page(msgspec.Struct):
    total: int = 0
    offset: int = 0
    limit: int = 0
    streams: list[str] | None = None
    error: ApiError | None = None


_read_ack = msgspec.json.Decoder(_Ack).decode
_read_answer = msgspec.json.Decoder(_Answer).decode


class Connection:
    """A connection to the broker and what the library asks of it.

    Attributes:
        client: The nats-py client, for what this class does not offer.
        url: Where the broker is, without the secret.
    """

    def __init__(self, client: Client, url: str, *, request_s: float = REQUEST_S) -> None:
        self.client = client
        self.url = url
        self._request_s = request_s
        self._requests = Requests(client)
        self._again: set[Callable[[], None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, token: str | None = None, name: str = "blackboard"
    ) -> AsyncGenerator["Connection"]:
        """Connect, and close on leaving.

        Args:
            url: One address or several, separated by commas.
            token: The broker's token, if it wants one.
            name: Shown in the broker's monitoring.

        Raises:
            UnavailableError: No address answered within 5 s.
            SettingsError: The broker refused the token, or the address is no address.
        """
        client = Client()
        connection = cls(client, SECRET.sub("", url))
        await _connect(client, connection, url, token, name)
        try:
            await connection._requests.begin()
            yield connection
        finally:
            # `drain` can hang when a fetch was cancelled before, so: close, within a limit.
            with anyio.move_on_after(5, shield=True):
                await _close(client)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnect; returns how to stop that."""
        self._again.add(callback)
        return lambda: self._again.discard(callback)

    @property
    def closed(self) -> bool:
        """Whether it is closed for good; a lost connection is not, it comes back."""
        return self.client.is_closed

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
    ) -> Msg:
        """Send a request and wait for its one answer.

        Raises:
            NoStreamError: Nobody listens there.
            UnavailableError: No answer in time, or the connection is closed.
        """
        return await self._requests.send(subject, data, headers, timeout_s or self._request_s)

    async def api(self, verb: str, body: object = None) -> bytes:
        """Call the JetStream API and return its answer's body.

        Raises:
            BrokerError: The broker refused.
            NoStreamError: The stream does not exist.
            UnavailableError: No answer in time.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = (await self.request(f"$JS.API.{verb}", data)).data
        except NoStreamError as error:
            # Nobody serves the API itself, so this says nothing about the stream.
            raise UnavailableError("the broker serves no JetStream (yet); try again") from error
        error = _read_answer(answer).error
        if error is not None:
            raise from_api(error, verb)
        return answer

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
        answer = await self.request(message.subject, message.data, message.headers)
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
        batch = uuid.uuid4().hex
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
                continue
            answer = await self.request(message.subject, message.data, headers)
            ack = _read_ack(answer.data) if answer.data else _Ack()
            if ack.error is not None:
                raise from_api(ack.error, what)
            if number == last:
                return ack.seq
        raise UnavailableError("an empty batch")

    async def _send(self, message: Outgoing, headers: dict[str, str]) -> None:
        try:
            await self.client.publish(message.subject, message.data, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the connection to the broker failed: {error}") from error

    async def notify(self, subject: str, data: bytes = b"") -> None:
        """Send a core message: nobody stores it, and it may be lost.

        Raises:
            UnavailableError: The connection is closed.
        """
        await self._send(Outgoing(subject, data), {})

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

    async def _unsubscribe(self, subscription: Subscription) -> None:
        try:
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError):
            # The connection is closed, and the subscription with it.
            logger.debug("connection.unsubscribe", exc_info=True)

    async def last(self, stream: str, subject: str) -> Message | None:
        """Read the newest message whose subject the filter selects, or None.

        Raises:
            NoStreamError: The stream does not exist.
            UnavailableError: No answer in time.
        """
        return _direct(await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}"))

    async def at_sequence(self, stream: str, sequence: int) -> Message | None:
        """Read one message by its sequence, or None when it is not there (any more)."""
        body = msgspec.json.encode({"seq": sequence})
        return _direct(await self.request(f"$JS.API.DIRECT.GET.{stream}", body))

    async def next_after(self, stream: str, subject: str, sequence: int) -> Message | None:
        """Read the first message from `sequence` on whose subject the filter selects, or None."""
        body = msgspec.json.encode({"seq": sequence, "next_by_subj": subject})
        return _direct(await self.request(f"$JS.API.DIRECT.GET.{stream}", body))

    async def last_of_each(
        self, stream: str, subject: str, *, before: datetime | None = None
    ) -> list[Message]:
        """Read the newest message of every subject that the filter selects, at most 1,024 subjects.

        Args:
            stream: The stream's name.
            subject: A filter.
            before: Read as of this time, exclusive.

        Raises:
            BrokerError: More than 1,024 subjects (code 413).
            UnavailableError: No answer in time.
        """
        body: dict[str, Any] = {"multi_last": [subject], "batch": 1024}
        if before is not None:
            body["up_to_time"] = rfc3339(before)
        return await self._direct_many(stream, msgspec.json.encode(body), subject)

    async def _direct_many(self, stream: str, body: bytes, what: str) -> list[Message]:
        send, receive = anyio.create_memory_object_stream[Msg](2048)

        async def arrived(msg: Msg) -> None:
            await send.send(msg)

        inbox = self.client.new_inbox()
        subscription = await subscribe(self.client, inbox, arrived)
        found: list[Message] = []
        try:
            with anyio.fail_after(self._request_s), receive, send:
                await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox)
                async for msg in receive:
                    status = (msg.headers or {}).get("Status", "")
                    if status in ("204", "404"):
                        return found
                    if status:
                        words = (msg.headers or {}).get("Description", "")
                        raise BrokerError(int(status), words, what)
                    message = _direct(msg)
                    if message is not None:
                        found.append(message)
        except TimeoutError as error:
            raise UnavailableError("the broker did not answer in time; try again") from error
        finally:
            with anyio.move_on_after(5, shield=True):
                await self._unsubscribe(subscription)
        return found

    async def delete(self, stream: str, sequence: int, *, erase: bool = True) -> bool:
        """Delete one message; False when it was gone already.

        Args:
            stream: The stream's name.
            sequence: Of the message.
            erase: Overwrite its bytes on disk too. In a full block that takes 10 to 15 ms, in which
                nobody else is served by the stream, against 1 ms without.

        Raises:
            BrokerError: The broker refused; the message is still there.
            UnavailableError: No answer in time; deleted or not.
        """
        body = {"seq": sequence, "no_erase": not erase}
        try:
            await self.api(f"STREAM.MSG.DELETE.{stream}", body)
        except BrokerError as error:
            # One code for a message that is gone and for a stream that forbids deleting.
            if error.code not in NO_MESSAGE or await self.at_sequence(stream, sequence) is not None:
                raise
            return False
        return True

    async def stream(self, name: str, *, subjects: str | None = None) -> StreamInfo | None:
        """Read a stream's settings and state; None when there is no such stream.

        Args:
            name: The stream's name.
            subjects: A filter; the state then counts the messages of each subject it selects.
        """
        body = {"subjects_filter": subjects} if subjects else None
        try:
            answer = await self.api(f"STREAM.INFO.{name}", body)
        except NoStreamError:
            return None
        return msgspec.json.decode(answer, type=StreamInfo)

    async def streams(self, prefix: str = "") -> list[str]:
        """The names of all streams that begin with `prefix`."""
        names: list[str] = []
        while True:
            page = msgspec.json.decode(
                await self.api("STREAM.NAMES", {"offset": len(names)}), type=_Page
            )
            names += page.streams or []
            if not page.streams or len(names) >= page.total:
                return sorted(name for name in names if name.startswith(prefix))

    async def create_stream(self, stream: Stream) -> None:
        """Create a stream; one that is there already stays as it is.

        Raises:
            BrokerError: The broker refuses these settings.
            BoardFullError: Its storage cannot reserve the byte limit.
        """
        try:
            await self.api(f"STREAM.CREATE.{stream.name}", stream.config())
        except BrokerError as error:
            if error.code != 10058:
                raise

    async def delete_stream(self, name: str) -> None:
        """Delete a stream and all in it; it is no error when there is none."""
        try:
            await self.api(f"STREAM.DELETE.{name}")
        except NoStreamError:
            return
        except BrokerError as error:
            if error.code != STREAM_MISSING:
                raise


async def _connect(
    client: Client, connection: Connection, url: str, token: str | None, name: str
) -> None:
    refused: list[Exception] = []
    failures: list[Exception] = []
    scope = anyio.CancelScope(deadline=anyio.current_time() + CONNECT_S)

    async def failed(error: Exception) -> None:
        failures.append(error)
        if "authorization" in str(error).lower() and not client.is_connected:
            refused.append(error)
            scope.cancel()
        logger.debug("broker.error", extra={"error": str(error)})

    async def lost() -> None:
        connection.lost()

    async def reconnected() -> None:
        connection.reconnected()

    try:
        with scope:
            await client.connect(
                servers=[part.strip() for part in url.split(",")],
                token=token,
                name=name,
                error_cb=failed,
                disconnected_cb=lost,
                reconnected_cb=reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # pyright: ignore[reportArgumentType] - seconds, any number
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=16 * 1024 * 1024,
            )
            return
    except (nats.errors.Error, ValueError, OSError) as error:
        if "authorization" in str(error).lower():
            refused.append(error)
        else:
            raise SettingsError(
                f"cannot use the broker's address {connection.url!r}: {error}"
            ) from error
    with anyio.move_on_after(1, shield=True):
        await _close(client)
    if refused:
        raise SettingsError(
            f"the broker at {connection.url} refused the token; set BLACKBOARD_TOKEN_FILE to the file that "
            "holds the right one"
        )
    reason = f" ({failures[-1]})" if failures else ""
    raise UnavailableError(
        f"no broker answers at {connection.url}{reason}; start one with `blackboard up`, "
        "or set BLACKBOARD_URL"
    )


async def _close(client: Client) -> None:
    try:
        await client.close()
    except (nats.errors.Error, OSError):
        # The broker went first, with something of ours still on the way to it.
        logger.debug("connection.close", exc_info=True)


def _direct(msg: Msg) -> Message | None:
    headers = msg.headers or {}
    status = headers.get("Status")
    if status == "404":
        return None
    if status is not None:
        raise BrokerError(int(status), headers.get("Description", ""), "a direct get")
    try:
        return Message(
            headers["Nats-Subject"],
            headers,
            msg.data,
            int(headers["Nats-Sequence"]),
            datetime.fromisoformat(headers["Nats-Time-Stamp"]),
        )
    except (KeyError, ValueError) as error:
        raise BrokerError(0, "an answer that is no message", "a direct get") from error
