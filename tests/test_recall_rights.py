"""What a caller with rights sees of an index: what a filter over the whole board would leave it."""

import random
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, get_args

import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.access.rights import Grant
from blackboard.background import background
from blackboard.errors import DeniedError
from blackboard.jetstream import Connection
from blackboard.recall.service import serve
from blackboard.search import CountBy
from blackboard.settings import Settings
from tests.embedding_stub import EmbeddingStub
from tests.recall_service import MODEL, current
from tests.servers import Server

TOPICS = ["docs", "docs.a", "docs.b", "docs.a.c", "other"]
PATTERNS = [">", "docs.>", "docs.*", "*.a", "docs.a.>", "other", "nothing.>"]
LABELS = ["shared", "pii", "finance"]
USERS = ["u1", "u2"]
SESSIONS = [None, "s1", "s2"]
COUNTS: tuple[CountBy, ...] = get_args(CountBy)
Rights = dict[str, tuple[Grant, ...]]


@pytest.fixture
async def rights(
    board: Blackboard, server: Server, tmp_path: Path, embeddings: EmbeddingStub
) -> AsyncGenerator[Rights]:
    """A service that enforces these rights; who is not named may read everything."""
    granted: Rights = {}
    settings = Settings(
        url=server.url, data_dir=tmp_path, model_url=embeddings.url, embedding_model=MODEL
    )
    async with Connection.open(server.url) as connection, background() as group:
        group.start_soon(
            lambda: serve(connection, settings, rights=lambda _, agent: granted.get(agent))
        )
        yield granted
        group.cancel_scope.cancel()


async def filled(board: Blackboard, chance: random.Random, count: int) -> list[Memory]:
    """Memories that differ in all that rights go by; each has a word of its own."""
    refs: list[Ref] = []
    for number in range(count):
        writer = board.sibling(agent=chance.choice(["alice", "carol"]))
        ref = await writer.put(
            chance.choice(TOPICS),
            f"secret{number} apples",
            access=chance.choice(LABELS),
            user=chance.choice([None, *USERS]),
            session=chance.choice(SESSIONS),
            tags={"n": str(number % 3)},
            kind=chance.choice(["note", "fact"]),
            sources=[chance.choice(refs)] if refs else [],
        )
        refs.append(ref)
    return [await board.get(ref) for ref in refs]


def drawn(chance: random.Random) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            chance.choice(["*", *LABELS]),
            chance.choice(PATTERNS),
            chance.choice([None, None, *USERS]),
        )
        for _ in range(chance.randrange(4))
    )


def counted(memories: list[Memory], what: CountBy) -> dict[str, int]:
    if what == "tag":
        return Counter(
            f"{name}={value}" for memory in memories for name, value in memory.tags.items()
        )
    values = (getattr(memory, what) for memory in memories)
    return Counter(value for value in values if value is not None)


def refs_of(memories: list[Memory]) -> set[Ref]:
    return {memory.ref for memory in memories}


@pytest.mark.timeout(120)
async def test_a_caller_sees_what_a_filter_over_the_board_leaves(
    board: Blackboard, rights: Rights
) -> None:
    chance = random.Random(8)
    everything = await filled(board, chance, 60)
    await current(board, board.log.reached)
    bob = board.sibling(agent="bob")
    for _ in range(25):
        rights["bob"] = grants = drawn(chance)
        mine = [one for one in everything if any(grant.covers(one) for grant in grants)]
        middle = chance.choice(everything)

        rows = await bob.query(kind=["note", "fact"], fresh=False, count_by=list(COUNTS))
        assert [row.ref for row in rows] == [one.ref for one in reversed(mine)]
        assert rows.total == len(mine)
        assert {what: dict(rows.counts[what]) for what in COUNTS} == {
            what: dict(counted(mine, what)) for what in COUNTS
        }
        paged = await bob.query(kind=["note", "fact"], limit=7, order_by="topic", fresh=False)
        assert refs_of(paged) <= refs_of(mine)
        assert (paged.cursor is None) == (len(mine) < 7)
        hits = await bob.recall("apples", limit=100, fresh=False)
        assert {hit.memory.ref for hit in hits} == refs_of(mine)
        earlier = await bob.recall("apples", limit=100, fresh=False, before=middle)
        assert {hit.memory.ref for hit in earlier} == {
            one.ref for one in mine if one.revision < middle.revision
        }
        made = await bob.query(sources=middle, fresh=False)
        assert refs_of(made) == {
            one.ref for one in mine if middle.ref in {source.unpinned for source in one.sources}
        }


@pytest.mark.timeout(120)
async def test_no_word_of_what_may_not_be_read_has_any_effect(
    board: Blackboard, rights: Rights
) -> None:
    chance = random.Random(9)
    everything = await filled(board, chance, 60)
    await current(board, board.log.reached)
    bob = board.sibling(agent="bob")
    for _ in range(6):
        rights["bob"] = grants = drawn(chance)
        hidden = [one for one in everything if not any(grant.covers(one) for grant in grants)]
        for memory in chance.sample(hidden, min(10, len(hidden))):
            word = str(memory.content).split()[0]
            hits = await bob.recall(word, limit=100, fresh=False)
            assert [hit.why for hit in hits if "words" in hit.why] == []


async def test_the_index_as_a_whole_is_for_operators(board: Blackboard, rights: Rights) -> None:
    rights["bob"] = (Grant("shared", "docs.>"),)
    rights["carol"] = ()
    status = await current(board)
    for agent in ("bob", "carol"):
        finder = board.sibling(agent=agent).finder
        with pytest.raises(DeniedError, match="operators"):
            await finder.status()
        with pytest.raises(DeniedError, match="operators"):
            await finder.reindex(None)

    assert status.memories == 0
    assert (await board.finder.status()).building is None


async def test_what_goes_wrong_tells_nothing_of_what_may_not_be_read(
    board: Blackboard, rights: Rights
) -> None:
    hidden = await board.put("docs", "secret apples", access="pii", user="u1", tags={"a": "b"})
    await current(board, board.log.reached)
    rights["bob"] = (Grant("shared"),)
    bob = board.sibling(agent="bob")
    said: list[Any] = [
        list(await bob.recall("secret", fresh=False)),
        list(await bob.recall("secret", fresh=False, sources=hidden)),
        list(await bob.query(user="u1", fresh=False)),
        (await bob.query(limit=0, count_by=["user", "tag", "access"], fresh=False)).counts,
    ]

    assert said == [[], [], [], {"user": {}, "tag": {}, "access": {}}]
