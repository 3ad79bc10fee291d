"""Fixtures of the whole suite: an async backend and a fresh real server per test."""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.inhabitants import inhabitants
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The client library of the broker runs on asyncio only."""
    return "asyncio"


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with options of `Server`; each call one more, all ended with the test."""
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(tmp_path / f"server-{len(servers)}", **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """A fresh server: `url`, `monitor`, `kill()`, `stop()`, `start()`."""
    return start_server()


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncGenerator[Path]:
    """A data directory for a local stack, not made yet; fails a test that leaves a stack running."""
    path = tmp_path / "data"
    yield path
    try:
        await wait_until(lambda: not inhabitants(path), "the local stack has ended", timeout=15)
    finally:
        for process in inhabitants(path):
            process.kill()


# The fixture `board` belongs here: an open Blackboard on `server`.
