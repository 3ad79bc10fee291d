"""SIGKILL of the process that holds the embedded index: it never claims more than is on disk."""

import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from blackboard.recall.edge import EdgeIndex
from blackboard.recall.index import Where
from blackboard.search import Filter
from tests.children import children
from tests.entries import NOW, SIGNATURE, vectors
from tests.index_history import SIZE, batch
from tests.shelf_index import ShelfIndex
from tests.test_index import assert_same

EVERYTHING = Where(Filter(), None, NOW)
KILLS = 4


def last(said: list[dict[str, Any]], what: str) -> int:
    return max((line[what] for line in said if what in line), default=0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("tidy", [0, 15])
async def test_a_killed_index_holds_all_up_to_its_position(tmp_path: Path, tidy: int) -> None:
    chance = random.Random(tidy)
    directory = tmp_path / "index"
    position = 0
    with children(tmp_path) as start:
        for number in range(KILLS):
            child = start("index_writer", f"w{number}", directory=str(directory), tidy=tidy)
            some = chance.randint(1, 6)
            await child.until(
                lambda said, some=some: (
                    sum("flushed" in line for line in said) >= some
                    and (not tidy or sum("tidied" in line for line in said) >= some % 2)
                ),
                "flushes",
            )
            await anyio.sleep(chance.random() / 10)  # anywhere, not always behind a flush
            child.kill()
            said = child.said()
            position = await survives(directory, last(said, "flushed"), last(said, "applied"))
            assert last(said, "opened") <= position
    assert position > 0


async def survives(directory: Path, flushed: int, applied: int) -> int:
    """What is there up to the position is right; what follows is repeated and comes out right."""
    index = await EdgeIndex.open(directory, SIGNATURE)
    position = await index.position()
    assert position >= flushed
    shelf = ShelfIndex()
    for number in range(1, position // SIZE + 1):
        shelf.apply(*batch(number))
    later: set[Any] = set()
    # The line that tells of the last batch may have been lost with the process.
    for number in range(position // SIZE + 1, applied // SIZE + 2):
        entries, gone, _ = batch(number)
        later |= {one.ref for one in entries} | set(gone)
    for ref, one in shelf.held.items():
        if ref not in later:
            assert_same(await index.get(ref), one)
    for number in range(position // SIZE + 1, applied // SIZE + 2):
        await index.apply(*batch(number))
        shelf.apply(*batch(number))
    assert await index.select(EVERYTHING, "stored", 1000, None) == shelf.select(
        EVERYTHING, "stored"
    )
    assert await index.count(EVERYTHING, ["tag", "topic"]) == shelf.count(
        EVERYTHING, ["tag", "topic"]
    )
    for ref, one in shelf.held.items():
        assert_same(await index.get(ref), one)
    asked = vectors(random.Random(1))
    found = await index.search(asked, EVERYTHING, 200)
    for part in ("bare", "words"):
        assert {hit.candidate.ref for hit in found[part]} == set(
            shelf.search(asked, EVERYTHING, part)
        )
    await index.close()
    return position
