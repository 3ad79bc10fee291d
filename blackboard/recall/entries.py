"""From memories to what the index holds of them: their texts, embedded, and their metadata."""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Sequence
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
from blackboard.plaintext import plain
from blackboard.reader import Reader
from blackboard.recall.embed import Embedder
from blackboard.recall.index import Company, Entry, Index, Vectors
from blackboard.recall.text import HISTORY, Texts, leaning, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.subjects import ONCE, Ref

logger = logging.getLogger(__name__)

MAX_BLOB_BYTES = 4 * 1024 * 1024
"""Larger content is not fetched to be indexed; its `text`, or its topic and tags, stand for it."""
SESSIONS = 10_000
"""Companies whose last memories are at hand; of others they are looked up."""
STRIDE = 8
"""Texts made at a time, between which searches get their turn."""
KEPT_CHARS = 1_000
AUTHORS = 1_000
"""Names whose vectors are at hand."""
PROBE = "Is anybody there?"


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
        self._said: OrderedDict[Company, deque[Memory]] = OrderedDict()
        self._companies: dict[Ref, Company] = {}
        self._authors: dict[str, FloatArray] = {}
        self.skipped = 0
        self.seconds: dict[str, float] = {"content": 0.0, "texts": 0.0, "embedding": 0.0}

    async def of(
        self, memories: Sequence[Memory], gone: Sequence[Ref] = ()
    ) -> tuple[list[Entry], list[Ref]]:
        """Make entries of revisions, in the order of the stream.

        Args:
            memories: New, or revised.
            gone: Taken back at the same time.

        Returns:
            The entries, and the memories of which none could be made. Among the entries are those
            of memories that had borrowed words of one that is revised or gone: without them.

        Raises:
            RetryableError: The broker, the index or the embedder does not answer; again later.
        """
        changed = {*(memory.ref.unpinned for memory in memories), *gone}
        for ref in changed:
            self._forget(ref)
        texts: dict[Ref, Texts] = {}
        shown: dict[Ref, Vectors] = {}
        borrowed: dict[Ref, tuple[Ref, ...]] = {}
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
            made = await self._texts(memory, changed)
            if made is None:
                failed.append(ref)
            else:
                texts[ref], borrowed[ref] = made
        vectors, refused = await self._embedded(texts)
        entries: list[Entry] = []
        for memory in memories:
            ref = memory.ref.unpinned
            found = shown.get(ref) or vectors.get(ref)
            if found is not None:
                entries.append(_entry(memory, found, borrowed.get(ref, ())))
        self.skipped += len(refused)
        return [*entries, *await self._bereft(changed)], [*failed, *refused]

    def _forget(self, ref: Ref) -> None:
        """Look up again what was said in the company of a memory that is another one now."""
        company = self._companies.get(ref)
        if company is not None:
            for memory in self._said.pop(company):
                self._companies.pop(memory.ref, None)

    async def _bereft(self, changed: set[Ref]) -> list[Entry]:
        """Those that had borrowed words of what changed, with words of what is before them now."""
        entries: list[Entry] = []
        for ref in await self._index.borrowers(list(changed)):
            entry = None if ref.unpinned in changed else await self._index.get(ref)
            if entry is None or entry.revision != ref.revision:
                continue
            try:
                memory = await self._full(await self._reader.unfilled(ref))
            except RetryableError:
                raise
            except BlackboardError:
                continue  # it changed too, and what it became is on its way here
            company = _company(memory)
            before = [] if company is None else await self._look_up(company, memory, changed)
            texts = texts_of(memory, before)
            if texts is not None:
                vectors = Vectors(entry.vectors.bare, texts.words)
                entries.append(
                    msgspec.structs.replace(entry, vectors=vectors, borrowed=_refs(before))
                )
        return entries

    async def _texts(
        self, memory: Memory, changed: set[Ref]
    ) -> tuple[Texts, tuple[Ref, ...]] | None:
        """What is indexed of a memory, and of whom it borrows."""
        try:
            with self._timed("content"):
                full = await self._full(memory)
                before = await self._before(full, changed)
            with self._timed("texts"):
                made = texts_of(full, before)
                return None if made is None else (made, _refs(before))
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

    async def _before(self, memory: Memory, changed: set[Ref]) -> list[Memory]:
        """What was said before it, the nearest first, and note what this one says."""
        company = _company(memory)
        if company is None:
            return []
        said = self._said.get(company)
        if said is None:
            found = await self._look_up(company, memory, changed)
            said = self._said[company] = deque(found[::-1])
            self._companies.update((one.ref, company) for one in said)
            if len(self._said) > SESSIONS:
                for one in self._said.popitem(last=False)[1]:
                    self._companies.pop(one.ref, None)
        self._said.move_to_end(company)
        before = list(reversed(said))[:HISTORY]
        kept = plain(memory)[:KEPT_CHARS]
        said.append(msgspec.structs.replace(memory, content=kept, content_of=None, blob=None))
        self._companies[memory.ref] = company
        if len(said) > HISTORY:
            self._companies.pop(said.popleft().ref, None)
        return before

    async def _look_up(self, company: Company, memory: Memory, changed: set[Ref]) -> list[Memory]:
        """The last memories of a company before this one, the nearest first.

        Those that change at the same time are left out: what they were is over, and what they
        become comes later.
        """
        found: list[Memory] = []
        below = memory.revision
        # In one look past all that change: a whole session is retired at once.
        some = HISTORY + len(changed)
        while True:
            refs = await self._index.newest(company, below, some)
            for ref in refs:
                if ref.unpinned in changed:
                    continue
                try:
                    found.append(await self._full(await self._reader.unfilled(ref)))
                except RetryableError:
                    raise
                except BlackboardError:
                    continue  # taken back meanwhile
                if len(found) == HISTORY:
                    return found
            if len(refs) < some:
                return found
            below = refs[-1].revision or 0

    async def _embedded(self, texts: dict[Ref, Texts]) -> tuple[dict[Ref, Vectors], list[Ref]]:
        """Embed each different text once; also gives those that the embedder refuses."""
        authors = {each.author for each in texts.values()} - self._authors.keys() - {""}
        different = list(dict.fromkeys((*authors, *(each.bare for each in texts.values()))))
        places = {text: place for place, text in enumerate(different)}
        try:
            with self._timed("embedding"):
                rows = await self._embedder.embed(different)
        except ModelRefusedError:
            if len(texts) > 1:
                return await self._one_by_one(texts)
            await self._probe()
            return {}, list(texts)
        self._authors.update((name, rows[places[name]].copy()) for name in authors)
        found = {
            ref: Vectors(
                leaning(rows[places[each.bare]], self._authors.get(each.author)), each.words
            )
            for ref, each in texts.items()
        }
        if len(self._authors) > AUTHORS:
            self._authors.clear()
        return found, []

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


def _company(memory: Memory) -> Company | None:
    """Whose words a memory borrows; None for one without session, or that shows a result."""
    if memory.session is None or _shows(memory) is not None:
        return None
    return Company(memory.session, memory.access, memory.topic, memory.user)


def _refs(memories: Sequence[Memory]) -> tuple[Ref, ...]:
    return tuple(memory.ref.unpinned for memory in memories)


def _shows(memory: Memory) -> Ref | None:
    """The result whose content a memory shows; a result shows itself."""
    if memory.content_of is not None:
        return memory.content_of.unpinned
    return memory.ref.unpinned if memory.topic.split(".")[0] == ONCE else None


def _entry(memory: Memory, vectors: Vectors, borrowed: tuple[Ref, ...]) -> Entry:
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
        borrowed=borrowed,
        text=plain(memory) if memory.kind == "summary" and memory.content is not None else None,
        vectors=vectors,
    )
