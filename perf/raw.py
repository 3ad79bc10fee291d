"""What a program does that uses nats-py by itself, on a stream with a board's settings."""

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from blackboard import Blackboard
from blackboard.layout import streams_of
from blackboard.settings import Limits
from blackboard.subjects import memory_stream

STREAM = "RAW"
TEXT = "What one agent found out and the others need to know, in about two hundred characters: "


def text_of(size: int = 256) -> str:
    """Text of so many characters."""
    return (TEXT * (1 + size // len(TEXT)))[:size]


def body_of(content: object) -> bytes:
    """The body of a memory with this content."""
    return msgspec.json.encode({"content": content})


@dataclass(frozen=True, slots=True)
class Raw:
    """A nats-py client beside the board."""

    client: Client
    js: JetStreamContext

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None
    ) -> int:
        """Store a message and return its sequence."""
        return (await self.js.publish(subject, body, headers=headers)).seq

    async def batch(self, subject: str, bodies: Sequence[bytes]) -> None:
        """Store messages in one atomic batch, each as the first on a subject of its own."""
        batch = uuid.uuid4().hex
        for number, body in enumerate(bodies, 1):
            headers = {
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
                "Nats-Expected-Last-Subject-Sequence": "0",
            }
            if number == len(bodies):
                headers["Nats-Batch-Commit"] = "1"
            place = f"{subject}.{uuid.uuid4().hex}"
            if number in (1, len(bodies)):
                answer = await self.client.request(place, body, timeout=30, headers=headers)
                if answer.data and "error" in json.loads(answer.data):
                    raise RuntimeError(answer.data.decode())
            else:
                await self.client.publish(place, body, headers=headers)

    async def get(self, stream: str, subject: str) -> bytes:
        """The body of the newest message on a subject, by direct get."""
        return (await self.js.get_last_msg(stream, subject, direct=True)).data or b""

    async def ask(self, subject: str, body: bytes = b"") -> Msg:
        """A plain request."""
        return await self.client.request(subject, body, timeout=30)


@asynccontextmanager
async def raw_client(url: str, *, stream: bool = True) -> AsyncGenerator[Raw]:
    """Connect, and make the stream `RAW` on `raw.>` with the settings of a board's stream."""
    client = await nats.connect(url, pending_size=16 * 1024 * 1024)  # pyright: ignore[reportUnknownMemberType] - open options
    try:
        if stream:
            await _make(client)
        yield Raw(client, client.jetstream())  # pyright: ignore[reportUnknownMemberType]
    finally:
        await client.close()


async def _make(client: Client) -> None:
    name = memory_stream("x")
    board = next(one for one in streams_of("x", Limits()) if one.name == name)
    config = {**board.config(), "name": STREAM, "subjects": ["raw.>"]}
    body = msgspec.json.encode(config)
    await client.request(f"$JS.API.STREAM.CREATE.{STREAM}", body, timeout=30)


@asynccontextmanager
async def board_and_raw(
    url: str, agent: str = "bench", *, limits: Limits | None = None
) -> AsyncGenerator[tuple[Blackboard, Raw]]:
    """A board and a raw client on the same broker."""
    async with (
        Blackboard.open(url, "bench", agent, limits=limits) as board,
        raw_client(url) as raw,
    ):
        yield board, raw
