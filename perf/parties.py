"""Who takes part in `bench_peers`, and what they are given: ours on a board, our index, the peers.

Everybody takes the times of its own searches, where it runs.
"""

import itertools
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from blackboard import Blackboard, Memory
from blackboard.clock import now
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.embed import MiniLM
from blackboard.recall.index import Entry, Vectors, Where
from blackboard.recall.rank import DEPTH, rank
from blackboard.recall.text import leaning, question, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.search import Filter
from blackboard.subjects import Ref
from perf.bench_recall import texts
from perf.peers.environment import Peer
from perf.processes import Child

HITS = 10
QUESTIONS = 200
USERS = 20
TEAMS = ("blue", "red", "green")
ASKED = "user-3"
BOARD = (
    "our client, the broker and the recall service, three processes; embeds the question, searches "
    "by meaning and by words, reads the hits' content from the stream, so that nothing that ended "
    "or was taken back is among them, and audits each; what is put is synced to disk; a call puts "
    "many"
)
INDEX = (
    "what the service searches in, in our process; by meaning and by words, ranked; the hits are "
    "references, without content; on disk by a flush, the stream being the log"
)


class Given(msgspec.Struct):
    """What everybody is given.

    Attributes:
        pieces: Texts to be found.
        fields: Of each piece.
        questions: To find them by.
        rows: Vectors, of the pieces and then of the questions.
        author: The vector of our agent's name.
    """

    pieces: list[str]
    fields: list[dict[str, str]]
    questions: list[str]
    rows: Any
    author: Any

    @classmethod
    def make(cls, count: int) -> "Given":
        """The same in every run; the pieces of one user stand together. `embed` is still to do."""
        pieces = list(dict.fromkeys(texts(0, 2 * count)))[:count]  # some come twice
        users = [place * USERS // len(pieces) for place in range(len(pieces))]
        fields = [{"user": f"user-{user}", "team": TEAMS[user % len(TEAMS)]} for user in users]
        asked = [" ".join(text.split()[:9]) for text in texts(-1, QUESTIONS)]
        return cls(pieces, fields, asked, None, None)

    async def embed(self, model: MiniLM) -> None:
        """Compute all vectors."""
        self.rows = await model.embed(self.pieces + self.questions)
        self.author = (await model.embed(["bench"]))[0]

    def chunks(self) -> list[range]:
        """The pieces of each user, as they are added."""
        bounds = [-(-len(self.pieces) * user // USERS) for user in range(USERS + 1)]
        return [range(*pair) for pair in itertools.pairwise(bounds)]

    def write(self, folder: Path) -> None:
        """Leave it for the peers."""
        told = {"pieces": self.pieces, "fields": self.fields, "questions": self.questions}
        (folder / "given.json").write_text(json.dumps(told))
        np.save(folder / "vectors.npy", self.rows)

    def nearest(self, number: int, user: str | None) -> set[str]:
        """The true nearest to a question, by comparing with all."""
        size = len(self.pieces)
        near = self.rows[:size] @ self.rows[size + number]
        places = [
            place
            for place in np.argsort(-near).tolist()
            if user is None or self.fields[place]["user"] == user
        ]
        return {self.pieces[place] for place in places[:HITS]}


class Found(msgspec.Struct):
    """What came of some searches: milliseconds and texts of each, and the time of all."""

    times: list[float]
    found: list[list[str]]
    seconds: float


class Party(Protocol):
    """Somebody who takes part."""

    name: str
    does: str

    async def add(self, places: range) -> float:
        """Take in pieces of one user; seconds."""
        ...

    async def search(self, first: int, count: int, user: str | None) -> Found:
        """Ask so many questions from the `first` on."""
        ...


class OnBoard:
    """Ours, end to end."""

    name = "board.recall"
    does = BOARD

    def __init__(self, board: Blackboard, given: Given) -> None:
        self._board = board
        self._given = given

    async def add(self, places: range) -> float:
        """Put them; indexing comes later."""
        fields = self._given.fields[places.start]
        pieces = self._given.pieces[places.start : places.stop]
        began = time.perf_counter()
        await self._board.put_many(
            f"cases.{fields['user']}", pieces, user=fields["user"], tags={"team": fields["team"]}
        )
        return time.perf_counter() - began

    async def search(self, first: int, count: int, user: str | None) -> Found:
        """The audit is written within the time of all."""
        where: dict[str, Any] = {} if user is None else {"user": user}

        async def ask(asked: str) -> list[str]:
            hits = await self._board.recall(asked, limit=HITS, fresh=False, **where)
            return [str(hit.memory.content) for hit in hits]

        return await searched(self._given, first, count, ask, self._board.journal.flush)


class InIndex:
    """Our index alone."""

    name = "our index alone"
    does = INDEX

    def __init__(self, index: EdgeIndex, given: Given) -> None:
        self._index = index
        self._given = given
        size = len(given.pieces)
        self._asked: dict[str, FloatArray] = dict(
            zip(given.questions, given.rows[size:], strict=True)
        )

    async def add(self, places: range) -> float:
        """Make entries and apply them, as the service does."""
        began = time.perf_counter()
        entries = [self._entry(place) for place in places]
        await self._index.apply(entries, [], places.stop)
        return time.perf_counter() - began

    def _entry(self, place: int) -> Entry:
        fields = self._given.fields[place]
        ref = Ref("bench", f"cases.{fields['user']}", f"{place:032x}")
        memory = Memory(
            content=self._given.pieces[place],
            agent=ref.agent,
            topic=ref.topic,
            id=ref.id,
            user=fields["user"],
            stored=now(),
        )
        made = texts_of(memory)
        if made is None or memory.stored is None:
            raise AssertionError("a piece is no tombstone")
        return Entry(
            ref=ref,
            revision=place + 1,
            access="shared",
            author=ref.agent,
            user=fields["user"],
            tags={"team": fields["team"]},
            stored=memory.stored,
            vectors=Vectors(leaning(self._given.rows[place], self._given.author), made.words),
        )

    async def search(self, first: int, count: int, user: str | None) -> Found:
        """Both parts, as deep as the service looks, and the ranking."""
        users = () if user is None else (user,)

        async def ask(asked: str) -> list[str]:
            vectors = Vectors(self._asked[asked], question(asked).words)
            moment = now()
            parts = await self._index.search(
                vectors, Where(Filter(users=users), None, moment), DEPTH
            )
            ranked = rank(parts, limit=HITS, now=moment)
            return [self._given.pieces[int(hit.ref.id, 16)] for hit in ranked]

        return await searched(self._given, first, count, ask)


class Elsewhere:
    """A peer, in its own process."""

    def __init__(self, peer: Peer, running: Child) -> None:
        self.name = peer.name
        self.does = peer.does
        self._running = running

    async def add(self, places: range) -> float:
        """As its program does."""
        said = await self._running.ask(json.dumps({"first": places.start, "last": places.stop}))
        return said["seconds"]

    async def search(self, first: int, count: int, user: str | None) -> Found:
        """As its program does."""
        order = {"first": first, "count": count, "limit": HITS, "user": user}
        return msgspec.convert(await self._running.ask(json.dumps(order)), Found)


async def searched(
    given: Given,
    first: int,
    count: int,
    ask: Callable[[str], Awaitable[list[str]]],
    settle: Callable[[], Awaitable[object]] | None = None,
) -> Found:
    """Ask in this process."""
    times: list[float] = []
    found: list[list[str]] = []
    start = time.perf_counter()
    for number in range(first, first + count):
        began = time.perf_counter()
        found.append(await ask(given.questions[number % len(given.questions)]))
        times.append(1000 * (time.perf_counter() - began))
    if settle is not None:
        await settle()
    return Found(times, found, time.perf_counter() - start)
