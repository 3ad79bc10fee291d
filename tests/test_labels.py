"""What lies under an access label stays under one: handlers, `once`, shared state."""

import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.errors import LabelError
from tests.settling import everything, settled


async def test_an_output_lies_under_the_label_of_its_input(board: Blackboard) -> None:
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> str:
        await bound.put("side", "beside")
        await bound.put("open", "said to be open", access="shared")
        return item.content

    async with agent.running(board):
        await board.put("in", "private", access="pii")
        assert (await board.wait("out", timeout=5)).access == "pii"
        assert (await board.wait("side", timeout=5)).access == "pii"
        assert (await board.wait("open", timeout=5)).access == "shared"


async def test_an_output_follows_its_input_under_another_label(board: Blackboard) -> None:
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, _: Blackboard) -> str:
        return item.content

    async with agent.running(board):
        ref = await board.put("in", "open")
        out = await board.wait("out", timeout=5)
        await board.reclassify(ref, "pii")
        await board.revise(ref, "private")
        await settled(board, "maker--make")
        private = await board.get(out.ref)
        await board.reclassify(ref, "shared")
        await board.revise(ref, "open again")
        await settled(board, "maker--make")

    assert (private.content, private.access) == ("private", "pii")
    assert [
        (memory.content, memory.access, memory.gone) for memory in await everything(board, "out")
    ] == [
        ("open", "shared", None),
        (None, "shared", "moved"),
        ("private", "pii", None),
        (None, "pii", "moved"),
        ("open again", "shared", None),
    ]


async def test_what_was_made_of_private_inputs_does_not_reach_open_shared_state(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    seen: list[str] = []
    await board.put("state", "open", key="k")
    await board.put("state", "finance", key="money", access="finance")

    @agent.on("in")
    async def make(item: Memory, bound: Blackboard) -> None:
        for write in (
            lambda: bound.put("state", item.content, key="k"),
            lambda: bound.update("*/state/k", lambda _: item.content),
            lambda: bound.put("state", item.content, key="money"),
        ):
            with pytest.raises(LabelError):
                await write()
            seen.append("refused")
        await bound.put("state", "anonymous", key="k", access="shared")
        await bound.put("state", item.content, key="mine")

    async with agent.running(board):
        await board.put("in", "private", access="pii")
        await settled(board, "maker--make")

    assert seen == ["refused"] * 3
    assert (await board.get("*/state/k")).content == "anonymous"
    assert (await board.get("*/state/mine")).access == "pii"
