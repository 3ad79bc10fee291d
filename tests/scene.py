"""A guarded board with a victim, a thief with a stolen credential, and secrets between them.

`mallory` may read `docs.public` and write `notes`, both under the label `shared`.
"""

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from nats.aio.msg import Msg

from blackboard import Blackboard, Memory, Ref
from blackboard.access.identity import PREFIX
from blackboard.access.rights import Grant, Rights
from blackboard.jetstream import Connection, Message
from tests.guarded import Guarded, Raw, agent

SECRET = "the launch code is 0000"  # noqa: S105
PUBLIC, SECRETS = Grant("shared", "docs.public.>"), Grant("shared", "docs.secret.>")
PRIVATE, NOTES = Grant("pii", "cases.>"), Grant("shared", "notes.>")
PEOPLE = (
    agent("alice", read=[PUBLIC, SECRETS, PRIVATE], write=[PUBLIC, SECRETS, PRIVATE],
          handlers=["work"]),
    agent("mallory", read=[PUBLIC], write=[NOTES], handlers=["own"]),
    agent("bella", read=[Grant("pii", "notes.>")], write=[Grant("pii", "notes.>")]),
    agent("ursula", read=[Grant("pii", "cases.>", "customer-42")]),
    agent("alice", board="other", read=[PUBLIC], write=[PUBLIC], handlers=["work", "own"]),
    agent("mallory", board="other", read=[PUBLIC], write=[PUBLIC, NOTES], handlers=["own"]),
)  # fmt: skip
READ = f"{PREFIX}rd.main."
JS = "$JS.API."


class Scene:
    """A guarded broker with memories on it, a victim, and a thief.

    Attributes:
        alice: The victim, through the library.
        thief: Mallory's credential in a plain client.
        operator: Who looks at what is really stored.
        public: What the thief may read.
        secret: What it may not.
    """

    alice: Blackboard
    thief: Raw
    operator: Connection
    public: Ref
    secret: Ref
    private: Ref

    def __init__(self, broker: Guarded) -> None:
        self.broker = broker

    async def newest(self, subject: str, stream: str = "MEM_main") -> Message | None:
        return await self.operator.leader_last(stream, subject)

    async def size(self, stream: str = "MEM_main") -> int:
        info = await self.operator.stream(stream)
        assert info is not None
        return info.state.last_seq


@asynccontextmanager
async def guarded(
    directory: Path, people: Sequence[Rights] = PEOPLE, **options: Any
) -> AsyncGenerator[Guarded]:
    """A broker with credentials and a steward that serves; with options of `Guarded`."""
    broker = Guarded(directory, people, **options)
    try:
        broker.start()
        await broker.lay()
        broker.start_steward()
        await broker.serving()
        yield broker
    finally:
        broker.end_stewards()
        broker.kill()


@asynccontextmanager
async def set_scene(broker: Guarded) -> AsyncGenerator[Scene]:
    """The victim's memories, and everybody connected."""
    scene = Scene(broker)
    async with AsyncExitStack() as stack:
        scene.operator = await stack.enter_async_context(broker.operator())
        scene.alice = await stack.enter_async_context(broker.board("alice"))
        scene.public = await scene.alice.put("docs.public.a", "for everybody")
        scene.secret = await scene.alice.put("docs.secret.a", SECRET)
        scene.private = await scene.alice.put("cases.1", SECRET, access="pii", user="customer-43")
        scene.thief = await stack.enter_async_context(broker.raw("mallory"))
        yield scene


def at(ref: Ref, label: str = "shared", writer: str | None = None) -> str:
    return f"mem.main.{label}.{writer or ref.agent}.{ref.topic}.{ref.id}"


def own(topic: str = "notes.a", identifier: str | None = None) -> str:
    return f"mem.main.shared.mallory.{topic}.{identifier or uuid4().hex}"


def named(name: str, headers: dict[str, str] | None = None) -> dict[str, str]:
    """Headers of somebody's memory."""
    return {"Bb-Agent": name, "Bb-Write": uuid4().hex, **(headers or {})}


def part(batch: str, number: int) -> dict[str, str]:
    """Headers of a message of a batch."""
    return named("mallory", {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})


def note(content: object = "mine") -> bytes:
    return json.dumps({"content": content, "kind": "note"}).encode()


async def honest(scene: Scene) -> str:
    """What the thief may do, done: it writes a note; gives its subject."""
    subject = own()
    answer = await scene.thief.ask(PREFIX + subject, note(), headers=named("mallory"))
    assert answer is not None
    assert b'"seq"' in answer.data
    return subject


async def replayed(board: Blackboard, pattern: str) -> Any:
    found: list[Memory] = []
    async with board.replay(pattern) as memories:
        found.extend([memory async for memory in memories])

    async def each() -> AsyncGenerator[Memory]:
        for memory in found:
            yield memory

    return each()


async def make_handler(scene: Scene, name: str, handler: str, pattern: str) -> None:
    async with scene.broker.raw(name) as raw:
        answer = await raw.gate(f"CONSUMER.CREATE.MEM_main.{name}--{handler}", durable(pattern))
        assert not refused(answer), answer


def durable(pattern: str) -> dict[str, Any]:
    config = {"filter_subject": pattern, "ack_wait": 10**9, "max_ack_pending": 10}
    return {"config": config}


def refused(answer: dict[str, Any] | None) -> bool:
    """Whether the gate said no, in the words of either the service or the broker."""
    if answer is None:
        return False
    return answer.get("code") in (400, 403) or "error" in answer


def bodies(answer: dict[str, Any] | None) -> bytes:
    """All that an answer shows."""
    assert answer is not None
    shown = json.dumps(answer).encode()
    for message in (*answer.get("messages", ()), *filter(None, [answer.get("message")])):
        shown += base64.b64decode(message["data"])
    return shown


def empty(answer: Msg | None) -> bool:
    return answer is None or (answer.headers or {}).get("Status") in ("404", "408")


async def gone(scene: Scene, subject: str) -> bool:
    return await scene.newest(subject) is None


async def is_size(scene: Scene, size: int) -> bool:
    return await scene.size() == size


async def grew(scene: Scene, before: int) -> bool:
    return await scene.size("READS_main") > before


async def in_ledger(scene: Scene, *words: str) -> bool:
    """Whether the newest link of the board's ledger has these words."""
    last = await scene.newest("ledger.main", "LEDGER_main")
    return last is not None and all(word.encode() in last.data for word in words)
