"""After `forget` no byte of a secret is left in any file, whatever kind of store it lay in."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import GoneError, HistoryGoneError, NotFoundError
from blackboard.jetstream import Outgoing
from blackboard.runtime.dead import bury, list_dead
from blackboard.subjects import claim_subject
from tests.forgetting import Steward, files_with
from tests.servers import Server
from tests.waiting import wait_until

SECRETS = [f"planted-{number}-7c1f" for number in range(12)]


async def plant(board: Blackboard) -> list[Ref]:
    """A secret in every place where content of a memory can lie."""
    source = await board.put("cases", SECRETS[0], user="u1", tags={"note": SECRETS[1]})
    await board.revise(source, SECRETS[2])
    big = await board.put("cases", [SECRETS[3]] * 60_000, user="u1", text=SECRETS[4])
    key = await board.put("state.cases", SECRETS[5], key="k", user="u1")
    await board.put("state.cases", SECRETS[6], key="k", user="u1")
    result = await board.once(
        "summary", await board.get(source), lambda: f"of {SECRETS[7]}", topic="notes"
    )
    retired = await board.put("cases", "x", user="u1")
    await board.retire(retired, SECRETS[8])
    moved = await board.put("cases", SECRETS[9], user="u1")
    await board.reclassify(moved, "pii")
    memory = await board.get(source)
    await bury(board.log, "summarize", "1", memory, ValueError(SECRETS[10]), occasion="run1")
    record = Outgoing(
        claim_subject(board.name, "shared", "alice", f"o-{_id(result)}"),
        msgspec.json.encode({"holder": "x", "until": "2030-01-01T00:00:00Z", "error": SECRETS[11]}),
        {"Bb-Agent": "alice"},
    )
    await board.session.connection.publish(record)
    await board.journal.flush()
    return [source, big, key, result.ref, retired, moved]


def _id(result: Memory) -> str:
    assert result.content_of is not None
    return result.content_of.id


def found(directory: Path) -> dict[str, list[str]]:
    every = {secret: files_with(directory, secret) for secret in SECRETS}
    return {secret: files for secret, files in every.items() if files}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
async def test_no_file_holds_a_byte_of_it(
    server: Server,
    steward: Steward,
    compressed: bool,  # noqa: FBT001
):
    async with Blackboard.open(server.url, board="b", agent="alice") as alice:
        connection = alice.session.connection
        if compressed:
            for name in ("MEM_b", "BLOB_b", "DEAD_b", "KV_state_b"):
                info = await connection.stream(name)
                assert info is not None
                await connection.api(f"STREAM.UPDATE.{name}", {**info.config, "compression": "s2"})
        keep = await alice.put("notes", "before")
        refs = await plant(alice)
        # So much behind it that its blocks are closed, and compressed.
        filler = [{"n": number, "text": f"{number} sunfish " * 600} for number in range(2_000)]
        kept = await alice.put_many("filler", filler)
        await wait_until(
            lambda: {*SECRETS} - {SECRETS[3]} <= found(server.directory).keys(), "it is on disk"
        )

        receipt = await alice.forget(user="u1", reason="request 881")

        assert receipt.state == "complete", receipt
        await wait_until(lambda: not found(server.directory), f"{found(server.directory)}", 20)
        for ref in refs:
            with pytest.raises((GoneError, NotFoundError, HistoryGoneError)):
                await alice.get(ref)
            with pytest.raises((GoneError, NotFoundError, HistoryGoneError)):
                await alice.get(ref.pinned())
        assert not await list_dead(alice)
        assert (await alice.get(keep)).content == "before"
        assert (await alice.get(kept[-1])).content == filler[-1]
        state = await connection.last("KV_state_b", "$KV.state_b.cases.k")
        assert state is None or not state.data
        removed = {store.what: store.removed for store in receipt.stores}
        assert removed["letters"] == 1
        assert removed["chunks"] == 2
        assert removed["spans"] >= 1

    server.kill()
    server.start()
    assert not found(server.directory)
    async with Blackboard.open(server.url, board="b", agent="alice") as alice:
        assert (await alice.get(kept[0])).content == filler[0]


async def test_a_memory_that_expires_meanwhile_is_erased_all_the_same(
    server: Server, steward: Steward
):
    async with Blackboard.open(server.url, board="b", agent="alice") as alice:
        await alice.put("notes", "other")
        source = await alice.put("cases", SECRETS[0], user="u1", ttl=timedelta(hours=1))
        receipt = await alice.forget(source)
        assert receipt.state == "complete"
        assert not found(server.directory)
