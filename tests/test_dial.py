"""A connection that was closed stays closed, in whatever state the end met it."""

import asyncio
import random

import anyio
import pytest
from nats.aio.client import Client

from blackboard.jetstream.dial import close
from tests.servers import Server

ROUNDS = 100  # without the second look, one close in forty was lost


async def nothing(_: Exception) -> None:
    pass


async def connected(server: Server) -> Client:
    """A client that connects again and again, as fast as it can."""
    client = Client()
    await client.connect(
        server.url,
        error_cb=nothing,
        reconnect_time_wait=0.005,  # pyright: ignore[reportArgumentType] - seconds, any number
        max_reconnect_attempts=-1,
    )
    return client


@pytest.mark.parametrize("broker", ["alive", "gone"])
async def test_nothing_of_a_closed_connection_reconnects(server: Server, broker: str) -> None:
    others = asyncio.all_tasks()
    moments = random.Random(7)
    for _ in range(ROUNDS):
        client = await connected(server)
        if broker == "gone":
            server.kill()
        await client.force_reconnect()
        await anyio.sleep(moments.random() * 0.03)
        await close(client)
        await anyio.sleep(0.01)
        assert client.is_closed
        assert not [t for t in asyncio.all_tasks() - others if "reconnect" in str(t.get_coro())]
        if broker == "gone":
            server.start()
