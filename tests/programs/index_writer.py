"""Applies a known history to an embedded index, from its position on, until it is killed.

Says the position after each flush and after each tidying. Options: `directory`, `tidy` (every so many
batches; 0 is never).
"""

from pathlib import Path

import anyio

from blackboard.recall.edge import EdgeIndex
from tests.children import tell, told
from tests.entries import SIGNATURE
from tests.index_history import SIZE, batch


async def main(directory: str, tidy: int) -> None:
    index = await EdgeIndex.open(Path(directory), SIGNATURE)
    tell(opened=await index.position())
    number = await index.position() // SIZE
    async with anyio.create_task_group() as tasks:
        while True:
            number += 1
            await index.apply(*batch(number))
            tell(applied=number * SIZE)
            if number % 7 == 0:
                await index.flush()
                tell(flushed=await index.position())
            if tidy and number % tidy == 0:
                tasks.start_soon(tidied, index)


async def tidied(index: EdgeIndex) -> None:
    if await index.tidy(scrub=True):
        tell(tidied=await index.position())


if __name__ == "__main__":
    anyio.run(lambda: main(**told()))
