"""What was forgotten is out of the index: of its answers at once, of its files for a receipt."""

from collections.abc import Callable
from pathlib import Path

from blackboard import Blackboard, Memory
from blackboard.receipts import Receipt
from tests.forgetting import Steward, files_with
from tests.recall_service import RecallService, contents, current
from tests.servers import Server
from tests.waiting import wait_until

WORDS = [f"planted-{number}-91be" for number in range(4)]


async def plant(board: Blackboard) -> Memory:
    """Everything of a memory that an index keeps in the clear."""
    await board.put_many("notes", [f"sunfish {number}" for number in range(20)])
    ref = await board.put(
        "cases",
        f"a summary of {WORDS[0]}",
        kind="summary",
        session=WORDS[1],
        tags={"name": WORDS[2]},
        user=WORDS[3],
    )
    return await board.get(ref)


def left(directory: Path) -> dict[str, list[str]]:
    found = {word: files_with(directory, word) for word in WORDS}
    return {word: files for word, files in found.items() if files}


async def completed(board: Blackboard, order: str) -> Receipt:
    async def is_complete() -> bool:
        receipt = await board.receipt(order)
        return receipt is not None and receipt.state == "complete"

    await wait_until(is_complete, "the receipt is complete", 30)
    receipt = await board.receipt(order)
    assert receipt is not None
    return receipt


async def test_a_receipt_waits_until_the_index_is_written_anew(
    server: Server, steward: Steward, start_recall: Callable[..., RecallService]
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        memory = await plant(alice)
        recall = start_recall()
        await current(alice, memory.revision)
        assert (await contents(alice, "a summary", user=WORDS[3])) == [memory.content]
        await wait_until(lambda: left(recall.data), "it is on the index's disk", 30)

        receipt = await alice.forget(user=WORDS[3])

        assert await contents(alice, "a summary", user=WORDS[3]) == []
        receipt = await completed(alice, receipt.order)
        assert left(recall.data) == {}
        index = next(store for store in receipt.stores if store.what == "entries")
        assert index.clean
        assert str(recall.data) in index.name
        assert len(await contents(alice, "sunfish")) == 10


async def test_a_receipt_waits_for_an_index_that_is_away(
    server: Server, steward: Steward, start_recall: Callable[..., RecallService]
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        memory = await plant(alice)
        recall = start_recall()
        await current(alice, memory.revision)
        await wait_until(lambda: left(recall.data), "it is on the index's disk", 30)
        recall.kill()

        receipt = await alice.forget(memory)

        assert receipt.state == "pending"
        assert [store.what for store in receipt.stores if not store.clean] == ["entries"]
        assert "has to write it anew" in receipt.waits_for[0]
        assert left(recall.data)
        again = start_recall()
        await completed(alice, receipt.order)
        assert left(again.data) == {}
