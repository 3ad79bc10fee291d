"""Runs a backup or a restore that kills itself with SIGKILL at its n-th step.

    killed_backup.py backup|restore URL DIRECTORY STEP

A step of a backup is a file that is written, one of a restore a request to the broker.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import anyio

from blackboard import Blackboard
from blackboard.backup import Vault, restore, take, vault
from blackboard.jetstream import Connection


async def main(what: str, url: str, directory: Path, step: int) -> None:
    steps = count(1)

    def tread() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "backup":
        write, replace = vault.write_private, Path.replace

        def write_private(path: Path, content: bytes) -> None:
            tread()
            write(path, content)

        def put(self: Path, target: Path) -> Path:
            tread()
            return replace(self, target)

        vault.write_private = write_private
        Path.replace = put  # pyright: ignore[reportAttributeAccessIssue]
        async with Blackboard.open(url, board="b", agent="cli", create=False) as board:
            await take(board.log, directory, place="here")
    else:
        async with Connection.open(url) as connection:
            request = connection.request

            async def asked(*arguments: Any, **options: Any) -> Any:
                tread()
                return await request(*arguments, **options)

            connection.request = asked
            await restore(connection, Vault(directory))
    print(next(steps))  # noqa: T201


if __name__ == "__main__":
    what, url, directory, step = sys.argv[1:]
    anyio.run(main, what, url, Path(directory), int(step))
