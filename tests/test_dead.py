"""What a handler gives up on becomes a dead letter, and an operator can have it tried again."""

from typing import Any

import anyio
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.errors import NotFoundError, RetryableError, TerminalError, UnavailableError
from blackboard.jetstream import pull
from blackboard.messages import MAX_HOPS
from blackboard.runtime.dead import list_dead, retry_dead
from blackboard.runtime.intake import LONGEST_PAUSE_S, decisive, pause
from tests.settling import everything, settled
from tests.waiting import wait_until


class Failing:
    """An agent whose handler fails until it is mended."""

    def __init__(self, error: Exception, attempts: int = 3) -> None:
        self.agent = Agent("shaky", version="3")
        self.mended = False
        self.deliveries: list[int] = []

        @self.agent.on("in", to="out", attempts=attempts)
        async def handle(item: Memory, board: Blackboard) -> Any:
            self.deliveries.append(item.delivery)
            await board.put("side", "never seen while it fails")
            if not self.mended:
                raise error
            return item.content


async def dead(board: Blackboard, count: int = 1) -> bool:
    return len(await list_dead(board)) == count


async def test_a_terminal_error_makes_a_dead_letter_at_once(board: Blackboard) -> None:
    failing = Failing(TerminalError("no such customer"))

    async with failing.agent.running(board) as runner:
        ref = await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")
        await settled(board, "shaky--handle")
        assert runner.stats.failed == 1
        assert runner.stats.done == 0

    letter = (await list_dead(board))[0].letter
    assert failing.deliveries == [1]
    assert letter.input == ref.pinned()
    assert (letter.agent, letter.handler, letter.version) == ("shaky", "handle", "3")
    assert letter.error == "TerminalError: no such customer"
    assert "test_dead.py" in letter.traceback
    assert await everything(board, "side") == []


async def test_a_bug_is_tried_again_and_then_dead(board: Blackboard) -> None:
    failing = Failing(ValueError("a bug"))

    async with failing.agent.running(board):
        await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")
        await settled(board, "shaky--handle")

    assert failing.deliveries == [1, 2, 3]
    assert (await list_dead(board))[0].letter.attempts == 3
    assert await everything(board, "side") == []


GROUPS: list[tuple[list[Exception], type[Exception]]] = [
    ([UnavailableError("gone")], UnavailableError),
    ([ValueError("a bug"), UnavailableError("gone")], UnavailableError),
    ([UnavailableError("gone"), TerminalError("no")], TerminalError),
    ([ExceptionGroup("inner", [RetryableError("busy", after_s=9)])], RetryableError),
    ([ValueError("a bug")], ValueError),
    ([ValueError("a bug"), RetryableError("busy")], ExceptionGroup),
]


@pytest.mark.parametrize(("errors", "kind"), GROUPS)
def test_a_group_of_errors_counts_as_what_decides_in_it(
    errors: list[Exception], kind: type[Exception]
) -> None:
    assert type(decisive(ExceptionGroup("tasks", errors))) is kind


async def test_an_outage_in_a_task_of_the_handler_is_not_held_against_its_input(
    board: Blackboard,
) -> None:
    agent = Agent("shaky")
    tried: list[int] = []

    @agent.on("in", attempts=1, to="out")
    async def handle(item: Memory, _: Blackboard) -> int:
        async def fetch() -> None:
            if len(tried) == 1:
                raise UnavailableError("the broker is away")

        tried.append(item.delivery)
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
        return item.content

    async with agent.running(board):
        await board.put("in", 1)
        assert (await board.wait("out", timeout=5)).content == 1
    assert tried == [1, 2]
    assert await list_dead(board) == []


async def test_a_retryable_error_says_when_to_try_again(board: Blackboard) -> None:
    failing = Failing(RetryableError("busy", after_s=0.05), attempts=20)

    async with failing.agent.running(board):
        began = anyio.current_time()
        await board.put("in", "x")
        await wait_until(lambda: len(failing.deliveries) >= 3, "three tries")
        failing.mended = True
        await board.wait("out", timeout=5)

    assert anyio.current_time() - began < 1.0
    assert await list_dead(board) == []


