"""Condenses a board once, and at one of its writes, model calls or looks at the index says so.

Told `die`, it kills itself there; else it waits until the file `go` is there.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio

from blackboard import Blackboard
from blackboard.consolidator.policy import Policy, Rules
from blackboard.consolidator.service import Consolidator
from blackboard.finder import Finder
from blackboard.log import Log
from blackboard.models import Model, open_model
from tests.children import tell, told

OPTIONS = told()
reached = 0


async def point(where: str) -> None:
    global reached
    reached += 1
    tell(point=reached, where=where)
    if reached == OPTIONS.get("at"):
        if "go" not in OPTIONS:
            os.kill(os.getpid(), signal.SIGKILL)
        while not Path(OPTIONS["go"]).exists():
            await anyio.sleep(0.02)


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
