"""Recall beside Chroma, mem0 (infer=False) and LangGraph's in-memory store, on the same texts.

    python -m perf.bench_peers [--pieces 5000]

The peers are installed in an environment of their own (`perf/.peers`; that needs the package index,
nothing later does), and each runs in a process of its own that takes its own times. All are given
the same texts, fields, questions and vectors of MiniLM. Vectors are computed beforehand and looked
up, so embedding is in nobody's figures, with two exceptions: `board.recall` has its question
embedded by the service, as in production (a row says what that alone takes), and the service embeds
what it indexes. What the others do more or less is said below the tables.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import msgspec
import numpy as np

from blackboard import Blackboard, Memory
from blackboard.clock import now
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.embed import MINILM_DIMENSIONS, MiniLM
from blackboard.recall.index import Entry, Signature, Vectors, Where
from blackboard.recall.rank import DEPTH, rank
from blackboard.recall.text import RECIPE, leaning, question, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.search import Filter
from blackboard.subjects import Ref
from perf.bench_recall import current, service, texts
from perf.harness import Bench, Case, run
from perf.peers.environment import PEERS, PYTHON, Peer, prepare, surroundings, versions
from perf.processes import Child, child

HITS = 10
QUESTIONS = 200
USERS = 20
TEAMS = ("blue", "red", "green")
ASKED = "user-3"
BOARD = (
    "our client, the broker and the recall service, three processes; embeds the question, searches "
    "by meaning and by words, reads the hits' content from the stream, so that nothing that ended "
    "or was taken back is among them, and audits each; what is put is synced to disk"
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
        pieces = list(dict.fromkeys(texts(0, count)))
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


def _unused(_number: int) -> None:
    raise AssertionError("a party takes its own times")


@dataclass(slots=True, kw_only=True)
class Turn(Case):
    """A case whose party takes the times itself."""

    run: Callable[[int], object] = _unused
    times: Callable[[int, int], Awaitable[Found]]

    async def block(self, first: int, count: int) -> None:
        """Have `count` questions asked."""
        said = await self.times(first, count)
        self.blocks.append(said.times)
        self.rates.append(count / said.seconds)


async def add(bench: Bench, given: Given, parties: Sequence[Party]) -> None:
    """All take in all pieces, in turns."""
    took: dict[str, list[float]] = {party.name: [] for party in parties}
    for turn, places in enumerate(given.chunks()):
        shift = turn % len(parties)
        for party in (*parties[shift:], *parties[:shift]):
            took[party.name].append(1000 * await party.add(places))
    title = f"take in {len(given.pieces):,}, {len(given.pieces) // USERS} at a time"
    rows = [
        bench.record(
            f"{title}: {name}", times, rate=1000 * len(given.pieces) / max(1e-9, sum(times))
        )
        for name, times in took.items()
    ]
    for row in rows[1:]:
        row.ratio, row.against = row.p50 / rows[0].p50, rows[0].what
    bench.table(f"{title} (board.recall: put, not yet indexed); memories per s", rows)


async def search(bench: Bench, given: Given, parties: Sequence[Party], model: MiniLM) -> None:
    """All find the same, in turns."""
    for what, user in (("all", None), (f"one user of {USERS}", ASKED)):
        shares: dict[str, list[float]] = {party.name: [] for party in parties}

        def turn(party: Party, user: str | None = user, shares: Any = shares) -> Turn:
            async def times(first: int, count: int) -> Found:
                said = await party.search(first, count, user)
                shares[party.name] += judged(given, party, first, user, said)
                return said

            return Turn(what=party.name, times=times)

        async def embedded(first: int, count: int) -> Found:
            async def embed(asked: str) -> list[str]:
                await model.embed([asked])
                return []

            return await searched(given, first, count, embed)

        cases = [turn(party) for party in parties]
        alone = Turn(what="(MiniLM of the question)", times=embedded)
        title = f"{HITS} of {len(given.pieces):,}, {what}"
        await bench.compare(title, [*cases, alone], against=parties[0].name)
        told = ", ".join(f"{name} {statistics.mean(each):.3f}" for name, each in shares.items())
        bench.say(f"  of the {HITS} nearest by MiniLM alone were found: {told}")


def judged(given: Given, party: Party, first: int, user: str | None, said: Found) -> list[float]:
    """The share of the true nearest among each answer's; an answer that cannot be is an error."""
    owners = dict(zip(given.pieces, given.fields, strict=True))
    shares: list[float] = []
    for number, found in enumerate(said.found, first):
        true = given.nearest(number % len(given.questions), user)
        if not found or any(user not in (None, owners[text]["user"]) for text in found):
            raise AssertionError(f"{party.name} answered {found} for {user or 'all'}")
        shares.append(len(true.intersection(found)) / len(true))
    return shares