def test_pauses_double_with_jitter_up_to_a_limit() -> None:
    error = RetryableError("busy")

    assert 0.1 < pause(1, error) <= 0.25
    assert 0.5 <= pause(3, error) <= 1.0
    assert LONGEST_PAUSE_S / 2 <= pause(40, error) <= LONGEST_PAUSE_S
    assert pause(40, RetryableError("busy", after_s=7)) == 7


async def test_a_dead_letter_is_handled_again_when_an_operator_wants_it(board: Blackboard) -> None:
    failing = Failing(TerminalError("down"))

    async with failing.agent.running(board):
        await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")
        assert [found.letter.error for found in await retry_dead(board)] == ["TerminalError: down"]
        await wait_until(lambda: len(failing.deliveries) == 2, "tried again")
        await wait_until(lambda: dead(board), "dead again")

        failing.mended = True
        number = (await list_dead(board))[0].number
        await retry_dead(board, [number])
        out = await board.wait("out", timeout=5)

    assert out.content == "x"
    assert failing.deliveries == [1, 1, 1]
    assert await list_dead(board) == []
    assert len(await everything(board, "side")) == 1


async def test_a_retry_waits_for_an_agent_that_is_down(board: Blackboard) -> None:
    failing = Failing(TerminalError("down"))

    async with failing.agent.running(board):
        await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")
    failing.mended = True
    await retry_dead(board, agent="shaky", handler="handle")
    async with failing.agent.running(board):
        out = await board.wait("out", timeout=5)

    assert out.content == "x"


async def test_a_retry_of_what_was_handled_meanwhile_does_nothing(board: Blackboard) -> None:
    failing = Failing(TerminalError("down"))

    async with failing.agent.running(board):
        ref = await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")
        failing.mended = True
        await board.revise(ref, "y")
        await settled(board, "shaky--handle")
        await retry_dead(board)
        await wait_until(lambda: _no_wishes(board), "the wish was taken")

    assert [memory.content for memory in await everything(board, "out")] == ["y"]


async def _no_wishes(board: Blackboard) -> bool:
    info = await board.log.connection.stream("DEAD_main", subjects="retry.>")
    return info is not None and not info.state.subjects


async def test_a_number_that_is_no_dead_letter_is_an_error(board: Blackboard) -> None:
    with pytest.raises(NotFoundError, match="17"):
        await retry_dead(board, [17])


async def test_agents_that_feed_each_other_stop_at_the_hop_limit_and_say_why(
    board: Blackboard,
) -> None:
    ping, pong = Agent("ping"), Agent("pong")
    hits = 0

    async def hit(ball: Memory, _: Blackboard) -> int:
        nonlocal hits
        hits += 1
        return ball.content + 1

    ping.on("left", to="right")(hit)
    pong.on("right", to="left")(hit)
    async with ping.running(board), pong.running(board):
        await board.put("left", 0)
        await wait_until(lambda: dead(board), "the letter")
        await settled(board, "ping--hit")
        await settled(board, "pong--hit")

    letter = (await list_dead(board))[0].letter
    assert hits == MAX_HOPS
    assert "limit of 16 hops" in letter.error
    assert letter.chain == ("pong", "ping") * 8 + ("alice",)


async def test_what_kills_its_processes_is_given_up_in_the_end(board: Blackboard) -> None:
    agent = Agent("victim")
    calls: list[int] = []

    @agent.on("in", attempts=1)
    async def handle(item: Memory, _: Blackboard) -> None:
        calls.append(item.delivery)

    async with agent.running(board):
        pass
    await board.put("in", "poison")
    # As processes do that die at once: take it, and never say what became of it.
    async with pull(board.log.connection, board.log.stream, "victim--handle") as puller:
        taken = 0
        while taken < 12:
            delivery = await puller.next(1)
            if delivery is not None:
                taken += 1
                await delivery.nak()
    async with agent.running(board):
        await wait_until(lambda: dead(board), "the letter")

    assert calls == []
    assert "without an end" in (await list_dead(board))[0].letter.error


async def test_a_value_without_a_topic_to_go_to_is_a_dead_letter(board: Blackboard) -> None:
    agent = Agent("careless")

    @agent.on("in")
    async def handle(_: Memory, __: Blackboard) -> str:
        return "lost?"

    async with agent.running(board):
        await board.put("in", "x")
        await wait_until(lambda: dead(board), "the letter")

    assert "has no to=" in (await list_dead(board))[0].letter.error
