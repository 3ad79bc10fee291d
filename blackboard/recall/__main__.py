"""`python -m blackboard.recall [--lazy]`: finds memories, for the broker at BLACKBOARD_URL.

The local stack runs it with --lazy; beside a broker of your own, run it once for each data
directory (BLACKBOARD_DATA holds the indexes), or with QDRANT_URL set to a Qdrant server. It ends on
SIGTERM, and waits for a broker that is away.
"""

import argparse
import logging
import signal
import sys
import time

import anyio
import msgspec

from blackboard.errors import SettingsError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.recall.service import AGENT, RETRY_S, serve
from blackboard.settings import Settings, load

logger = logging.getLogger(AGENT)


def main() -> int:
    """Run the service.

    Returns:
        0 after SIGTERM or SIGINT, 2 when the settings cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m blackboard.recall", description=__doc__)
    parser.add_argument(
        "--lazy", action="store_true", help="index a board from the first question about it on"
    )
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.Formatter.converter = time.gmtime
    for chatty in ("httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    code = 0
    try:
        # No spans are recorded here, so nothing has to be exported.
        settings = msgspec.structs.replace(load(), otlp_endpoint=None)
        anyio.run(_run, settings, arguments.lazy)
    except* SettingsError as errors:
        for error in errors.exceptions:
            logger.error("%s", error)  # noqa: TRY400 - a sentence for the operator
        code = 2
    return code


async def _run(settings: Settings, lazy: bool) -> None:  # noqa: FBT001
    if settings.url is None:
        raise SettingsError("set BLACKBOARD_URL to the broker that the service shall answer for")
    async with anyio.create_task_group() as group:
        group.start_soon(_end_when_asked, group.cancel_scope)
        while True:
            try:
                async with Connection.open(
                    settings.url, token=settings.token(), name=AGENT
                ) as connection:
                    await serve(connection, settings, lazy=lazy)
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
