"""Backups: a board comes back as it was, changes only are written, what was forgotten stays so."""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from blackboard import Agent, Blackboard, Memory, Ref
from blackboard.backup import Taken, Vault, hear, restore, take, words_at
from blackboard.backup.format import Backup, kept_streams, seal
from blackboard.clock import now
from blackboard.erasure import verify
from blackboard.errors import (
    GoneError,
    InvalidError,
    NotFoundError,
    SettingsError,
    TerminalError,
    UnavailableError,
)
from blackboard.jetstream import BrokerError, Connection, Start
from blackboard.jetstream.consumer import Durable, consumers
from blackboard.jetstream.packed import Consumed, Record, expand, unpack
from blackboard.layout import RESTORING
from blackboard.ledger.items import Privileged
from blackboard.ledger.verify import verify as ledger_verify
from blackboard.oblivion import Oblivion
from blackboard.session import open_session
from blackboard.settings import Limits, Settings
from tests.clusters import Cluster
from tests.commands import CommandLine
from tests.credentials import BOARD, connected
from tests.forgetting import Steward
from tests.ledger_bench import Bench, grant, read_from
from tests.servers import Server
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
SECRET = "swordfish"  # noqa: S105 - a word to look for


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "backups")


async def saved(board: Blackboard, vault: Vault, **options: Any) -> Taken:
    """A backup, as the command line takes one."""
    return await take(board.sibling(agent="cli").log, vault.directory, place="here", **options)


async def raw(connection: Connection, stream: str, last: int | None = None) -> list[Any]:
    """Every message of a stream as the broker's own interface shows it: headers, time and all."""
    found: list[Any] = []
    sequence = 1
    while True:
        body = {"seq": sequence, "next_by_subj": ">"}
        try:
            answer = json.loads(await connection.api(f"STREAM.MSG.GET.{stream}", body))
        except BrokerError:
            return found
        message = answer["message"]
        if last is not None and message["seq"] > last:
            return found
        found.append(message)
        sequence = message["seq"] + 1


async def everything(connection: Connection, board: str, backup: Backup) -> dict[str, Any]:
    """All streams up to where a backup reaches, and the handlers' consumers."""
    found: dict[str, Any] = {}
    for stream in backup.streams:
        found[stream.name] = await raw(connection, stream.name, stream.reach)
        found[f"{stream.name} consumers"] = [
            (one.name, one.filter, one.ack_floor, one.delivered)
            for one in sorted(await consumers(connection, stream.name), key=lambda one: one.name)
            if one.config.get("durable_name")
        ]
    return found


async def told(board: Blackboard, pattern: str = ">") -> list[Memory]:
    """The history under a pattern."""
    async with board.replay(pattern) as memories:
        return [memory async for memory in memories]


async def furnish(board: Blackboard) -> Memory:
    """One of everything that a board can hold; gives a light memory."""
    bob = board.sibling(agent="bob")
    source = await board.put("cases", {"n": 1}, user="u1", tags={"a": "b"})
    await board.revise(source, {"n": 2})
    await board.put("big", ["large"] * 60_000, user="u2")
    await board.put("state.x", "one", key="k")
    await bob.put("state.x", "two", key="k")
    await board.retire(await board.put("notes", "taken back"), "wrong")
    await board.put_many("many", [f"number {number}" for number in range(50)])
    durable = Durable(board.log.connection, board.log.stream, "alice--read")
    await durable.create(
        "mem.b.*.*.many.*", Start.all(), ack_wait_s=30, max_ack_pending=10, metadata={"v": "1"}
    )
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{board.log.stream}.alice--read"
    inbox = board.connection.new_inbox()
    work = await board.connection.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
    await board.connection.publish(subject, b'{"batch": 3}', reply=inbox)
    for _ in range(3):
        await (await work.next_msg()).ack_sync()
    return await board.once("summary", await board.get(source), lambda: "of it", topic="notes")


