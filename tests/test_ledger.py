"""The ledger: what it takes up, and that it does so exactly once, whatever is killed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from blackboard.access.identity import PREFIX, Identity
from blackboard.errors import SettingsError, UnavailableError
from blackboard.jetstream import Connection, Outgoing, Start, Stream, follow
from blackboard.ledger import Denied, Follow, Ledger, Read, Served, Violations, load_key
from blackboard.ledger.items import AnyItem, Delivered, Evaded, Gap
from blackboard.ledger.record import open_record
from blackboard.ledger.streams import ledger_stream, ledger_streams, reads_stream
from blackboard.ledger.verify import Verified, verify
from blackboard.settings import Limits
from tests.credentials import BOARD, accounts, connected, identity, public_key
from tests.servers import Server
from tests.waiting import wait_until

MIB = 1024 * 1024
LIMITS = Limits(reads_bytes=64 * MIB, ledger_bytes=64 * MIB)
OTHER_STREAMS = (
    Stream(name=f"MEM_{BOARD}", subjects=(f"mem.{BOARD}.>",), max_bytes=64 * MIB, prefix=PREFIX),
    Stream(
        name=f"AUDIT_{BOARD}", subjects=(f"audit.{BOARD}.>",), max_bytes=64 * MIB, prefix=PREFIX,
        discard="old",
    ),
    Stream(name=f"DEAD_{BOARD}", subjects=(f"dead.{BOARD}.>",), max_bytes=MIB, prefix=PREFIX),
)


class Bench:
    """A broker with an operator and two agents, a board's streams, and a key."""

    def __init__(self, server: Server, folder: Path, people: dict[str, Identity]) -> None:
        self.server = server
        self.folder = folder
        self.people = people
        self.operator: Connection

    @property
    def key(self) -> Path:
        return self.folder / "board.key"

    def ledger(self, connection: Connection | None = None, **options: object) -> Ledger:
        settings: dict[str, object] = {"interval_s": 0.05, "look_s": 0.05, **options}
        return Ledger(connection or self.operator, BOARD, load_key(self.key), **settings)  # type: ignore[arg-type]

    @asynccontextmanager
    async def kept(self, **options: object) -> AsyncGenerator[Ledger]:
        ledger = self.ledger(**options)
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.run)
            await wait_until(lambda: ledger.trouble is None, "the ledger is kept")
            yield ledger
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncGenerator[Connection]:
        async with connected(self.server, self.people[name]) as connection:
            yield connection

    async def items(self, kind: type[AnyItem] | None = None) -> list[AnyItem]:
        found: list[AnyItem] = []
        stream = ledger_stream(BOARD)
        async with follow(self.operator, stream, f"ledger.{BOARD}", Start.all()) as follower:
            while follower.pending and (message := await follower.step()) is not None:
                found += open_record(message.data).items
        return [item for item in found if kind is None or isinstance(item, kind)]

    async def reads(self) -> int:
        return sum(item.count for item in await self.items(Read) if isinstance(item, Read))

    async def verified(self, **options: object) -> Verified:
        return await verify(self.operator, BOARD, **options)  # type: ignore[arg-type]

    async def put(self, connection: Connection, agent: str, topic: str, id: str = "a" * 32) -> int:
        subject = f"mem.{BOARD}.shared.{agent}.{topic}.{id}"
        return await connection.publish(Outgoing(subject, b'{"content": 1}', {"Bb-Agent": agent}))


@pytest.fixture
async def bench(start_server: Callable[..., Server], tmp_path: Path) -> AsyncGenerator[Bench]:
    people = {name: identity(name) for name in ("steward", "alice", "bob")}
    extra = accounts([people["steward"]], [people["alice"], people["bob"]])
    server = start_server(extra=extra)
    bench = Bench(server, tmp_path, people)
    async with connected(server, people["steward"]) as operator:
        bench.operator = operator
        for stream in (*OTHER_STREAMS, *ledger_streams(BOARD, LIMITS)):
            await operator.create_stream(stream)
        yield bench


def read_from(agent: str, topic: str, id: str = "a" * 32, author: str = "bob") -> str:
    what = f"mem.{BOARD}.shared.{author}.{topic}.{id}"
    return f"_R_.bb.rd.{BOARD}.{agent}.MEM_{BOARD}.{what}"


