"""Puts memories and recalls each at once; says how many it found."""

import anyio

from blackboard import Blackboard
from tests.children import tell, told


async def main(url: str) -> None:
    found = missed = 0
    async with Blackboard.open(url, agent="many") as board:
        name = board.session.instance
        for number in range(15):
            await board.put("own", f"word{name}x{number} and more")
            hits = await board.recall(f"word{name}x{number}", limit=5)
            wanted = f"word{name}x{number} and more"
            if wanted in [hit.memory.content for hit in hits]:
                found += 1
            else:
                missed += 1
                tell(stale=hits.stale, lag=hits.lag, got=[str(h.memory.content) for h in hits])
    tell(found=found, missed=missed)


anyio.run(main, told()["url"])
