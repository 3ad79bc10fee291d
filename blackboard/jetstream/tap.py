"""Listening in to core messages beside whoever else gets them: subject and headers, no bodies."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import nats.errors
from nats.aio.msg import Msg

from blackboard.jetstream.connection import Connection
from blackboard.jetstream.requests import subscribe

NO_HEADERS: Mapping[str, str] = {}
Take = Callable[[str, Mapping[str, str]], None]


@asynccontextmanager
async def tap(connection: Connection, subject: str, take: Take) -> AsyncGenerator[None]:
    """Give `take` each message's subject and headers, inside the block; it must be quick.

    Nothing is kept for the times when the connection is away.

    Raises:
        UnavailableError: The connection is closed.
    """

    async def arrived(msg: Msg) -> None:
        take(msg.subject, msg.headers or NO_HEADERS)

    subscription = await subscribe(connection.client, subject, arrived)
    try:
        yield
    finally:
        with anyio.move_on_after(1, shield=True):
            # It may be closed, and the subscription with it.
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
