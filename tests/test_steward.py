import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from blackboard import Blackboard, Ref, clock
from blackboard.blobs import store_blob
from blackboard.envelope import Write
from blackboard.errors import (
    GoneError,
    HistoryGoneError,
    SettingsError,
)
from blackboard.jetstream import Message, Outgoing, Start, follow
from blackboard.journal import read_audit
from blackboard.messages import Blob
from blackboard.records import AuditEvent
from blackboard.steward import Swept, sweep
from blackboard.steward.chunks import Chunks
from blackboard.steward.tombstones import Tombstones
from blackboard.subjects import blob_subject
from tests.servers import Server
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
BIG = "x" * 700_000  # two chunks
DAY = timedelta(days=1)
Run = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    @contextmanager
    def start(*arguments: str) -> Generator["subprocess.Popen[bytes]"]:
        with (tmp_path / "steward.log").open("ab") as log:
            steward = subprocess.Popen(
                [sys.executable, "-P", "-m", "blackboard.steward", *arguments],
                env={"BLACKBOARD_URL": server.url, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        try:
            yield steward
        finally:
            steward.kill()
            steward.wait()

    return start


def later(**ahead: float) -> Callable[[], datetime]:
    return lambda: clock.now() + timedelta(**ahead)


async def clean(
    board: Blackboard, *, now: Callable[[], datetime] = clock.now, grace: timedelta = DAY
) -> Swept:
    steward = board.sibling(agent="steward")
    return await sweep(steward.log, steward.journal, grace=grace, now=now)


async def bury(board: Blackboard, ref: Ref, gone: str = "forgotten", agent: str = "alice") -> int:
    head = await board.log.head(ref.unpinned)
    assert head is not None
    write = Write(
        ref=ref.unpinned, access=head.access, agent=agent, expected=head.revision, gone=gone
    )
    return await board.log.append(write)


async def messages(board: Blackboard, subject: str = "mem.b.>") -> list[Message]:
    found: list[Message] = []
    stream = f"{subject.partition('.')[0].upper()}_b"
    async with follow(board.session.connection, stream, subject, Start.all()) as follower:
        while follower.pending:
            message = await follower.step()
            if message is not None:
                found.append(message)
    return found


async def kept(board: Blackboard) -> list[int]:
    return [message.sequence for message in await messages(board)]


async def events(board: Blackboard, agent: str = "steward") -> list[AuditEvent]:
    stored = await messages(board, f"audit.b.{agent}")
    return [e for message in stored for e in read_audit(message.subject, message.data).events]


def written(ref: Ref) -> int:
    assert ref.written is not None
    return ref.written


# Retired


async def test_a_retired_memory_is_kept_through_the_grace_period_and_deleted_after_it(
    alice: Blackboard,
):
    first = await alice.put("notes", "one")
    second = await alice.revise(first, "two")
    other = await alice.put("notes", "another")
    tombstone = await alice.retire(first, "wrong")

    assert await clean(alice, now=later(hours=23.9)) == Swept(0, 0)
    assert (await alice.get(first.pinned())).content == "one"

    assert await clean(alice, now=later(hours=24.1)) == Swept(2, 0)
    connection = alice.session.connection
    assert await connection.at_sequence("MEM_b", written(first)) is None
    assert await connection.at_sequence("MEM_b", written(second)) is None
    assert await kept(alice) == [written(other), written(tombstone)]
    with pytest.raises(HistoryGoneError):
        await alice.get(first.pinned())
    with pytest.raises(GoneError) as gone:
        await alice.get(first)
    assert gone.value.reason == "retired"
    with pytest.raises(GoneError):
        await alice.undo(first)


async def test_a_memory_that_came_back_keeps_its_history(alice: Blackboard):
    first = await alice.put("notes", "one")
    await alice.revise(first, "two")
    await alice.retire(first)
    undone = await alice.undo(first)

    assert await clean(alice, now=later(days=3)) == Swept(0, 0)
    assert (await alice.get(first)).content == "two"
    assert (await alice.get(first.pinned())).content == "one"

    last = await alice.retire(first)
    assert await clean(alice, now=later(days=3)) == Swept(3, 0)
    assert written(undone) not in await kept(alice)
    assert written(last) in await kept(alice)


async def test_a_retired_memory_that_came_back_for_a_while_is_deleted_when_that_ends(
    alice: Blackboard,
):
    key = await alice.put("notes", "one", key="k")
    tombstone = await alice.retire(key)
    await alice.put("notes", "two", key="k", ttl=timedelta(seconds=1))
    ahead = 2 * DAY
    steward = Tombstones(alice.log, alice.journal, grace=DAY, now=lambda: clock.now() + ahead)
    await steward.catch_up()
    assert steward.deleted == 0

    async def expired() -> bool:
        return written(tombstone) == (await kept(alice))[-1]

    await wait_until(expired, "the later revision expires")
    await steward.tend()
    assert steward.deleted == 0  # not looked at again yet
    ahead = 3 * DAY
    await steward.tend()

    assert steward.deleted == 1
    assert await kept(alice) == [written(tombstone)]


# Forgotten and moved


async def test_what_was_forgotten_is_deleted_at_once_and_what_came_after_stays(alice: Blackboard):
    bob = alice.sibling(agent="bob")
    one = await alice.put("state.x", "one", key="k")
    two = await bob.put("state.x", "two", key="k")
    tombstone = await bury(alice, one)
    # The same subject as the tombstone's: the newest of each subject would not show it.
    again = await alice.put("state.x", "again", key="k")
    more = await bob.put("state.x", "more", key="k")

    assert await clean(alice) == Swept(2, 0)

    assert await kept(alice) == [tombstone, written(again), written(more)]
    for ref in (one, two):
        with pytest.raises(HistoryGoneError):
            await alice.get(ref.pinned())
    assert (await alice.get(one)).content == "more"
    assert (await alice.get(again.pinned())).content == "again"
    assert await clean(alice) == Swept(0, 0)


async def test_what_was_forgotten_is_gone_from_the_disk(alice: Blackboard, server: Server):
    ref = await alice.put("notes", "swordfish")
    big = await alice.put("notes", ["swordfish"] * 60_000)
    other = await alice.put("notes", "sunfish")
    assert found_on_disk(server, b"swordfish")
    await bury(alice, ref)
    await bury(alice, big)

    assert await clean(alice, now=later(hours=25)) == Swept(2, 2)

    assert not found_on_disk(server, b"swordfish")
    assert found_on_disk(server, b"sunfish")
    assert (await alice.get(other)).content == "sunfish"


def found_on_disk(server: Server, word: bytes) -> bool:
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    return any(word in path.read_bytes() for path in files)


async def test_a_moved_memory_leaves_nothing_under_its_old_label(alice: Blackboard):
    bob = alice.sibling(agent="bob")
    mine = await alice.put("notes", "mine")
    mine_too = await alice.revise(mine, "mine too")
    await alice.put("notes", "ours", key="k")
    ours = await bob.put("notes", "ours too", key="k")
    moved_mine = await alice.reclassify(mine, "pii")
    moved_ours = await alice.reclassify(ours, "pii")
    back = await alice.reclassify(moved_ours, "shared")

    swept = await clean(alice)

    assert swept == Swept(5, 0)
    bodies = {message.sequence: message for message in await messages(alice) if message.data}
    assert set(bodies) == {written(moved_mine), written(back)}
    assert (await alice.get(mine)).content == "mine too"
    assert (await alice.get(mine)).access == "pii"
    assert (await alice.get(ours)).content == "ours too"
    tombstones = [message for message in await messages(alice) if not message.data]
    assert len(tombstones) == 3  # readers of one label each need the one that lies under it
    with pytest.raises(HistoryGoneError):
        await alice.get(mine_too.pinned())


async def test_the_projection_shows_the_deletion(alice: Blackboard):
    connection = alice.session.connection
    subject = "$KV.state_b.x.k"
    bob = alice.sibling(agent="bob")
    ref = await alice.put("state.x", "one", key="k")
    await bob.put("state.x", "two", key="k")

    async def last() -> Message | None:
        return await connection.last("KV_state_b", subject)

    async def filled() -> bool:
        message = await last()
        return message is not None and b"two" in message.data

    async def deleted() -> bool:
        message = await last()
        return message is not None and message.headers.get("KV-Operation") == "DEL"

    await wait_until(filled, "the projection has the value")
    await alice.retire(ref)
    assert (await clean(alice, now=later(hours=25))).revisions == 2

    await wait_until(deleted, "the projection has the deletion")
    message = await last()
    assert message is not None
    assert not message.data


# Who is not to be trusted


async def test_foreign_and_forged_messages_do_no_harm_and_hide_nothing(alice: Blackboard):
    connection = alice.session.connection
    victim = await alice.put("notes", "keep me", key="k")
    mine = await alice.put("notes", "keep me too")
    doomed = await alice.put("notes", "delete me")
    gone = {"Bb-Gone": "forgotten"}
    place = f"mem.b.shared.alice.notes.{mine.id}"
    forged = [
        Outgoing("mem.b.shared.eve.*.*", b"", {**gone, "Bb-Agent": "eve"}),
        Outgoing("mem.b.shared.*.notes.k", b"", {**gone, "Bb-Agent": "*"}),
        Outgoing("mem.b.shared.eve.>", b"", {**gone, "Bb-Agent": "eve"}),
        Outgoing("mem.b.shared.eve.notes.*", b"", {**gone, "Bb-Agent": "eve"}),
        Outgoing(place, b"", {**gone, "Bb-Agent": "eve"}),
        Outgoing(place, b"", gone),
        Outgoing(place, b"", {"Bb-Gone": "whatever", "Bb-Agent": "alice"}),
        Outgoing(place, b"", {**gone, "Bb-Agent": "alice", "Nats-Stream": "MEM_b"}),
        Outgoing("mem.b.short", b"", gone),
        Outgoing("mem.b.shared.eve.notes.x", b"\xff\xfe{", {"Bb-Agent": "eve", "Bb-Expires": "no"}),
        Outgoing("mem.b.shared.eve.notes.y", b'{"blob": 7}'),
        Outgoing("claim.b.shared.eve.h-1", b"", gone),
    ]
    for message in forged:
        await connection.publish(message)
    await bury(alice, doomed)
    # On top of a tombstone, what is no memory does not bring one back.
    retired = await alice.retire(await alice.put("notes", "delete me too"))
    await connection.publish(Outgoing(f"mem.b.shared.alice.notes.{retired.id}", b"{}"))

    assert await clean(alice, now=later(days=2)) == Swept(2, 0)

    assert {written(victim), written(mine)} < set(await kept(alice))


# What cannot be deleted


async def test_a_tombstone_is_renewed_while_the_broker_refuses_to_delete(alice: Blackboard):
    connection = alice.session.connection
    ref = await alice.put("notes", "secret", key="k")
    tombstone = await bury(alice, ref)
    moved = await alice.put("notes", "moved")
    await alice.reclassify(moved, "pii")
    info = await connection.stream("MEM_b")
    assert info is not None
    await connection.api("STREAM.UPDATE.MEM_b", {**info.config, "deny_delete": True})

    assert await clean(alice) == Swept(0, 0)
    assert (await kept(alice))[-1] == written(moved) + 2  # young: nothing was renewed
    assert await clean(alice, now=later(days=81)) == Swept(0, 0)

    head = await alice.log.head(ref)
    assert head is not None
    assert head.revision > tombstone
    assert (head.gone, head.agent) == ("forgotten", "alice")
    renewed = await connection.at_sequence("MEM_b", head.revision)
    assert renewed is not None
    assert renewed.headers["Bb-By"] == "steward"
    assert (await alice.get(moved)).content == "moved"  # under its tombstone the copy would be gone
    with pytest.raises(GoneError):
        await alice.get(ref)


@pytest.mark.parametrize("grace", [timedelta(days=90), timedelta(seconds=-1)])
async def test_a_grace_period_that_outlives_its_tombstone_is_refused(
    alice: Blackboard, grace: timedelta
):
    with pytest.raises(SettingsError, match="grace period"):
        await sweep(alice.log, alice.journal, grace=grace)


# Chunks


async def chunks_of(board: Blackboard, blob: Blob, access: str = "shared") -> int:
    return len(await messages(board, blob_subject("b", access, blob.agent, blob.id, "*")))


async def blob_of(board: Blackboard, ref: Ref) -> Blob:
    head = await board.log.head(ref)
    assert head is not None
    assert head.blob is not None
    return head.blob


async def test_chunks_that_no_memory_names_go_after_a_day_and_the_others_stay(alice: Blackboard):
    named = await alice.put("big", BIG)
    revised = await alice.put("big", BIG)
    older = await blob_of(alice, revised)
    await alice.revise(revised, "small")
    orphan = await store_blob(alice.log, "shared", BIG.encode())
    await alice.session.connection.publish(Outgoing("blob.b.nonsense", b"x"))
    # A blob of the same name under another label is another blob.
    await alice.session.connection.publish(
        Outgoing(f"blob.b.pii.alice.{(await blob_of(alice, named)).id}.0", b"x")
    )

    assert await clean(alice, now=later(hours=23.9)) == Swept(0, 0)
    assert await clean(alice, now=later(hours=24.1)) == Swept(0, 4)

    assert await chunks_of(alice, orphan) == 0
    assert await chunks_of(alice, older) == 2
    assert len(await messages(alice, "blob.b.>")) == 4
    assert (await alice.get(named)).content == BIG
    assert (await alice.get(revised.pinned())).content == BIG


async def test_a_chunk_that_is_still_young_stays(alice: Blackboard):
    old = await store_blob(alice.log, "shared", BIG.encode())
    between = clock.now()
    young = await store_blob(alice.log, "shared", BIG.encode())

    assert await clean(alice, now=lambda: between + DAY) == Swept(0, 2)

    assert await chunks_of(alice, old) == 0
    assert await chunks_of(alice, young) == 2


async def test_chunks_are_lost_when_the_last_revision_that_named_them_is(alice: Blackboard):
    chunks = Chunks(alice.log, alice.journal, age=DAY, now=later(days=1.5))
    ref = await alice.put("big", BIG)
    blob = await blob_of(alice, ref)
    await chunks.collect()
    await chunks.collect()
    assert await chunks_of(alice, blob) == 2

    await bury(alice, ref)
    await clean(alice)
    await chunks.collect()
    assert chunks.deleted == 0  # somebody may be about to name them again
    await chunks.collect()

    assert chunks.deleted == 2
    assert await chunks_of(alice, blob) == 0


async def test_a_retired_memory_keeps_its_chunks_until_it_is_deleted(alice: Blackboard):
    back = await alice.put("big", BIG)
    lost = await alice.put("big", BIG)
    blob = await blob_of(alice, lost)
    await alice.retire(back)
    await alice.retire(lost)
    assert await clean(alice, grace=2 * DAY, now=later(days=1.5)) == Swept(0, 0)
    await alice.undo(back)
    assert (await alice.get(back)).content == BIG

    assert await clean(alice, now=later(days=1.5)) == Swept(1, 2)

    assert await chunks_of(alice, blob) == 0
    assert (await alice.get(back)).content == BIG


# Several, and the audit


async def test_two_stewards_at_once_delete_and_note_everything_once(alice: Blackboard):
    refs = await alice.put_many("notes", [str(number) for number in range(40)])
    for ref in refs:
        await bury(alice, ref)
    orphan = await store_blob(alice.log, "shared", BIG.encode())
    found: list[Swept] = []

    async def work(agent: str) -> None:
        steward = alice.sibling(agent=agent)
        found.append(await sweep(steward.log, steward.journal, now=later(days=2)))
        await steward.journal.flush()

    async with anyio.create_task_group() as group:
        group.start_soon(work, "steward")
        group.start_soon(work, "steward2")

    assert sum(swept.revisions for swept in found) == 40
    assert sum(swept.chunks for swept in found) == 2
    noted = await events(alice) + await events(alice, "steward2")
    expected = {(str(ref), ref.written) for ref in refs}
    assert {(e.what, e.revision) for e in noted if "/" in e.what} == expected
    assert len(noted) == 42
    assert {e.act for e in noted} == {"delete"}
    assert {e.what.rsplit(".", 1)[0] for e in noted if "/" not in e.what} == {
        f"blob.b.shared.alice.{orphan.id}"
    }


# The service


async def gone_from(board: Blackboard, revision: int) -> None:
    async def gone() -> bool:
        connection = board.session.connection
        return await connection.at_sequence(board.log.stream, revision) is None

    await wait_until(gone, f"revision {revision} of board {board.name} is deleted")


async def test_the_service_tends_boards_that_come_and_go(alice: Blackboard, run: Run):
    with run() as steward:
        before = await alice.put("notes", "one")
        await bury(alice, before)
        await gone_from(alice, written(before))

        for content in ("made later", "made anew"):
            other = alice.sibling(board="later")
            ref = await other.put("notes", content)
            await bury(other, ref)
            await gone_from(other, written(ref))
            # Alone, so that the next look finds the board made anew and not missing.
            await alice.session.connection.delete_stream("MEM_later")

        start = anyio.current_time()
        ref = await alice.put("notes", "quick")
        await bury(alice, ref)
        await gone_from(alice, written(ref))
        assert anyio.current_time() - start < 3

        noted = await wait_for_events(alice, 2)
        assert {(e.act, e.agent) for e in noted} == {("delete", "steward")}
        start = anyio.current_time()
        steward.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(steward.wait) == 0
        assert anyio.current_time() - start < 3


async def wait_for_events(board: Blackboard, count: int) -> list[AuditEvent]:
    async def enough() -> bool:
        return len(await events(board)) >= count

    await wait_until(enough, f"{count} audit events")
    return await events(board)


async def test_the_service_outlives_the_broker(alice: Blackboard, server: Server, run: Run):
    with run() as steward:
        ref = await alice.put("notes", "before")
        await bury(alice, ref)
        await gone_from(alice, written(ref))

        server.kill()
        server.start()
        ref = await alice.put("notes", "after")
        await bury(alice, ref)
        await gone_from(alice, written(ref))

        server.kill()
        start = anyio.current_time()
        steward.terminate()
        assert await anyio.to_thread.run_sync(steward.wait) == 0
        assert anyio.current_time() - start < 3


async def test_a_steward_killed_in_mid_pass_leaves_nothing_that_the_next_does_not_finish(
    alice: Blackboard, run: Run
):
    refs = await alice.put_many("notes", ["secret"] * 300)
    for ref in refs:
        await alice.log.append(
            Write(ref=ref, access="shared", agent="alice", expected=written(ref), gone="forgotten")
        )

    async def begun() -> bool:
        info = await alice.session.connection.stream("MEM_b")
        return info is not None and info.state.messages < 570

    with run() as steward:
        await wait_until(begun, "the steward deletes")
        steward.kill()
        steward.wait()
    left = len([message for message in await messages(alice) if message.data])
    assert 0 < left < 300

    assert await clean(alice) == Swept(left, 0)
    assert not [message for message in await messages(alice) if message.data]
    for ref in refs[:3]:
        with pytest.raises(GoneError):
            await alice.get(ref.pinned())


async def test_the_local_stack_has_a_steward(data_dir: Path):
    async with Blackboard.local(data_dir, board="b", agent="alice") as alice:
        ref = await alice.put("notes", "one")
        await bury(alice, ref)

        await gone_from(alice, written(ref))


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--grace-hours", "2161"), b"grace period"), ((), b"BLACKBOARD_URL")]
)
def test_settings_that_cannot_be_used_end_the_service(
    server: Server, arguments: tuple[str, ...], words: bytes
):
    url = {"BLACKBOARD_URL": server.url} if arguments else {}
    done = subprocess.run(
        [sys.executable, "-m", "blackboard.steward", *arguments],
        env={**url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=10,
        check=False,
    )

    assert done.returncode == 2
    assert words in done.stderr
    assert b"Traceback" not in done.stderr
