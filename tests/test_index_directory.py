"""The embedded index against what happens to directories: taken, damaged, tidied, scrubbed."""

import os
import random
import signal
from pathlib import Path

import anyio
import psutil
import pytest

from blackboard.errors import SettingsError, UnavailableError
from blackboard.recall import edge
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.index import BrokenIndexError, MismatchError, Where
from blackboard.search import Filter
from blackboard.subjects import Ref
from tests.entries import NOW, SIGNATURE, entry, vectors
from tests.shelf_index import ShelfIndex
from tests.waiting import wait_until

EVERYTHING = Where(Filter(), None, NOW)
PLANTED = "PLANTED-VALUE"


async def an_index(path: Path, count: int = 50) -> EdgeIndex:
    index = await EdgeIndex.open(path, SIGNATURE)
    await index.apply([entry(number, expires=None) for number in range(1, count + 1)], [], count)
    await index.flush()
    return index


def names(path: Path) -> list[str]:
    return [one.name for one in path.iterdir()]


def holding(path: Path, text: str) -> list[str]:
    """Files in which the bytes are."""
    return [
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and text.encode() in file.read_bytes()
    ]


async def test_one_process_owns_a_directory_and_lets_go_of_it(tmp_path: Path) -> None:
    index = await an_index(tmp_path / "i")

    with pytest.raises(UnavailableError, match=f"process {os.getpid()}"):
        await EdgeIndex.open(tmp_path / "i", SIGNATURE)
    await index.close()
    again = await EdgeIndex.open(tmp_path / "i", SIGNATURE)

    assert (await again.count(EVERYTHING, []))[0] == 50
    assert await again.position() == 50
    await again.close()


async def test_a_directory_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(SettingsError, match=r"thesis\.txt"):
        await EdgeIndex.open(tmp_path, SIGNATURE)

    assert names(tmp_path) == ["thesis.txt"]


@pytest.mark.skipif(os.getuid() == 0, reason="everything may be written by root")
async def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)  # noqa: PTH101 - in a coroutine, pathlib counts as blocking
    with pytest.raises(SettingsError, match="may write"):
        await EdgeIndex.open(tmp_path / "i", SIGNATURE)


async def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "i").write_text("")
    with pytest.raises(SettingsError, match="name a directory"):
        await EdgeIndex.open(tmp_path / "i", SIGNATURE)


async def test_another_embedder_says_what_it_was_built_with(tmp_path: Path) -> None:
    await (await an_index(tmp_path / "i")).close()
    other = SIGNATURE.__class__("main", "another", 4, 2)

    with pytest.raises(MismatchError, match="blackboard reindex") as caught:
        await EdgeIndex.open(tmp_path / "i", other)

    assert caught.value.found == SIGNATURE
    await (await EdgeIndex.open(tmp_path / "i", SIGNATURE)).close()


