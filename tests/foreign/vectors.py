"""Tests wire.py against the vectors: `python vectors.py SCHEMAS`, silent when all agree."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wire import (
    Refused,
    broker_filter,
    canonical,
    derived,
    material_of,
    once_key,
    parse,
    read,
    selects,
    sha256,
    users_of,
)

Case = tuple[str, object, object]


def outcome(function: Callable[..., object], *arguments: object) -> object:
    """What a function returns, or "refused"."""
    try:
        return function(*arguments)
    except (Refused, ValueError):
        return "refused"


def canonical_text(text: str) -> bytes:
    return canonical(json.loads(text))


def hashes(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        value = json.loads(vector["json"])
        yield vector["json"], canonical(value).decode(), vector["canonical"]
        yield vector["json"], sha256(value), vector["sha256"]
    for text in file["refused"]:
        yield text, outcome(canonical_text, text), "refused"


def references(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        parts = tuple(vector.get(part) for part in ("agent", "topic", "id", "revision"))
        there = "refused" if vector.get("error") else parts
        yield vector["text"], outcome(parse, vector["text"]), there


def patterns(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        broker = broker_filter("main", vector["pattern"])
        yield vector["pattern"], broker, vector["filter"]
        subject = f"mem.main.shared.a.{vector['topic']}.k"
        yield vector["pattern"], selects(broker, subject), vector["matches"]
    for text in file["refused"]:
        yield text, outcome(broker_filter, "main", text), "refused"


def ids(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        yield vector["what"], derived(*vector["material"]), vector["id"]


def once(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        inputs = material_of(vector["inputs"])
        users = sorted(users_of(vector["inputs"]))
        key = once_key(vector["name"], vector["version"], vector["access"], inputs, users)
        yield vector["what"], key, vector["h"]


def messages(file: dict[str, Any]) -> Iterator[Case]:
    for vector in file["vectors"]:
        body, asked = vector["body"].encode(), vector.get("asked")
        found = outcome(read, vector["subject"], vector["headers"], body, asked, "main")
        yield vector["what"], found != "refused", vector["honest"]


def main(schemas: Path) -> int:
    """Print every difference; the number of them."""
    checks = {
        "canonical": hashes,
        "references": references,
        "patterns": patterns,
        "ids": ids,
        "once": once,
        "messages": messages,
    }
    wrong = 0
    for name, check in checks.items():
        file = json.loads((schemas / "vectors" / f"{name}.json").read_text())
        for what, here, there in check(file):
            if here != there:
                wrong += 1
                sys.stdout.write(f"{name}: {what!r}: {here!r}, should be {there!r}\n")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]))))
