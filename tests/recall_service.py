"""A recall service as a process of its own: started, killed, stopped and looked into."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from blackboard import Blackboard
from blackboard.clock import now
from blackboard.errors import BlackboardError
from blackboard.recall.catalogue import read_catalogue
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.index import Entry, Row, Where
from blackboard.search import Filter, Status
from tests.embedding_stub import EmbeddingStub
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
MODEL = "bow-64"
SERVICE_S = 20.0


class RecallService:
    """One process of `python -m blackboard.recall`.

    Args:
        url: The broker.
        data: Where it keeps its indexes; a later one finds them.
        stub: The embeddings' endpoint; None leaves it with MiniLM.
        model: Named to it.
        lazy: As the local stack runs it.
        environment: More of it.
    """

    def __init__(
        self,
        url: str,
        data: Path,
        stub: EmbeddingStub | None,
        *,
        model: str | None = MODEL,
        lazy: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.data = data
        self.log = data.with_suffix(".log")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if "BLACKBOARD" not in name and "OPENAI" not in name and name != "QDRANT_URL"
        }
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {
            **inherited,
            "PYTHONPATH": path,
            "BLACKBOARD_URL": url,
            "BLACKBOARD_DATA": str(data),
            **(environment or {}),
        }
        if stub is not None:
            variables["OPENAI_BASE_URL"] = stub.url
            if model is not None:
                variables["BLACKBOARD_EMBEDDING_MODEL"] = model
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "blackboard.recall", *(["--lazy"] if lazy else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
            )

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it ends by itself."""
        return self._process.wait(timeout=20)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; killed when it takes too long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=20)
        finally:
            self.kill()

    def indexes(self, board: str = "main") -> set[str]:
        """The indexes on its disk."""
        return {path.name for path in (self.data / "recall" / board).iterdir() if path.is_dir()}


async def current(board: Blackboard, least: int = 0) -> Status:
    """Wait until the index of a board holds everything, and a revision; gives its status."""
    status: Status | None = None
    trouble: object = None
    with anyio.move_on_after(SERVICE_S):
        while True:
            try:
                status = await board.finder.status()
            except BlackboardError as error:
                trouble = error
            else:
                state = status.state
                if not state.lag and not state.catching_up and state.indexed >= least:
                    return status
            await anyio.sleep(0.05)
    raise AssertionError(f"the index is not current: {status} {trouble}")


async def entries(data: Path, board: str = "main") -> dict[str, Entry]:
    """What an index on disk holds, without its vectors; its service must have ended."""
    directory = data / "recall" / board
    book = read_catalogue(directory).active
    assert book is not None, "no index"
    index = await EdgeIndex.open(directory / book.name, book.signature)
    try:
        where = Where(Filter(), None, now())
        found: dict[str, Entry] = {}
        after: Row | None = None
        while rows := await index.select(where, "stored", 500, after):
            after = rows[-1]
            for row in rows:
                entry = await index.get(row.ref)
                assert entry is not None, row
                found[str(row.ref)] = entry
        return found
    finally:
        await index.close()


def told(entry: Entry) -> dict[str, object]:
    """An entry as what can be compared: all but its dense vector."""
    words = entry.vectors.words
    fields: dict[str, object] = {
        name: getattr(entry, name) for name in entry.__struct_fields__ if name != "vectors"
    }
    fields["words"] = dict(zip(words.indices, words.values, strict=True))
    return fields


async def contents(board: Blackboard, text: str, **options: Any) -> list[object]:
    return [hit.memory.content for hit in await board.recall(text, **options)]


@asynccontextmanager
async def lagging(board: Blackboard, embeddings: EmbeddingStub) -> AsyncGenerator[None]:
    """Hold the index where it is, while it goes on answering."""
    await current(board, board.log.reached)
    embeddings.held = "dam"
    await board.sibling(agent="dammer").put("dams", "a dam")
    await wait_until(embeddings.waiting.is_set, "the indexer waits")
    try:
        yield
    finally:
        embeddings.release()
