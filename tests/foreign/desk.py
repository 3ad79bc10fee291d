"""Reading and writing memories by schemas/README.md, with nothing but a NATS client."""

import asyncio
import contextlib
import hashlib
import json
import math
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingCame
from wire import Conflict, Refused, parse, read, selects

DAYS_90 = "7776000"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
OVER = "Nats-Expected-Last-Subject-Sequence-Subject"
CONFLICTS = {10071, 10164, 10201}
LARGE, CHUNK = 256 * 1024, 512 * 1024
Outgoing = tuple[str, bytes, dict[str, str]]
"""Subject, body and headers."""


def say(line: dict[str, Any]) -> None:
    """One line to whoever runs this agent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Desk:
    """One agent's place at one board."""

    def __init__(self, client: Client, board: str, name: str) -> None:
        self.client, self.board, self.name = client, board, name
        self.stream = f"MEM_{board}"
        self.instance = uuid.uuid4().hex
        self.events: list[dict[str, Any]] = []
        self.js = client.jetstream()  # pyright: ignore[reportUnknownMemberType]

    async def request(
        self, subject: str, body: Any = b"", headers: dict[str, str] | None = None
    ) -> Msg:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.request(subject, data, timeout=2, headers=headers)

    def headers(self, expected: int, over: str | None = None, **more: str | None) -> dict[str, str]:
        said = {
            "Bb-Agent": self.name, "Bb-Instance": self.instance, "Bb-Write": uuid.uuid4().hex,
            EXPECTED: str(expected), OVER: over,
        }  # fmt: skip
        said |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in said.items() if value is not None}

    async def write(self, messages: list[Outgoing]) -> int:
        """Store messages, all or none; the sequence of the last."""
        while True:
            try:
                return await self.send(messages)
            except NothingCame:
                found = await self.stored(messages[-1])
            if found is not None:
                return found

    async def send(self, messages: list[Outgoing]) -> int:
        batch = uuid.uuid4().hex
        answer: dict[str, Any] = {}
        for number, (subject, body, said) in enumerate(messages, 1):
            headers, last = dict(said), number == len(messages)
            if len(messages) > 1:
                headers |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                headers |= {"Nats-Batch-Commit": "1"} if last else {}
            if number not in (1, len(messages)):
                await self.client.publish(subject, body, headers=headers)
                continue
            reply = await self.request(subject, body, headers)
            answer = json.loads(reply.data or b"{}")
            if answer.get("error", {}).get("err_code") in CONFLICTS:
                raise Conflict(subject)
            if "error" in answer:
                raise Refused(str(answer["error"]))
        return int(answer["seq"])

    async def stored(self, message: Outgoing) -> int | None:
        """The sequence of a write whose answer did not come; None when it is not there."""
        subject, _, said = message
        asked = {"seq": int(said[EXPECTED]) + 1, "next_by_subj": said.get(OVER, subject)}
        while True:
            with contextlib.suppress(NothingCame):
                found = await self.direct(asked)
                headers = (found.headers if found else None) or {}
                own = headers.get("Bb-Write") == said["Bb-Write"]
                return int(headers["Nats-Sequence"]) if own else None

    async def direct(self, body: dict[str, Any], subject: str = "") -> Msg | None:
        reply = await self.request(f"$JS.API.DIRECT.GET.{self.stream}{subject}", body or b"")
        return None if (reply.headers or {}).get("Status") == "404" else reply

    def taken(self, reply: Msg, asked: str) -> dict[str, Any]:
        headers = reply.headers or {}
        return read(headers["Nats-Subject"], headers, reply.data, asked, self.board)

    def filter_of(self, ref: str) -> str:
        agent, topic, name, _ = parse(ref)
        return f"mem.{self.board}.*.{agent}.{topic}.{name}"

    async def head(self, ref: str) -> dict[str, Any] | None:
        """The newest revision, gone or expired or not."""
        asked = self.filter_of(ref)
        reply = await self.direct({}, f".{asked}")
        return None if reply is None else self.taken(reply, asked)

    async def get(self, ref: str) -> dict[str, Any]:
        """The newest or the pinned revision, with content."""
        pin, asked = parse(ref)[3], self.filter_of(ref)
        memory = await self.head(ref)
        if memory is None or memory["expired"]:
            raise Refused("not found")
        if memory["gone"] and (pin is None or memory["gone"] == "forgotten"):
            raise Refused(f"gone: {memory['gone']}")
        if pin is not None and memory["revision"] != pin:
            reply = await self.direct({"seq": pin})
            if reply is None or not selects(asked, (reply.headers or {}).get("Nats-Subject", "")):
                raise Refused("not kept")
            memory = self.taken(reply, asked)
            if memory["gone"] or memory["origin"]:
                raise Refused("gone" if memory["gone"] else "not kept")
        await self.audit("get", memory["ref"], memory["revision"])
        return await self.filled(memory)

    async def filled(self, memory: dict[str, Any]) -> dict[str, Any]:
        if memory.get("blob") is not None:
            content = await self.large(memory["access"], memory["blob"])
            return {**memory, "content": content}
        target = memory.get("content_of")
        if target is None:
            return memory
        _, topic, _, pin = parse(target)
        if pin is None or not topic.startswith("once."):
            raise Refused("content_of shows what it may not")
        result = await self.get(target)
        if result["access"] != memory["access"]:
            raise Refused("content_of under another label")
        return {**memory, "content": result["content"]}

    async def large(self, access: str, blob: dict[str, Any]) -> Any:
        """Content that lies in chunks."""
        stream, where = f"BLOB_{self.board}", f"{access}.{blob['agent']}.{blob['id']}"
        body = b""
        for number in range(blob["chunks"]):
            subject = f"blob.{self.board}.{where}.{number}"
            reply = await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
            if (reply.headers or {}).get("Status") == "404":
                raise Refused("gone: forgotten")
            body += reply.data
        if (len(body), hashlib.sha256(body).hexdigest()) != (blob["size"], blob["sha256"]):
            raise Refused("not what its author stored")
        return json.loads(body)

    async def upload(self, access: str, body: bytes) -> dict[str, Any]:
        """Store large content, and give what its memory says of it."""
        blob = uuid.uuid4().hex
        chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        for number, chunk in enumerate(chunks):
            subject = f"blob.{self.board}.{access}.{self.name}.{blob}.{number}"
            await self.write([(subject, chunk, self.headers(0))])
        digest = hashlib.sha256(body).hexdigest()
        about = {"id": blob, "size": len(body), "chunks": len(chunks), "sha256": digest}
        return {**about, "agent": self.name}

    async def audit(self, act: str, what: str, revision: int | None = None) -> None:
        event = {
            "at": datetime.now(UTC).isoformat(timespec="microseconds"), "agent": self.name,
            "instance": self.instance, "act": act, "what": what, "revision": revision,
        }  # fmt: skip
        self.events.append(event)
        if len(self.events) == 1:
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.25, lambda: asyncio.ensure_future(self.flush()))

    async def flush(self) -> None:
        events, self.events = self.events, []
        try:
            await self.request(f"audit.{self.board}.{self.name}", {"events": events})
        except NothingCame:
            self.events[:0] = events
            asyncio.get_running_loop().call_later(0.25, lambda: asyncio.ensure_future(self.flush()))

    def message(
        self, ref: str, access: str, body: dict[str, Any] | None, expected: int, **more: str | None
    ) -> Outgoing:
        """One revision, ready to be stored."""
        agent, topic, name, _ = parse(ref)
        over = self.filter_of(ref) if agent == "*" else None
        data = b"" if body is None else json.dumps(body).encode()
        subject = f"mem.{self.board}.{access}.{self.name}.{topic}.{name}"
        return subject, data, self.headers(expected, over, **more)

    async def put(
        self,
        topic: str,
        content: Any = None,
        key: str | None = None,
        ttl: float | None = None,
        access: str = "shared",
        *,
        create: bool = False,
        **fields: Any,
    ) -> dict[str, Any]:
        """A new memory, or the next revision at a key; again while others are faster."""
        body = {"content": content, **fields}
        body = {name: value for name, value in body.items() if value is not None}
        ends = None if ttl is None else datetime.now(UTC) + timedelta(seconds=ttl)
        ref = f"*/{topic}/{key}" if key else f"{self.name}/{topic}/{uuid.uuid4().hex}"
        large = json.dumps(content).encode()
        while True:
            head = await self.head(ref) if key else None
            alive = head is not None and not head["gone"] and not head["expired"]
            if head is not None and alive:
                if create:
                    raise Conflict(ref)
                access = head["access"]
                if head["expires"] and ends is None:
                    ends = datetime.fromisoformat(head["expires"])
            if len(large) > LARGE and "blob" not in body:
                del body["content"]
                body["blob"] = await self.upload(access, large)
            expected = 0 if head is None else head["revision"]
            message = self.message(ref, access, body, expected, **lifetime(ends))
            try:
                return {"ref": ref, "revision": await self.write([message])}
            except Conflict:
                if not key or create:
                    raise

    async def revise(self, ref: str, content: Any, expected: int) -> dict[str, Any]:
        head = await self.live(ref)
        if head is None:
            raise Refused("nothing to revise")
        ends = datetime.fromisoformat(head["expires"]) if head["expires"] else None
        body = {"content": content}
        message = self.message(ref, head["access"], body, expected, **lifetime(ends))
        return {"ref": ref, "revision": await self.write([message])}

    async def retire(self, ref: str, reason: str) -> dict[str, Any]:
        head = await self.live(ref)
        if head is None:
            raise Refused("nothing to retire")
        message = self.message(
            ref,
            head["access"],
            None,
            head["revision"],
            Bb_Gone="retired",
            Bb_Reason=quote(reason),
            Nats_TTL=DAYS_90,
            KV_Operation="DEL" if head["topic"].split(".")[0] == "state" else None,
        )
        return {"ref": ref, "revision": await self.write([message])}

    async def live(self, ref: str) -> dict[str, Any] | None:
        """The newest revision if it is neither gone nor expired, without content from elsewhere."""
        head = await self.head(ref)
        return None if head is None or head["gone"] or head["expired"] else head

    async def record(self, subject: str) -> tuple[dict[str, Any] | None, int]:
        """The newest record that a filter under `claim.` selects, and its sequence."""
        reply = await self.direct({}, f".{subject}")
        if reply is None:
            return None, 0
        headers = reply.headers or {}
        sequence = int(headers["Nats-Sequence"])
        if headers.get("Bb-Agent") != headers["Nats-Subject"].split(".")[3]:
            return None, sequence
        return json.loads(reply.data), sequence

    def delivered(self, msg: Msg) -> dict[str, Any] | None:
        try:
            memory = read(msg.subject, msg.headers or {}, msg.data, None, self.board)
        except Refused as error:
            say({"event": "skipped", "reason": str(error)})
            return None
        return {**memory, "revision": msg.metadata.sequence.stream}


def lifetime(ends: datetime | None) -> dict[str, str | None]:
    """The headers of a memory that ends; rounded up, so that no earlier revision comes back."""
    if ends is None:
        return {}
    left = (ends - datetime.now(UTC)).total_seconds()
    ttl = str(max(1, math.ceil(left)))
    return {"Bb_Expires": ends.isoformat(timespec="microseconds"), "Nats_TTL": ttl}
