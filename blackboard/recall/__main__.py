"""`python -m blackboard.recall [--lazy]`: finds memories, for the broker at BLACKBOARD_URL.

The local stack runs it with --lazy; beside a broker of your own, run it once for each data
directory (BLACKBOARD_DATA holds the indexes), or with QDRANT_URL set to a Qdrant server. It ends on
SIGTERM, and waits for a broker that is away.
"""

import argparse
import logging
import sys
from functools import partial

from blackboard.recall.service import AGENT, serve
from blackboard.service import run_service

CHATTY = ("httpx", "httpx2", "openai")


def main() -> int:
    """Run the service; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m blackboard.recall", description=__doc__)
    parser.add_argument(
        "--lazy", action="store_true", help="index a board from the first question about it on"
    )
    arguments = parser.parse_args()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return run_service(AGENT, partial(serve, lazy=arguments.lazy))


if __name__ == "__main__":
    sys.exit(main())
