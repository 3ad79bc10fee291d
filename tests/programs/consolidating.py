"""Condenses a board once, and at one of its writes, model calls or looks at the index says so.

Told `die`, it kills itself there; else it waits until the file `go` is there.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import Any

import anyio

from blackboard import Blackboard
from blackboard.consolidator.policy import Policy, Rules
from blackboard.consolidator.service import Consolidator
from blackboard.finder import Finder
from blackboard.log import Log
from blackboard.models import Model, open_model
from tests.children import tell, told
from tests.waiting import wait_until

OPTIONS = told()
numbers = count(1)


async def point(where: str) -> None:
    number = next(numbers)
    tell(point=number, where=where)
    if number != OPTIONS.get("at"):
        return
    if "go" not in OPTIONS:
        os.kill(os.getpid(), signal.SIGKILL)
    go = anyio.Path(OPTIONS["go"])
    await wait_until(go.exists, "the file is there", 60)


def watched(name: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **options: Any) -> Any:
        await point(f"before {name}")
        answer = await real(*arguments, **options)
        await point(f"after {name}")
        return answer

    return call


async def main() -> None:
    rules = Rules(policy=(Policy(older_than=timedelta(0), count=10, ratio=3),))
    async with Blackboard.open(OPTIONS["url"], board=OPTIONS["board"], agent="alice") as board:
        desk = board.session.desk(board.name, "consolidator")
        Log.send = watched("write", Log.send)  # pyright: ignore[reportAttributeAccessIssue]
        Finder.query = watched("look", Finder.query)  # pyright: ignore[reportAttributeAccessIssue]
        if "model" not in OPTIONS:
            one = Consolidator(desk, rules, lease_s=1.0)
            done = await one.once()
        else:
            async with open_model(OPTIONS["model"]) as model:
                Model.complete = watched("call", Model.complete)  # pyright: ignore[reportAttributeAccessIssue]
                one = Consolidator(desk, rules, model, lease_s=1.0)
                done = await one.once()
        tell(summaries=done.summaries, retired=done.retired, waits=[str(w) for w in one.waits])


if __name__ == "__main__":
    anyio.run(main)
