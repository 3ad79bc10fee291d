"""Recall killed at each point of forgetting: its index ends clean, and only then says so."""

import signal
from collections.abc import Callable
from os import kill

import pytest

from blackboard import Blackboard
from blackboard.errors import BlackboardError
from blackboard.oblivion import Oblivion
from blackboard.receipts import Receipt
from blackboard.records import IndexRecord
from tests.forgetting import Steward, files_with
from tests.recall_service import RecallService, contents, current
from tests.servers import Server
from tests.waiting import wait_until

SECRET = "planted-0c4e"  # noqa: S105 - a word to look for
TRIES = 5


async def word(board: Blackboard) -> IndexRecord:
    """What the index last said of itself on the board."""
    message = await board.log.reads.last(f"claim.{board.name}.forget.recall.>")
    assert message is not None
    record, _ = await board.log.record_at(message.subject, IndexRecord)
    assert record is not None
    return record


async def last_tombstone(board: Blackboard, order: str) -> int:
    async def removed() -> bool:
        receipt = await board.receipt(order)
        return receipt is not None and receipt.removed is not None

    await wait_until(removed, "it is gone from the board", 20)
    receipt = await board.receipt(order)
    assert receipt is not None
    return receipt.last


async def completed(board: Blackboard, order: str) -> Receipt:
    async def is_complete() -> bool:
        try:
            receipt = await board.receipt(order)
        except BlackboardError:
            return False
        return receipt is not None and receipt.state == "complete"

    await wait_until(is_complete, "the receipt is complete", 40)
    receipt = await board.receipt(order)
    assert receipt is not None
    return receipt


def left(recall: RecallService) -> list[str]:
    return files_with(recall.data, SECRET)


def rewriting(recall: RecallService) -> bool:
    """Two generations of an index lie side by side: the new one is being written."""
    return len([*recall.data.glob("recall/main/*/generation-*")]) > 1


async def planted(board: Blackboard, begin: Callable[..., RecallService]) -> RecallService:
    """A service whose index has a secret, also on its disk."""
    recall = begin()
    await board.put_many("notes", [f"sunfish {number}" for number in range(300)])
    ref = await board.put("cases", f"a summary of {SECRET}", tags={"name": SECRET}, user="u1")
    await current(board, ref.written or 0)
    recall.stop()  # which has it written, sooner than it would be
    assert left(recall)
    recall = begin()
    await current(board, ref.written or 0)
    return recall


async def ordered(board: Blackboard) -> str:
    order = await board.forget_order(user="u1", reason="request 881")
    await Oblivion(board.log).place(order)
    return order.id


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", ["seen", "rewriting"])
async def test_recall_killed_before_its_index_is_written_anew(
    server: Server, steward: Steward, start_recall: Callable[..., RecallService], point: str
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        recall = await planted(alice, start_recall)
        before = await word(alice)
        order = await ordered(alice)

        async def seen() -> bool:
            return (await word(alice)).seen > before.seen

        await wait_until(seen, "it has seen the tombstone", 20)
        if point == "rewriting":
            await wait_until(lambda: rewriting(recall), "it writes its index anew", 20)
        recall.kill()
        said = await word(alice)
        if said.clean >= said.seen:
            assert left(recall) == []  # it was through already, and said so rightly
        again = start_recall()

        await completed(alice, order)
        assert left(again) == []
        assert not rewriting(again)
        assert len(await contents(alice, "sunfish", limit=10)) == 10


async def killed_before_its_word(
    board: Blackboard, server: Server, recall: RecallService, before: IndexRecord
) -> bool:
    """Kill it when its index is written anew and its word is not given; False if it was quicker."""

    async def begun() -> bool:
        return rewriting(recall) and (await word(board)).seen > before.seen

    await wait_until(begun, "it writes its index anew", 20)
    kill(server.pid, signal.SIGSTOP)  # so that the word cannot be given
    try:
        await wait_until(lambda: not left(recall), "its index is written anew", 20)
        await wait_until(lambda: not rewriting(recall), "and the old one removed", 20)
        recall.kill()
    finally:
        kill(server.pid, signal.SIGCONT)
    said = await word(board)
    return said.clean < said.seen


@pytest.mark.faults  # it takes luck to stop the broker in time, and so several tries
@pytest.mark.timeout(120)
async def test_recall_killed_between_its_rewriting_and_its_word(
    server: Server, steward: Steward, start_recall: Callable[..., RecallService]
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        for _ in range(TRIES):
            recall = await planted(alice, start_recall)
            before = await word(alice)
            order = await ordered(alice)
            if await killed_before_its_word(alice, server, recall, before):
                break
        else:
            pytest.fail("recall gave its word each time before the broker was stopped")

        tombstone = await last_tombstone(alice, order)
        pending = await alice.receipt(order)
        assert pending is not None
        assert pending.state == "pending"
        again = start_recall()

        await completed(alice, order)
        assert (await word(alice)).clean >= tombstone
        assert left(again) == []
