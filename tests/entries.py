"""Memories as an index holds them, made up: few values of everything, so that they meet."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from blackboard.recall.index import Entry, Signature, Sparse, Vectors
from blackboard.subjects import Ref

DIMENSIONS = 8
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIGNATURE = Signature("main", "test-embedder", DIMENSIONS, 1)

AGENTS = ["alice", "bob", "carol-2"]
TOPICS = [
    "docs",
    "docs.a",
    "docs.b",
    "docs.a.b",
    "docs.a.b.c",
    "other",
    "a",
    "a.a",
    "a.b.a",
    "b-1.x_y",
]
LABELS = ["shared", "pii", "finance"]
SESSIONS = [None, "s1", "s2", "Sitzung Nº 3", "long " * 100, "nul\x00byte"]
USERS = [None, "customer-1", "customer-2", 'o"brien {x}']
KINDS = ["note", "result", "summary"]
TAGS = [
    ("dept", "billing"),
    ("dept", "returns"),
    ("a=b", "c"),
    ("a", "b=c"),
    ("", ""),
    ("é", "ü" * 300),
]
PRIORITIES = [0.0, 0.1, 0.25, 0.5, 1.0]
RESULTS = [Ref("*", "once.summary", f"k{number}") for number in range(3)]
MOMENTS = [NOW + timedelta(microseconds=7, hours=hours) for hours in (-48, -24, -1, 0, 1)]


def pattern(tokens: list[str], rest: bool) -> str:  # noqa: FBT001 - drawn
    """A pattern of tokens, and of what is under them."""
    return ".".join([*tokens, ">"] if rest or not tokens else tokens)


def vectors(chance: random.Random) -> Vectors:
    """Unit vectors, and a few of twenty words."""
    dense = np.array([chance.gauss(0, 1) for _ in range(DIMENSIONS)])
    bare = (dense / np.linalg.norm(dense)).astype(np.float32)
    words = tuple(sorted(chance.sample(range(20), chance.randint(1, 4))))
    return Vectors(bare, Sparse(words, tuple(chance.uniform(0.5, 2) for _ in words)))


def entry(revision: int, /, chance: random.Random | None = None, **fields: Any) -> Entry:
    """A memory; what is not given is drawn."""
    chance = chance or random.Random(revision)
    agent, topic = chance.choice(AGENTS), fields.pop("topic", None) or chance.choice(TOPICS)
    shared = chance.random() < 0.2
    name = Ref("*", topic, f"key-{revision}") if shared else Ref(agent, topic, f"{revision:032x}")
    drawn: dict[str, Any] = {
        "ref": name,
        "revision": revision,
        "access": chance.choice(LABELS),
        "author": agent,
        "session": chance.choice(SESSIONS),
        "user": chance.choice(USERS),
        "kind": chance.choice(KINDS),
        "tags": dict(chance.sample(TAGS, chance.randint(0, 2))),
        "priority": chance.choice(PRIORITIES),
        # Pairs that were stored in the same microsecond, which the broker may do.
        "stored": NOW - timedelta(days=2) + timedelta(minutes=7 * (revision // 2), microseconds=3),
        "happened": chance.choice([None, *MOMENTS]),
        "expires": chance.choice([None, None, *MOMENTS]),
        "sources": tuple(chance.sample(RESULTS, chance.randint(0, 2))),
        "shows": chance.choice([None, None, *RESULTS]),
    }
    drawn.update(fields)
    drawn["vectors"] = drawn.get("vectors") or vectors(chance)
    drawn.setdefault("borrowed", tuple(chance.sample(RESULTS, chance.randint(0, 2))))
    return Entry(**drawn)
