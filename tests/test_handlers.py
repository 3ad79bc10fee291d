"""Handlers are transactions: each input's outputs are on the board once, all of one run."""

from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest

from blackboard import Agent, Blackboard, Memory, Ref
from blackboard.errors import InvalidError, NoAnswerError
from blackboard.jetstream import Outgoing
from blackboard.telemetry import ANSWERS_DROPPED, INVALID_MESSAGES
from tests.programs.kill_proxy import open_wire
from tests.servers import Server
from tests.settling import everything, settled
from tests.waiting import wait_until


async def test_what_a_handler_returns_and_puts_is_stored_with_its_input_as_source(
    board: Blackboard,
) -> None:
    agent = Agent("maker", version="7")

    @agent.on("in.>", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        await bound.put("side", "beside")
        return Memory(content=item.content * 2, kind="summary", tags={"a": "b"})

    async with agent.running(board):
        source = await board.put("in.a", 21, session="s1", user="u1")
        out = await board.wait("out", timeout=5)
    side = await board.wait("side", timeout=5)

    assert (out.content, out.kind, out.tags, out.agent) == (42, "summary", {"a": "b"}, "maker")
    assert (out.session, out.user, out.hops) == ("s1", "u1", 1)
    assert out.sources == side.sources == (source.pinned(),)
    assert out.cause == f"{source.pinned()} maker--make v7 run1"
    assert abs(out.revision - side.revision) == 1


async def test_a_list_of_memories_is_several_outputs_and_none_is_no_output(
    board: Blackboard,
) -> None:
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, _: Blackboard) -> list[Memory] | None:
        return [Memory(content=n) for n in range(item.content)] if item.content else None

    async with agent.running(board):
        await board.put("in", 0)
        await board.put("in", 3)
        await settled(board, "maker--make")

    assert [memory.content for memory in await everything(board, "out")] == [0, 1, 2]


async def test_only_wanted_memories_reach_the_function(board: Blackboard) -> None:
    agent = Agent("picky")
    seen: list[Any] = []

    @agent.on("in.>", tags={"for": "picky"}, start="start")
    async def take(item: Memory, _: Blackboard) -> None:
        seen.append(item.content)

    mine = {"for": "picky"}
    retired = await board.put("in", "retired", tags=mine)
    await board.retire(retired)
    await board.put("in", "expired", tags=mine, ttl=timedelta(seconds=1))
    await board.put("in", "other tags", tags={"for": "someone"})
    await board.sibling(agent="picky").put("in", "its own", tags=mine)
    await wait_until(lambda: _expired(board), "the ttl is over")
    await board.log.connection.publish(Outgoing("mem.main.shared.alice.in.x", b"{not json"))
    async with agent.running(board) as runner:
        await board.put("in", "wanted", tags=mine)
        await wait_until(lambda: seen, "the wanted one came")
        await settled(board, "picky--take")

        assert seen == ["wanted"]
        assert runner.stats.done == 1
    assert board.sibling(agent="picky").telemetry.counted(INVALID_MESSAGES) >= 1


async def _expired(board: Blackboard) -> bool:
    return all(memory.content != "expired" for memory in await everything(board, "in"))


async def test_an_agent_gets_its_own_memories_only_if_it_asks_for_them(board: Blackboard) -> None:
    agent = Agent("echo")
    seen: list[int] = []

    @agent.on("count", to="count", own=True)
    async def more(item: Memory, _: Blackboard) -> int | None:
        seen.append(item.content)
        return item.content + 1 if item.content < 3 else None

    async with agent.running(board):
        await board.put("count", 0)
        await wait_until(lambda: len(seen) == 4, "it counted to three")

    assert seen == [0, 1, 2, 3]


async def test_a_revised_input_revises_its_outputs_and_retires_those_too_many(
    board: Blackboard,
) -> None:
    agent = Agent("splitter")

    @agent.on("in", to="out")
    async def split(item: Memory, _: Blackboard) -> list[Memory]:
        return [Memory(content=word) for word in item.content.split()]

    async with agent.running(board):
        ref = await board.put("in", "a b c")
        await settled(board, "splitter--split")
        await board.revise(ref, "x y")
        await settled(board, "splitter--split")

    outputs = await everything(board, "out")
    assert [(m.content, m.gone) for m in outputs] == [
        ("a", None),
        ("b", None),
        ("c", None),
        ("x", None),
        ("y", None),
        (None, "retired"),
    ]
    assert [m.id for m in outputs[:3]] == [m.id for m in outputs[3:]]