async def indexed(bench: Bench, board: Blackboard, size: int) -> None:
    """Wait until the service has indexed what was put."""
    began = time.perf_counter()
    status = await current(board)
    seconds = time.perf_counter() - began
    if status.memories < size:
        raise AssertionError(f"{status.memories} of {size} were indexed")
    row = bench.record("indexed by the service", [1000 * seconds], rate=size / seconds)
    bench.table("from the stream to the index of board.recall, start and embedding included", [row])
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in status.seconds.items())
    bench.say(f"  of {seconds:.1f} s: {parts}")


async def peers(bench: Bench, folder: Path, given: Given, stack: AsyncExitStack) -> list[Elsewhere]:
    """Those peers that run; of the others it is said why not."""
    left_out = await anyio.to_thread.run_sync(lambda: prepare(install=not bench.tiny))
    given.write(folder)
    running: list[Elsewhere] = []
    for peer in PEERS:
        if peer.name not in left_out:
            home = folder / peer.module
            home.mkdir()
            folders = [str(folder), str(home)]
            started = child(
                f"peers.{peer.module}", python=str(PYTHON), env=surroundings(home), folders=folders
            )
            one = await stack.enter_async_context(started)
            if "failed" not in one.greeting:
                running.append(Elsewhere(peer, one))
                continue
            left_out[peer.name] = one.greeting["failed"]
        bench.say(f"{peer.name} is left out: {left_out[peer.name]}")
    found = await anyio.to_thread.run_sync(versions)
    bench.packages |= found
    bench.say(" ".join(f"{name} {version}" for name, version in found.items()))
    return running


async def main(bench: Bench) -> None:
    given = Given.make(bench.options.pieces or bench.size(5_000, 100, 20_000))
    model = await MiniLM.open()
    await given.embed(model)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blackboard-perf-")))
        others = await peers(bench, folder, given, stack)
        signature = Signature("bench", model.name, MINILM_DIMENSIONS, RECIPE)
        index = await EdgeIndex.open(folder / "index", signature)
        stack.push_async_callback(index.close)
        board = await stack.enter_async_context(
            Blackboard.open(bench.url, board="bench", agent="bench")
        )
        parties: list[Party] = [OnBoard(board, given), InIndex(index, given), *others]
        await add(bench, given, parties)
        await index.flush()
        began = time.perf_counter()
        tidied = await index.tidy()
        took = f"{time.perf_counter() - began:.1f} s" if tidied else "nothing: too few for a graph"
        bench.say(f"  the graph of our index is built apart, by another process; it took {took}")
        await stack.enter_async_context(service(bench.url))
        await indexed(bench, board, len(given.pieces))
        await search(bench, given, parties, model)
        bench.say("\nWhat each does:")
        for party in parties:
            bench.say(f"  {party.name}: {party.does}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pieces", type=int, help="texts to be found (5,000; 20,000 with --full)")


if __name__ == "__main__":
    run("peers", __doc__, main, n=QUESTIONS, arguments=arguments)
