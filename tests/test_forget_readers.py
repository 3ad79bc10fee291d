"""What was forgotten is shown by no reader there is; each of them is seen to show it before."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.archive import export
from blackboard.batches import each_span_batch
from blackboard.clock import now
from blackboard.codec import to_json
from blackboard.errors import BlackboardError
from blackboard.explain import explain
from blackboard.inquiry import Question, inquire
from blackboard.jetstream import Start
from blackboard.records import SpanBatch
from blackboard.runtime.dead import bury, list_dead
from tests.forgetting import Steward, files_with
from tests.recall_service import RecallService, current
from tests.servers import Server
from tests.waiting import wait_until

SECRET = "planted-5a17"  # noqa: S105 - a word to look for
Reader = Callable[[], Awaitable[object]]


class Scene:
    """A memory with a secret, one that was made from it, and everybody who can show them."""

    def __init__(self, board: Blackboard, source: Ref, made: Ref, at: datetime) -> None:
        self.board = board
        self.source = source
        self.made = made
        self.at = at

    async def told(self, reader: Reader) -> str:
        """What a reader shows, errors included, as text."""
        try:
            shown = await reader()
        except BlackboardError as error:
            return str(error)
        return json.dumps(to_json(shown), default=str)

    async def get(self) -> object:
        return await self.board.get(self.source)

    async def get_a_revision(self) -> object:
        return await self.board.get(self.source.pinned())

    async def get_at_a_time(self) -> object:
        return await self.board.get(self.source, at=self.at)

    async def get_what_was_made(self) -> object:
        return await self.board.get(self.made)

    async def query(self) -> object:
        return await self.board.query(topic="cases.>", limit=10)

    async def recall(self) -> object:
        return [hit.memory for hit in await self.board.recall("a sunfish case", limit=10)]

    async def watch(self) -> object:
        found: list[Memory] = []
        async with self.board.watch(">", since="start") as memories:
            last = await self.board.put("notes", "the last")
            while not found or found[-1].ref != last.unpinned:
                found.append(await anext(memories))
        return found

    async def view(self) -> object:
        async with self.board.view(">") as view:
            return [view[ref] for ref in view]

    async def replay(self) -> object:
        async with self.board.replay(">") as memories:
            return [memory async for memory in memories]

    async def explain(self) -> object:
        return await explain(self.board, self.made)

    async def dead_letters(self) -> object:
        return await list_dead(self.board)


READERS = [
    Scene.get,
    Scene.get_a_revision,
    Scene.get_at_a_time,
    Scene.get_what_was_made,
    Scene.query,
    Scene.recall,
    Scene.watch,
    Scene.view,
    Scene.replay,
    Scene.dead_letters,
]


@pytest.fixture
async def scene(
    server: Server, steward: Steward, start_recall: Callable[..., RecallService]
) -> AsyncGenerator[Scene]:
    async with Blackboard.open(server.url, agent="alice") as board:
        await board.put("notes", "other")
        source = await board.put("cases", f"a sunfish case {SECRET}", user="u1", tags={"a": "b"})
        made = await board.put("cases", f"a sunfish case of {SECRET}", sources=[source])
        memory = await board.get(source)
        await bury(board.log, "summarize", "1", memory, ValueError(SECRET), occasion="run1")
        await board.journal.flush()
        start_recall()
        await current(board, board.log.reached)
        yield Scene(board, source, made, now())


async def spans_about(board: Blackboard, ref: Ref) -> list[object]:
    found: list[object] = []

    def take(batch: SpanBatch) -> None:
        found.extend(span for span in batch.spans if ref.id in str(msgspec.to_builtins(span)))

    await each_span_batch(board, Start.all(), take)
    return found


async def exported(board: Blackboard, directory: Path) -> list[str]:
    await export(board.log, directory)
    return files_with(directory, SECRET)


async def test_no_reader_shows_what_was_forgotten(scene: Scene, tmp_path: Path):
    for read in READERS:
        assert SECRET in await scene.told(lambda read=read: read(scene)), read
    assert str(scene.source) in await scene.told(scene.explain)
    assert await exported(scene.board, tmp_path / "before")
    await wait_until(lambda: _traced(scene), "its spans are written")

    receipt = await scene.board.forget(user="u1", reason="request 881")

    assert receipt.memories == 2
    # Before anybody who knows the reference asks for it again, which is a span of its own.
    assert not await spans_about(scene.board, scene.source)
    for read in READERS:
        shown = await scene.told(lambda read=read: read(scene))
        assert SECRET not in shown, (read, shown)
    explained = await scene.told(scene.explain)
    assert str(scene.source) not in explained
    assert SECRET not in explained
    assert not await exported(scene.board, tmp_path / "after")

    # That there was something stays known, and what it was does not.
    async def audited() -> bool:
        return str(scene.source) in str(await inquire(scene.board, Question(act="forget")))

    await wait_until(audited, "the steward notes it")
    assert SECRET not in str(await inquire(scene.board, Question()))


async def _traced(scene: Scene) -> bool:
    await scene.board.journal.flush()
    return bool(await spans_about(scene.board, scene.source))
