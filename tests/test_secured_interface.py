"""Every test of the public interface once more, for agents with limited rights.

The broker has credentials, each agent its own connection and just the rights that the tests need.
What is left out takes an operator by its nature, and says why.
"""

import ast
import importlib
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blackboard import Blackboard
from blackboard.access.rights import RESERVED, Grant, Rights
from blackboard.runtime.intake import pause as pause_length
from tests import settling
from tests.guarded import Guarded, agent

MODULES = (
    "agent",
    "board",
    "dead",
    "edges",
    "explain",
    "gather",
    "handlers",
    "labels",
    "once",
    "removal",
    "tasks",
    "watch",
)
LABELS = ("shared", "pii", "finance", "l")
ALL = tuple(Grant(label, ">") for label in LABELS)
SERVED = ("pii", "l")
"""Read through the steward only, which must make no difference."""
NAMES = re.compile(r'(?:agent=|Agent\()f?"([a-z0-9_-]+)"')
COUNTED = tuple(f"agent-{number}" for number in range(10))
HANDLERS = re.compile(r"\)\(([a-z_]+)\)$", re.MULTILINE)
"""`agent.on("topic")(function)`."""
LEFT_OUT = {
    "board.test_a_missing_chunk_is_gone": "deletes a chunk by hand",
    "board.test_a_sibling_board_is_made_on_first_use": "makes a board",
    "board.test_a_board_that_is_not_there_is_not_made_for_a_reader": "makes a board",
    "dead.test_a_retry_of_what_was_handled_meanwhile_does_nothing": (
        "lists the subjects of a stream"
    ),
    "dead.test_what_kills_its_processes_is_given_up_in_the_end": "pulls for somebody else",
    "edges.test_a_foreign_message_at_the_place_of_a_result_does_not_have_it_made_for_ever": (
        "writes as somebody else"
    ),
    "edges.test_a_foreign_message_above_shared_state_does_not_block_handlers": (
        "writes as somebody else"
    ),
    "edges.test_the_longest_names_work": "makes a board",
    "edges.test_a_blob_that_names_a_place_elsewhere_is_refused": "makes a board",
    "edges.test_a_board_that_was_half_made_is_completed": "deletes a stream",
    "gather.test_three_replicas_merge_a_thousand_groups_once_each_though_some_are_killed": (
        "lists the subjects of a stream"
    ),
    "handlers.test_a_broken_connection_gives_a_replica_no_more_than_it_has_slots_for": (
        "cuts the wire of one agent, over which another works"
    ),
    "handlers.test_a_redelivery_after_the_commit_stores_nothing_more": (
        "sets another's consumer back"
    ),
    "labels.test_an_output_follows_its_input_under_another_label": (
        "counts revisions that the steward, which runs here, has deleted"
    ),
    "once.test_a_result_whose_content_is_gone_is_named": "is another agent by hand",
    "removal.test_what_was_retired_is_gone_from_every_reader": "reads the bucket of states",
    "removal.test_the_projection_drops_what_was_moved_and_shows_what_came_back": (
        "reads the bucket of states"
    ),
    "removal.test_what_expired_is_gone_from_every_reader": "reads the bucket of states",
}


OPERATORS = ("list_dead", "retry_dead", "list_handlers", "pause", "remove", "resume")
"""What `blackboard dead` and `blackboard agents` do."""
PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))


def _tests() -> Iterator[tuple[str, ModuleType, str]]:
    for name in MODULES:
        module = importlib.import_module(f"tests.test_{name}")
        for test in vars(module):
            if test.startswith("test_") and f"{name}.{test}" not in LEFT_OUT:
                yield f"test_{name}__{test.removeprefix('test_')}", module, test


for own, origin, original in _tests():
    globals()[own] = getattr(origin, original)


def _sources(module: ModuleType) -> str:
    return "\n".join([inspect.getsource(module), *(path.read_text() for path in PROGRAMS)])


def _names(module: ModuleType) -> set[str]:
    return {"alice", "bob", "carol", "reader", *COUNTED, *NAMES.findall(_sources(module))} - {
        "agent-",
        *RESERVED,
    }


def _handlers(module: ModuleType) -> set[str]:
    """The names of all handlers that a test's agents declare."""
    found: set[str] = set(HANDLERS.findall(_sources(module)))
    for node in ast.walk(ast.parse(_sources(module))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call) or not isinstance(decorator.func, ast.Attribute):
                continue
            if decorator.func.attr in ("on", "gather", "answers"):
                named = [word.value for word in decorator.keywords if word.arg == "name"]
                names = [str(one.value) for one in named if isinstance(one, ast.Constant)]
                found.add(names[0] if names else node.name)
    return {name.replace("_", "-") for name in found} | found


@pytest.fixture
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Where a test comes from."""
    return importlib.import_module(request.function.__module__)


@pytest.fixture
def people(module: ModuleType) -> list[Rights]:
    handlers = sorted(_handlers(module))
    return [agent(name, read=ALL, write=ALL, handlers=handlers) for name in sorted(_names(module))]


@pytest.fixture
async def server(
    tmp_path: Path, people: list[Rights], monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Guarded]:
    secured = Guarded(tmp_path / "secured", people, served=SERVED)
    monkeypatch.setenv("BLACKBOARD_CREDENTIALS", str(secured.credentials))
    try:
        secured.start()
        await secured.lay()
        secured.start_steward()
        await secured.serving()
        yield secured
    finally:
        secured.end_stewards()
        secured.kill()


@pytest.fixture
async def board(
    server: Guarded, people: list[Rights], module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Blackboard]:
    """The board of `alice`; its siblings are other agents, each over a connection of its own.

    Here a connection has one name only; those tests want somebody else, and not the same process.
    """
    async with AsyncExitStack() as stack:
        boards = {
            one.agent: await stack.enter_async_context(server.board(one.agent)) for one in people
        }
        operator = await stack.enter_async_context(server.board("cli"))
        itself = Blackboard.sibling

        def sibling(
            self: Blackboard, board: str | None = None, agent: str | None = None
        ) -> Blackboard:
            if board not in (None, self.name) or agent not in boards:
                return itself(self, board, agent)
            return boards[agent]

        def by_operator(act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(_: Blackboard, *arguments: Any, **options: Any) -> Any:
                return act(operator, *arguments, **options)

            return acting

        def overseer(_: Blackboard) -> Blackboard:
            return operator

        monkeypatch.setattr(Blackboard, "sibling", sibling)
        monkeypatch.setattr(settling, "overseer", overseer)
        for act in OPERATORS:
            found = vars(module).get(act)
            if found is not None and found is not pause_length:
                monkeypatch.setattr(module, act, by_operator(found))
        yield boards["alice"]
