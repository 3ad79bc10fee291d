"""Agents as processes: they begin where they are told, share their work, leave in good order."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.errors import InvalidError, NotFoundError, SettingsError, UnavailableError
from blackboard.records import Card
from blackboard.runtime.control import list_cards, list_handlers, pause, remove, resume
from blackboard.runtime.loading import load_agent
from blackboard.runtime.process import parse_start
from tests.replicas import PROGRAMS, Replica, replicas
from tests.servers import Server
from tests.settling import everything, settled
from tests.waiting import wait_until


def listing(name: str = "lister", **options: Any) -> tuple[Agent, list[Any]]:
    """An agent that only notes what came."""
    agent = Agent(name)
    seen: list[Any] = []

    @agent.on("in.>", **options)
    async def take(item: Memory, _: Blackboard) -> None:
        seen.append(item.content)

    return agent, seen


async def handled(board: Blackboard, agent: Agent, **options: Any) -> None:
    """Run an agent until it has nothing left to do."""
    async with agent.running(board, **options):
        await settled(board, f"{agent.name}--take")


async def test_a_new_agent_begins_now_and_goes_on_where_it_stopped(board: Blackboard) -> None:
    agent, seen = listing()
    await board.put("in.a", "before")

    await handled(board, agent)
    await board.put("in.a", "while it was down")
    await handled(board, agent)

    assert seen == ["while it was down"]


async def test_start_begins_anew_and_makes_everything_again_as_a_new_run(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    seen: list[Any] = []

    @agent.on("in", to="out")
    async def take(item: Memory, _: Blackboard) -> int:
        seen.append(item.content)
        return item.content

    await board.put("in", 1)
    between = datetime.now(UTC)
    await board.put("in", 2)
    await handled(board, agent, start="start")
    assert seen == [1, 2]
    await handled(board, agent, start=between)
    assert seen == [1, 2, 2]
    await handled(board, agent, start="now")
    assert seen == [1, 2, 2]

    outputs = await everything(board, "out")
    assert [memory.content for memory in outputs] == [1, 2, 2]
    assert outputs[1].ref == outputs[2].ref
    assert [memory.cause and memory.cause[-4:] for memory in outputs] == ["run1", "run1", "run2"]
    assert (await list_handlers(board))[0].run == 3


async def test_replicas_of_one_launch_begin_anew_together_once(board: Blackboard) -> None:
    agent, seen = listing()
    await board.put_many("in.a", [1, 2, 3])

    async with (
        agent.running(board, start="start", launch="one"),
        Blackboard.open(board.url, agent="other") as other,
        agent.running(other, start="start", launch="one"),
    ):
        await settled(board, "lister--take")
        assert (await list_handlers(board))[0].run == 1

    assert sorted(seen) == [1, 2, 3]


async def test_a_running_replica_joins_the_new_run_of_another(board: Blackboard) -> None:
    agent, seen = listing()

    async with agent.running(board):
        await board.put("in.a", 1)
        await settled(board, "lister--take")
        async with Blackboard.open(board.url, agent="other") as other:
            await handled(other, agent, start="start")
        await board.put("in.a", 2)
        await wait_until(lambda: seen == [1, 1, 2], "the old replica goes on in the new run")


async def test_replicas_with_other_settings_stop_and_say_what_to_do(board: Blackboard) -> None:
    old, seen = listing()
    wider = Agent("lister")

    async def take(_: Memory, __: Blackboard) -> None: ...

    wider.on("in.a", tags={"x": "y"})(take)
    async with old.running(board):
        with pytest.raises(SettingsError, match="blackboard agents remove lister take"):
            async with wider.running(board):
                pytest.fail("it must not run")
        await board.put("in.a", 1)
        await wait_until(lambda: seen == [1], "the old replica is not disturbed")

    await remove(board, "lister", "take")
    async with wider.running(board):
        assert (await list_handlers(board))[0].filter == "mem.main.*.*.in.a.*"


async def test_a_new_version_runs_beside_the_old_one(board: Blackboard) -> None:
    agent, seen = listing()
    newer, newer_seen = listing()
    newer.version = "2"

    async with (
        agent.running(board),
        Blackboard.open(board.url, agent="other") as other,
        newer.running(other),
    ):
        await board.put_many("in.a", list(range(50)))
        await settled(board, "lister--take")

    assert sorted(seen + newer_seen) == list(range(50))


async def test_a_paused_handler_gets_nothing_until_it_is_resumed(board: Blackboard) -> None:
    agent, seen = listing()

    async with agent.running(board):
        assert await pause(board, "lister") == ["take"]
        await board.put("in.a", 1)
        state = (await list_handlers(board, "lister"))[0]
        assert (state.paused, state.pending, seen) == (True, 1, [])

        await resume(board, "lister", "take")
        await wait_until(lambda: seen == [1], "it goes on")

        await pause(board, "lister", until=datetime.now(UTC) + timedelta(seconds=1))
        await board.put("in.a", 2)
        await wait_until(lambda: seen == [1, 2], "the pause is over")


async def test_a_removed_handler_stops_its_agent(board: Blackboard, tmp_path: Path) -> None:
    with replicas(board.url, tmp_path) as start:
        worker = start("patient")
        await worker.until("agent.running")
        assert await remove(board, "patient") == ["handle"]
        assert await worker.code() == 2

    assert "was removed while its agent ran" in worker.said()
    with pytest.raises(NotFoundError, match="patient"):
        await remove(board, "patient")
    with pytest.raises(InvalidError, match="time zone"):
        await pause(board, "patient", until=datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake


async def test_a_card_tells_who_runs_and_goes_with_it(board: Blackboard) -> None:
    agent, _ = listing()

    async with agent.running(board):
        await board.put("in.a", 1)
        await wait_until(lambda: list_cards(board), "the card")
        card = (await list_cards(board))[0]
        assert (card.agent, card.version, card.state) == ("lister", "1", "running")
        assert card.handlers == {"take": "in.>"}

    assert await list_cards(board) == []


async def test_a_broker_that_restarts_forgets_cards_but_not_for_long(
    server: Server, board: Blackboard
) -> None:
    async def cards() -> list[Card] | None:
        try:
            return await list_cards(board)
        except UnavailableError:
            return None  # not connected again yet

    async def nobody() -> bool:
        return await cards() == []

    agent, _ = listing()
    server.kill()
    server.start()
    await wait_until(nobody, "no card and no error", timeout=20)

    async with agent.running(board):
        await wait_until(cards, "the card, on a broker that lost the bucket")
        server.kill()
        server.start()
        await wait_until(cards, "the card again", timeout=20)


async def test_sigterm_finishes_what_is_in_hand_and_takes_nothing_new(
    board: Blackboard, tmp_path: Path
) -> None:
    with replicas(board.url, tmp_path) as start:
        worker = start("patient")
        await worker.until("agent.running")
        await board.put("in", "a")
        await board.wait("begun", timeout=5)
        await board.put("in", "b")
        worker.terminate()
        await worker.until("agent.signal")
        await board.put("go.a", "go")
        assert await worker.code() == 0

    assert [memory.content[0] for memory in await everything(board, "out")] == ["a"]
    assert [memory.content[0] for memory in await everything(board, "begun")] == ["a"]
    assert await list_cards(board) == []


@pytest.mark.parametrize("grace", ["0.1", "30"], ids=["grace is over", "second signal"])
async def test_what_is_not_finished_is_given_back_at_once(
    board: Blackboard, tmp_path: Path, grace: str
) -> None:
    with replicas(board.url, tmp_path) as start:
        first = start("patient", "--grace", grace)
        await first.until("agent.running")
        await board.put("in", "a")
        await board.wait("begun", timeout=5)
        second = start("patient")
        await second.until("agent.running")
        first.terminate()
        if grace == "30":
            await first.until("agent.signal")
            first.process.send_signal(signal.SIGINT)
        assert await first.code() == 0
        await wait_until(lambda: _twice(board), "the other has it", timeout=5)
        await board.put("go.a", "go")
        out = await board.wait("out", timeout=5)

    begun = [memory.content for memory in await everything(board, "begun")]
    assert out.content == begun[1]
    assert len(await everything(board, "out")) == 1


async def _twice(board: Blackboard) -> bool:
    return len(await everything(board, "begun")) == 2


async def test_an_agent_waits_for_a_broker_that_is_away(
    server: Server, board: Blackboard, tmp_path: Path
) -> None:
    with replicas(server.url, tmp_path) as start:
        worker = start("patient")
        await worker.until("agent.running")
        server.kill()
        server.start()
        await board.put("go.a", "go")
        await board.put("in", "a")
        out = await board.wait("out", timeout=20)
        assert out.content.startswith("a-")
        worker.terminate()
        assert await worker.code() == 0


async def test_replicas_are_started_signalled_and_waited_for_together(
    board: Blackboard, tmp_path: Path
) -> None:
    with replicas(board.url, tmp_path) as start:
        program = PROGRAMS / "in_replicas.py"
        parent: Replica = start(program, str(PROGRAMS / "patient.py"), "2", "start")
        await wait_until(lambda: _cards(board, 2), "two replicas", timeout=20)
        assert (await list_handlers(board))[0].run == 1
        parent.terminate()
        assert await parent.code() == 0
        assert await list_cards(board) == []

        wrong = start(program, str(PROGRAMS / "patient.py"), "2", "yesterday")
        assert await wrong.code() == 2
        assert "or now, or start" in wrong.said()


async def test_replicas_do_not_outlive_who_started_them(board: Blackboard, tmp_path: Path) -> None:
    with replicas(board.url, tmp_path) as start:
        parent = start(PROGRAMS / "in_replicas.py", str(PROGRAMS / "patient.py"), "2")
        await wait_until(lambda: _cards(board, 2), "two replicas", timeout=20)
        parent.kill()
        await wait_until(lambda: _cards(board, 0), "they have left", timeout=10)


async def _cards(board: Blackboard, count: int) -> bool:
    return len(await list_cards(board)) == count


async def test_an_agent_without_a_broker_fails_with_a_reason(
    server: Server, tmp_path: Path
) -> None:
    server.kill()
    with replicas(server.url, tmp_path) as start:
        worker = start("patient")
        assert await worker.code() == 1

    assert "no broker answers" in worker.said()
    assert "Traceback" not in worker.said()


def test_a_file_with_one_agent_is_loaded_with_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("NAME = 'found'")
    file = tmp_path / "my-agent.py"
    file.write_text(
        "from blackboard import Agent\nfrom beside_it import NAME\nagent = Agent(NAME)\n"
        "@agent.on('in')\nasync def take(item, board): ...\n"
        "if __name__ == '__main__':\n    agent.run()\n"
    )

    assert load_agent(file).name == "found"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "broken.py:1: "),
        ("x = 1\n", "exactly one Agent"),
        ("from blackboard import Agent\na = Agent('a')\nb = Agent('b')\n", "it has a, b"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("x = 1\nraise ValueError('odd')\n", "ValueError: odd .*broken.py:2"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = '\0'\n", "broken.py.*null bytes"),
        ("from blackboard import Agent\na = Agent('a')\n", "'a' in .* has no handlers"),
        # the line is the user's own, not that of the library that refused it
        ("from blackboard import Agent\na = Agent('Not One')\n", "InvalidError: .*broken.py:2"),
    ],
)
def test_a_file_that_is_no_agent_is_a_clear_error(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)

    with pytest.raises(SettingsError, match=words):
        load_agent(file)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no agent file"):
        load_agent(tmp_path / "nothing.py")


def test_start_is_a_word_or_a_time_with_zone() -> None:
    assert parse_start(None) is None
    assert parse_start("now") == "now"
    assert parse_start("2026-11-20T12:00:00Z") == datetime(2026, 11, 20, 12, tzinfo=UTC)
    ago = parse_start("1h")
    assert isinstance(ago, datetime)
    assert timedelta(minutes=59) < datetime.now(UTC) - ago < timedelta(minutes=61)
    with pytest.raises(SettingsError, match=r"no time zone.*; or now, or start"):
        parse_start("2026-11-20T12:00:00")


async def test_an_agent_without_handlers_does_not_run(board: Blackboard) -> None:
    with pytest.raises(SettingsError, match="no handlers"):
        async with Agent("idle").running(board):
            await anyio.sleep_forever()


def test_names_and_versions_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InvalidError, match="agent"):
        Agent("Not A Name")
    with pytest.raises(InvalidError, match="version"):
        Agent("a", version="1\n2")
