"""Answering requests as a NATS micro service, so that `nats micro` lists it and counts its work.

Answers go to inboxes only: a reply subject is chosen by whoever asks and checked by nobody, so an
answer sent anywhere else could be made into a message of a stream. No header of a request is copied
into its answer, for the same reason.

What does not ask for an answer there is not even looked at: the broker can be made to send its own
answers, with a body of the attacker's, to the subject of a service under somebody else's name. Such
an answer comes without a reply, or with one to acknowledge it, and never with that of an inbox.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
import nats.errors
from anyio.abc import TaskGroup
from nats.micro import add_service  # pyright: ignore[reportUnknownVariableType] - open keywords
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER, Request
from nats.micro.service import EndpointStats, Service

from blackboard.background import background
from blackboard.errors import UnavailableError
from blackboard.jetstream.connection import Connection
from blackboard.subjects import subject_matches

INBOX = "_INBOX."
MAX_IN_HAND = 256
"""Requests of one endpoint that are worked on at once; the rest waits in the client's buffer."""
MAX_EACH = 64
"""Of one caller; what it asks beyond that is refused, so that nobody is kept from being served."""
BUSY = (
    429,
    f"more than {MAX_EACH} requests at once of one agent; ask again when some are answered",
)
VERSION = "1.0.0"

ENDING = (410, "the service is ending; ask again")
"""What those are told whose request is in hand then; another one may serve already."""

Answer = bytes | tuple[int, str]
"""A body; or a code (as HTTP has them) and a sentence."""
Handler = Callable[[str, bytes], Awaitable[Answer]]
"""Gets the subject and the body of a request; must not raise."""
InboxOf = Callable[[str], str]


class _Endpoint:
    """Works on the requests of one subject, many at once."""

    def __init__(
        self, subject: str, handler: Handler, group: TaskGroup, inbox_of: InboxOf | None
    ) -> None:
        self._subject = subject
        self._handler = handler
        self._group = group
        self._inbox_of = inbox_of
        self._slots = anyio.Semaphore(MAX_IN_HAND)
        self._each: Counter[str] = Counter()
        self.refused = 0
        self.seconds = 0.0

    async def take(self, request: Request) -> None:
        """Begin with a request; waits when there are too many already."""
        if not self._is_asked(request):
            self.refused += 1
            return
        caller = request.subject.rpartition(".")[2]
        if self._each[caller] >= MAX_EACH:
            await self._respond(request, BUSY)
            return
        self._each[caller] += 1
        await self._slots.acquire()
        self._group.start_soon(self._work, request, caller)

    async def _work(self, request: Request, caller: str) -> None:
        began = anyio.current_time()
        try:
            answer = await self._handler(request.subject, request.data)
            await self._respond(request, answer)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(1, shield=True):
                await self._respond(request, ENDING)
            raise
        finally:
            self.seconds += anyio.current_time() - began
            self._slots.release()
            self._each[caller] -= 1
            if not self._each[caller]:
                del self._each[caller]

    def _is_asked(self, request: Request) -> bool:
        """Whether this is a request, whose answer goes to the inbox of who asks."""
        if not subject_matches(self._subject, request.subject):
            return False  # sent here by the broker, under the name of what it stores
        # nats-py does not tell where an answer goes.
        reply = request._msg.reply  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        inbox = INBOX if self._inbox_of is None else self._inbox_of(request.subject)
        return reply.startswith(inbox)

    async def _respond(self, request: Request, answer: Answer) -> None:
        headers: dict[str, str] | None = None
        body = answer if isinstance(answer, bytes) else b""
        if not isinstance(answer, bytes):
            self.refused += 1
            code, text = answer
            line = " ".join(text.encode("ascii", "replace").decode().split())
            headers = {ERROR_CODE_HEADER: str(code), ERROR_HEADER: line}
            body = text.encode("utf-8", "replace")
        try:
            await request.respond(body, headers)
        except (nats.errors.Error, OSError):
            return  # whoever asked will ask again


@asynccontextmanager
async def serve_requests(
    connection: Connection,
    name: str,
    handlers: Mapping[str, tuple[str, Handler]],
    *,
    description: str = "",
    metadata: Mapping[str, str] | None = None,
    inbox_of: InboxOf | None = None,
) -> AsyncGenerator[None]:
    """Answer requests inside the block; they are shared with others who serve the same name.

    Args:
        connection: Survives reconnects, and the service with it.
        name: Of the service, as `nats micro` lists it.
        handlers: Subject and handler by the endpoint's name.
        description: A sentence.
        metadata: Facts for the reader of `nats micro info`.
        inbox_of: Tells from a request's subject where its answer may go; None is any inbox.

    Raises:
        UnavailableError: The connection is closed.
    """
    # Requests in hand are told before the connection may be closed.
    async with background() as group:
        endpoints = {
            name: _Endpoint(subject, handler, group, inbox_of)
            for name, (subject, handler) in handlers.items()
        }

        def stats(endpoint: EndpointStats) -> dict[str, float]:
            one = endpoints[endpoint.name]
            return {"refused": one.refused, "seconds": round(one.seconds, 6)}

        try:
            service = await add_service(
                connection.client,
                name=name,
                version=VERSION,
                description=description,
                metadata=dict(metadata or {}),
                queue_group=name,
                stats_handler=stats,
            )
            for endpoint, (subject, _) in handlers.items():
                take = partial(_Endpoint.take, endpoints[endpoint])
                await service.add_endpoint(name=endpoint, handler=take, subject=subject)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the connection to the broker failed: {error}") from error
        try:
            yield
        finally:
            await _stop(service)


async def _stop(service: Service) -> None:
    with anyio.move_on_after(2, shield=True):
        try:
            await service.stop()
        except (nats.errors.Error, OSError):
            return  # the connection is closed, and its subscriptions with it


def refusal(headers: Mapping[str, str] | None, body: bytes) -> tuple[int, str] | None:
    """The code and sentence of an answer that is an error; None when it is none."""
    code = (headers or {}).get(ERROR_CODE_HEADER)
    if code is None:
        return None
    text = body.decode(errors="replace") or (headers or {}).get(ERROR_HEADER, "")
    return (int(code) if code.isdigit() else 500), text