@pytest.mark.parametrize(
    "damage",
    [
        "books",
        "no books text",
        "no data",
        "no segment",
        "config",
        "segment file",
        "cut",
        "half",
        "vectors",
        "fields",
    ],
)
async def test_damage_is_told_and_the_directory_can_be_taken_again(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "i"
    await (await an_index(path)).close()
    (data,) = path.glob("generation-*")
    hurt(path, data, damage)

    with pytest.raises(BrokenIndexError, match="blackboard reindex"):
        await EdgeIndex.open(path, SIGNATURE)

    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    for left in sorted(path.rglob("*"), reverse=True):
        left.rmdir()
    index = await an_index(path)
    assert (await index.count(EVERYTHING, []))[0] == 50
    await index.close()


def hurt(path: Path, data: Path, damage: str) -> None:
    segment = next((data / "segments").iterdir())
    match damage:
        case "books":
            (path / "index.json").write_bytes(b"\x00\xff garbage")
        case "no books text":
            (path / "index.json").write_text("{}")
        case "no data":
            data.rename(path.parent / "elsewhere")
        case "no segment":
            (segment / "segment.json").unlink()
        case "config":
            (data / "edge_config.json").write_bytes(b"}{")
        case "segment file":
            (segment / "segment.json").write_bytes(os.urandom(100))
        case "half":
            ids = segment / "mutable_id_tracker.mappings"
            os.truncate(ids, ids.stat().st_size // 2)
        case "vectors":
            os.truncate(segment / "vector_storage-bare" / "vectors" / "chunk_0.mmap", 0)
        case "fields":
            os.truncate(segment / "payload_storage" / "page_0.dat", 0)
        case _:
            (segment / "payload_storage" / "config.json").write_bytes(b"")


@pytest.mark.timeout(120)
async def test_what_was_forgotten_leaves_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "i"
    index = await an_index(path)
    secret = entry(
        51,
        ref=Ref("alice", PLANTED, "a" * 32),
        session=PLANTED,
        user=PLANTED,
        kind=PLANTED,
        tags={PLANTED: PLANTED},
        text=PLANTED,
        expires=None,
    )
    await index.apply([secret], [], 51)
    await index.flush()
    assert holding(path, PLANTED)

    await index.apply([], [secret.ref], 52)
    await index.flush()
    assert await index.tidy(scrub=True)
    assert holding(path, PLANTED) == []
    assert not await index.tidy(scrub=True)

    # Once more, out of what is sorted and read-only by then.
    await index.apply([entry(53, ref=secret.ref, session=PLANTED, expires=None)], [], 53)
    await index.flush()
    await index.apply([entry(54), entry(55)], [], 55)
    await index.tidy(scrub=True)
    assert holding(path, PLANTED)
    await index.apply([entry(56, expires=None)], [secret.ref], 56)
    await index.close()
    index = await EdgeIndex.open(path, SIGNATURE)
    assert await index.tidy(scrub=True)
    assert holding(path, PLANTED) == []
    await index.close()


@pytest.mark.timeout(120)
async def test_tidying_goes_on_beside_writes_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "UNSORTED", 100)
    index = await an_index(tmp_path / "i", 300)
    shelf = ShelfIndex(entry(number, expires=None) for number in range(1, 301))
    written = 300

    async with anyio.create_task_group() as tasks:
        done = anyio.Event()

        async def tidy() -> None:
            assert await index.tidy()
            done.set()

        tasks.start_soon(tidy)
        while not done.is_set():
            some = [entry(written + place, expires=None) for place in range(1, 6)]
            gone = [entry(written - 200, expires=None).ref]
            written += 5
            await index.apply(some, gone, written)
            shelf.apply(some, gone, written)
            found = await index.search(vectors(random.Random(1)), EVERYTHING, 10)
            assert len(found["bare"]) == 10

    expected = shelf.select(EVERYTHING, "stored")
    assert await index.select(EVERYTHING, "stored", 10_000, None) == expected
    await index.close()
    index = await EdgeIndex.open(tmp_path / "i", SIGNATURE)
    assert await index.position() == written
    assert await index.select(EVERYTHING, "stored", 10_000, None) == expected
    assert len(list((tmp_path / "i").glob("generation-*"))) == 1
    await index.close()


@pytest.mark.timeout(120)
async def test_a_tidying_that_is_killed_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "UNSORTED", 100)
    index = await an_index(tmp_path / "i", 300)

    async def kill() -> None:
        me = psutil.Process()
        await wait_until(lambda: helpers(me), "the helper runs")
        for helper in helpers(me):
            helper.send_signal(signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        with pytest.raises(UnavailableError, match="goes on serving"):
            await index.tidy()

    assert (await index.count(EVERYTHING, []))[0] == 300
    assert len(list((tmp_path / "i").glob("generation-*"))) == 1
    assert await index.tidy()
    await index.close()


def helpers(me: psutil.Process) -> list[psutil.Process]:
    return [one for one in me.children() if "blackboard.recall.optimize" in " ".join(one.cmdline())]
