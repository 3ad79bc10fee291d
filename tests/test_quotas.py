"""Quotas: who sends too much, or connects too often, is cut off; nobody else notices."""

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import nats
import pytest
from nats.aio.client import Client

from blackboard.access.identity import PREFIX
from blackboard.access.rights import Grant, Quota
from blackboard.errors import TooLargeError
from blackboard.jetstream.dial import close
from tests.guarded import Guarded, agent
from tests.scene import guarded
from tests.waiting import wait_until

NOTES = Grant("shared", "notes.>")
PEOPLE = (
    agent("alice", read=[NOTES], write=[NOTES]),
    agent("flooder", read=[NOTES], write=[NOTES], quota=Quota(messages_per_s=20.0)),
    agent("brief", read=[NOTES], write=[NOTES], quota=Quota(message_bytes=2000)),
    agent("crowd", read=[NOTES], quota=Quota(connections=2)),
)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Guarded]:
    async with guarded(tmp_path / "guarded", PEOPLE) as broker:
        yield broker


class Visitor:
    """A plain client that comes back whenever it is cut off, and counts how often it was."""

    def __init__(self, broker: Guarded, name: str) -> None:
        self._broker = broker
        self._name = name
        self.losses = 0
        self.client: Client

    async def __aenter__(self) -> "Visitor":
        identity = self._broker.identity(self._name)
        self.client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            self._broker.url,
            nkeys_seed_str=identity.seed,
            inbox_prefix=identity.inbox,
            disconnected_cb=self._lost,
            error_cb=self._failed,
            reconnect_time_wait=0.05,
            max_reconnect_attempts=-1,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self.client)

    async def _lost(self) -> None:
        self.losses += 1

    async def _failed(self, _: Exception) -> None:
        pass

    async def send(self, count: int) -> None:
        for number in range(count):
            subject = f"{PREFIX}mem.main.shared.{self._name}.notes.{number:032x}"
            await self.client.publish(subject, b"{}")


async def test_a_flood_is_cut_off_again_and_again_and_others_are_served(broker: Guarded) -> None:
    async with Visitor(broker, "flooder") as flooder, broker.board("alice") as alice:
        await flooder.send(1000)  # of the 200 that ten seconds allow
        await wait_until(lambda: flooder.losses > 0, "it was cut off", 20)
        await wait_until(lambda: flooder.client.is_connected, "it is back")
        await flooder.send(50)
        await wait_until(lambda: flooder.losses > 1, "it was cut off again", 20)
        ref = await alice.put("notes.a", "as ever")
        assert (await alice.get(ref)).content == "as ever"


async def test_who_keeps_to_its_quota_is_left_alone(broker: Guarded) -> None:
    async with Visitor(broker, "flooder") as modest, Visitor(broker, "alice") as free:
        await modest.send(100)
        await free.send(1000)
        await anyio.sleep(3)
        assert (modest.losses, free.losses) == (0, 0)


async def test_the_newest_of_too_many_connections_go(broker: Guarded) -> None:
    async with Visitor(broker, "crowd") as first, Visitor(broker, "crowd") as second:
        await anyio.sleep(1.5)
        assert (first.losses, second.losses) == (0, 0)
        async with Visitor(broker, "crowd") as third:
            await wait_until(lambda: third.losses > 0, "the third was cut off", 20)
        assert (first.losses, second.losses) == (0, 0)


async def test_a_message_above_the_limit_is_refused_before_it_is_sent(broker: Guarded) -> None:
    async with broker.board("brief") as board:
        with pytest.raises(TooLargeError, match="may send 2000"):
            await board.put("notes.a", "x" * 2000)
        with pytest.raises(TooLargeError, match="may send 2000"):
            await board.put_many("notes.a", ["short", "x" * 2000])
        assert (await board.get(await board.put("notes.a", "short"))).content == "short"
