"""Writes about u1 and about u2 until it is killed, and says how often it did."""

import anyio

from blackboard import Blackboard
from tests.children import tell, told


async def main() -> None:
    options = told()
    async with Blackboard.open(
        options["url"], board=options["board"], agent=options["agent"]
    ) as board:
        count = 0
        while True:
            ref = await board.put("cases", f"planted-{count}", user="u1")
            await board.put("cases", f"foreign-{count}", user="u2")
            await board.put("notes", f"made-{count}", sources=[ref])
            count += 1
            tell(count=count)


anyio.run(main)