async def test_a_redelivery_after_the_commit_stores_nothing_more(board: Blackboard) -> None:
    agent = Agent("maker")
    calls: list[int] = []

    @agent.on("in", to="out", start="start")
    async def make(item: Memory, _: Blackboard) -> int:
        calls.append(item.content)
        return item.content

    await board.put("in", 1)
    async with agent.running(board):
        await settled(board, "maker--make")
    # The broker forgot how far the consumer was: everything is delivered again in the same run.
    place = f"{board.log.stream}.maker--make"
    info = await board.log.connection.api(f"CONSUMER.INFO.{place}")
    await board.log.connection.api(f"CONSUMER.DELETE.{place}")
    await _create_again(board, info)
    async with agent.running(board):
        await settled(board, "maker--make")

    assert calls == [1]
    assert len(await everything(board, "out")) == 1


async def _create_again(board: Blackboard, info: bytes) -> None:
    config = msgspec.json.decode(info)["config"]
    body = {"stream_name": board.log.stream, "config": config, "action": "create"}
    subject = f"{board.log.stream}.{config['name']}.{config['filter_subject']}"
    await board.log.connection.api(f"CONSUMER.CREATE.{subject}", body)


async def test_a_moved_input_is_not_handled_again(board: Blackboard) -> None:
    agent = Agent("maker")
    calls: list[str] = []

    @agent.on("in", to="out")
    async def make(item: Memory, _: Blackboard) -> str:
        calls.append(item.content)
        return item.content

    async with agent.running(board):
        ref = await board.put("in", "x")
        await settled(board, "maker--make")
        await board.reclassify(ref, access="pii")
        await board.reclassify(ref, access="finance")
        await settled(board, "maker--make")
        assert calls == ["x"]

        await board.revise(ref, "y")
        await settled(board, "maker--make")

    assert calls == ["x", "y"]


async def test_a_conflict_stores_nothing_and_the_function_runs_again_on_fresh_reads(
    board: Blackboard,
) -> None:
    agent = Agent("counter")
    calls = 0

    @agent.on("in", to="out")
    async def count(_: Memory, bound: Blackboard) -> int:
        nonlocal calls
        calls += 1
        total = await bound.get("*/state.total/k")
        if calls == 1:
            await board.put("state.total", 10, key="k")
        await bound.revise(total.ref, total.content + 1, expected=total.revision)
        return total.content + 1

    await board.put("state.total", 0, key="k")
    async with agent.running(board):
        await board.put("in", "go")
        await settled(board, "counter--count")

    assert calls == 2
    assert (await board.get("*/state.total/k")).content == 11
    assert [memory.content for memory in await everything(board, "out")] == [11]


async def test_many_handlers_of_one_process_count_without_losing_one(board: Blackboard) -> None:
    agent = Agent("counter")

    @agent.on("in", concurrency=8)
    async def count(_: Memory, bound: Blackboard) -> None:
        await bound.update(Ref.parse("*/state.total/k"), _one_more)

    async with agent.running(board):
        await board.put_many("in", list(range(40)))
        await settled(board, "counter--count")

    assert (await board.get("*/state.total/k")).content == 40


def _one_more(memory: Memory | None) -> int:
    return 1 if memory is None else memory.content + 1


async def test_what_once_returns_is_put_once(board: Blackboard) -> None:
    agent = Agent("reuser")

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        return await bound.once("double", item.content, lambda: item.content * 2)

    async with agent.running(board):
        await board.put("in", 4)
        await board.put("in", 4)
        await settled(board, "reuser--make")

    out = await everything(board, "out")
    assert [(m.content, m.kind) for m in out] == [(8, "result"), (8, "reuse")]


