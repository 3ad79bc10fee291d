"""Whatever is killed in the middle of forgetting: it is completed afterwards, and counted right."""

from datetime import datetime

import anyio
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import BlackboardError, GoneError, NoAnswerError
from blackboard.oblivion import Oblivion
from blackboard.receipts import Receipt, sequences_of
from blackboard.subjects import order_subject, receipt_subject
from tests.forgetting import Steward, files_with
from tests.servers import Server
from tests.waiting import wait_until

SECRET = "planted-3a55"  # noqa: S105 - a word to look for
CHAINS, DEPTH = 60, 5
POINTS = [
    "ordered",
    "begun",
    "written down",
    "covered",
    "half covered",
    "deleting",
    "projecting",
    "emptied",
]


async def plant(board: Blackboard) -> list[Ref]:
    """Chains of memories, each link made from the one before, and some large content."""
    layer = await board.put_many("made", [f"{SECRET} {n}" for n in range(CHAINS)], user="u1")
    every = list(layer)
    for depth in range(1, DEPTH):
        links = [
            Memory(content=f"{SECRET} {depth}", sources=(source.pinned(),)) for source in layer
        ]
        layer = await board.put_many("made", links)
        every += layer
    every.append(await board.put("made", [SECRET] * 60_000, user="u1"))
    every.append(await board.put("state.made", SECRET, key="k", user="u1"))
    return every


async def reached(board: Blackboard, order: str, refs: list[Ref], point: str) -> bool:
    """Whether the work on an order has come to a point."""
    reads = board.log.reads

    async def there(subject: str) -> bool:
        return await reads.last(subject) is not None

    async def gone(ref: Ref) -> bool:
        head = await board.log.head(ref)
        return head is not None and head.gone == "forgotten"

    places = {
        "ordered": order_subject(board.name, "*", order),
        "begun": receipt_subject(board.name, "*", order),
        "written down": receipt_subject(board.name, "*", order, 0),
        "half covered": receipt_subject(board.name, "*", order, 3),
    }
    if point in places:
        return await there(places[point])
    if point == "covered":
        return await gone(refs[0])
    if point == "projecting":  # the bucket is away for a moment, and then another one
        bucket = await board.session.connection.stream(f"KV_state_{board.name}")
        receipt = await board.receipt(order)
        asked = receipt is not None and receipt.asked
        return bucket is None or (asked and datetime.fromisoformat(bucket.created) > asked)
    if point == "deleting":
        return await reads.at_sequence(refs[0].written or 0) is None
    receipt = await board.receipt(order)
    return receipt is not None and receipt.removed is not None


async def ordered(board: Blackboard) -> str:
    oblivion = Oblivion(board.log)
    order = await board.forget_order(user="u1", reason="request 881")
    await oblivion.place(order)
    return order.id


async def completed(board: Blackboard, order: str) -> Receipt:
    async def is_done() -> bool:
        try:
            receipt = await board.receipt(order)
        except BlackboardError:
            return False
        return receipt is not None and receipt.removed is not None

    await wait_until(is_done, "all of it is removed", 40)
    receipt = await board.receipt(order)
    assert receipt is not None
    return receipt


async def check(board: Blackboard, server: Server, order: str, refs: list[Ref]) -> None:
    receipt = await completed(board, order)
    assert receipt.memories == len(refs)
    parts = await Oblivion(board.log).parts(receipt)
    removed = {
        one for part in parts if part.what == "memories" for one in sequences_of(part.ranges)
    }
    assert removed == {ref.written for ref in refs}
    for ref in (refs[0], refs[-1], refs[CHAINS * DEPTH - 1]):
        with pytest.raises(GoneError):
            await board.get(ref)
    bucket = await board.session.connection.stream(f"KV_state_{board.name}")
    assert bucket is not None
    subject = order_subject(board.name, "*", order)

    async def erased() -> bool:
        return await board.log.reads.last(subject) is None

    await wait_until(erased, "the order, which names what was forgotten, is erased too")
    left = files_with(server.directory, SECRET)
    if receipt.state == "pending":
        # A broker that dies in the middle of deleting one message may leave its bytes, and a
        # receipt may not say then that they are gone.
        assert "the broker died" in receipt.waits_for[0]
        return
    assert receipt.state == "complete"
    assert left == []


@pytest.mark.parametrize("point", POINTS)
async def test_a_steward_that_is_killed(server: Server, steward: Steward, point: str):
    steward.kill()
    async with Blackboard.open(server.url, agent="alice") as board:
        keep = await board.put("notes", "sunfish")
        refs = await plant(board)
        order = await ordered(board)
        steward.start()

        await wait_until(lambda: reached(board, order, refs, point), point, 20)
        steward.kill()
        steward.start()

        await check(board, server, order, refs)
        assert (await board.get(keep)).content == "sunfish"


@pytest.mark.parametrize("point", POINTS)
async def test_a_broker_that_is_killed(server: Server, steward: Steward, point: str):
    steward.kill()
    async with Blackboard.open(server.url, agent="alice") as board:
        refs = await plant(board)
        order = await ordered(board)
        steward.start()

        await wait_until(lambda: reached(board, order, refs, point), point, 20)
        server.kill()
        await anyio.sleep(0.2)  # so that what was under way is answered by nobody
        server.start()

        await check(board, server, order, refs)


async def test_an_order_stands_while_no_steward_runs(server: Server, steward: Steward):
    steward.kill()
    async with Blackboard.open(server.url, agent="alice") as board:
        refs = await plant(board)
        with pytest.raises(NoAnswerError, match="stands"):
            await board.forget(user="u1", confirmed=True, timeout=0.2)
        steward.start()

        async def gone() -> bool:
            head = await board.log.head(refs[0])
            return head is not None and head.gone == "forgotten"

        await wait_until(gone, "it is done by the steward that starts", 20)
