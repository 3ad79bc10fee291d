"""`python -m blackboard.consolidator`: condenses old memories, for the broker at BLACKBOARD_URL.

The local stack runs it; beside a broker of your own, run it once or several times.
BLACKBOARD_CONSOLIDATE names a file of policies; OPENAI_BASE_URL a model, without which sentences
are picked. It ends on SIGTERM, and waits for a broker that is away.
"""

import argparse
import logging
import os
import sys

from blackboard.consolidator.groups import AGENT
from blackboard.consolidator.service import serve
from blackboard.service import run_service

NICENESS = 15


def main() -> int:
    """Run the consolidator; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m blackboard.consolidator", description=__doc__)
    parser.parse_args()
    # Housekeeping gives way to those who use the board, recall included.
    os.nice(NICENESS)
    for chatty in ("httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return run_service(AGENT, serve)


if __name__ == "__main__":
    sys.exit(main())
