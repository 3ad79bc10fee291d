"""From memories to what the index holds of them: their texts, embedded, and their metadata."""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import anyio.lowlevel
import msgspec

from blackboard.errors import (
    BlackboardError,
    GoneError,
    HistoryGoneError,
    ModelRefusedError,
    NotFoundError,
    RetryableError,
)
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.recall.embed import Embedder
from blackboard.recall.index import Entry, Index, Vectors
from blackboard.recall.text import HISTORY, Texts, leaning, plain, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.subjects import ONCE, Ref

logger = logging.getLogger(__name__)

MAX_BLOB_BYTES = 4 * 1024 * 1024
"""Larger content is not fetched to be indexed; its `text`, or its topic and tags, stand for it."""
SESSIONS = 10_000
"""Sessions whose last memories are at hand; of others they are looked up."""
STRIDE = 8
"""Texts made at a time, between which searches get their turn."""
KEPT_CHARS = 1_000
PROBE = "Is anybody there?"

Place = tuple[str, str, str | None]
"""Session, label and data subject: only within these does one memory explain another."""


class Entries:
    """Makes entries for one index.

    Args:
        reader: Fills content in.
        index: Knows results and what was said before.
        embedder: The index's own.

    Attributes:
        skipped: Memories for which no entry could be made.
        seconds: Where the time went.
    """

    def __init__(self, reader: Reader, index: Index, embedder: Embedder) -> None:
        self._reader = reader
        self._index = index
        self._embedder = embedder
        self._said: OrderedDict[Place, deque[Memory]] = OrderedDict()
        self._places: dict[Ref, Place] = {}
        self.skipped = 0
        self.seconds: dict[str, float] = {"content": 0.0, "texts": 0.0, "embedding": 0.0}

    async def of(self, memories: Sequence[Memory]) -> tuple[list[Entry], list[Ref]]:
        """Make entries of revisions, in the order of the stream.

        Returns:
            The entries, and the memories of which none could be made.

        Raises:
            RetryableError: The broker, the index or the embedder does not answer; again later.
        """
        texts: dict[Ref, Texts] = {}
        shown: dict[Ref, Vectors] = {}
        failed: list[Ref] = []
        for number, memory in enumerate(memories, 1):
            if number % STRIDE == 0:
                await anyio.lowlevel.checkpoint()
            ref = memory.ref.unpinned
            target = _shows(memory)
            if target is not None and target != ref and target not in texts:
                vectors = await self._index.vectors(target)
                if vectors is not None:
                    shown[ref] = vectors
                    continue
            elif target is not None and target in texts:
                texts[ref] = texts[target]
                continue
            made = await self._texts(memory)
            if made is None:
                failed.append(ref)
            else:
                texts[ref] = made
        vectors, refused = await self._embedded(texts)
        entries: list[Entry] = []
        for memory in memories:
            ref = memory.ref.unpinned
            found = shown.get(ref) or vectors.get(ref)
            if found is not None:
                entries.append(_entry(memory, found))
        self.skipped += len(refused)
        return entries, [*failed, *refused]

    def forget(self, ref: Ref) -> None:
        """Leave a memory out of what explains the ones behind it."""
        place = self._places.pop(ref, None)
        if place is not None:
            said = self._said[place]
            for memory in [memory for memory in said if memory.ref == ref]:
                said.remove(memory)

    async def _texts(self, memory: Memory) -> Texts | None:
        try:
            with self._timed("content"):
                full = await self._full(memory)
                before = await self._before(full)
            with self._timed("texts"):
                return texts_of(full, before)
        except RetryableError:
            raise
        except (GoneError, NotFoundError, HistoryGoneError):
            return None  # what it shows was taken back, so nobody can be shown it either
        except BlackboardError as error:
            logger.warning("cannot index %s: %s", memory.pinned, error)
        except (ValueError, TypeError, RecursionError) as error:
            # Of hostile content; whatever it is, the memories behind it shall be indexed.
            logger.warning("cannot index %s: %r", memory.pinned, error)
        self.skipped += 1
        return None

    @contextmanager
    def _timed(self, what: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - began

    async def _full(self, memory: Memory) -> Memory:
        if memory.blob is not None and (memory.text or memory.blob.size > MAX_BLOB_BYTES):
            return msgspec.structs.replace(memory, content=None, blob=None)
        return await self._reader.filled(memory)

    async def _before(self, memory: Memory) -> list[Memory]:
        """What was said before it, the nearest first, and note what this one says."""
        if memory.session is None or memory.topic.split(".")[0] == ONCE:
            return []
        place = memory.session, memory.access, memory.user
        said = self._said.get(place)
        if said is None:
            said = self._said[place] = deque(await self._look_up(place, memory))
            self._places.update((one.ref, place) for one in said)
            if len(self._said) > SESSIONS:
                for one in self._said.popitem(last=False)[1]:
                    self._places.pop(one.ref, None)
        self._said.move_to_end(place)
        self.forget(memory.ref)
        before = list(reversed(said))[:HISTORY]
        kept = plain(memory)[:KEPT_CHARS]
        said.append(msgspec.structs.replace(memory, content=kept, content_of=None, blob=None))
        self._places[memory.ref] = place
        if len(said) > HISTORY + 1:
            self._places.pop(said.popleft().ref, None)
        return before

    async def _look_up(self, place: Place, memory: Memory) -> list[Memory]:
        """The last memories of a session before this one, the oldest first."""
        session, access, user = place
        found: list[Memory] = []
        below = memory.revision
        while len(found) < HISTORY:
            ref = await self._index.newest(session, access, user, below)
            if ref is None or ref.revision is None:
                break
            below = ref.revision
            try:
                found.append(await self._full(await self._reader.pinned(ref)))
            except RetryableError:
                raise
            except BlackboardError:
                continue  # taken back meanwhile
        return found[::-1]

    async def _embedded(self, texts: dict[Ref, Texts]) -> tuple[dict[Ref, Vectors], list[Ref]]:
        """Embed each different text once; also gives those that the embedder refuses."""
        different = list(
            dict.fromkeys(one for each in texts.values() for one in (each.bare, each.author) if one)
        )
        places = {text: place for place, text in enumerate(different)}
        try:
            with self._timed("embedding"):
                rows = await self._embedder.embed(different)
        except ModelRefusedError:
            if len(texts) > 1:
                return await self._one_by_one(texts)
            await self._probe()
            return {}, list(texts)
        return {ref: _vectors(each, rows, places) for ref, each in texts.items()}, []

    async def _one_by_one(self, texts: dict[Ref, Texts]) -> tuple[dict[Ref, Vectors], list[Ref]]:
        await self._probe()
        vectors: dict[Ref, Vectors] = {}
        refused: list[Ref] = []
        for ref, each in texts.items():
            one, not_one = await self._embedded({ref: each})
            vectors.update(one)
            refused += not_one
        return vectors, refused

    async def _probe(self) -> None:
        """Tell a text that is refused from an endpoint that refuses everything.

        Raises:
            RetryableError: It refuses everything: it has to be mended, and nothing be skipped.
        """
        try:
            await self._embedder.embed([PROBE])
        except ModelRefusedError as error:
            raise RetryableError(f"{error}; indexing waits until that is mended") from error


def _vectors(texts: Texts, rows: FloatArray, places: Mapping[str, int]) -> Vectors:
    author = rows[places[texts.author]] if texts.author else None
    return Vectors(leaning(rows[places[texts.bare]], author), texts.words)


def _shows(memory: Memory) -> Ref | None:
    """The result whose content a memory shows; a result shows itself."""
    if memory.content_of is not None:
        return memory.content_of.unpinned
    return memory.ref.unpinned if memory.topic.split(".")[0] == ONCE else None


def _entry(memory: Memory, vectors: Vectors) -> Entry:
    if memory.stored is None:
        raise AssertionError("a memory from the stream has a time")
    return Entry(
        ref=memory.ref.unpinned,
        revision=memory.revision,
        access=memory.access,
        author=memory.agent,
        session=memory.session,
        user=memory.user,
        kind=memory.kind,
        tags=memory.tags,
        priority=memory.priority,
        stored=memory.stored,
        happened=memory.happened,
        expires=memory.expires,
        sources=tuple(ref.unpinned for ref in memory.sources),
        shows=_shows(memory),
        text=plain(memory) if memory.kind == "summary" and memory.content is not None else None,
        vectors=vectors,
    )
