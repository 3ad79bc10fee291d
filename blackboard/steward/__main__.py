"""`python -m blackboard.steward [--grace-hours H]`: the steward of the broker at BLACKBOARD_URL.

The local stack runs it; beside a broker of your own, run it once or several times.
BLACKBOARD_RETENTION names a file with the retention policy of all its boards; without it each keeps
its own. It ends on SIGTERM, and waits for a broker that is away.
"""

import argparse
import os
import sys
from datetime import timedelta
from functools import partial

from blackboard.service import run_service
from blackboard.steward.chunks import CHUNK_AGE
from blackboard.steward.retaining import LOOK_S
from blackboard.steward.service import AGENT, serve
from blackboard.steward.tombstones import GRACE

NICENESS = 10


def main() -> int:
    """Run the steward; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m blackboard.steward", description=__doc__)
    parser.add_argument("--grace-hours", type=float, default=GRACE / timedelta(hours=1))
    parser.add_argument("--chunk-hours", type=float, default=CHUNK_AGE / timedelta(hours=1))
    parser.add_argument("--retention-seconds", type=float, default=LOOK_S)
    arguments = parser.parse_args()
    # Housekeeping gives way to those who use the board.
    os.nice(NICENESS)
    grace = timedelta(hours=arguments.grace_hours)
    chunk_age = timedelta(hours=arguments.chunk_hours)
    look_s = arguments.retention_seconds
    return run_service(AGENT, partial(serve, grace=grace, chunk_age=chunk_age, look_s=look_s))


if __name__ == "__main__":
    sys.exit(main())