async def test_the_broker_itself_says_who_read_what(bench: Bench) -> None:
    async with bench.agent("bob") as bob, bench.agent("alice") as alice, bench.kept():
        await bench.put(bob, "bob", "notes")
        for _ in range(3):
            await alice.request(read_from("alice", "notes"))
        await alice.request(read_from("alice", "other"))
        await wait_until(lambda: bench.reads, "reads are in the chain")

        async def all_there() -> bool:
            return await bench.reads() == 4

        await wait_until(all_there, "all four reads are in the chain")
    found = {item.what: item for item in await bench.items(Read) if isinstance(item, Read)}

    notes = [item for item in await bench.items(Read) if ".notes." in getattr(item, "what", "")]
    assert sum(getattr(item, "count", 0) for item in notes) == 3
    assert all(getattr(item, "agent", "") == "alice" for item in notes)
    assert f"mem.{BOARD}.shared.bob.other.{'a' * 32}" in found
    result = await bench.verified()
    assert result.findings == []
    assert result.reads == 4


async def test_what_a_service_notes_stands_in_the_chain_before_it_answers(bench: Bench) -> None:
    async with bench.kept(interval_s=30.0) as ledger:
        await ledger.noted(Served(agent="alice", verb="recall", what="docs.>"))

        assert [item for item in await bench.items(Served)] != []


async def test_nothing_can_be_noted_while_the_broker_is_away(bench: Bench) -> None:
    async with bench.kept() as ledger:
        bench.server.kill()
        with pytest.raises(UnavailableError, match="so it was not done"):
            await ledger.noted(Served(agent="alice", verb="recall", what="docs.>"))
        ledger.note(Denied(agent="alice", act="read", what="secret.x"))
        bench.server.start()
        await wait_until(lambda: ledger.trouble is None, "the ledger is kept again", 20)
        await ledger.noted(Served(agent="alice", verb="recall", what="later"))

        served = [item for item in await bench.items(Served) if isinstance(item, Served)]
        assert [item.what for item in served if item.what == "later"] == ["later"]
        assert len(await bench.items(Denied)) == 1


async def test_two_stewards_keep_one_chain_and_count_nothing_twice(bench: Bench) -> None:
    async with (
        bench.agent("bob") as bob,
        bench.agent("alice") as alice,
        connected(bench.server, bench.people["steward"]) as second,
    ):
        await bench.put(bob, "bob", "notes")
        other = bench.ledger(second)
        async with bench.kept() as ledger, anyio.create_task_group() as group:
            group.start_soon(other.run)
            await wait_until(lambda: other.trouble is None, "the other keeps it too")
            for number in range(300):
                await alice.request(read_from("alice", f"t{number % 7}"))
                if number % 10 == 0:
                    await ledger.noted(Served(agent="a", verb="get", what=f"one-{number}"))
                    await other.noted(Served(agent="a", verb="get", what=f"two-{number}"))

            async def all_there() -> bool:
                return await bench.reads() == 300

            await wait_until(all_there, "all reads are in the chain")
            group.cancel_scope.cancel()
    result = await bench.verified()

    assert result.findings == []
    assert await bench.reads() == 300
    served = [item.what for item in await bench.items(Served) if isinstance(item, Served)]
    assert len(served) == len(set(served)) == 60


async def test_a_ledger_goes_on_only_under_its_key(bench: Bench) -> None:
    async with bench.kept():
        pass
    bench.key.unlink()
    with pytest.raises(SettingsError, match="BLACKBOARD_BOARD_KEY"):
        await bench.ledger().run()


async def test_reads_that_were_discarded_before_a_steward_came_are_a_gap(bench: Bench) -> None:
    async with bench.agent("alice") as alice:
        async with bench.kept():
            await alice.request(read_from("alice", "one"))

            async def first_there() -> bool:
                return await bench.reads() == 1

            await wait_until(first_there, "the first read is in the chain")
        for _ in range(5):
            await alice.request(read_from("alice", "two"))
        for sequence in (2, 3, 4):
            await bench.operator.delete(reads_stream(BOARD), sequence)
        async with bench.kept():

            async def rest_there() -> bool:
                return await bench.reads() == 3

            await wait_until(rest_there, "the rest is in the chain")
    gaps = [item for item in await bench.items(Gap) if isinstance(item, Gap)]

    assert [(gap.about, gap.low, gap.high, gap.count) for gap in gaps] == [("READS_main", 2, 4, 3)]
    result = await bench.verified()
    assert result.findings == []
    assert len(result.gaps) == 1


