"""The ledger: what it takes up, and that it does so exactly once, whatever is killed."""

import anyio
import msgspec
import pytest
import rfc8785

from blackboard import clock
from blackboard.errors import SettingsError, UnavailableError
from blackboard.ledger import Denied, Follow, Read, Served, Violations
from blackboard.ledger.items import AnyItem, Delivered, Evaded, Gap
from blackboard.ledger.record import Position, Record, seal
from blackboard.ledger.streams import ledger_stream, reads_stream
from tests.credentials import BOARD, connected
from tests.ledger_bench import Bench, read_from
from tests.waiting import wait_until


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

        assert len(await bench.items(Served)) == 1


async def test_nothing_can_be_noted_while_the_broker_is_away(bench: Bench) -> None:
    async with bench.kept() as ledger:
        bench.server.kill()
        with pytest.raises(UnavailableError, match="so it was not done"):
            await ledger.noted(Served(agent="alice", verb="recall", what="docs.>"))
        ledger.note(Denied(agent="alice", act="read", what="secret.x"))
        bench.server.start()

        async def noted() -> bool:
            try:
                await ledger.noted(Served(agent="alice", verb="recall", what="later"))
            except UnavailableError:
                return False
            return True

        await wait_until(noted, "the ledger is kept again", 20)

        served = [item for item in await bench.items(Served) if isinstance(item, Served)]
        assert [item.what for item in served if item.what == "later"] == ["later"]
        assert len(await bench.items(Denied)) == 1


async def test_two_stewards_keep_one_chain_and_count_nothing_twice(bench: Bench) -> None:
    async with (
        bench.agent("bob") as bob,
        bench.agent("alice") as alice,
        connected(bench.server, bench.people.identity("steward")) as second,
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
    ledger = bench.ledger()
    async with anyio.create_task_group() as group:
        group.start_soon(ledger.run)
        await wait_until(lambda: isinstance(ledger.trouble, SettingsError), "it says what is wrong")
        with pytest.raises(UnavailableError, match="BLACKBOARD_BOARD_KEY"):
            await ledger.noted(Served(agent="alice", verb="recall", what="docs.>"))
        group.cancel_scope.cancel()

    assert (await bench.verified()).findings == []


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


HIDDEN = [
    b"NATS/1.0\r\nX\nNats-Msg-Id: 1\r\n\r\n",  # the broker finds it, the client library does not
    b"NATS/1.0 \xff\xff\xff\r\nNats-Msg-Id: 1\r\n\r\n",  # ends the library's reading
    b"NATS/1.0",
]


@pytest.mark.parametrize("block", HIDDEN)
async def test_a_read_with_a_hidden_header_is_seen_and_stops_nobody(
    bench: Bench, block: bytes
) -> None:
    async with bench.agent("alice") as alice, bench.kept() as ledger:
        await ledger.noted(Served(agent="x", verb="x", what="the tap listens"))
        subject = read_from("alice", "notes").encode()
        line = b"HPUB %b _INBOX.main.alice.x %d %d\r\n%b\r\n"
        command = line % (subject, len(block), len(block), block)
        await alice.client._send_command(command)  # pyright: ignore[reportPrivateUsage]
        await alice.client.flush()

        async def seen() -> bool:
            return len(await bench.items(Evaded)) == 1

        await wait_until(seen, "it is in the chain")
        await ledger.noted(Served(agent="x", verb="x", what="it still listens"))


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
    agents = {key: agent for (_, agent), key in bench.people.keys.agents.items()}
    log = Violations(bench.server.log, "log", agents.get)
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

        await alice.client.subscribe(f"_INBOX.{BOARD}.alice.x", cb=take)  # pyright: ignore[reportUnknownMemberType]
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
    items: tuple[AnyItem, ...] = (
        Denied(agent='é\x7f\u2028/"\\\x01\n', act="ü", what="\U0001f600"),
        Gap(about="x", reason="\t\b", low=2**53 - 1),
    )
    record = Record(
        n=1,
        at=clock.now(),
        previous="",
        positions={"z": Position("c", 1), "a": Position("", 2)},
        items=items,
    )
    _, body = seal(record)

    assert rfc8785.dumps(msgspec.json.decode(body)) == body


async def test_reads_that_overflowed_while_no_steward_was_there_are_a_gap(bench: Bench) -> None:
    await bench.resize(reads_stream(BOARD), 20_000)
    async with bench.agent("alice") as alice:
        for number in range(500):
            await alice.request(read_from("alice", f"t{number % 5}"))
    info = await bench.operator.stream(reads_stream(BOARD))
    assert info is not None
    lost = info.state.first_seq - 1
    assert lost > 100
    async with bench.kept():

        async def all_there() -> bool:
            return await bench.reads() == 500 - lost

        await wait_until(all_there, "what is left is in the chain")
    gaps = [item for item in await bench.items(Gap) if isinstance(item, Gap)]

    assert [(gap.about, gap.low, gap.high, gap.count) for gap in gaps] == [
        (reads_stream(BOARD), 1, lost, lost)
    ]
    assert (await bench.verified()).findings == []


async def test_a_ledger_makes_room_behind_a_signature_and_proves_what_is_left(
    bench: Bench,
) -> None:
    await bench.resize(ledger_stream(BOARD), 100_000)
    follow = Follow(agent="alice", stream=f"MEM_{BOARD}", consumer="c", filters=("mem.main.>",))
    config = {
        "name": "c",
        "durable_name": "c",
        "filter_subject": f"mem.{BOARD}.>",
        "ack_policy": "explicit",
        "metadata": {"blackboard-agent": "alice"},
    }
    await bench.operator.api(
        f"CONSUMER.CREATE.MEM_{BOARD}.c", {"stream_name": f"MEM_{BOARD}", "config": config}
    )
    async with bench.kept() as ledger:
        await ledger.noted(follow)
        for number in range(600):
            await ledger.noted(Served(agent="alice", verb="recall", what=f"query-{number}" * 10))

        async def shorter() -> bool:
            return (await bench.verified()).first > 100

        await wait_until(shorter, "old records are gone")
    result = await bench.verified()

    assert result.findings == []
    assert result.records < 600
    kept = [item for item in await bench.items(Follow) if isinstance(item, Follow)]
    assert any(item.consumer == "c" for item in kept)  # it is still there, and so is its word
    # What was not signed away must not go.
    await bench.operator.delete(ledger_stream(BOARD), result.first)
    findings = [str(one) for one in (await bench.verified()).findings]
    assert findings[0].startswith(f"record 1 to {result.first}: removed, and only")
