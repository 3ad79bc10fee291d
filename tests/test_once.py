"""`once`: one result per piece of work, light memories for every caller, errors for those who wait.

Processes that are killed and stopped are in `test_once_processes.py`.
"""

import math
import threading
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest

from blackboard import Blackboard, Cost, Memory
from blackboard.envelope import Write
from blackboard.errors import GoneError, InvalidError, LabelError, MakeFailedError
from blackboard.telemetry import ONCE_MADE, ONCE_REUSED, TOKENS_SAVED


async def test_work_is_done_once_and_everybody_gets_a_memory_of_it(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    made = 0

    async def make() -> Memory:
        nonlocal made
        made += 1
        return Memory(content={"summary": "short"}, cost=Cost("m", 100, 1.5))

    mine = await board.once("summary", ["text"], make, topic="docs.summary", session="s1")
    his = await bob.once(
        "summary", ["text"], make, topic="docs.summary", session="s2", tags={"a": "b"}
    )

    assert made == 1
    assert (mine.kind, his.kind) == ("result", "reuse")
    assert mine.content == his.content == {"summary": "short"}
    read = await board.get(his.ref)
    assert (read.content, read.session, read.tags) == ({"summary": "short"}, "s2", {"a": "b"})
    assert read.content_of == mine.content_of
    assert read.agent == "bob"
    assert bob.telemetry.counters[ONCE_REUSED.name] == 1
    assert bob.telemetry.counters[TOKENS_SAVED.name] == 100
    assert board.telemetry.counters[ONCE_MADE.name] == 1


async def test_without_topic_the_result_itself_comes_back(board: Blackboard) -> None:
    first = await board.once("work", {"a": 1}, lambda: [1, 2])
    second = await board.once("work", {"a": 1}, lambda: [3])

    assert first.ref == second.ref
    assert str(first.ref).startswith("*/once.work/")
    assert second.content == [1, 2]
    assert (second.session, second.user, second.tags) == (None, None, {})


async def test_what_differs_is_done_again(board: Blackboard) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    for arguments in (
        {"name": "a", "inputs": 1},
        {"name": "b", "inputs": 1},
        {"name": "a", "inputs": 2},
        {"name": "a", "inputs": 1, "version": "2"},
        {"name": "a", "inputs": 1, "access": "pii"},
    ):
        options: dict[str, Any] = dict(arguments)
        await board.once(options.pop("name"), options.pop("inputs"), make, **options)

    assert len(made) == 5


async def test_a_memory_among_the_inputs_counts_by_its_content(board: Blackboard) -> None:
    one = await board.get(await board.put("t", {"b": 1, "a": 2}))
    other = await board.put("u", {"a": 2, "b": 1})

    first = await board.once("work", [one, "x"], lambda: "made")
    second = await board.once("work", [other, "x"], lambda: "again")

    assert second.revision == first.revision
    assert first.sources == (one.pinned,)


async def test_a_person_s_data_is_not_shared_under_an_open_label(board: Blackboard) -> None:
    anna = await board.get(await board.put("t", "same", user="anna"))
    berta = await board.get(await board.put("t", "same", user="berta"))

    assert (await board.once("w", [anna], lambda: 1)).content == 1
    assert (await board.once("w", [berta], lambda: 2)).content == 2
    assert (await board.once("w", [anna], lambda: 3)).content == 1


async def test_the_result_lies_under_the_label_of_its_inputs(board: Blackboard) -> None:
    private = await board.put("t", "p", access="pii")
    money = await board.put("t", "m", access="finance")

    result = await board.once("w", [private], lambda: 1, topic="out")

    assert result.access == "pii"
    assert (await board.get(result.ref)).content == 1
    with pytest.raises(LabelError):
        await board.once("w", [private, money], lambda: 1)


async def test_many_callers_in_one_process_make_it_once(board: Blackboard) -> None:
    boards = [board.sibling(agent=f"agent-{number}") for number in range(5)]
    made = 0
    kinds: list[str] = []
    go = anyio.Event()

    async def make() -> str:
        nonlocal made
        made += 1
        await go.wait()
        return "done"

    async def call(caller: Blackboard) -> None:
        kinds.append((await caller.once("w", 1, make, topic="out")).kind)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(call, boards[number % 5])
        await anyio.wait_all_tasks_blocked()
        go.set()

    assert made == 1
    assert sorted(kinds) == ["result"] + ["reuse"] * 49 or sorted(kinds).count("result") == 1


async def test_a_plain_function_runs_in_a_thread(board: Blackboard) -> None:
    loop_thread = threading.get_ident()

    result = await board.once("w", 1, threading.get_ident)

    assert result.content != loop_thread


async def test_an_old_result_is_made_anew_when_the_caller_wants_it_fresh(board: Blackboard) -> None:
    first = await board.once("w", 1, lambda: "old")
    same = await board.once("w", 1, lambda: "new", max_age=timedelta(hours=1))
    fresh = await board.once("w", 1, lambda: "new", max_age=timedelta(0))

    assert (first.content, same.content, fresh.content) == ("old", "old", "new")
    assert fresh.ref == first.ref
    assert (await board.once("w", 1, lambda: "x")).content == "new"


async def test_a_retired_result_is_made_anew_and_its_light_memories_are_gone(
    board: Blackboard,
) -> None:
    first = await board.once("w", 1, lambda: "wrong", topic="out")
    assert first.content_of is not None
    await board.retire(first.content_of.unpinned)

    again = await board.once("w", 1, lambda: "right", topic="out")

    assert again.content == "right"
    assert (await board.get(again.ref)).content == "right"


async def test_the_error_of_make_reaches_the_maker_and_those_who_wait(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    started, go = anyio.Event(), anyio.Event()
    errors: list[Exception] = []

    async def make() -> str:
        started.set()
        await go.wait()
        raise ValueError("boom")

    async def call(caller: Blackboard) -> None:
        try:
            await caller.once("w", 1, make)
        except (ValueError, MakeFailedError) as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call, board)
        await started.wait()
        group.start_soon(call, board)
        group.start_soon(call, bob)
        await anyio.wait_all_tasks_blocked()
        go.set()

    assert sorted(type(error).__name__ for error in errors) == [
        "MakeFailedError",
        "MakeFailedError",
        "ValueError",
    ]
    assert (await board.once("w", 1, lambda: "second try")).content == "second try"


async def test_a_caller_that_gives_up_leaves_the_work_to_the_next(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    started = anyio.Event()

    async def never() -> None:
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(board.once, "w", 1, never)
        await started.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(3):
        result = await bob.once("w", 1, lambda: "done")

    assert result.content == "done"


async def test_results_may_be_large(board: Blackboard) -> None:
    first = await board.once("w", 1, lambda: "x" * 600_000, topic="out")

    assert (await board.get(first.ref)).content == "x" * 600_000
    assert (await board.once("w", 1, lambda: "y", topic="out")).content == "x" * 600_000


async def test_bad_work_is_refused(board: Blackboard) -> None:
    for name, inputs, options in (
        ("a.b", 1, {}),
        ("w", {1: 2}, {}),
        ("w", float("nan"), {}),
        ("w", 2**60, {}),
        ("w", 1, {"lease": 0.5}),
        ("w", 1, {"lease": math.inf}),
        ("w", 1, {"lease": math.nan}),
        ("w", 1, {"lease": timedelta(seconds=10)}),
        ("w", 1, {"max_age": 60}),
        ("w", 1, {"topic": "once.x"}),
    ):
        with pytest.raises(InvalidError):
            await board.once(name, inputs, lambda: 1, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidError, match="no JSON"):
        await board.once("w", 1, lambda: b"bytes")


@pytest.mark.parametrize("max_age", [timedelta.max, timedelta(days=200_000)])
async def test_any_length_of_time_is_an_age(board: Blackboard, max_age: timedelta) -> None:
    await board.once("w", 1, lambda: "first")

    assert (await board.once("w", 1, lambda: "second", max_age=max_age)).content == "first"
    assert (await board.once("w", 1, lambda: "third", max_age=timedelta.min)).content == "third"


async def test_a_light_memory_may_be_given_other_content(board: Blackboard) -> None:
    light = await board.once("w", 1, lambda: {"a": 1}, topic="out")
    result = light.content_of
    assert result is not None

    read = await board.get(light.ref)
    await board.revise(light.ref, msgspec.structs.replace(read, tags={"seen": "yes"}))
    tagged = await board.get(light.ref)
    assert (tagged.content, tagged.content_of, tagged.tags) == ({"a": 1}, result, {"seen": "yes"})

    await board.revise(light.ref, msgspec.structs.replace(read, content="edited"))
    edited = await board.get(light.ref)
    assert (edited.content, edited.content_of) == ("edited", None)
    assert result in edited.sources

    other = await board.once("w", 1, lambda: None, topic="out")
    updated = await board.update(
        other.ref, lambda m: m and msgspec.structs.replace(m, content={"a": 2})
    )
    assert (updated.content, updated.content_of) == ({"a": 2}, None)
    assert (await board.get(other.ref)).content == {"a": 2}


async def test_a_result_whose_content_is_gone_is_named(board: Blackboard) -> None:
    light = await board.once("w", 1, lambda: "text", topic="out")
    assert light.content_of is not None

    await board.log.append(
        Write(
            ref=light.content_of.unpinned,
            access="shared",
            agent="alice",
            expected=light.content_of.revision or 0,
            gone="forgotten",
        )
    )
    other = Blackboard(board.session, board.session.desk(board.name, "fresh"))

    with pytest.raises(GoneError, match=r"once\.w"):
        await other.get(light.ref)


async def test_a_result_that_is_kept_is_not_shown_long_after_it_was_forgotten(
    board: Blackboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = await board.once("w", 1, lambda: "secret", topic="out")
    assert (await board.get(light.ref)).content == "secret"
    target = light.content_of
    assert target is not None
    await board.log.append(
        Write(
            ref=target.unpinned,
            access="shared",
            agent="alice",
            expected=target.revision or 0,
            gone="forgotten",
        )
    )
    monkeypatch.setattr("blackboard.reader.TRUSTED_S", 0.0)

    with pytest.raises(GoneError):
        await board.get(light.ref)


async def test_work_that_asks_for_itself_is_told_so_and_can_be_done_afterwards(
    board: Blackboard,
) -> None:
    async def make() -> str:
        inner = await board.once("sum", "x", lambda: "inner")
        return f"outer and {inner.content}"

    with anyio.fail_after(5):
        with pytest.raises(InvalidError, match="would wait for itself"):
            await board.once("sum", "x", make)
        result = await board.once("sum", "x", lambda: "done")
    assert result.content == "done"


async def test_work_may_ask_for_other_work(board: Blackboard) -> None:
    async def make() -> str:
        inner = await board.once("sum", "y", lambda: "inner")
        return f"outer and {inner.content}"

    with anyio.fail_after(5):
        result = await board.once("sum", "x", make)
    assert result.content == "outer and inner"