EVASIONS = [
    {"Nats-Expected-Last-Sequence": "99999"},
    {"Nats-Msg-Id": "again"},
    {"Nats-Rollup": "all"},
    {"Nats-TTL": "1s"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
]


@pytest.mark.parametrize("headers", EVASIONS, ids=lambda one: next(iter(one)))
async def test_a_read_that_keeps_itself_out_of_the_brokers_record_is_seen(
    bench: Bench, headers: dict[str, str]
) -> None:
    async with bench.agent("bob") as bob, bench.agent("alice") as alice, bench.kept() as ledger:
        await bench.put(bob, "bob", "notes")
        await ledger.noted(Served(agent="x", verb="x", what="the tap listens"))
        for _ in range(2):
            answer = await alice.request(read_from("alice", "notes"), headers=dict(headers))
            assert answer.data == b'{"content": 1}'  # the broker answers

        async def seen() -> int:
            found = [item for item in await bench.items(Evaded) if isinstance(item, Evaded)]
            return sum(item.count for item in found) == 2

        await wait_until(seen, "both are in the chain")
    item = next(item for item in await bench.items(Evaded))
    assert isinstance(item, Evaded)
    assert (item.agent, item.header) == ("alice", next(iter(headers)))


async def test_the_brokers_refusals_are_recorded_under_the_agents_name(bench: Bench) -> None:
    people = {public_key(who): (who.board, who.agent) for who in bench.people.values()}
    log = Violations(bench.server.log, "log", BOARD, people.get)
    async with bench.agent("alice") as alice, bench.kept(violations=log):
        for subject in (read_from("bob", "x"), f"_R_.bb.mem.{BOARD}.shared.bob.notes.x"):
            await alice.client.publish(subject, b"")
            await alice.client.publish(subject, b"")
        await alice.client.flush()

        async def seen() -> bool:
            found = [item for item in await bench.items(Denied) if isinstance(item, Denied)]
            return sum(item.count for item in found) == 4

        await wait_until(seen, "four refusals are in the chain")
    found = [item for item in await bench.items(Denied) if isinstance(item, Denied)]
    assert {item.agent for item in found} == {"alice"}
    assert {item.act for item in found} == {"publish"}


async def test_how_far_a_consumer_was_delivered_is_known_when_it_is_gone(bench: Bench) -> None:
    config = {
        "name": "follow-1",
        "ack_policy": "none",
        "filter_subject": f"mem.{BOARD}.shared.*.docs.>",
        "deliver_policy": "all",
        "inactive_threshold": 600_000_000_000,
        "deliver_subject": f"_INBOX.{BOARD}.alice.x",
        "metadata": {"blackboard-agent": "alice"},
    }
    verb = f"CONSUMER.CREATE.MEM_{BOARD}.follow-1"

    async with bench.agent("bob") as bob, bench.agent("alice") as alice, bench.kept():
        received: list[bytes] = []

        async def take(message: object) -> None:
            received.append(b"")

        await alice.client.subscribe(f"_INBOX.{BOARD}.alice.x", cb=take)
        await alice.client.flush()
        await bench.operator.api(verb, {"stream_name": f"MEM_{BOARD}", "config": config})
        last = 0
        for number in range(5):
            last = await bench.put(bob, "bob", "docs.a", f"{number:032x}")
        await wait_until(lambda: len(received) == 5, "all are delivered")

        async def reached() -> bool:
            found = [item for item in await bench.items(Delivered) if isinstance(item, Delivered)]
            return bool(found) and found[-1].sequence == last

        await wait_until(reached, "the chain says how far")
        follows = [item for item in await bench.items(Follow) if isinstance(item, Follow)]
        assert [(one.agent, one.filters) for one in follows] == [
            ("alice", (config["filter_subject"],))
        ]


def test_records_are_canonical_json() -> None:
    import rfc8785

    from blackboard import clock
    from blackboard.ledger.record import Position, Record, seal

    items: tuple[AnyItem, ...] = (
        Denied(agent="é\x7f\u2028/\"\\\x01\n", act="ü", what="\U0001f600"),
        Gap(about="x", reason="\t\b", low=2**53),
    )
    record = Record(
        n=1, at=clock.now(), previous="", positions={"z": Position("c", 1), "a": Position("", 2)},
        items=items,
    )
    _, body = seal(record)

    assert rfc8785.dumps(msgspec.json.decode(body)) == body
