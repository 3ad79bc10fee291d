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
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from blackboard import Blackboard
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.embed import MINILM_DIMENSIONS, MiniLM
from blackboard.recall.index import Signature
from blackboard.recall.text import RECIPE
from perf.bench_recall import current, service, settled
from perf.harness import Bench, Case, run
from perf.parties import (
    ASKED,
    HITS,
    QUESTIONS,
    USERS,
    Elsewhere,
    Found,
    Given,
    InIndex,
    OnBoard,
    Party,
    searched,
)
from perf.peers.environment import PEERS, PYTHON, prepare, surroundings, versions
from perf.processes import child


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
    await settled(bench, board, size)


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
            try:
                one = await stack.enter_async_context(started)
            except (anyio.IncompleteRead, anyio.EndOfStream, TimeoutError):
                left_out[peer.name] = "its program ended, or said nothing; see above"
            else:
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
        bench.say(
            "\nOurs ranks by words too, and so finds others than the nearest by meaning alone; what"
        )
        bench.say("that is worth, bench_locomo measures. Besides, each does more or less:")
        for party in parties:
            bench.say(f"  {party.name}: {party.does}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pieces", type=int, help="texts to be found (5,000; 20,000 with --full)")


if __name__ == "__main__":
    run("peers", __doc__, main, n=QUESTIONS, arguments=arguments)
