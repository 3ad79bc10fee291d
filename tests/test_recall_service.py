import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from blackboard import Blackboard
from blackboard.background import background
from blackboard.jetstream import Connection, refusal
from blackboard.recall.service import serve
from blackboard.search import Grant
from blackboard.settings import Settings
from tests.embedding_stub import EmbeddingStub
from tests.recall_service import MODEL, RecallService, contents, current, lagging
from tests.servers import Server
from tests.waiting import wait_until


async def test_memories_are_found_by_words_and_conditions(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
    await current(board)
    for number in range(30):
        await board.put("notes", f"remark{number} of mine")
        hits = await board.recall(f"remark{number}", limit=3)
        assert f"remark{number} of mine" in [hit.memory.content for hit in hits]
        assert not hits.stale


async def test_a_revision_takes_the_place_of_the_one_before(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
    ref = await board.put("notes", "about apples")
    assert await contents(board, "apples") == ["about apples"]
    await board.revise(ref, "about pears")

    hits = await board.recall("apples")

    assert [hit.memory.content for hit in hits] == ["about pears"]
    assert "words" not in hits[0].why
    assert (await board.finder.status()).memories == 1


async def test_what_shows_the_same_result_is_one_hit(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
    for name in ("alice", "bob", "carol"):
        await board.sibling(agent=name).once("work", 1, lambda: "a summary of apples", topic="sums")

    hits = await board.recall("apples")
    mine = await board.recall("apples", topic="sums", agent="carol")

    assert [hit.memory.content for hit in hits] == ["a summary of apples"]
    assert [hit.memory.agent for hit in mine] == ["carol"]


async def test_large_and_odd_contents_are_found_by_their_text(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
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


async def test_what_may_not_be_shown_is_not_found_while_the_index_lags(
    board: Blackboard, start_recall: Callable[..., RecallService], embeddings: EmbeddingStub
) -> None:
    start_recall()
    retired = await board.put("notes", "apples one")
    moved = await board.put("notes", "apples two")
    retagged = await board.put("notes", "apples three", tags={"team": "blue"})
    await board.put("notes", "apples four", ttl=timedelta(seconds=8))
    kept = await board.put("notes", "apples five", tags={"team": "blue"})
    expiring = (await board.recall("apples four", limit=1))[0].memory.expires
    assert expiring is not None
    async with lagging(board, embeddings):
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
    board: Blackboard, server: Server, tmp_path: Path, embeddings: EmbeddingStub
) -> None:
    granted = {"bob": (Grant(access="shared", topic="notes.>"), Grant(user="u1"))}

    def rights(_board: str, agent: str) -> tuple[Grant, ...] | None:
        return granted.get(agent)

    settings = Settings(
        url=server.url, data_dir=tmp_path, model_url=embeddings.url, embedding_model=MODEL
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
        async with lagging(board, embeddings):
            await board.reclassify(moved, "pii")
            late = await bob.recall("apples", fresh=False)
            rows = await bob.query(kind="note", fresh=False)
        assert {hit.memory.content for hit in late} == allowed - {"apples to be moved"}
        assert {memory.content for memory in rows} == allowed - {"apples to be moved"}
        group.cancel_scope.cancel()