async def test_work_longer_than_the_ack_wait_is_not_given_to_another(board: Blackboard) -> None:
    agent = Agent("slow")
    deliveries: list[int] = []

    @agent.on("in", to="out", ack_wait=0.5, concurrency=2)
    async def work(item: Memory, _: Blackboard) -> str:
        deliveries.append(item.delivery)
        await anyio.sleep(1.6)
        return "done"

    async with agent.running(board):
        await board.put("in", "x")
        await board.wait("out", timeout=10)

    assert deliveries == [1]


async def test_a_broken_connection_gives_a_replica_no_more_than_it_has_slots_for(
    server: Server, board: Blackboard
) -> None:
    agent = Agent("solo")
    now = most = 0

    @agent.on("in", concurrency=1)
    async def work(_: Memory, __: Blackboard) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.05)
        now -= 1

    async with open_wire(server.url) as wire, Blackboard.open(wire.url) as other:
        wire.look_for(b"MSG.NEXT.MEM_main.solo--work")
        async with agent.running(other):
            for _ in range(3):
                await wire.seen.wait()
                await wire.cut()  # the broker lives on, and so does the request
                wire.look_for(b"MSG.NEXT.MEM_main.solo--work")
            await wire.seen.wait()
            await board.put_many("in", list(range(8)))
            await settled(board, "solo--work")

    assert most == 1


async def test_the_first_answer_wins_and_the_others_are_dropped(board: Blackboard) -> None:
    async with Blackboard.open(board.url, agent="asker") as asking:
        both = anyio.Event()
        first, second = Agent("first"), Agent("second")

        async def late(_: Memory, __: Blackboard) -> str:
            await both.wait()
            return "late"

        async def early(question: Memory, bound: Blackboard) -> str:
            both.set()
            return f"{question.content}: early"

        first.answers("questions.>")(early)
        second.answers("questions.>")(late)
        async with second.running(board), first.running(board):
            answer = await asking.ask("questions.x", "why", timeout=10)
            await settled(board, "second--late")

            assert (answer.kind, answer.topic) == ("answer", "answers.questions.x")
            assert len(answer.sources) == 1
            assert len(await everything(board, "answers.>")) == 1
            dropped = [
                board.sibling(agent=name).telemetry.counted(ANSWERS_DROPPED)
                for name in ("first", "second")
            ]
            assert sum(dropped) <= 1


async def test_none_leaves_a_request_to_others(board: Blackboard) -> None:
    agent = Agent("modest")

    @agent.answers("questions")
    async def answer(question: Memory, _: Blackboard) -> str | None:
        return None if question.content == "hard" else "easy"

    async with agent.running(board):
        assert (await board.ask("questions", "simple", timeout=5)).content == "easy"
        with pytest.raises(NoAnswerError):
            await board.ask("questions", "hard", timeout=0.3)


async def test_the_trace_goes_through_a_handler(board: Blackboard) -> None:
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, _: Blackboard) -> str:
        return item.content

    async with agent.running(board):
        with board.telemetry.span("test"):
            trace = board.telemetry.trace_id()
            await board.put("in", "x")
        out = await board.wait("out", timeout=5)

    assert trace is not None
    assert out.trace is not None
    assert out.trace.split("-")[1] == trace


def test_declarations_that_break_a_rule_say_which() -> None:
    agent = Agent("a")

    async def handle(_: Memory, __: Blackboard) -> None: ...

    def plain(_: Memory, __: Blackboard) -> None: ...

    with pytest.raises(InvalidError, match="async def"):
        agent.on("in")(plain)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidError, match="pattern"):
        agent.on("in.>.x")(handle)
    with pytest.raises(InvalidError, match="kept for the library"):
        agent.on("in", to="once.x")(handle)
    with pytest.raises(InvalidError, match="concurrency"):
        agent.on("in", concurrency=0)(handle)
    with pytest.raises(InvalidError, match="until= or idle="):
        agent.gather("in")(handle)
    with pytest.raises(InvalidError, match="by="):
        agent.gather("in", by="sesion", until=1)(handle)
    agent.on("in")(handle)
    with pytest.raises(InvalidError, match="already"):
        agent.on("in")(handle)
