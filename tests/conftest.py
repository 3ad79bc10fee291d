"""Fixtures of the whole suite: an async backend and a fresh real server per test."""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from blackboard import Blackboard
from tests.clusters import Cluster
from tests.credentials import connected, people
from tests.embedding_stub import EmbeddingStub, embedding_stub
from tests.forgetting import Steward
from tests.inhabitants import inhabitants
from tests.ledger_bench import Bench, make_streams
from tests.recall_service import RecallService
from tests.scene import Scene, guarded, set_scene
from tests.servers import Server
from tests.waiting import wait_until

TIME_TO_CLEAN_UP_S = 10.0
FAULT_RUNS = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed N`: fault runs with this seed only; may be given several times."""
    parser.addoption("--seed", type=int, action="append", help="seed of the fault runs")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fault runs happen once for each seed."""
    if "seed" in metafunc.fixturenames:
        seeds: list[int] | None = metafunc.config.getoption("--seed")
        metafunc.parametrize("seed", seeds or range(1, FAULT_RUNS + 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End hanging async tests a little before pytest-timeout does.

    Its signal interrupts the event loop, the test's task goes on waiting in it, and the teardown of
    the first async fixture then waits for that task forever.
    """
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            limit = float(marker.args[0] if marker else item.config.getini("timeout"))
            item.obj = _limited(item.obj, limit - TIME_TO_CLEAN_UP_S)


def _limited(test: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., object]:
    @functools.wraps(test)
    async def run(*arguments: Any, **fixtures: Any) -> None:
        with anyio.fail_after(limit_s):
            await test(*arguments, **fixtures)

    return run


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
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three fresh servers that hold replicated boards between them."""
    cluster = Cluster(tmp_path / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncGenerator[Path]:
    """A data directory, not made yet, for a local stack; a stack left running fails the test."""
    path = tmp_path / "the data"
    yield path
    try:
        await wait_until(lambda: not inhabitants(path), "the local stack has ended", timeout=15)
    finally:
        for process in inhabitants(path):
            process.kill()


@pytest.fixture
async def board(server: Server) -> AsyncGenerator[Blackboard]:
    """An open board of agent `alice` on a fresh server."""
    async with Blackboard.open(server.url, board="main", agent="alice") as board:
        yield board


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    """A broker with credentials and a steward, a victim, and a thief with a stolen credential."""
    async with guarded(tmp_path / "guarded") as broker, set_scene(broker) as scene:
        yield scene


@pytest.fixture
def embeddings() -> Iterator[EmbeddingStub]:
    """A stand-in for an endpoint that embeds, for `start_recall`."""
    with embedding_stub() as stub:
        yield stub


@pytest.fixture
def start_recall(
    server: Server, tmp_path: Path, embeddings: EmbeddingStub
) -> Iterator[Callable[..., RecallService]]:
    """Start a recall service of the broker, by the name of its folder and options of its class."""
    started: list[RecallService] = []

    def begin(name: str = "index", **options: Any) -> RecallService:
        service = RecallService(server.url, tmp_path / name, embeddings, **options)
        started.append(service)
        return service

    yield begin
    for service in started:
        service.kill()


@pytest.fixture
async def bench(start_server: Callable[..., Server], tmp_path: Path) -> AsyncGenerator[Bench]:
    """A ledger's board at a broker with credentials, not kept yet."""
    known = people(tmp_path)
    server = start_server(extra=known.configuration)
    bench = Bench(server, tmp_path, known)
    async with connected(server, known.identity("steward")) as operator:
        bench.operator = operator
        await make_streams(operator)
        yield bench


@pytest.fixture
def steward(server: Server, tmp_path: Path) -> Iterator[Steward]:
    """A steward of the broker as a process of its own: `kill()`, `stop()`, `start()`."""
    steward = Steward(server.url, tmp_path / "steward.log")
    steward.start()
    try:
        yield steward
    finally:
        steward.kill()
