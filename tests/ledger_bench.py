"""A board with credentials and a ledger, at the level of streams, for tests of the ledger."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from blackboard.access.identity import PREFIX, rights_subject
from blackboard.access.rights import Grant, Rights
from blackboard.codec import encode_record
from blackboard.jetstream import Connection, Outgoing, Start, follow
from blackboard.layout import access_stream, create_board
from blackboard.ledger import Ledger, Read, load_key
from blackboard.ledger.items import AnyItem
from blackboard.ledger.record import open_record
from blackboard.ledger.streams import ledger_stream
from blackboard.ledger.verify import Verified, verify
from blackboard.settings import Limits
from tests.credentials import BOARD, People, connected
from tests.servers import Server
from tests.waiting import wait_until

MIB = 1024 * 1024
LIMITS = Limits(
    memory_bytes=64 * MIB,
    blob_bytes=MIB,
    audit_bytes=64 * MIB,
    spans_bytes=MIB,
    dead_bytes=MIB,
    reads_bytes=64 * MIB,
    ledger_bytes=64 * MIB,
)


class Bench:
    """A broker with an operator and two agents, a board's streams, and a key."""

    def __init__(self, server: Server, folder: Path, people: People) -> None:
        self.server = server
        self.folder = folder
        self.people = people
        self.operator: Connection

    @property
    def key(self) -> Path:
        return self.folder / "board.key"

    async def resize(self, stream: str, max_bytes: int) -> None:
        info = await self.operator.stream(stream)
        assert info is not None
        await self.operator.api(f"STREAM.UPDATE.{stream}", {**info.config, "max_bytes": max_bytes})

    def ledger(self, connection: Connection | None = None, **options: Any) -> Ledger:
        settings: dict[str, Any] = {"interval_s": 0.05, "look_s": 0.05, **options}
        return Ledger(connection or self.operator, BOARD, load_key(self.key), **settings)

    @asynccontextmanager
    async def kept(self, **options: Any) -> AsyncGenerator[Ledger]:
        ledger = self.ledger(**options)
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.run)
            await wait_until(lambda: ledger.trouble is None, "the ledger is kept")
            yield ledger
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncGenerator[Connection]:
        async with connected(self.server, self.people.identity(name)) as connection:
            yield connection

    async def items(self, kind: type[AnyItem] | None = None) -> list[AnyItem]:
        found: list[AnyItem] = []
        stream = ledger_stream(BOARD)
        async with follow(self.operator, stream, f"ledger.{BOARD}", Start.all()) as follower:
            while follower.pending and (message := await follower.step()) is not None:
                found += open_record(message.data).items
        return [item for item in found if kind is None or isinstance(item, kind)]

    async def reads(self) -> int:
        return sum(item.count for item in await self.items(Read) if isinstance(item, Read))

    async def verified(self, **options: Any) -> Verified:
        return await verify(self.operator, BOARD, **options)

    async def put(self, connection: Connection, agent: str, topic: str, key: str = "a" * 32) -> int:
        subject = f"mem.{BOARD}.shared.{agent}.{topic}.{key}"
        return await connection.publish(Outgoing(subject, b'{"content": 1}', {"Bb-Agent": agent}))


async def make_streams(operator: Connection) -> None:
    """The streams of a board, and that of what everybody may do."""
    await create_board(operator, BOARD, LIMITS)
    await operator.create_stream(access_stream(LIMITS, PREFIX))


async def grant(bench: Bench, agent: str, *topics: str) -> None:
    """Put the rights of an agent in force: it may read these topics under `shared`."""
    rights = Rights(
        board=BOARD,
        agent=agent,
        read=tuple(Grant("shared", topic) for topic in topics),
        key=bench.people.keys.agents[BOARD, agent],
    )
    subject = rights_subject(BOARD, agent)
    await bench.operator.publish(Outgoing(subject, encode_record(rights)))


def read_from(agent: str, topic: str, key: str = "a" * 32, author: str = "bob") -> str:
    what = f"mem.{BOARD}.shared.{author}.{topic}.{key}"
    return f"_R_.bb.rd.{BOARD}.{agent}.MEM_{BOARD}.{what}"
