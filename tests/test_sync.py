import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

import anyio.to_thread
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import ConflictError, InvalidError, NoAnswerError, NotFoundError
from blackboard.sync import SyncBlackboard
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[1]

NOT_FOR_SYNCHRONOUS_CODE = {
    "bound": "the runtime binds a board to a handler's input",
    "finder": "it is asked by the command line, in the event loop",
    "connection": "the client belongs to the event loop of another thread",
    "sync": "it is this",
}


@pytest.fixture
def board(server: Server) -> Iterator[SyncBlackboard]:
    with Blackboard.sync(server.url, agent="alice") as opened:
        yield opened


def test_no_public_method_of_the_board_is_missing():
    public = {name for name in dir(Blackboard) if not name.startswith("_")}

    missing = public - set(dir(SyncBlackboard)) - set(NOT_FOR_SYNCHRONOUS_CODE)
    assert not missing


def test_every_method_keeps_its_parameters_and_says_what_it_does():
    for name in set(dir(SyncBlackboard)) & set(dir(Blackboard)):
        ours, theirs = getattr(SyncBlackboard, name), getattr(Blackboard, name)
        if name.startswith("_") or not callable(ours):
            continue

        assert ours.__doc__, name
        assert _parameters(ours) == _parameters(theirs), name


def _parameters(method: object) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(method).parameters.values()  # pyright: ignore[reportArgumentType]
    return [(one.name, one.kind, one.default) for one in parameters]


def test_a_memory_is_put_read_revised_and_retired(board: SyncBlackboard):
    ref = board.put("reports.q3", {"growth": 4}, tags={"region": "emea"})
    first = board.get(ref)
    board.revise(ref, {"growth": 5}, expected=first.revision)
    board.retire(ref, "wrong")
    board.undo(ref)

    assert first.content == {"growth": 4}
    assert board.get(ref).content == {"growth": 5}
    assert board.get(first.pinned).content == {"growth": 4}
    assert [ref.topic for ref in board.put_many("many", [1, 2, 3])] == ["many"] * 3
    assert (board.name, board.agent) == ("main", "alice")


def test_types_are_kept(board: SyncBlackboard):
    # Checked by the type checker; at run time these do nothing.
    ref = assert_type(board.put("notes", "x"), Ref)
    assert_type(board.get(ref), Memory)
    assert_type(board.put_many("notes", ["x"]), list[Ref])
    with board.watch("notes") as memories:
        assert_type(memories, Iterator[Memory])


def test_errors_come_as_they_are(board: SyncBlackboard):
    with pytest.raises(NotFoundError):
        board.get("*/state.config/mode")
    board.put("state.config", 1, key="mode")
    with pytest.raises(ConflictError):
        board.put("state.config", 2, key="mode", expected=0)


def test_an_error_inside_the_block_is_not_wrapped(server: Server):
    with pytest.raises(NotFoundError), Blackboard.sync(server.url) as board:
        board.get("*/state.config/mode")


def test_shared_state_is_updated_by_threads_without_loss(board: SyncBlackboard):
    ref = board.put("state.count", 0, key="visits")

    def add() -> None:
        for _ in range(10):
            board.update(ref, lambda memory: 0 if memory is None else memory.content + 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert board.get(ref).content == 40


def test_work_is_done_once_and_may_use_the_board(board: SyncBlackboard):
    other = board.sibling(agent="bob")
    source = board.put("docs.section", "long text")
    calls: list[str] = []

    def make() -> str:
        calls.append(board.get(source).content)
        return "short"

    first = board.once("summary", [board.get(source)], make, topic="docs.summary")
    second = other.once("summary", [other.get(source)], make, topic="docs.summary")

    assert calls == ["long text"]
    assert (first.kind, second.kind, second.content) == ("result", "reuse", "short")
    assert second.agent == "bob"


def test_watch_gives_history_and_then_what_comes(board: SyncBlackboard):
    board.put("reports.a", 1)

    with board.watch("reports.>", since="start") as memories:
        seen = [next(memories).content]
        board.put("reports.b", 2)
        seen.append(next(memories).content)

    assert seen == [1, 2]


def test_replay_ends_where_the_past_ends(board: SyncBlackboard):
    board.put_many("reports", [1, 2, 3])

    with board.replay("reports") as memories:
        assert [memory.content for memory in memories] == [1, 2, 3]


def test_a_wrong_pattern_is_refused_when_the_watch_begins(board: SyncBlackboard):
    with pytest.raises(InvalidError), board.watch("reports.>.more"):
        pass


def test_a_view_is_a_mapping_that_follows_the_board(board: SyncBlackboard):
    ref = board.put("reports.a", 1)

    with board.view("reports.>") as view:
        assert view[ref].content == 1
        assert (len(view), list(view)) == (1, [ref])
        board.revise(ref, 2)
        view.changed(timeout=10)
        assert view[ref].content == 2
        other = board.put("reports.b", 3)
        view.changed(timeout=10)
        assert {key: memory.content for key, memory in view.items()} == {ref: 2, other: 3}
        assert sorted(memory.content for memory in view.values()) == [2, 3]
        with pytest.raises(NoAnswerError):
            view.changed(timeout=0.05)


def test_waiting_and_asking_end_in_time(board: SyncBlackboard):
    def answer() -> None:
        with board.watch("news", since="start") as memories:
            board.put("done", next(memories).content)

    thread = threading.Thread(target=answer)
    thread.start()
    board.put("news", "up")
    seen = board.wait("done", timeout=10)
    thread.join()

    assert seen.content == "up"
    with pytest.raises(NoAnswerError):
        board.wait("never", timeout=0.05)
    with pytest.raises(NoAnswerError):
        board.ask("questions.none", "why?", timeout=0.05)


def test_ttl_and_times_pass_through(board: SyncBlackboard):
    memory = board.get(board.put("t", "x", ttl=timedelta(hours=1)))

    assert memory.expires is not None
    assert memory.stored is not None
    assert board.get(memory.ref, at=memory.stored).content == "x"


WAITER = """
import sys
from blackboard import Blackboard

with Blackboard.sync(sys.argv[1]) as board, board.watch("never") as memories:
    print("waiting", flush=True)
    next(memories)
"""


def test_ctrl_c_ends_a_wait_at_once(server: Server):
    waiter = subprocess.Popen(
        [sys.executable, "-c", WAITER, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        waiter.send_signal(signal.SIGINT)
        _, said = waiter.communicate(timeout=15)
    finally:
        waiter.kill()

    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "ExceptionGroup" not in said


def test_leaving_the_program_from_within_is_not_an_error_of_the_board(server: Server):
    def program() -> None:
        with Blackboard.sync(server.url) as board:
            board.put("notes", "x")
            with board.view("notes") as view, board.watch("notes"):
                sys.exit(len(view))

    with pytest.raises(SystemExit) as left:
        program()

    assert left.value.code == 1


async def test_the_local_stack_can_be_used_from_synchronous_code(data_dir: Path):
    def use() -> Memory:
        with SyncBlackboard.local(data_dir) as board:
            return board.get(board.put("notes", "hello"))

    memory = await anyio.to_thread.run_sync(use)

    assert memory.content == "hello"
