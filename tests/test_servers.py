"""The test server keeps its promises; without them other tests would prove nothing."""

from collections.abc import Callable
from urllib.request import urlopen

import nats
import pytest
from nats.js import JetStreamContext

from tests.servers import Server
from tests.waiting import wait_until


async def test_a_killed_server_comes_back_on_its_port_with_its_store(server: Server):
    before = server.url
    client = await nats.connect(server.url)  # pyright: ignore[reportUnknownMemberType]
    stream = JetStreamContext(client)
    await stream.add_stream(name="S", subjects=["s.>"])  # pyright: ignore[reportUnknownMemberType]
    await stream.publish("s.1", b"kept")
    await client.close()

    server.kill()
    assert not server.running
    server.start()

    assert server.url == before
    client = await nats.connect(server.url)  # pyright: ignore[reportUnknownMemberType]
    message = await JetStreamContext(client).get_last_msg("S", "s.1")
    await client.close()
    assert message.data == b"kept"


async def test_a_server_takes_options(start_server: Callable[..., Server]):
    server = start_server(extra='authorization { token: "secret" }', userinfo="secret")
    other = start_server()

    client = await nats.connect(server.url)  # pyright: ignore[reportUnknownMemberType]
    await client.close()
    assert server.url != other.url


def test_the_file_store_can_be_made_small(start_server: Callable[..., Server]):
    server = start_server(max_file_store=1 << 20)

    with urlopen(f"{server.monitor}/varz") as answer:  # noqa: S310 - a loopback address
        assert b'"max_storage": 1048576' in answer.read()


async def test_wait_until_takes_plain_and_async_predicates_and_names_what_it_waits_for():
    asked: list[int] = []

    async def third_time() -> bool:
        asked.append(1)
        return len(asked) == 3

    await wait_until(third_time, "the third time")
    await wait_until(lambda: len(asked) == 3, "three questions")
    with pytest.raises(AssertionError, match="the moon"):
        await wait_until(lambda: False, "the moon", timeout=0.02)
