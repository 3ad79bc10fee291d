"""Background tasks of a context, without changing which error its body raises.

A plain task group wraps every error of its body into a group, so a caller's `except NotFoundError`
around `async with Blackboard.open(...)` would never match.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def background() -> AsyncGenerator[TaskGroup]:
    """Give a task group whose tasks end with the context; its body's error is raised as it is."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as group:
        try:
            yield group
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - raised below
            failure = error
        finally:
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure
