"""Export and import when something fails: the disk, the process, the broker; nothing is half."""

import resource
import stat
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from blackboard import Blackboard
from blackboard.archive import Loaded, export, load
from blackboard.archive.format import read_manifest
from blackboard.errors import InvalidError
from tests.commands import Done, finished, start
from tests.programs.kill_proxy import open_wire
from tests.servers import Server
from tests.test_archive import furnish, told
from tests.waiting import wait_until

COUNT = 2_500
"""Memories beside one of everything: three batches."""


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # noqa: S607


async def exported(server: Server, out: Path, **options: Any) -> Done:
    process = start("export", out, "--board", "b", "--url", server.url, **options)
    return await anyio.to_thread.run_sync(finished, process)


async def check_failed(failed: Done, board: Blackboard, out: Path, before: object) -> None:
    assert failed.code == 2, failed
    assert "make room" in failed.err
    assert failed.err.count("\n") == 1
    # What is there is what the manifest names, and it does not look like more.
    manifest = read_manifest(out)
    assert not manifest.complete
    names = {path.name for path in out.rglob("*") if path.is_file()}  # noqa: ASYNC240
    assert names >= {piece.name for piece in manifest.pieces}
    assert not [name for name in names if name.startswith(".")]
    with pytest.raises(InvalidError, match="not complete"):
        await load(board.sibling(board="copy").log, out)
    assert await told(board) == before


async def test_a_disk_that_is_full_while_exporting(
    alice: Blackboard, server: Server, small_disk: Path, tmp_path: Path
):
    await furnish(alice)
    await alice.put_many("notes", [f"{n} {'sunfish ' * 60}" for n in range(COUNT)])
    before = await told(alice)
    out = small_disk / "out"

    await check_failed(await exported(server, out), alice, out, before)

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)  # noqa: ASYNC221, S607
    done = await exported(server, out)
    assert done.code == 0, done
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")
    assert await load(copy.log, out) == Loaded(stored=len(before))
    assert (await told(copy))[1:] == before


async def test_a_file_that_may_not_grow_while_exporting(
    alice: Blackboard, server: Server, tmp_path: Path
):
    await furnish(alice)
    await alice.put_many("notes", ["sunfish " * 60] * COUNT)
    before = await told(alice)
    out = tmp_path / "out"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    await check_failed(await exported(server, out, preexec_fn=limited), alice, out, before)

    assert (await exported(server, out)).code == 0
    for path in out.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600


POINTS = {
    "looking": b"CONSUMER.CREATE.MEM_copy",
    "a large content": b"PUB blob.copy.",
    "a batch": b"Nats-Batch-Sequence: 2\r\n",
    "a commit": b"Nats-Batch-Commit",
}
"""What the import says to the broker there."""


async def prepared(alice: Blackboard, out: Path) -> tuple[Blackboard, list[dict[str, Any]]]:
    await furnish(alice)
    await alice.put_many("notes", [f"{n} sunfish" for n in range(COUNT)])
    await export(alice.log, out)
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")
    return copy, await told(alice)


async def check_completed(copy: Blackboard, out: Path, wanted: list[dict[str, Any]]) -> None:
    """A second import stores exactly what the first did not, and the board compares equal."""
    info = await copy.session.connection.stream("MEM_copy")
    assert info is not None
    there = info.state.messages - 1
    done = await load(copy.log, out)
    assert done == Loaded(there=there, stored=len(wanted) - there)
    assert (await told(copy))[1:] == wanted
    assert await load(copy.log, out) == Loaded(there=len(wanted))


@pytest.mark.parametrize("fate", ["lost", "delivered"])
@pytest.mark.parametrize("point", POINTS)
async def test_an_import_that_is_killed(
    alice: Blackboard, server: Server, tmp_path: Path, point: str, fate: str
):
    copy, wanted = await prepared(alice, tmp_path / "out")
    async with open_wire(server.url) as wire:
        (wire.lose_answer if fate == "delivered" else wire.lose_request)(POINTS[point])
        process = start("import", tmp_path / "out", "--board", "copy", "--url", wire.url)
        with anyio.fail_after(30):
            await wire.seen.wait()
        process.kill()
        await anyio.to_thread.run_sync(process.communicate)
        await wire.cut()

    await check_completed(copy, tmp_path / "out", wanted)


@pytest.mark.parametrize("after", [1, 1_000, 2_000])
async def test_a_broker_that_is_killed_while_importing(
    alice: Blackboard, server: Server, tmp_path: Path, after: int
):
    copy, wanted = await prepared(alice, tmp_path / "out")

    async def begun() -> bool:
        info = await copy.session.connection.stream("MEM_copy")
        return info is not None and info.state.messages > after

    process = start("import", tmp_path / "out", "--board", "copy", "--url", server.url)
    await wait_until(begun, "it is under way", 30)
    server.kill()
    await anyio.to_thread.run_sync(server.start)
    done = await anyio.to_thread.run_sync(finished, process)

    # It finds out what was stored and goes on, or says that the broker was away.
    assert done.code == 0 or "again" in done.err, done
    await check_completed(copy, tmp_path / "out", wanted)
