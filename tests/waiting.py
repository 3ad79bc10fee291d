"""Waiting for a condition, instead of sleeping and hoping."""

import inspect
import time
from collections.abc import Awaitable, Callable

import anyio

PAUSE_S = 0.01


async def wait_until(
    predicate: Callable[[], object] | Callable[[], Awaitable[object]],
    description: str,
    timeout: float = 10,
) -> None:
    """Ask again and again until the predicate is true.

    Args:
        predicate: Plain or async function; any true value ends the wait. What it raises is raised.
        description: What is waited for; the text of the failure.
        timeout: Seconds until the test fails with an `AssertionError`.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}; last answer {answer!r}")
        await anyio.sleep(PAUSE_S)
