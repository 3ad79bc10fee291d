"""Corners where two rules meet: labels, sharing, aliases, foreign messages, odd arguments."""

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from blackboard import Agent, Blackboard, Memory, Ref
from blackboard.errors import (
    BlackboardError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from blackboard.jetstream import Outgoing
from tests.settling import everything, settled
from tests.waiting import wait_until


async def test_once_in_a_handler_stores_its_result_under_the_label_of_the_input(
    board: Blackboard,
) -> None:
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        return await bound.once("sum", item.content, lambda: f"about {item.content}")

    async with agent.running(board):
        await board.put("in", "private", access="pii")
        out = await board.wait("out", timeout=5)

    assert out.access == "pii"
    assert {memory.access for memory in await everything(board, "once.>")} == {"pii"}


async def test_a_foreign_message_at_the_place_of_a_result_does_not_have_it_made_for_ever(
    board: Blackboard,
) -> None:
    made: list[int] = []
    # The place of another result, known beforehand: whoever may write can reach it.
    second = await board.sibling(board="probe").once("other", "y", lambda: "r")
    place = f"mem.main.shared.mallory.once.other.{second.id}"
    await board.log.connection.publish(Outgoing(place, b"garbage"))

    def make() -> str:
        made.append(1)
        return "r"

    with anyio.fail_after(5):
        result = await board.once("other", "y", make)
    assert (result.content, len(made)) == ("r", 1)


async def test_a_foreign_message_above_shared_state_does_not_block_handlers(
    board: Blackboard,
) -> None:
    agent = Agent("counter")
    tried: list[int] = []

    @agent.on("in")
    async def count(_: Memory, bound: Blackboard) -> None:
        tried.append(1)
        await bound.update("*/state/n", lambda m: 1 if m is None else m.content + 1)

    await board.put("state", 1, key="n")
    await board.log.connection.publish(Outgoing("mem.main.shared.mallory.state.n", b"garbage"))
    async with agent.running(board):
        await board.put("in", "go")
        await settled(board, "counter--count")
    assert (await board.get("*/state/n")).content == 2
    assert len(tried) == 1


async def test_what_a_reader_changes_in_its_copy_reaches_nobody_else(board: Blackboard) -> None:
    first = await board.once("sum", "x", lambda: {"n": [1]}, topic="out")
    second = await board.once("sum", "x", lambda: {"n": [1]}, topic="out")
    one = await board.get(first.ref)
    one.content["n"].append(2)
    assert (await board.get(second.ref)).content == {"n": [1]}


async def test_what_a_handler_changes_in_what_it_read_is_not_stored(board: Blackboard) -> None:
    agent = Agent("maker")

    @agent.on("in")
    async def make(_: Memory, bound: Blackboard) -> None:
        ref = await bound.put("out", {"n": 1})
        (await bound.get(ref)).content["n"] = 2

    async with agent.running(board):
        await board.put("in", "go")
        out = await board.wait("out", timeout=5)
    assert out.content == {"n": 1}


async def test_a_handler_that_runs_again_gets_its_input_as_it_was(board: Blackboard) -> None:
    agent = Agent("maker")
    await board.put("state", 0, key="n")
    runs: list[int] = []

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> Any:
        item.content.append(2)
        runs.append(1)
        await bound.update("*/state/n", lambda m: m and m.content + 1)
        if len(runs) == 1:
            await board.update("*/state/n", lambda m: m and m.content + 10)
        return item.content

    async with agent.running(board):
        await board.put("in", [1])
        out = await board.wait("out", timeout=5)
    assert len(runs) == 2
    assert out.content == [1, 2]


async def test_a_request_of_a_revised_input_is_a_new_request(board: Blackboard) -> None:
    oracle, asker = Agent("oracle"), Agent("asker")

    @oracle.answers("q")
    async def answer(question: Memory, _: Blackboard) -> str:
        return f"re {question.content}"

    @asker.on("in", to="out")
    async def ask(item: Memory, bound: Blackboard) -> str:
        return (await bound.ask("q", item.content, timeout=5)).content

    async with oracle.running(board), asker.running(board):
        ref = await board.put("in", "one")
        out = await board.wait("out", timeout=5)
        await board.revise(ref, "two")
        await settled(board, "asker--ask")
    assert (await board.get(out.ref)).content == "re two"


async def test_a_revision_in_a_handler_names_its_input_and_counts_the_hop(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    mine = await board.sibling(agent="maker").put("mine", 0)

    @agent.on("in")
    async def make(item: Memory, bound: Blackboard) -> None:
        await bound.revise(mine, item.content)

    async with agent.running(board):
        source = await board.put("in", 1)
        await settled(board, "maker--make")
    revised = await board.get(mine)
    assert (revised.content, revised.hops, revised.sources) == (1, 1, (source.pinned(),))


async def test_a_revision_in_a_handler_does_not_carry_private_content_into_the_open(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    mine = await board.sibling(agent="maker").put("mine", "open")

    @agent.on("in")
    async def make(item: Memory, bound: Blackboard) -> None:
        await bound.revise(mine, item.content)

    async with agent.running(board):
        await board.put("in", "private", access="pii")
        await settled(board, "maker--make")
    assert (await board.get(mine)).content == "open"


async def test_a_handler_may_take_shared_state_back_and_put_it_under_another_label(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    await board.put("state", 1, key="k", access="pii")

    @agent.on("in")
    async def make(_: Memory, bound: Blackboard) -> None:
        await bound.retire("*/state/k")
        await bound.put("state", 2, key="k", access="finance")

    async with agent.running(board):
        await board.put("in", "go")
        await settled(board, "maker--make")
    now = await board.get("*/state/k")
    assert (now.content, now.access) == (2, "finance")


async def test_an_error_text_that_is_no_unicode_ends_neither_agent_nor_once(
    board: Blackboard, caplog: pytest.LogCaptureFixture
) -> None:
    # The runner of the tests cannot carry such a text from one of its processes to the other.
    caplog.set_level(logging.CRITICAL)
    agent = Agent("maker")

    @agent.on("in", attempts=1, to="out")
    async def make(item: Memory, _: Blackboard) -> str:
        if item.content == "bad":
            raise FileNotFoundError("no file \udcff")
        return "fine"

    async with agent.running(board):
        await board.put("in", "bad")
        await board.put("in", "good")
        assert (await board.wait("out", timeout=5)).content == "fine"

    def fail() -> str:
        raise FileNotFoundError("no file \udcff")

    with pytest.raises(FileNotFoundError):
        await board.once("sum", "x", fail)


@pytest.mark.parametrize(
    "put",
    [
        {"content": "\ud800"},
        {"content": {"a": "\ud800"}},
        {"content": 1, "session": "\ud800"},
        {"content": 1, "tags": {"a": "\ud800"}},
        {"content": 1, "ttl": timedelta.max},
        {"content": Memory(content=1, content_of=Ref("alice", "t", "0" * 32, 1))},
        {"content": Memory(content=1, sources=("alice/t/x",))},  # pyright: ignore[reportArgumentType]
    ],
)
async def test_what_has_no_json_or_no_end_is_refused(
    board: Blackboard, put: dict[str, Any]
) -> None:
    with pytest.raises(InvalidError):
        await board.put("t", **put)


async def test_times_beyond_the_calendar_are_taken_or_refused(board: Blackboard) -> None:
    ref = await board.put("t", 1)
    with anyio.fail_after(5):
        async with board.watch("t", since=timedelta.max) as memories:
            assert (await anext(memories)).content == 1
    with anyio.fail_after(5):
        async with board.watch("t", since=datetime.min.replace(tzinfo=UTC)) as memories:
            assert (await anext(memories)).content == 1
    assert (await board.get(ref, at=datetime.max.replace(tzinfo=UTC))).content == 1


async def test_inputs_of_once_that_are_nested_too_deeply_are_refused(board: Blackboard) -> None:
    for depth in (150, 300, 450, 600, 900):
        deep: Any = 1
        for _ in range(depth):
            deep = [deep]
        with contextlib.suppress(InvalidError):
            await board.once("sum", deep, lambda: 1)


async def test_waiting_passes_over_what_another_agent_replaced(board: Blackboard) -> None:
    await board.put("state.job", "pending", key="a", tags={"is": "pending"})
    await board.sibling(agent="bob").put("state.job", "done", key="a", tags={"is": "done"})
    await board.put("state.job", "pending", key="b", tags={"is": "pending"})
    await board.sibling(agent="bob").retire("*/state.job/b")
    with pytest.raises(TimeoutError):
        await board.wait("state.job", tags={"is": "pending"}, timeout=0.5)


async def test_a_light_memory_that_is_reclassified_stays_readable(board: Blackboard) -> None:
    light = await board.once("sum", "x", lambda: "result", topic="out")
    await board.reclassify(light.ref, "pii")
    moved = await board.get(light.ref)
    assert (moved.content, moved.access) == ("result", "pii")


async def test_a_reader_can_ask_the_leader_for_what_is_not_there(board: Blackboard) -> None:
    await board.put("t", 1)
    board.log.reads.replicated = True
    with pytest.raises(NotFoundError):
        await board.get(Ref("alice", "t", "0" * 32))


async def test_a_closed_board_says_so_in_its_own_words(board: Blackboard) -> None:
    async with Blackboard.open(board.url, board="main") as other:
        ref = await other.put("t", 1)
    for act in (
        lambda: other.get(ref),
        lambda: other.get(ref, at=datetime.now(UTC)),
        lambda: other.put("t", 2),
        lambda: other.put("t", "x" * 600_000),
        lambda: other.wait("t", timeout=1),
        lambda: other.once("sum", "x", lambda: 1),
    ):
        with pytest.raises(UnavailableError):
            await act()


async def test_a_very_long_reason_is_refused(board: Blackboard) -> None:
    ref = await board.put("t", 1)
    with anyio.fail_after(5), pytest.raises(InvalidError):
        await board.retire(ref, reason="x" * 2_000_000)


@pytest.mark.parametrize("version", ["β 1", "1\u2028", "v" * 200_000])
async def test_any_version_is_recorded_or_refused(board: Blackboard, version: str) -> None:
    try:
        agent = Agent("maker", version=version)
    except InvalidError:
        return

    @agent.on("in", to="out")
    async def make(_: Memory, bound: Blackboard) -> int:
        return 1

    async with agent.running(board):
        await board.put("in", 1)
        out = await board.wait("out", timeout=5)
    assert out.cause is not None
    assert f" v{version} " in out.cause


async def test_the_longest_names_work(board: Blackboard) -> None:
    long = board.sibling(board="b" * 64, agent="a" * 64)
    topic = ".".join(["t" * 63] * 8)
    ref = await long.put(topic, 1, key="k" * 128, access="l" * 64)
    agent = Agent("h" * 64)
    got: list[Any] = []

    @agent.on(topic, name="n" * 64, start="start", to=topic)
    async def take(item: Memory, bound: Blackboard) -> str:
        got.append(item.content)
        return await bound.once("o" * 64, item, lambda: "done") and "x" * 300_000

    async with long.view(topic) as view, agent.running(long):
        await wait_until(lambda: len(view) == 3, "input, light memory and output are there")
        assert view[ref].content == 1
    assert (await long.get(ref)).content == 1


async def test_a_question_whose_answer_has_no_place_is_refused_at_once(board: Blackboard) -> None:
    with anyio.fail_after(5), pytest.raises(InvalidError):
        await board.ask(".".join(["t" * 63] * 8), 1, timeout=4)


async def test_an_output_whose_time_was_over_is_not_put_by_returning_it(board: Blackboard) -> None:
    agent = Agent("maker")

    @agent.on("in", start="start", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        return await bound.once("sum", item, lambda: 1, ttl=timedelta(seconds=1))

    ref = await board.put("in", 1)
    stored = (await board.get(ref)).stored
    assert stored is not None
    over = stored + timedelta(seconds=1)
    await wait_until(lambda: datetime.now(UTC) > over, "the time of the output is over")
    async with agent.running(board):
        await settled(board, "maker--make")
    assert await everything(board, "out") == []


async def test_a_light_memory_is_returned_as_it_is_stored(board: Blackboard) -> None:
    agent = Agent("maker")
    seen: list[Memory] = []

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        light = await bound.once("sum", item, lambda: 1)
        seen.append(light)
        return light

    async with agent.running(board):
        await board.put("in", 1, session="s", user="u", access="pii")
        out = await board.wait("out", timeout=5)
    light = seen[0]
    assert (light.session, light.user, light.hops, light.sources) == (
        out.session,
        out.user,
        out.hops,
        out.sources,
    )


async def test_a_blob_that_names_a_place_elsewhere_is_refused(board: Blackboard) -> None:
    body = msgspec.json.encode(
        {
            "blob": {
                "id": "*",
                "size": 1,
                "chunks": 1,
                "sha256": "0",
                "agent": "*",
            }
        }
    )
    subject = f"mem.main.shared.mallory.t.{'0' * 32}"
    await board.put("u", "x" * 600_000)
    await board.log.connection.publish(Outgoing(subject, body, {"Bb-Agent": "mallory"}))
    with pytest.raises(InvalidError, match="blob"):
        await board.get(Ref("mallory", "t", "0" * 32))


async def test_a_view_drops_what_shows_nothing_any_more(board: Blackboard) -> None:
    ref = await board.put("t", "old", key="k")
    body = msgspec.json.encode({"content_of": f"*/once.x/none@{1}"})
    async with board.view("t") as view:
        assert ref in view
        await board.log.connection.publish(
            Outgoing("mem.main.shared.alice.t.k", body, {"Bb-Agent": "alice"})
        )
        await wait_until(lambda: ref not in view, "what cannot be read is not in the view", 3)
    with pytest.raises(BlackboardError):
        await board.get(ref)


async def test_a_board_that_was_half_made_is_completed(board: Blackboard) -> None:
    connection = board.log.connection
    await connection.delete_stream("KV_state_main")
    async with Blackboard.open(board.url, board="main"):
        assert await connection.stream("KV_state_main") is not None


async def test_calls_cut_off_at_any_point_leave_whole_batches_and_nothing_behind(
    board: Blackboard,
) -> None:
    for n in range(40):
        with anyio.move_on_after(n * 0.00005):
            await board.put("t", n, key="k")
        with anyio.move_on_after(n * 0.0002):
            await board.put_many("many", list(range(30)))
        with anyio.move_on_after(n * 0.0003):
            await board.once("sum", n, lambda n=n: n)
    with anyio.fail_after(8):
        await board.put("t", "end", key="k")
        again = await board.once("sum", 39, lambda: "made now")
    assert (await board.get("*/t/k")).content == "end"
    assert again.content in (39, "made now")
    assert len(await everything(board, "many")) % 30 == 0
    assert not board.session.flights


async def test_a_handler_may_change_its_mind_about_one_key_and_stores_one_revision(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    await board.put("state", 0, key="k")

    @agent.on("in")
    async def make(_: Memory, bound: Blackboard) -> None:
        await bound.put("state", 1, key="k")
        await bound.put("state", 2, key="k")
        await bound.retire("*/state/k")
        with pytest.raises(GoneError):
            await bound.get("*/state/k")
        await bound.put("state", 3, key="k")
        await bound.update("*/state/k", lambda m: m and m.content + 1)

    async with agent.running(board):
        await board.put("in", 1)
        await settled(board, "maker--make")
    assert [memory.content for memory in await everything(board, "state")] == [0, 4]


async def test_large_content_goes_through_a_handler(board: Blackboard) -> None:
    agent = Agent("maker")
    read: list[int] = []

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> Memory:
        ref = await bound.put("side", "y" * 8_000_000)
        read.append(len((await bound.get(ref)).content))
        return item

    async with agent.running(board):
        await board.put("in", "x" * 8_000_000)
        out = await board.wait("out", timeout=10)
    assert (len(out.content), read) == (8_000_000, [8_000_000])


async def test_a_sibling_takes_over_when_the_maker_in_its_process_gives_up(
    board: Blackboard,
) -> None:
    begun = anyio.Event()

    async def never() -> None:
        begun.set()
        await anyio.sleep_forever()

    results: list[Memory] = []

    async def take_over() -> None:
        results.append(await board.sibling(agent="bob").once("sum", 1, lambda: "taken over"))

    async with anyio.create_task_group() as waiting:
        async with anyio.create_task_group() as making:
            making.start_soon(board.once, "sum", 1, never)
            await begun.wait()
            waiting.start_soon(take_over)
            await anyio.lowlevel.checkpoint()
            making.cancel_scope.cancel()
        with anyio.fail_after(5):
            await wait_until(lambda: results, "the sibling has a result")
    assert results[0].content == "taken over"
