"""Holds a board to its retention policy once, and kills itself at one of its writes.

Told `writes`, it puts so many memories of one session instead.
"""

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import anyio

from blackboard import Blackboard, clock
from blackboard.jetstream import Outgoing
from blackboard.keeping import policy_of
from blackboard.log import Log
from blackboard.steward.retaining import Retaining
from tests.children import tell, told

OPTIONS = told()
numbers = count(1)
real = Log.send


def point() -> None:
    number = next(numbers)
    tell(point=number)
    if number == OPTIONS["at"]:
        os.kill(os.getpid(), signal.SIGKILL)


async def send(log: Log, messages: Sequence[Outgoing]) -> int:
    point()
    answer = await real(log, messages)
    point()
    return answer


async def look(board: Blackboard) -> None:
    Log.send = send  # pyright: ignore[reportAttributeAccessIssue]
    desk = board.session.desk(board.name, "steward")
    policy = await policy_of(board.session.connection, board.name)
    assert policy is not None
    await Retaining(desk, now=lambda: clock.now() + timedelta(days=31)).look(policy)


async def write(board: Blackboard) -> None:
    for number in range(OPTIONS["writes"]):
        await board.put("chat", f"{board.agent} {number}", session="s1")


async def main() -> None:
    async with Blackboard.open(OPTIONS["url"], agent=OPTIONS["agent"]) as board:
        await (write(board) if "writes" in OPTIONS else look(board))


if __name__ == "__main__":
    anyio.run(main)
