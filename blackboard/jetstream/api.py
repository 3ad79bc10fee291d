"""Requests to the JetStream API: streams, and single messages of them.

Direct gets are answered by any replica of a stream, the `leader_…` reads by its leader only.
"""

import logging
from datetime import datetime
from typing import Any

import anyio
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from blackboard.errors import UnavailableError
from blackboard.jetstream.errors import (
    NO_MESSAGE,
    STREAM_EXISTS,
    STREAM_MISSING,
    ApiError,
    BrokerError,
    NoStreamError,
    from_api,
)
from blackboard.jetstream.message import Message, read_headers, rfc3339
from blackboard.jetstream.requests import subscribe
from blackboard.jetstream.stream import Stream, StreamInfo

logger = logging.getLogger(__name__)

AGAIN_S = 1.0
COLLECT_S = 5.0
"""How long the answers to one request may take together."""


class _Answer(msgspec.Struct):
    error: ApiError | None = None
    success: bool = False


class _Page(msgspec.Struct):
    total: int = 0
    offset: int = 0
    limit: int = 0
    streams: list[str] | None = None
    error: ApiError | None = None


class _Stored(msgspec.Struct):
    subject: str
    seq: int
    time: datetime
    hdrs: bytes = b""
    data: bytes = b""


class _StoredAnswer(msgspec.Struct):
    message: _Stored | None = None
    error: ApiError | None = None


_read_answer = msgspec.json.Decoder(_Answer).decode


class Api:
    """What a connection asks of JetStream, over `request`."""

    client: Client

    @property
    def clustered(self) -> bool:
        """Whether streams may have replicas; see `Connection.clustered`."""
        raise AssertionError("a connection has its own")

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        again_s: float | None = None,
    ) -> Msg:
        """Send a request and wait for its one answer; see `Connection.request`."""
        raise AssertionError("a connection has its own")

    async def api(self, verb: str, body: object = None) -> bytes:
        """Call the JetStream API and return its answer's body.

        Raises:
            BrokerError: The broker refused.
            NoStreamError: The stream does not exist.
            UnavailableError: No answer in time.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            # While a stream or a consumer changes its leader, what is asked stays without answer.
            again_s = AGAIN_S if verb.split(".")[1:2] == ["INFO"] else None
            answer = (await self.request(f"$JS.API.{verb}", data, again_s=again_s)).data
        except NoStreamError as error:
            # Nobody serves the API itself, so this says nothing about the stream.
            raise UnavailableError("the broker serves no JetStream (yet); try again") from error
        self.check_answer(answer, verb)
        return answer

    @staticmethod
    def check_answer(answer: bytes, verb: str) -> None:
        """Raise the error that an answer of the API is, if it is one."""
        error = _read_answer(answer).error
        if error is not None:
            raise from_api(error, verb)

    async def last(self, stream: str, subject: str) -> Message | None:
        """Read the newest message whose subject the filter selects, or None.

        Raises:
            NoStreamError: The stream does not exist.
            UnavailableError: No answer in time.
        """
        return to_message(await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}"))

    async def at_sequence(self, stream: str, sequence: int) -> Message | None:
        """Read one message by its sequence, or None when it is not there (any more)."""
        body = msgspec.json.encode({"seq": sequence})
        return to_message(await self.request(f"$JS.API.DIRECT.GET.{stream}", body))

    async def next_after(self, stream: str, subject: str, sequence: int) -> Message | None:
        """Read the first message from `sequence` on whose subject the filter selects, or None."""
        body = msgspec.json.encode({"seq": sequence, "next_by_subj": subject})
        return to_message(await self.request(f"$JS.API.DIRECT.GET.{stream}", body))

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
            with anyio.fail_after(COLLECT_S), receive, send:
                await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox)
                async for msg in receive:
                    status = (msg.headers or {}).get("Status", "")
                    if status in ("204", "404"):
                        return found
                    if status == "503":
                        raise NoStreamError(f"nothing on the broker answers for {what}")
                    if status:
                        words = (msg.headers or {}).get("Description", "")
                        raise BrokerError(int(status), words, what)
                    message = to_message(msg)
                    if message is not None:
                        found.append(message)
        except TimeoutError as error:
            raise UnavailableError("the broker did not answer in time; try again") from error
        finally:
            with anyio.move_on_after(5, shield=True):
                await self._unsubscribe(subscription)
        return found

    async def leader_last(self, stream: str, subject: str) -> Message | None:
        """Read the newest message that a filter selects, as the stream's leader has it."""
        return await self._leader(stream, {"last_by_subj": subject})

    async def leader_at_sequence(self, stream: str, sequence: int) -> Message | None:
        """Read one message by its sequence, as the stream's leader has it."""
        return await self._leader(stream, {"seq": sequence})

    async def leader_next_after(self, stream: str, subject: str, sequence: int) -> Message | None:
        """Read the first message from `sequence` on that a filter selects, from the leader."""
        return await self._leader(stream, {"seq": sequence, "next_by_subj": subject})

    async def _leader(self, stream: str, body: dict[str, Any]) -> Message | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", body)
        except BrokerError as error:
            if error.code in NO_MESSAGE:
                return None
            raise
        stored = msgspec.json.decode(answer, type=_StoredAnswer).message
        if stored is None:
            return None
        # The leader adds no headers; those of a direct get are added here, so readers check alike.
        headers = read_headers(stored.hdrs)
        forged = "Nats-Stream" in headers or "Nats-Subject" in headers
        headers["Nats-Stream"] = "" if forged else stream
        headers["Nats-Subject"] = stored.subject
        return Message(stored.subject, headers, stored.data, stored.seq, stored.time)

    async def _unsubscribe(self, subscription: Subscription) -> None:
        try:
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError):
            # The connection is closed, and the subscription with it.
            logger.debug("connection.unsubscribe", exc_info=True)

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
            if error.code not in NO_MESSAGE:
                raise
            if await self.leader_at_sequence(stream, sequence) is not None:
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
            config = stream.config(clustered=self.clustered)
            await self.api(f"STREAM.CREATE.{stream.name}", config)
        except BrokerError as error:
            if error.code != STREAM_EXISTS:
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


def to_message(msg: Msg) -> Message | None:
    """The answer to a direct get; None when there is no such message."""
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
