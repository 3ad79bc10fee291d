"""The server's engine when the server is down, old, foreign or has lost the collection."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from qdrant_client import AsyncQdrantClient, models

from blackboard.errors import SettingsError, UnavailableError
from blackboard.recall import server
from blackboard.recall.index import BrokenIndexError
from blackboard.recall.qdrant import QdrantIndex
from tests.entries import SIGNATURE, entry
from tests.servers import free_port


class Old(BaseHTTPRequestHandler):
    """Says which version it is, as a Qdrant server does at its root."""

    answer: ClassVar[bytes] = b'{"title":"qdrant - vector search engine","version":"1.9.2"}'

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Generator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_server_that_is_down_is_unavailable() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match="check that it runs"):
        await QdrantIndex.open(url, "main-1", SIGNATURE)
    with pytest.raises(UnavailableError, match="it is asked again"):
        await server.remove(url, "main-1")


async def test_a_server_of_an_old_version_is_named() -> None:
    with serving(Old) as url, pytest.raises(SettingsError, match=r"'1\.9\.2'.*1\.16"):
        await QdrantIndex.open(url, "main-1", SIGNATURE)


async def test_something_that_is_no_qdrant_server_is_told() -> None:
    class Other(Old):
        answer = b"<html>welcome</html>"

    with serving(Other) as url, pytest.raises(UnavailableError, match="no Qdrant server"):
        await QdrantIndex.open(url, "main-1", SIGNATURE)


async def test_a_server_that_went_away_is_unavailable_and_nothing_is_lost() -> None:
    client = AsyncQdrantClient(
        host="127.0.0.1",
        port=free_port(),
        grpc_port=free_port(),
        prefer_grpc=True,
        timeout=2,
        check_compatibility=False,
    )
    index = QdrantIndex(client, "main-1", SIGNATURE)

    with pytest.raises(UnavailableError, match="nothing is lost"):
        await index.apply([entry(1)], [], 1)
    with pytest.raises(UnavailableError):
        await index.position()
    await client.close()


async def test_a_collection_of_others_is_left_alone() -> None:
    client = AsyncQdrantClient(":memory:")
    size = models.VectorParams(size=2, distance=models.Distance.DOT)
    await client.create_collection("theirs", vectors_config=size)
    await client.upsert("theirs", [models.PointStruct(id=1, vector=[0.0, 1.0])])

    with pytest.raises(SettingsError, match="another collection"):
        await QdrantIndex.over(client, "theirs", SIGNATURE)

    assert (await client.count("theirs")).count == 1
    await client.close()


async def test_a_collection_that_was_removed_names_the_command() -> None:
    client = AsyncQdrantClient(":memory:")
    index = await QdrantIndex.over(client, "main-1", SIGNATURE)
    await client.delete_collection("main-1")

    with pytest.raises(BrokenIndexError, match="blackboard reindex"):
        await index.position()
    with pytest.raises(BrokenIndexError, match="blackboard reindex"):
        await index.apply([entry(1)], [], 1)
    await client.close()


async def test_the_position_is_never_taken_back() -> None:
    client = AsyncQdrantClient(":memory:")
    one = await QdrantIndex.over(client, "main-1", SIGNATURE)
    late = await QdrantIndex.over(client, "main-1", SIGNATURE)
    await one.apply([entry(1)], [], 9)
    await late.apply([], [], 4)

    assert await one.position() == 9
    await client.close()
