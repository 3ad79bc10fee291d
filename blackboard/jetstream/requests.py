"""Requests over one inbox, with answers lost to a broken connection noticed at once.

The client library's own request waits out its whole time limit when the connection breaks under it.
Here every open request ends as soon as the connection is lost, so that the caller can read back
what became of it as soon as the broker is there again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from blackboard.errors import BlackboardError, DeniedError, TooLargeError, UnavailableError
from blackboard.jetstream.errors import NoStreamError

LOST = "the connection to the broker was lost; it reconnects by itself, try again"


class Requests:
    """The open requests of a connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = count()
        self._open: dict[str, asyncio.Future[Msg]] = {}
        self._subjects: dict[str, str] = {}

    async def begin(self) -> None:
        """Subscribe to the answers, once the client knows under which name it may."""
        self._inbox = self._client.new_inbox()
        await subscribe(self._client, f"{self._inbox}.*", self._on_answer)

    async def _on_answer(self, msg: Msg) -> None:
        future = self._open.get(msg.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(msg)

    def lost(self) -> None:
        """End every open request: its answer will not come over a new connection."""
        for future in tuple(self._open.values()):
            if not future.done():
                future.set_exception(UnavailableError(LOST))

    def denied(self, subject: str) -> None:
        """End the requests to a subject, in lower case, that this client may not use.

        Nobody answers such a request, so it would wait out its time limit.
        """
        for number, asked in tuple(self._subjects.items()):
            future = self._open.get(number)
            if asked.lower() == subject and future is not None and not future.done():
                future.set_exception(DeniedError(f"the broker lets this agent not use {asked!r}"))

    async def send(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        limit_s: float,
        again_s: float | None = None,
    ) -> Msg:
        """Send a request and wait for its one answer.

        Args:
            subject: Where somebody answers.
            data: The body.
            headers: Its headers.
            limit_s: How long to wait.
            again_s: Ask again after each so many seconds; the first answer counts.

        Raises:
            NoStreamError: Nobody listens there.
            DeniedError: The broker does not let this client publish there.
            UnavailableError: No answer in time, or the connection broke; done or not.
        """
        number = str(next(self._numbers))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._open[number] = future
        self._subjects[number] = subject
        timer = loop.call_later(limit_s, _expire, future, limit_s)
        reply = f"{self._inbox}.{number}"
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
            while again_s is not None and not (await asyncio.wait([future], timeout=again_s))[0]:
                await self._client.publish(subject, data, reply=reply, headers=headers)
            msg = await future
        except (nats.errors.Error, OSError) as error:
            raise broken(error, len(data)) from error
        finally:
            timer.cancel()
            del self._open[number], self._subjects[number]
            if not future.cancel() and not future.cancelled():
                future.exception()  # whoever was cut off at the same moment has no use for it
        if msg.headers and msg.headers.get("Status") == "503":
            raise NoStreamError(f"nothing on the broker answers {subject!r}")
        return msg


async def subscribe(
    client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]]
) -> Subscription:
    """Subscribe to core messages; the one place that works around the client's open types.

    Raises:
        UnavailableError: The connection is closed.
    """
    try:
        return await client.subscribe(subject, cb=callback)  # pyright: ignore[reportUnknownMemberType]
    except (nats.errors.Error, OSError) as error:
        raise UnavailableError(f"the connection to the broker failed: {error}") from error


def broken(error: Exception, size: int) -> BlackboardError:
    """What a failure of the client means for what was to be sent."""
    if isinstance(error, nats.errors.MaxPayloadError):
        return TooLargeError(
            f"a message of {size} bytes is above the broker's max_payload; raise that to 1 MiB"
        )
    return UnavailableError(f"the connection to the broker failed: {error}")


def _expire(future: asyncio.Future[Msg], limit_s: float) -> None:
    if not future.done():
        future.set_exception(
            UnavailableError(
                f"the broker did not answer within {limit_s:g} s; "
                "the client reconnects by itself, try again"
            )
        )
