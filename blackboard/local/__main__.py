"""`python -m blackboard.local DATA_DIR [--port N]`: the supervisor of a data directory.

Users start it detached, by `blackboard.local.join`; by hand it runs in the foreground and logs to
standard error. Either way it ends when nobody uses the stack.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from blackboard.errors import BlackboardError
from blackboard.local.directory import Directory
from blackboard.local.locks import Lock, take_lock
from blackboard.local.stack import DEFAULT_PORT
from blackboard.local.supervisor import Supervisor

LOG = logging.getLogger("blackboard.local")


def main() -> int:
    """Run the supervisor.

    Returns:
        0 after a clean end, 1 when the stack did not start, 2 when it cannot.
    """
    parser = argparse.ArgumentParser(prog="python -m blackboard.local", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--detach", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.Formatter.converter = time.gmtime
    directory = Directory.at(arguments.data_dir)
    try:
        lock = _lock(directory, arguments.lock_fd)
    except BlackboardError as error:
        LOG.error("%s", error)  # noqa: TRY400 - a sentence for the user
        return 2
    if lock is None:
        LOG.error("another supervisor runs on %s", directory.path)
        return 2
    if arguments.detach:
        if os.fork():
            os._exit(0)
        os.setsid()
    return Supervisor(directory, arguments.port, lock).run()


def _lock(directory: Directory, inherited: int | None) -> Lock | None:
    """Take the supervisor's lock, or take it over from the user who started this process."""
    if inherited is not None:
        return Lock(directory.supervisor_lock, inherited)
    directory.prepare()
    return take_lock(directory.supervisor_lock)


if __name__ == "__main__":
    sys.exit(main())
