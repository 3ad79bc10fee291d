"""Archives: what is exported and imported compares equal, twice is once, and nothing is trusted."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from blackboard import Blackboard, Memory
from blackboard.archive import Exported, Loaded, export, load
from blackboard.archive.format import read_manifest
from blackboard.clock import now
from blackboard.errors import BlackboardError, GoneError, InvalidError, SettingsError
from blackboard.search import Filter
from tests.commands import start
from tests.forgetting import Steward
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


async def furnish(board: Blackboard) -> Memory:
    """One of everything that a board can hold; gives a light memory."""
    bob = board.sibling(agent="bob")
    source = await board.put("cases", {"n": 1}, user="u1", tags={"a": "b"}, happened=now())
    await board.revise(source, {"n": 2})
    await board.put("big", ["large"] * 60_000, user="u2")
    await board.put("state.x", "one", key="k")
    await bob.put("state.x", "two", key="k")
    await board.retire(await board.put("notes", "taken back", user="u2"), "wrong")
    moved = await board.put("notes", "moved")
    await board.reclassify(moved, "pii")
    await board.put("notes", "for a while", ttl=timedelta(hours=1))
    return await board.once("summary", await board.get(source), lambda: "of it", topic="notes")


async def told(board: Blackboard) -> list[dict[str, Any]]:
    """All revisions on a board, as what can be compared over boards."""
    found: list[dict[str, Any]] = []
    async with board.replay(">") as memories:
        async for memory in memories:
            revision = memory.revision
            stored = None if memory.stored is None else memory.stored.isoformat("T", "microseconds")
            if memory.origin is not None:
                _, text, stored = memory.origin.split("/")
                revision = int(text)
            found.append(
                {
                    "ref": str(memory.ref),
                    "revision": revision,
                    "stored": stored,
                    **{
                        name: getattr(memory, name)
                        for name in memory.__struct_fields__
                        if name not in {"revision", "stored", "origin", "trace", "blob", "delivery"}
                    },
                }
            )
    return found


async def test_an_imported_board_compares_equal_and_twice_is_once(
    alice: Blackboard, tmp_path: Path
):
    light = await furnish(alice)
    count = len(await told(alice))
    done = await export(alice.log, tmp_path / "out", place="here")
    assert done == Exported(count, 1, 0, done.last)
    copy = alice.sibling(board="copy")
    await copy.put("others", "was here before")

    assert await load(copy.log, tmp_path / "out") == Loaded(stored=count)

    after = await told(copy)
    assert after[1:] == await told(alice)
    assert await load(copy.log, tmp_path / "out") == Loaded(there=count)
    assert len(await told(copy)) == count + 1
    shown = await copy.get(light.ref)
    assert (shown.content, shown.content_of) == ("of it", light.content_of)
    assert (await copy.get(light.pinned)).content == "of it"
    for line in (await told(alice))[:2]:
        pinned = f"{line['ref']}@{line['revision']}"
        assert (await copy.get(pinned)).content == line["content"]
    assert (await copy.get("*/state.x/k")).agent == "bob"
    # Back into the board that it was made from, it changes nothing.
    assert await load(alice.log, tmp_path / "out") == Loaded(kept=count)


async def test_an_import_that_is_killed_goes_on(alice: Blackboard, server: Server, tmp_path: Path):
    contents = [{"n": number, "text": "sunfish " * 40} for number in range(20_000)]
    await alice.put_many("notes", contents)
    await export(alice.log, tmp_path / "out")
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")

    async def begun() -> bool:
        info = await copy.session.connection.stream("MEM_copy")
        return info is not None and info.state.messages > 2_000

    process = start("import", tmp_path / "out", "--board", "copy", "--url", server.url)
    await wait_until(begun, "it is under way", 30)
    process.kill()
    process.communicate()
    info = await copy.session.connection.stream("MEM_copy")
    assert info is not None
    there = info.state.messages - 1
    assert there < 20_000

    assert await load(copy.log, tmp_path / "out") == Loaded(there=there, stored=20_000 - there)

    assert [line["content"] for line in await told(copy)] == ["x", *contents]


async def test_an_export_can_be_narrowed_and_takes_results_along(alice: Blackboard, tmp_path: Path):
    light = await furnish(alice)
    await export(alice.log, tmp_path / "notes", pattern="notes")
    await export(alice.log, tmp_path / "user", where=Filter(users=("u2",)))
    notes, user = alice.sibling(board="notes"), alice.sibling(board="user")
    for board, name in ((notes, "notes"), (user, "user")):
        await board.put("others", "x")
        await load(board.log, tmp_path / name)

    topics = {line["topic"] for line in await told(notes)}
    assert topics == {"others", "notes", "once.summary"}
    assert (await notes.get(light.ref)).content == "of it"
    live = [line for line in await told(user) if line["gone"] is None]
    assert {line["topic"] for line in live} == {"others", "big", "notes"}
    assert {line["user"] for line in live} == {None, "u2"}


async def test_an_interrupted_export_goes_on_and_is_not_imported_before(
    alice: Blackboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules["blackboard.archive.export"], "LINES", 100)
    await alice.put_many("notes", [str(number) for number in range(1_000)])
    out = tmp_path / "out"
    (out / "blobs").mkdir(parents=True)
    whole = await export(alice.log, tmp_path / "whole")
    assert whole.lines == 1_000
    # What a process that died had left: three files, and the manifest that names them.
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    manifest |= {"complete": False, "pieces": manifest["pieces"][:3], "position": 300}
    (out / "manifest.json").write_text(json.dumps(manifest))
    for piece in manifest["pieces"]:
        shutil.copy(tmp_path / "whole" / piece["name"], out)
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")
    with pytest.raises(InvalidError, match="not complete"):
        await load(copy.log, out)

    assert await export(alice.log, out) == Exported(1_000, 0, 300, whole.last)

    assert await load(copy.log, out) == Loaded(stored=1_000)
    with pytest.raises(SettingsError, match="complete export"):
        await export(alice.log, out)


async def test_what_the_board_forgot_stays_forgotten(
    alice: Blackboard, steward: Steward, tmp_path: Path
):
    source = await alice.put("cases", "secret", user="u1")
    made = await alice.put("notes", "of the secret", sources=[source])
    await alice.put("notes", "sunfish")
    await export(alice.log, tmp_path / "out", place="the vault")
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")
    await load(copy.log, tmp_path / "out")

    receipt = await alice.forget(user="u1")
    assert [text for text in receipt.elsewhere if "the vault" in text]
    await copy.forget(user="u1")

    for board in (alice, copy):
        done = await load(board.log, tmp_path / "out")
        assert (done.stored, done.forgotten) == (0, 2)
        for ref in (source, made):
            with pytest.raises(GoneError):
                await board.get(ref)


# Damaged and hostile archives


def change(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the first line of an archive, with checksums to fit."""
    path = directory / "memories-000000.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    line = json.loads(lines[0])
    edit(line)
    lines[0] = json.dumps(line).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["pieces"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


def described(directory: Path, **fields: Any) -> None:
    """Change the manifest."""
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | fields))


