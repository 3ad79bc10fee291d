"""The rules of schemas/README.md that need no broker: names, keys, and what a reader checks."""

import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any, cast

import rfc8785

NAMESPACE = uuid.UUID("6b1b7a52-8f0e-5c33-9d7e-2f5a4c1d90ab")
GONE = {"retired", "forgotten", "moved"}
ID = re.compile(r"[0-9a-f]{32}")
NAME = re.compile(r"(?=.{1,64}$)[a-z0-9_]+(-[a-z0-9_]+)*")
WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
PIN = re.compile(r"[1-9][0-9]{0,18}")


class Conflict(Exception):  # noqa: N818 - what it is called on the wire
    """Somebody else was first."""


class Refused(Exception):  # noqa: N818
    """What was asked for, or found, breaks a rule."""


def canonical(value: Any) -> bytes:
    return rfc8785.dumps(value)


def sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def derived(*material: str | int) -> str:
    return uuid.uuid5(NAMESPACE, canonical(list(material)).decode()).hex


def parse(text: str) -> tuple[str, str, str, int | None]:
    """Take a reference apart: agent or `*`, topic, id or key, pin."""
    body, at, pin = text.partition("@")
    parts = body.split("/")
    if len(parts) != 3 or (at and not PIN.fullmatch(pin)):
        raise Refused(f"no reference: {text}")
    agent, topic, name = parts
    if not all(WORD.fullmatch(token) for token in topic.split(".")) or len(topic) > 512:
        raise Refused(f"no topic: {topic}")
    if not KEY.fullmatch(name) or not (agent == "*" or NAME.fullmatch(agent)):
        raise Refused(f"no reference: {text}")
    if ID.fullmatch(name):
        if agent == "*":
            raise Refused(f"an id without owner: {text}")
    else:
        agent = "*"
    return agent, topic, name, int(pin) if at else None


def broker_filter(board: str, pattern: str) -> str:
    tokens = pattern.split(".")
    for number, part in enumerate(tokens, 1):
        if not (part == "*" or WORD.fullmatch(part) or (part == ">" and number == len(tokens))):
            raise Refused(f"no pattern: {pattern}")
    return f"mem.{board}.*.*.{pattern}" + ("" if tokens[-1] == ">" else ".*")


def selects(broker: str, subject: str) -> bool:
    wanted, have = broker.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(have) <= len(wanted):
            return False
        have = have[: len(wanted)]
    return len(wanted) == len(have) and all(
        w in ("*", h) for w, h in zip(wanted, have, strict=True)
    )


def once_key(name: str, version: str, access: str, inputs: Any, users: list[str]) -> str:
    material = ["once", name, version, access, inputs]
    return sha256([*material, users] if users and access == "shared" else material)


def read(
    subject: str, headers: dict[str, str], data: bytes, asked: str | None, board: str
) -> dict[str, Any]:
    """Check a message and take it for a memory; `asked` is the filter of a direct get."""
    if asked is None:
        if "Nats-Subject" in headers or "Nats-Stream" in headers:
            raise Refused("a copy that the broker was made to store")
    elif not selects(asked, subject) or headers.get("Nats-Stream") != f"MEM_{board}":
        raise Refused("an answer to another question")
    tokens = subject.split(".")
    honest = tokens[0] == "mem" and len(tokens) >= 6 and all(map(WORD.fullmatch, tokens[:-1]))
    if not honest or not KEY.fullmatch(tokens[-1]):
        raise Refused(f"no memory's subject: {subject}")
    if headers.get("Bb-Agent") != tokens[3]:
        raise Refused("another author than its subject names")
    gone = headers.get("Bb-Gone")
    if gone is not None and gone not in GONE:
        raise Refused(f"an unknown tombstone: {gone}")
    try:
        body: object = json.loads(data) if data and gone is None else {}
    except ValueError as error:
        raise Refused("no JSON") from error
    fields = cast("dict[str, Any]", body if isinstance(body, dict) else {"tags": None})
    if not isinstance(fields.get("tags", {}), dict):
        raise Refused("no memory")
    agent = tokens[3] if ID.fullmatch(tokens[-1]) else "*"
    expires = headers.get("Bb-Expires")
    return {
        "kind": "note", "content": None, "hops": 0, "tags": {}, **fields,
        "access": tokens[2], "agent": tokens[3], "topic": ".".join(tokens[4:-1]), "id": tokens[-1],
        "ref": f"{agent}/{'.'.join(tokens[4:-1])}/{tokens[-1]}",
        "gone": gone, "origin": headers.get("Bb-Origin"), "expires": expires,
        "expired": expires is not None and datetime.fromisoformat(expires) <= datetime.now(UTC),
        "revision": int(headers.get("Nats-Sequence", 0)),
    }  # fmt: skip


def material_of(inputs: Any) -> Any:
    """Inputs as they count for `once`: a memory, given as {"$memory": {...}}, by its content."""
    if isinstance(inputs, dict):
        fields = cast("dict[str, Any]", inputs)
        memory = fields.get("$memory")
        if memory is not None:
            return {"sha256": sha256(memory["content"])}
        return {name: material_of(value) for name, value in fields.items()}
    if isinstance(inputs, list):
        return [material_of(value) for value in cast("list[Any]", inputs)]
    return inputs


def users_of(inputs: Any) -> set[str]:
    """The data subjects of the memories among inputs."""
    values: list[Any] = []
    if isinstance(inputs, dict):
        fields = cast("dict[str, Any]", inputs)
        memory = fields.get("$memory")
        if memory is not None:
            return {memory["user"]} if memory.get("user") else set()
        values = list(fields.values())
    elif isinstance(inputs, list):
        values = cast("list[Any]", inputs)
    return {user for value in values for user in users_of(value)}
