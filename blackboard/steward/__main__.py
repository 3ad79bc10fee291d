"""`python -m blackboard.steward [--grace-hours H]`: the steward of the broker at BLACKBOARD_URL.

The local stack runs it; beside a broker of your own, run it once or several times. It ends on
SIGTERM, and waits for a broker that is away.
"""

import argparse
import logging
import os
import signal
import sys
import time
from datetime import timedelta

import anyio
import msgspec

from blackboard.errors import SettingsError, UnavailableError
from blackboard.session import open_service
from blackboard.settings import Settings, load
from blackboard.steward.chunks import CHUNK_AGE
from blackboard.steward.service import AGENT, RETRY_S, serve
from blackboard.steward.tombstones import GRACE

logger = logging.getLogger(AGENT)
NICENESS = 10


def main() -> int:
    """Run the steward.

    Returns:
        0 after SIGTERM or SIGINT, 2 when the settings cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m blackboard.steward", description=__doc__)
    parser.add_argument("--grace-hours", type=float, default=GRACE / timedelta(hours=1))
    parser.add_argument("--chunk-hours", type=float, default=CHUNK_AGE / timedelta(hours=1))
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.Formatter.converter = time.gmtime
    # Housekeeping gives way to those who use the board.
    os.nice(NICENESS)
    code = 0
    try:
        # No spans are recorded here, so nothing has to be exported.
        settings = msgspec.structs.replace(load(), otlp_endpoint=None)
        anyio.run(
            _run,
            settings,
            timedelta(hours=arguments.grace_hours),
            timedelta(hours=arguments.chunk_hours),
        )
    except* SettingsError as errors:
        for error in errors.exceptions:
            logger.error("%s", error)  # noqa: TRY400 - a sentence for the operator
        code = 2
    return code


async def _run(settings: Settings, grace: timedelta, chunk_age: timedelta) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_end_when_asked, group.cancel_scope)
        while True:
            try:
                async with open_service(settings, AGENT) as connection:
                    await serve(connection, settings, grace=grace, chunk_age=chunk_age)
            except UnavailableError as error:
                logger.warning("%s", error)
                await anyio.sleep(RETRY_S)


async def _end_when_asked(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("asked to stop by %s", number.name)
            scope.cancel()
            return


if __name__ == "__main__":
    sys.exit(main())
