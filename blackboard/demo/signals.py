"""Ends a demo in good order when somebody interrupts it, instead of leaving its programs behind."""

import signal
from collections.abc import Awaitable, Callable

import anyio

from blackboard.errors import BlackboardError

INTERRUPTED = 130


async def interruptible(play: Callable[[], Awaitable[int]]) -> int:
    """Run until it returns, or until SIGINT, SIGTERM or SIGHUP cancels it.

    Returns:
        What `play` returned, or 130 when it was interrupted.

    Raises:
        BlackboardError: `play` did.
    """
    code, failure = INTERRUPTED, None
    async with anyio.create_task_group() as group:
        group.start_soon(_obey, group.cancel_scope)
        try:
            code = await play()
        except BlackboardError as error:
            failure = error  # raised below, where the task group does not wrap it
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _obey(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
