"""Forgeries, tried: a broker that stores one is found out, and nobody is served on it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blackboard.access.rights import Grant
from blackboard.doctor import Check, examine
from blackboard.errors import SettingsError, UnavailableError
from blackboard.forgery import probe_of, try_forgeries
from blackboard.jetstream import Connection
from blackboard.layout import streams_of
from blackboard.settings import Limits, Settings
from tests.clusters import cluster_block
from tests.guarded import Guarded, agent
from tests.servers import free_port
from tests.waiting import wait_until

DOCS = (Grant("shared", "docs.>"),)
PEOPLE = (agent("alice", read=DOCS, write=DOCS),)
BAD = {"mem.>": "_R_.bb.mem.>"}
"""As one would map it first: the broker's own answers go that way too."""
Start = Callable[..., Guarded]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Guarded] = []

    def begin(folder: str = "broker", **options: Any) -> Guarded:
        broker = Guarded(tmp_path / folder, PEOPLE, **options)
        begun.append(broker)
        broker.start()
        return broker

    yield begin
    for broker in begun:
        broker.end_stewards()
        broker.kill()


async def forged(broker: Guarded, url: str | None = None) -> set[str]:
    """The streams that stored one."""
    identity = broker.identity("cli")
    async with Connection.open(url or broker.url, identity=identity) as operator:
        probe = probe_of(broker.credentials, "main")
        return {one.stream for one in await try_forgeries(operator, probe, "main")}


async def listen_openly(broker: Guarded, *names: str) -> None:
    """Have streams listen where replies can go, as on a broker without credentials."""
    async with broker.operator() as operator:
        for stream in streams_of("main", Limits()):
            info = await operator.stream(stream.name)
            if info is None or (names and stream.name not in names) or not stream.subjects:
                continue
            config = {**info.config, "subjects": stream.subjects, "subject_transform": None}
            await operator.api(f"STREAM.UPDATE.{stream.name}", config)


async def examined(broker: Guarded) -> Check:
    settings = Settings(url=broker.url, credentials=broker.credentials)
    return next(check for check in await examine(settings, "cli") if check.name == "forgeries")


async def test_a_broker_as_it_is_compiled_stores_none_and_nothing_is_left(start: Start) -> None:
    broker = start()
    await broker.lay()

    assert await forged(broker) == set()
    assert (await examined(broker)).state == "ok"
    async with broker.operator() as operator:
        for stream in ("MEM_main", "BLOB_main", "DEAD_main", "AUDIT_main", "KV_agents_main"):
            info = await operator.stream(stream)
            assert info is not None
            assert info.state.messages == 0, stream


async def test_a_mapping_that_lets_replies_in_is_found_and_the_board_stays_closed(
    start: Start,
) -> None:
    broker = start(mappings=BAD)
    await broker.lay()
    assert await forged(broker) == {"MEM_main"}
    check = await examined(broker)
    assert (check.state, "anybody can write as anybody" in check.found) == ("fail", True)

    broker.start_steward()
    await wait_until(lambda: "is closed" in broker.steward_log.read_text(), "the steward refuses")
    with pytest.raises(UnavailableError, match="stores forged messages in MEM_main"):
        async with broker.board("alice"):
            pass

    broker.mappings = {}
    broker.reload()
    await broker.serving()
    async with broker.board("alice") as alice:
        assert (await alice.get(await alice.put("docs.a", "served"))).content == "served"


async def test_streams_that_listen_where_replies_go_are_each_found(start: Start) -> None:
    broker = start()
    await broker.lay()
    every = {"BLOB_main", "AUDIT_main", "SPANS_main", "DEAD_main", "KV_agents_main"}

    await listen_openly(broker, *every)
    assert await forged(broker) == every


async def test_a_board_that_was_made_openly_is_moved_before_it_is_served(start: Start) -> None:
    broker = start()
    await broker.lay()
    await listen_openly(broker)
    with pytest.raises(UnavailableError):
        await forged(broker)  # what is written where it should be is not stored

    broker.start_steward()
    await broker.serving()
    assert await forged(broker) == set()


async def test_without_a_probe_nobody_is_served(start: Start, tmp_path: Path) -> None:
    broker = start()
    await broker.lay()
    shutil.move(broker.credentials / "probe.nk", tmp_path / "elsewhere.nk")
    with pytest.raises(SettingsError, match=r"probe\.nk"):
        probe_of(broker.credentials, "main")

    broker.start_steward()
    await wait_until(lambda: "is closed" in broker.steward_log.read_text(), "the steward refuses")
    with pytest.raises(UnavailableError, match=r"not known.*probe\.nk"):
        async with broker.board("alice"):
            pass


@pytest.fixture
async def three(start: Start, tmp_path: Path) -> list[Guarded]:
    ports = [free_port() for _ in range(3)]
    routes = [f"nats://127.0.0.1:{port}" for port in ports]
    members = [
        start(
            f"member-{number}",
            name=f"member-{number}",
            credentials=tmp_path / "credentials",
            extra=cluster_block("guarded", f"127.0.0.1:{port}", routes),
        )
        for number, port in enumerate(ports)
    ]

    async def laid() -> bool:
        try:
            await members[0].lay()
        except UnavailableError:
            return False
        return True

    await wait_until(laid, "the cluster takes a board", 30)
    return members


async def test_every_server_of_a_cluster_is_tried(three: list[Guarded]) -> None:
    everywhere = ",".join(member.url for member in three)
    assert await forged(three[0], everywhere) == set()

    three[2].mappings = BAD
    three[2].reload()
    assert await forged(three[0], everywhere) == {"MEM_main"}
    assert await forged(three[0], three[0].url) == set()
