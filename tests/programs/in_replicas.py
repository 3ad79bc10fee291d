"""Runs an agent's file in replicas, as the command line does: FILE REPLICAS [START]."""

import sys

import anyio

from blackboard.errors import SettingsError
from blackboard.runtime.replicas import run_file


async def main() -> int:
    file, replicas, *start = sys.argv[1:]
    try:
        return await run_file(file, replicas=int(replicas), start=start[0] if start else None)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(anyio.run(main))
