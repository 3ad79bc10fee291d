"""`blackboard forget`: what would go, what went, and whether the receipt holds."""

import shutil
from pathlib import Path

import anyio
import anyio.to_thread

from blackboard import Blackboard, Ref
from blackboard.errors import GoneError
from tests.commands import Done, finished, start
from tests.forgetting import Steward
from tests.servers import Server

SECRET = "planted-5d20"  # noqa: S105 - a word to look for


async def finish(server: Server, *arguments: object) -> Done:
    """Run a command as a process of its own, to which the board is the same."""
    process = start("forget", *arguments, "--url", server.url)
    return await anyio.to_thread.run_sync(finished, process)


async def shown(server: Server, ref: Ref, *, there: bool) -> None:
    """Whether a memory can be read."""
    async with Blackboard.open(server.url) as board:
        try:
            await board.get(ref)
        except GoneError:
            assert not there
        else:
            assert there


async def test_what_would_go_goes_and_the_receipt_holds(
    server: Server, steward: Steward, tmp_path: Path
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        source = await alice.put("cases", SECRET, user="u1")
        made = await alice.put("notes", SECRET, sources=[source])
        await alice.put("notes", "sunfish")
    backup = tmp_path / "backup"
    shutil.copytree(server.directory, backup)

    dry = await finish(server, "--user", "u1", "--dry-run")
    assert dry.code == 0
    assert dry.out.splitlines() == [
        f"{source}  selected",
        f"{made}  made from {source.pinned()}",
        "2 memories would go: 1 selected, 1 made from them",
    ]
    await shown(server, made, there=True)

    done = await finish(server, "--user", "u1", "--reason", "request 881", "--json")
    assert done.code == 0, done
    receipt = done.json
    assert (receipt["state"], receipt["memories"]) == ("complete", 2)
    await shown(server, made, there=False)
    assert SECRET not in done.out
    listed = await finish(server, "list")
    assert receipt["order"] in listed.out
    assert "request 881" in listed.out

    good = await finish(server, "verify", receipt["order"], "--files", str(server.directory))
    assert good.code == 0, good
    assert "ok  signature: by A" in good.out
    assert "ok  lineage: none of" in good.out
    copy = await finish(server, "verify", receipt["order"], "--files", str(backup), "--json")
    assert copy.code == 1
    assert not next(one for one in copy.json["findings"] if one["name"] == "files")["clean"]


async def test_bad_input_is_refused_and_changes_nothing(
    server: Server, steward: Steward, tmp_path: Path
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        only = await alice.put("cases", SECRET, user="u1")
    for arguments, code, words in (
        ((), 2, "say what to forget"),
        (("--user", "nobody"), 1, "nothing was done"),
        (("--user", "u1"), 2, "--yes"),
        (("no/reference",), 2, "is no reference"),
        (("verify", "0" * 32), 1, "no receipt"),
    ):
        failed = await finish(server, *arguments)
        assert (failed.code, words in failed.err) == (code, True), failed
    await shown(server, only, there=True)

    done = await finish(server, "--user", "u1", "--yes")
    assert done.code == 0, done
    await shown(server, only, there=False)