async def test_a_restored_board_is_the_same_to_the_byte(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    light = await furnish(alice)
    done = await saved(alice, vault)
    backup = vault.backup()
    before = await everything(alice.log.connection, "b", backup)
    assert done == Taken(
        number=1,
        last=backup.last,
        messages=sum(len(found) for name, found in before.items() if "consumers" not in name),
        bytes=done.bytes,
        written=done.bytes,
        forgotten=0,
    )
    other = start_server()
    async with Connection.open(other.url) as connection:
        again = await restore(connection, vault)
        assert again.messages == done.messages
        assert await everything(connection, "b", backup) == before
    async with Blackboard.open(other.url, board="b", agent="alice", create=False) as board:
        assert (await board.get(light.ref)).content == "of it"

        def fail() -> str:
            raise AssertionError("the result is there")

        source = (await told(board, "cases"))[-1]
        assert source.content == {"n": 2}
        once = await board.once("summary", source, fail, topic="notes")
        assert once.content == "of it"
        assert [one.content for one in await told(board, "big")] == [["large"] * 60_000]
        ref = await board.put("notes", "goes on")
        assert (await board.get(ref)).revision > backup.last
        # The bucket goes on as well.
        await board.put("state.x", "three", key="k")
        kv = "$KV.state_b.x.k"

        async def shown() -> bool:
            found = await board.log.connection.leader_last("KV_state_b", kv)
            return found is not None and b"three" in found.data

        await wait_until(shown, "the bucket shows the newest")


async def test_a_backup_writes_what_changed_and_no_more(
    alice: Blackboard, vault: Vault, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("blackboard.backup.taking.BLOCK_BYTES", 64 * 1024)
    refs = await alice.put_many("docs", [random.randbytes(1024).hex() for _ in range(500)])
    first = await saved(alice, vault)
    assert first.written > 500 * 1024
    await alice.put_many("docs", [random.randbytes(1024).hex() for _ in range(5)])
    second = await saved(alice, vault)
    # The block that was not full, what is new, and the few small streams of what was done.
    assert second.written < 64 * 1024 + 5 * 4096 + 16 * 1024, second
    assert second.bytes > first.bytes

    # One deletion in the middle makes one block new, and the others stay.
    before = {block.name for block in vault.backup().memory.blocks}
    middle = (await alice.get(refs[250])).revision
    assert await alice.log.connection.delete("MEM_b", middle)
    await saved(alice, vault)
    after = {block.name for block in vault.backup().memory.blocks}
    assert len(before - after) == 2  # this one, and the last, which grew

    assert [backup.number for backup in vault.backups()] == [1, 2, 3]
    assert (await saved(alice, vault, keep=2)).number == 4
    assert vault.numbers() == [3, 4]
    named = {block.name for backup in vault.backups() for block in backup.blocks}
    assert {path.name for path in (vault.directory / "blocks").iterdir()} == named
    assert not [one for backup in vault.backups() for one in vault.check(backup)]


async def test_a_backup_of_a_busy_board_is_of_one_moment(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    """Batches are in it whole or not at all, and no handler has acknowledged what it lacks."""
    agent = Agent("doubler")

    @agent.on("numbers", to="doubles", start="start")
    async def double(memory: Memory, _: Blackboard) -> int:
        return memory.content * 2

    async def write() -> None:
        for first in count(step=7):
            await alice.put_many("numbers", list(range(first, first + 7)))

    async with agent.running(alice), anyio.create_task_group() as group:
        group.start_soon(write)

        async def some() -> bool:
            return len(await told(alice, "doubles")) > 20

        await wait_until(some, "the handler works")
        await saved(alice, vault)
        await saved(alice, vault)  # another one finds all of the first as it was
        group.cancel_scope.cancel()
    reach = vault.backup(1).last
    other = start_server()
    async with Connection.open(other.url) as connection:
        await restore(connection, vault, 1)
    async with Blackboard.open(other.url, board="b", agent="alice", create=False) as board:
        numbers = [memory.content for memory in await told(board, "numbers")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) % 7 == 0
        assert max(memory.revision for memory in await told(board)) <= reach

        async def all_doubled() -> bool:
            return len(await told(board, "doubles")) >= len(numbers)

        async with agent.running(board):
            await wait_until(all_doubled, "the handler made up for what was not acknowledged")
        doubles = [memory.content for memory in await told(board, "doubles")]
        assert sorted(doubles) == [number * 2 for number in numbers]


async def test_what_a_ledger_proves_it_proves_after_a_restore(
    bench: Bench, vault: Vault, start_server: Callable[..., Server]
):
    """The public key is enough; who goes on signing needs the key file."""
    await grant(bench, "alice", "docs.>")
    revision = await bench.put(bench.operator, "cli", "docs.a")
    async with bench.kept(), bench.agent("alice") as alice:
        for _ in range(3):
            await alice.request(read_from("alice", "docs.a", author="cli"))

        async def recorded() -> bool:
            return await bench.reads() >= 3

        await wait_until(recorded, "the reads are in the chain")
    proved = await bench.verified()
    assert not proved.findings
    settings = Settings(url=bench.server.url, credentials=bench.people.path("cli"))
    async with open_session(settings, BOARD, "cli", limits=Limits(), create=False) as session:
        await take(session.desk(BOARD, "cli").log, vault.directory)

    other = start_server(extra=bench.people.configuration)
    async with connected(other, bench.people.identity("cli")) as operator:
        await restore(operator, vault)
        again = await ledger_verify(operator, BOARD, key=proved.key)
        assert not again.findings, again.findings
        assert (again.records, again.reads) == (proved.records, proved.reads)
    async with connected(other, bench.people.identity("steward")) as operator:
        moved = Bench(other, bench.folder, bench.people)
        moved.operator = operator
        # Its steward goes on with the chain, and the board takes what agents write.
        async with moved.kept() as ledger:
            await ledger.noted(Privileged(agent="cli", act="restore", what="b", at=now()))
        assert await moved.put(operator, "cli", "docs.a") > revision
        done = await moved.verified(key=proved.key)
        assert not done.findings, done.findings
        assert done.last > proved.last


async def test_a_board_comes_back_on_three_servers(
    alice: Blackboard, vault: Vault, cluster: Cluster
):
    await furnish(alice)
    await saved(alice, vault)
    before = await everything(alice.log.connection, "b", vault.backup())
    async with Connection.open(cluster.url) as connection:
        await restore(connection, vault, replicas=3)
        assert await everything(connection, "b", vault.backup()) == before
        for name in before:
            info = None if " " in name else await connection.stream(name)
            assert info is None or len(info.cluster.replicas) == 2
    copy = Vault(vault.directory.with_name("copy"))
    async with Blackboard.open(cluster.url, board="b", agent="cli", create=False) as board:
        await board.put("docs", "x")
        await take(board.log, copy.directory)
        assert [one.content for one in await told(board, "docs")] == ["x"]
    # What is backed up there is the same board, for backups of before as well.
    assert copy.backup().is_of([vault.backup().created])


# Interrupted


def killed(what: str, url: str, vault: Vault, step: int) -> int | None:
    """Run it until that step; its steps when it came to its end."""
    program = ROOT / "tests" / "programs" / "killed_backup.py"
    done = subprocess.run(
        [sys.executable, str(program), what, url, str(vault.directory), str(step)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


async def test_a_killed_backup_leaves_the_earlier_ones_whole(alice: Blackboard, vault: Vault):
    await furnish(alice)
    await saved(alice, vault)
    first = vault.backup()
    step = 1
    while True:
        await alice.put("more", random.randbytes(50).hex())
        if await anyio.to_thread.run_sync(killed, "backup", alice.url, vault, step) is not None:
            break
        assert vault.backup(1) == first
        assert not [one for backup in vault.backups() for one in vault.check(backup)]
        step += 3
    assert step > 6
    await saved(alice, vault)
    named = {block.name for backup in vault.backups() for block in backup.blocks}
    assert {path.name for path in (vault.directory / "blocks").iterdir()} == named


async def test_a_killed_restore_is_no_board_and_can_be_done_again(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    await furnish(alice)
    await saved(alice, vault)
    backup = vault.backup()
    before = await everything(alice.log.connection, "b", backup)
    other = start_server()
    async with Connection.open(other.url) as connection:
        steps = await anyio.to_thread.run_sync(killed, "restore", other.url, vault, 10_000)
        assert steps is not None
        assert await everything(connection, "b", backup) == before
        for stream in kept_streams("b"):
            await connection.delete_stream(stream)

        for number, step in enumerate(range(steps - 1, 1, -steps // 5)):
            await anyio.to_thread.run_sync(killed, "restore", other.url, vault, step)
            if number % 2:
                other.kill()
                other.start()
            with pytest.raises((UnavailableError, NotFoundError)) as error:
                async with Blackboard.open(other.url, board="b", agent="a", create=False):
                    pass
            if isinstance(error.value, UnavailableError):
                assert "run `blackboard restore` again" in str(error.value)
            await wait_until(lambda: connection.client.is_connected, "connected again")
        info = await connection.stream("MEM_b")
        assert info is not None
        assert RESTORING in info.config["metadata"]
        await restore(connection, vault)
        assert await everything(connection, "b", backup) == before


async def test_a_broker_that_dies_in_a_restore_has_no_board(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    await alice.put_many("docs", [random.randbytes(2048).hex() for _ in range(1000)])
    await saved(alice, vault)
    backup = vault.backup()
    before = await everything(alice.log.connection, "b", backup)
    other = start_server()
    async with Connection.open(other.url) as connection:
        async with Connection.open(other.url) as restoring:
            request, steps = restoring.request, count()

            async def asked(subject: str, *arguments: Any, **options: Any) -> Any:
                if subject.startswith("$JS.SNAPSHOT.RESTORE.MEM_b") and next(steps) == 3:
                    other.kill()  # in the middle of the board's messages
                return await request(subject, *arguments, **options)

            restoring.request = asked
            with pytest.raises(UnavailableError):
                await restore(restoring, vault)
        other.start()
        await wait_until(lambda: connection.client.is_connected, "connected again")
        with pytest.raises(UnavailableError, match="restore` again"):
            async with Blackboard.open(other.url, board="b", agent="a", create=False):
                pass
        await restore(connection, vault)
        assert await everything(connection, "b", backup) == before


# Damaged, hostile, misplaced


async def test_what_is_damaged_is_named_and_refused(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    await furnish(alice)
    await saved(alice, vault)
    commands = Vault(vault.directory)
    block = vault.backup().memory.blocks[0]
    path = vault.directory / "blocks" / block.name
    whole = path.read_bytes()
    other = start_server()
    async with Connection.open(other.url) as connection:
        for harm in (whole[:-1], whole[:500] + b"x" + whole[501:], b"", None):
            path.unlink()
            if harm is not None:
                path.write_bytes(harm)
            assert [one for one in commands.check(commands.backup()) if block.name in one]
            with pytest.raises(InvalidError, match=block.name):
                await restore(connection, vault)
            path.unlink(missing_ok=True)
            path.write_bytes(whole)
        manifest = vault.directory / "backup-000001.json"
        text = manifest.read_bytes()
        manifest.write_bytes(text.replace(b'"messages":', b'"messages":1', 1))
        with pytest.raises(InvalidError, match="checksum"):
            await restore(connection, vault)
        assert await connection.streams() == []


async def test_a_hostile_backup_reaches_nothing_but_its_own_board(
    alice: Blackboard, vault: Vault, start_server: Callable[..., Server]
):
    await alice.put("docs", "x")
    await saved(alice, vault)
    backup = vault.backup()
    memory = backup.memory
    block = memory.blocks[0]
    replace = msgspec.structs.replace
    outside = vault.directory.parent / "outside"
    shutil.copy(vault.directory / "blocks" / block.name, outside)
    handler: dict[str, Any] = {"name": "a--b", "durable_name": "a--b"}
    spy = Consumed({**handler, "deliver_subject": "_INBOX.spy"}, {})
    foreign = vault.store([Record("mem.other.shared.a.t.k", block.last + 1, 0, b"", b"{}")])[0]
    hostile = {
        "none of ours": replace(memory, blocks=(replace(block, name="../../outside"),)),
        "none of a handler": replace(memory, consumers=(spy,)),
        "not in order": replace(memory, blocks=(block, block)),
        "has not": replace(memory, name="MEM_other"),
        "which MEM_b has not": replace(memory, blocks=(block, foreign), last=block.last + 1),
    }
    other = start_server()
    async with Connection.open(other.url) as connection:
        for words, stream in hostile.items():
            streams = [stream if one is memory else one for one in backup.streams]
            forged = replace(backup, streams=tuple(streams))
            (vault.directory / "backup-000001.json").write_bytes(seal(forged))
            with pytest.raises(InvalidError, match=words):
                await restore(connection, vault)
        # What a stream is made with is not the backup's to say.
        spying = {**memory.config, "republish": {"src": ">", "dest": "spy.>"}, "subjects": [">"]}
        streams = [replace(one, config=spying) if one is memory else one for one in backup.streams]
        vault.keep(replace(backup, streams=tuple(streams)))
        await restore(connection, vault)
        info = await connection.stream("MEM_b")
        assert info is not None
        assert info.config["subjects"] == ["mem.b.>", "claim.b.>"]
        assert "republish" not in info.config


async def test_backups_are_private_and_belong_to_one_board(alice: Blackboard, vault: Vault):
    await alice.put("docs", "x")
    await saved(alice, vault)
    for path in (vault.directory, *vault.directory.rglob("*")):
        assert not path.stat().st_mode & 0o077, path
    other = alice.sibling(board="other", agent="cli")
    await other.put("docs", "y")
    with pytest.raises(SettingsError, match="another board 'b'"):
        await take(other.log, vault.directory)
    with pytest.raises(SettingsError, match="holds something else"):
        await take(other.log, vault.directory.parent)
    with pytest.raises(SettingsError, match="holds no backups"):
        await restore(alice.log.connection, Vault(vault.directory.parent / "none"))
    with pytest.raises(SettingsError, match="'b' is on this broker, with 1 memories"):
        await restore(alice.log.connection, vault)
    assert [memory.content for memory in await told(alice)] == ["x"]


# Forgotten since


async def plant(board: Blackboard) -> dict[str, Ref]:
    """A secret, what was made from it, and what names it, in every store."""
    agent = Agent("failing")

    @agent.on("cases", start="start")
    async def fail(memory: Memory, _: Blackboard) -> None:
        raise TerminalError(str(memory.content))

    source = await board.put("cases", SECRET, user="u1")
    refs = {
        "source": source,
        "made": await board.put("notes", f"of it: {SECRET}", sources=[source]),
        "big": await board.put("notes", [SECRET] * 20_000, user="u1"),
        "state": await board.put("state.cases", SECRET, key="k", user="u1"),
        "kept": await board.put("notes", "harmless", user="u2"),
        "large": await board.put("notes", ["harmless"] * 40_000, user="u2"),
    }
    shown = await board.once("about", await board.get(source), lambda: SECRET, topic="notes")
    async with agent.running(board):

        async def dead() -> bool:
            info = await board.log.connection.stream("DEAD_b")
            return info is not None and info.state.messages == 1

        await wait_until(dead, "the handler gave up on it")
    return {**refs, "shown": shown.ref}


def words_found(vault: Vault) -> list[str]:
    """Messages of all files, named by a backup or not, in which the secret is."""
    found: list[str] = []
    for path in (vault.directory / "blocks").iterdir():
        found += [
            one.subject for one in unpack(expand(path.read_bytes())) if SECRET.encode() in one.data
        ]
    return found


async def check_forgotten(server: Server, refs: dict[str, Ref]) -> None:
    """A restored board knows what was forgotten, and shows nothing of it."""
    async with Blackboard.open(server.url, board="b", agent="alice", create=False) as board:
        for name in ("source", "made", "big", "state", "shown"):
            with pytest.raises(GoneError) as error:
                await board.get(refs[name])
            assert error.value.reason == "forgotten", name
        assert (await board.get(refs["kept"])).content == "harmless"
        assert (await board.get(refs["large"])).content == ["harmless"] * 40_000
        for stream in kept_streams("b"):
            if await board.log.connection.stream(stream) is not None:
                held = [
                    base64.b64decode(one.get("data", ""))
                    for one in await raw(board.log.connection, stream)
                ]
                assert not [one for one in held if SECRET.encode() in one], stream
        receipts = await Oblivion(board.log).receipts()
        assert [(one.state, one.reason) for one in receipts] == [("complete", "request 9")]
        findings = await verify(board.log, receipts[0])
        assert all(finding.clean for finding in findings), findings
        # What is made from it later goes as well, and revisions go on behind all that ever were.
        late = await board.put("notes", f"late: {SECRET}", sources=[refs["source"].pinned(1)])
        assert (await board.get(late)).revision > receipts[0].last


async def test_the_next_backup_forgets_in_the_earlier_ones(
    alice: Blackboard, vault: Vault, steward: Steward, start_server: Callable[..., Server]
):
    refs = await plant(alice)
    await saved(alice, vault)
    assert len(words_found(vault)) >= 6
    receipt = await alice.forget(user="u1", reason="request 9")
    assert any("here" in text and "backup" in text for text in receipt.elsewhere)
    done = await saved(alice, vault)
    assert done.forgotten == 1
    assert words_found(vault) == []
    assert (await saved(alice, vault)).forgotten == 0

    other = start_server()
    async with Connection.open(other.url) as connection:
        assert (await restore(connection, vault, 1)).forgotten == 0  # it was done before
    await check_forgotten(other, refs)


async def test_a_restore_asks_the_old_board_what_was_forgotten(
    alice: Blackboard, vault: Vault, steward: Steward, start_server: Callable[..., Server]
):
    refs = await plant(alice)
    await saved(alice, vault)
    await alice.forget(user="u1", reason="request 9")
    steward.kill()
    late = await alice.put("late", "not forgotten yet")
    await saved(alice, vault)
    wish = await alice.forget_order(topic="late")
    await Oblivion(alice.log).place(wish)
    copy = vault.directory.with_name("copy")
    shutil.copytree(vault.directory, copy)

    other = start_server()
    async with Connection.open(other.url) as connection:
        words = await words_at(alice.log.connection, "b")
        assert (await restore(connection, vault, 1, words=words)).forgotten == 0
        await check_forgotten(other, refs)
        for stream in kept_streams("b"):
            await connection.delete_stream(stream)
        # An order that waited when the old board was asked is worked off on the new one.
        await restore(connection, vault, words=words)
    new = Steward(other.url, vault.directory.with_name("new.log"))
    new.start()
    try:
        async with Blackboard.open(other.url, board="b", agent="alice", create=False) as board:
            receipt = await Oblivion(board.log).wait(wish.id, 20, lambda one: True)
            await Oblivion(board.log).wait(receipt.order, 20, lambda one: one.removed is not None)
            with pytest.raises(GoneError):
                await board.get(late)
    finally:
        new.kill()

    # Or the backups ask, and no board is needed any more.
    shutil.rmtree(vault.directory)
    steward.start()
    await Oblivion(alice.log).wait(wish.id, 20, lambda one: one.removed is not None)
    assert await hear(alice.log.connection, "b", copy) == 1
    assert [one for one in Vault(copy).backups() if wish.id not in one.forgotten] == []
    assert words_found(Vault(copy)) == []


def test_commands(
    server: Server,
    vault: Vault,
    steward: Steward,
    start_server: Callable[..., Server],
    capsys: pytest.CaptureFixture[str],
):
    old, new = CommandLine(capsys, server.url), CommandLine(capsys, start_server().url)
    files = CommandLine(capsys, None)
    there = vault.directory
    old.ok("put", "cases", SECRET, "--user", "u1")
    old.ok("put", "cases", "harmless")
    assert old.json("backup", there)["number"] == 1
    old.ok("forget", "--user", "u1", "--yes")
    refused = new("restore", there)
    assert refused.code == 2
    assert "would come back" in refused.err
    assert new.ok("restore", there, "--without-receipts").err.startswith("what was forgotten")
    assert [one["content"] for one in new.ok("replay", ">", "--json").lines] == [SECRET, "harmless"]

    third = CommandLine(capsys, start_server().url)
    done = third.json("restore", there, "--receipts", server.url)
    assert (done["number"], done["board"], done["forgotten"]) == (1, "main", 1)
    shown = third.ok("replay", ">", "--json").lines
    assert [one.get("content") for one in shown if "gone" not in one] == ["harmless"]

    assert old.json("backup", "receipts", there) == {"forgotten": 0}  # the restore has done it
    old.ok("forget", "--agent", "cli", "--yes")
    assert old.json("backup", "receipts", there) == {"forgotten": 1}
    assert old.json("backup", there, "--keep", "2")["number"] == 2
    assert [row["number"] for row in files.json("backup", "list", there)] == [1, 2]
    assert files.json("backup", "verify", there)["good"] == 2
    assert third("restore", there, "--without-receipts").code == 2
    elsewhere = third("restore", there, "--without-receipts", "--board", "copy")
    assert "becomes that board again" in elsewhere.err
    (there / "blocks" / vault.backup(1).memory.blocks[0].name).unlink()
    harmed = files("backup", "verify", there)
    assert harmed.code == 1
    assert "is missing" in harmed.out
