"""Credentials on three servers: the same attacks, and replicas for a board that has none."""

import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from blackboard import Blackboard, Ref, alteration
from blackboard.jetstream import Start, follow
from blackboard.layout import limits_of
from blackboard.ledger.items import Gap, Read
from blackboard.ledger.record import open_record
from blackboard.ledger.verify import verify
from blackboard.settings import Limits
from tests import test_attacks, test_attacks_gate, test_attacks_replies
from tests.guarded import Guarded
from tests.guarded_cluster import GuardedCluster, guarded_cluster
from tests.scene import Scene, set_scene
from tests.waiting import wait_until

Attack = Callable[[Scene], Awaitable[None]]
ATTACKS: tuple[Attack, ...] = (
    test_attacks.test_writing_a_label_or_topic_without_the_right,
    test_attacks.test_direct_gets_outside_the_rights,
    test_attacks.test_the_jetstream_api_is_closed_to_agents,
    test_attacks_gate.test_reads_by_sequence_time_and_batch_show_what_may_be_read_only,
    test_attacks_gate.test_anothers_consumer_cannot_be_used_or_ended,
    test_attacks_replies.test_forged_replies_are_stored_nowhere,
    test_attacks_replies.test_content_of_opens_no_door,
)


def attacks() -> list[Attack]:
    """A handful of the attacks; with BLACKBOARD_TEST_ALL_ATTACKS all that may share a board."""
    if "BLACKBOARD_TEST_ALL_ATTACKS" not in os.environ:
        return list(ATTACKS)
    modules = (test_attacks, test_attacks_gate, test_attacks_replies)
    found = [one for module in modules for name, one in vars(module).items() if name[:5] == "test_"]
    return [
        one
        for one in found
        if [*inspect.signature(one).parameters] == ["scene"]
        and one is not test_attacks_replies.test_a_revoked_credential_is_worth_nothing
    ]


@pytest.fixture(scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[GuardedCluster]:
    async with guarded_cluster(tmp_path_factory.mktemp("three")) as cluster:
        yield cluster


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.__name__[5:])
async def test_attacks_on_three_servers(three: GuardedCluster, attack: Attack) -> None:
    async with set_scene(three.front) as scene:
        await attack(scene)


async def recorded(broker: Guarded) -> tuple[int, int]:
    """Direct gets that stand in the chain, and gaps in it."""
    reads = gaps = 0
    async with (
        broker.operator() as operator,
        follow(operator, "LEDGER_main", "ledger.main", Start.all()) as follower,
    ):
        while follower.pending and (message := await follower.step()) is not None:
            for item in open_record(message.data).items:
                gaps += isinstance(item, Gap)
                reads += item.count if isinstance(item, Read) else 0
    return reads, gaps


@pytest.mark.timeout(120)
async def test_a_board_in_use_gets_replicas_and_nothing_recorded_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alteration, "NOTICED_S", 1.0)
    async with guarded_cluster(tmp_path / "grown", replicas=1) as cluster:
        broker = cluster.front
        done = anyio.Event()
        read = before = 0

        async def use(board: Blackboard, ref: Ref) -> None:
            nonlocal read
            while not done.is_set():
                await board.get(ref)
                read += 1
                await board.put("docs.public.more", read)

        async with broker.board("alice") as board, broker.operator() as operator:
            assert (await limits_of(operator, "main")).replicas == 1
            ref = await board.put("docs.public.a", "read")
            async with anyio.create_task_group() as group:
                group.start_soon(use, board, ref)
                await wait_until(lambda: read > 20, "it reads")
                changes = await alteration.apply(operator, "main", Limits(replicas=3))
                assert [one for one in changes if one.state != "done"] == []
                before = read
                await wait_until(lambda: read > before + 20, "it reads on")
                done.set()

            for stream in ("READS_main", "LEDGER_main", "MEM_main", "ACCESS"):
                info = await operator.stream(stream)
                assert info is not None
                assert info.config["num_replicas"] == 3, stream

            info = await operator.stream("READS_main")
            assert info is not None
            stored = info.state.last_seq
            assert stored > before

            async def all_there() -> bool:
                return sum(await recorded(broker)) >= stored

            await wait_until(all_there, "all that the broker recorded is in the chain", 30)
            assert (await recorded(broker))[1] == 0
            assert (await verify(operator, "main")).findings == []
            # The documents of rights survive any one server, and so does reading.
            cluster.leader("ACCESS").kill()
            async with broker.board("alice") as again:
                assert (await again.get(ref)).content == "read"
