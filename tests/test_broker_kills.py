"""SIGKILL of the broker under load: what was acknowledged is there, and everyone goes on.

Real writers and readers, each in a process of its own; nobody of them is told of the kills.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from blackboard import Blackboard, Memory
from tests.children import children
from tests.programs.kill_writer import BATCH
from tests.servers import Server

KILLS = 5
NEW = ("load.new", "load.many")
"""What is written here has one revision each, so the broker keeps it all."""
LIMIT_S = 10.5
"""The time limit of a write, and a little for a busy machine."""


async def kill_and_start(server: Server) -> None:
    server.kill()
    await anyio.to_thread.run_sync(server.start)


def acknowledged(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in said if "revision" in line]


def writes_of_every_kind(before: int) -> Any:
    """All four kinds of writing went on behind what was said before."""

    def wrote(said: list[dict[str, Any]]) -> bool:
        topics = {line["topic"] for line in acknowledged(said[before:])}
        return topics == {"load.new", "load.many", "load.chain", "load.count"}

    return wrote


async def stored(board: Blackboard) -> list[Memory]:
    async with board.replay("load.>") as memories:
        return [memory async for memory in memories]


@pytest.mark.timeout(120)
async def test_the_broker_is_killed_five_times_under_write_load(server: Server, tmp_path: Path):
    async with Blackboard.open(server.url, agent="judge") as board:
        with children(tmp_path) as start:
            early = start("kill_reader", "early", url=server.url, agent="early")
            await early.until(lambda said: said, "follows")
            writers = [
                start("kill_writer", f"w{n}", url=server.url, agent=f"agent-{n % 2}", name=f"w{n}")
                for n in range(4)
            ]
            for writer in writers:
                await writer.until(writes_of_every_kind(0), "writes")
            late = start("kill_reader", "late", url=server.url, agent="late")
            await late.until(lambda said: said, "follows")

            for _ in range(KILLS):
                counts = [len(writer.said()) for writer in writers]
                await kill_and_start(server)
                for writer, count in zip(writers, counts, strict=True):
                    await writer.until(writes_of_every_kind(count + 200), "writes on by itself")

            for writer in writers:
                writer.terminate()
            said = {writer.name: await writer.ended() for writer in writers}
            await board.put("load.end", "end", key="end")
            seen = [await reader.ended() for reader in (early, late)]
        memories = await stored(board)

    check_writes(said, memories)
    check_reading(seen[0], memories, whole=True)
    check_reading(seen[1], memories, whole=False)


def check_writes(said: dict[str, list[dict[str, Any]]], memories: list[Memory]) -> None:
    by_revision = {memory.revision: memory for memory in memories}
    newest = {str(memory.ref.unpinned): memory for memory in memories}
    every = [line for lines in said.values() for line in lines]
    unsure = Counter(line["unavailable"] for line in every if "unavailable" in line)
    assert all(line["after"] < LIMIT_S for line in every if "unavailable" in line)

    acks = [line for line in acknowledged(every) if line["topic"] in NEW]
    lost = [ack for ack in acks if ack["revision"] not in by_revision]
    assert lost == []
    assert all(by_revision[ack["revision"]].content == ack["content"] for ack in acks)
    assert len({ack["revision"] for ack in acks}) == len(acks)

    once = [memory for memory in memories if memory.topic in NEW]
    assert Counter(Counter(str(memory.content) for memory in once).values()).keys() == {1}
    batches = Counter(str(m.content).rpartition("-")[0] for m in once if m.topic == "load.many")
    assert set(batches.values()) == {BATCH}
    assert len(acks) <= len(once) <= len(acks) + unsure["_new"] + BATCH * unsure["_many"]

    counted = [line["content"] for line in acknowledged(every) if line["topic"] == "load.count"]
    assert len(set(counted)) == len(counted), "an acknowledged increment was lost"
    total = int(newest["*/load.count/n"].content)
    assert len(counted) <= total <= len(counted) + unsure["_count"]

    for name, lines in said.items():
        chain = [line for line in acknowledged(lines) if line["topic"] == "load.chain"]
        assert newest[f"*/load.chain/chain-{name}"].revision >= chain[-1]["revision"]


def check_reading(lines: list[dict[str, Any]], memories: list[Memory], *, whole: bool) -> None:
    """Check what a reader saw; `whole`: its live watcher was there before the first write."""
    once = [memory.revision for memory in memories if memory.topic in NEW]
    for name in ("history", "live"):
        revisions = [line["revision"] for line in lines if line.get("saw") == name]
        assert revisions == sorted(set(revisions)), "a duplicate, or out of order"
        expected = once
        if name == "live" and not whole:
            expected = [revision for revision in once if revision >= revisions[0]]
        seen = set(revisions)
        assert [revision for revision in expected if revision not in seen] == [], "a gap"
    newest = {str(memory.ref.unpinned): memory.revision for memory in memories}
    assert [line["view"] for line in lines if "view" in line] == [newest]