def piece(directory: Path, **fields: Any) -> None:
    """Change what the manifest says of the first file of lines."""
    first, *rest = json.loads((directory / "manifest.json").read_text())["pieces"]
    described(directory, pieces=[first | fields, *rest])


def deep(directory: Path) -> None:
    """Put a payload into the first line that is nested more deeply than can be read."""
    change(directory, lambda line: line.update(payload={"content": "@"}))
    path = directory / "memories-000000.ndjson"
    body = path.read_bytes().replace(b'"@"', b"[" * 100_000 + b"]" * 100_000, 1)
    path.write_bytes(body)
    piece(directory, sha256=hashlib.sha256(body).hexdigest())


def linked(path: Path, target: Path | None = None) -> None:
    """Put a link in place of a file: to another, or to the same content elsewhere."""
    if target is None:
        target = path.rename(path.parents[2] / "elsewhere")
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "cut": lambda out: (out / "memories-000000.ndjson").write_bytes(b""),
    "a path": lambda out: piece(out, name="../../etc/passwd"),
    "an absolute path": lambda out: piece(out, name="/etc/passwd"),
    "no manifest": lambda out: (out / "manifest.json").write_text("{}"),
    "a lost blob": lambda out: next((out / "blobs").iterdir()).unlink(),
    "a changed blob": lambda out: next((out / "blobs").iterdir()).write_bytes(b"[]"),
    "another's memory": lambda out: change(out, lambda line: line.update(agent="eve")),
    "a wildcard": lambda out: change(out, lambda line: line.update(access="*")),
    "a reference": lambda out: change(out, lambda line: line.update(ref="a/b/../c")),
    "a foreign blob": lambda out: change(out, lambda line: line.update(blob="../../x")),
    "an origin": lambda out: change(out, lambda line: line.update(origin="x\r\nNats-TTL: 1")),
    "a huge line": lambda out: change(out, lambda line: line.update(reason="x" * 2_000_000)),
    "a payload": lambda out: change(out, lambda line: line.update(payload={"sources": "x"})),
    "a deep payload": deep,
    "a huge number": lambda out: change(out, lambda line: line.update(revision=2**64)),
    "no revision": lambda out: change(out, lambda line: line.update(revision=-1)),
    "another zone": lambda out: change(out, lambda line: line.update(stored="2026-01-01T00:00:00")),
    "a pinned name": lambda out: change(out, lambda line: line.update(ref=f"{line['ref']}@7")),
    "a foreign source": lambda out: change(
        out, lambda line: line.update(payload={"sources": ["a/b/../../c"]})
    ),
    "a foreign board": lambda out: described(out, board="*.>"),
    "another version": lambda out: described(out, format=2),
    "fewer lines": lambda out: piece(out, lines=1),
    "a huge file": lambda out: os.truncate(out / "memories-000000.ndjson", 80 * 1024 * 1024),
    "a huge manifest": lambda out: os.truncate(out / "manifest.json", 20 * 1024 * 1024),
    "an endless manifest": lambda out: linked(out / "manifest.json", Path("/dev/zero")),
    "a pipe": lambda out: piped(out / "manifest.json"),
    "a linked blob": lambda out: linked(next((out / "blobs").iterdir())),
    "a header": lambda out: change(out, lambda line: line.update(cause="x\r\nBb-Gone: forgotten")),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_damaged_or_hostile_archive_is_refused_and_changes_nothing(
    alice: Blackboard, tmp_path: Path, name: str
):
    await furnish(alice)
    out = tmp_path / "out"
    await export(alice.log, out)
    HOSTILE[name](out)
    copy = alice.sibling(board="copy")
    await copy.put("others", "x")

    with pytest.raises(BlackboardError):
        await load(copy.log, out)

    assert len(await told(copy)) == 1


async def test_a_link_in_an_archive_is_not_followed(alice: Blackboard, tmp_path: Path):
    await furnish(alice)
    out = tmp_path / "out"
    await export(alice.log, out)
    path = out / read_manifest(out).pieces[0].name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidError, match="no plain file"):
        await load(alice.sibling(board="copy").log, out)
