"""One contract for both engines, held against the same in plain Python (`shelf_index`).

The server's engine runs over the client's local mode, and over a real server when `QDRANT_URL`
names one.
"""

import os
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.lowlevel
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from qdrant_client import AsyncQdrantClient

from blackboard.errors import InvalidError
from blackboard.recall import points
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.index import (
    BrokenIndexError,
    Company,
    Entry,
    Index,
    MismatchError,
    Row,
    Scored,
    Sparse,
    Vectors,
    Where,
)
from blackboard.recall.predicate import microseconds
from blackboard.recall.qdrant import QdrantIndex
from blackboard.search import CountBy, Filter, Grant, Order
from blackboard.subjects import Ref
from tests import entries as made
from tests.entries import NOW, SIGNATURE, entry
from tests.shelf_index import ShelfIndex

URL = os.environ.get("QDRANT_URL")
ENGINES = ["edge", "local", *(["server"] if URL else [])]
ORDERS: list[Order] = list(get_args(Order))
COUNTS: tuple[CountBy, ...] = get_args(CountBy)
EVERYTHING = Where(Filter(), None, NOW)

Make = Callable[[], Awaitable[Index]]


async def open_index(engine: str, place: Path) -> Index:
    if engine == "edge":
        return await EdgeIndex.open(place, SIGNATURE)
    if engine == "server":
        assert URL
        return await QdrantIndex.open(URL, place.name, SIGNATURE)
    return await QdrantIndex.over(AsyncQdrantClient(":memory:"), place.name, SIGNATURE)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def index(engine: str, tmp_path: Path) -> AsyncGenerator[Index]:
    index = await open_index(engine, tmp_path / f"index-{uuid.uuid4().hex}")
    yield index
    await index.destroy()


@pytest.fixture(scope="module")
async def filled(
    engine: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Index, ShelfIndex]]:
    """Both with the same 300 memories."""
    index = await open_index(
        engine, tmp_path_factory.mktemp(f"i{uuid.uuid4().hex}") / uuid.uuid4().hex
    )
    some = [entry(revision) for revision in range(1, 301)]
    await index.apply(some, [], 300)
    yield index, ShelfIndex(some)
    await index.destroy()


TOKENS = st.sampled_from(["docs", "a", "b", "c", "other", "*", "b-1"])
PATTERNS = st.one_of(
    st.sampled_from([">", *made.TOPICS]),
    st.builds(
        made.pattern,
        st.lists(TOKENS, min_size=1, max_size=4),
        st.booleans(),
    ),
)


def some_of(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    there = [value for value in values if value is not None]
    return st.one_of(st.just(()), st.lists(st.sampled_from(there), max_size=2).map(tuple))


def perhaps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), values)


TIMES = st.one_of(
    st.sampled_from(made.MOMENTS), st.integers(0, 4000).map(lambda m: NOW - timedelta(minutes=m))
)
FILTERS = st.builds(
    Filter,
    topic=perhaps(PATTERNS),
    agents=some_of([*made.AGENTS, "nobody"]),
    access=some_of(made.LABELS),
    sessions=some_of(made.SESSIONS),
    users=some_of(made.USERS),
    kinds=some_of(made.KINDS),
    tags=perhaps(
        st.dictionaries(
            st.sampled_from([name for name, _ in made.TAGS]),
            st.lists(st.sampled_from([text for _, text in made.TAGS]), max_size=3).map(tuple),
            max_size=2,
        )
    ).map(lambda tags: tags or {}),
    min_priority=perhaps(st.one_of(st.sampled_from(made.PRIORITIES), st.floats(0, 1))),
    since=perhaps(TIMES),
    until=perhaps(TIMES),
    happened_since=perhaps(TIMES),
    happened_until=perhaps(TIMES),
    sources=some_of(made.RESULTS),
    before=perhaps(st.integers(0, 310)),
)
GRANTS = st.builds(
    Grant,
    access=st.sampled_from(["*", *made.LABELS]),
    topic=PATTERNS,
    user=perhaps(st.sampled_from(["customer-1", 'o"brien {x}'])),
)
WHERES = st.builds(
    Where,
    filter=FILTERS,
    grants=perhaps(st.lists(GRANTS, max_size=3).map(tuple)),
    now=TIMES,
)
EXAMPLES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def keys(found: list[Scored]) -> list[str]:
    return [hit.candidate.key for hit in found]


@EXAMPLES
@given(where=WHERES, limit=st.integers(1, 30), seed=st.integers(0, 5))
async def test_a_search_finds_the_best_of_what_may_be_found_and_nothing_else(
    filled: tuple[Index, ShelfIndex], where: Where, limit: int, seed: int
) -> None:
    index, shelf = filled
    asked = made.vectors(random.Random(seed))

    found = await index.search(asked, where, limit)

    allowed = {str(one.ref): one for one in shelf.visible(where)}
    for part, hits in found.items():
        best = shelf.search(asked, where, part)
        assert len(hits) == min(limit, len(best))
        assert len(set(keys(hits))) == len(hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            one = allowed[hit.candidate.ref]
            assert hit.candidate.shows == (None if one.shows is None else str(one.shows))
            assert (hit.candidate.revision, hit.candidate.stored, hit.candidate.priority) == (
                one.revision,
                microseconds(one.stored),
                one.priority,
            )
        if part != "words":
            expected = sorted(best.values(), reverse=True)[:limit]
            assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-5)


@EXAMPLES
@given(where=WHERES, order=st.sampled_from(ORDERS), size=st.integers(1, 40))
async def test_pages_put_together_are_the_whole_in_order(
    filled: tuple[Index, ShelfIndex], where: Where, order: Order, size: int
) -> None:
    index, shelf = filled
    expected = shelf.select(where, order)

    rows: list[Row] = []
    while page := await index.select(where, order, size, rows[-1] if rows else None):
        rows += page
        assert len(page) == size or len(rows) == len(expected)

    assert rows == expected


@EXAMPLES
@given(where=WHERES)
async def test_counts_are_exact(filled: tuple[Index, ShelfIndex], where: Where) -> None:
    index, shelf = filled

    total, counts = await index.count(where, COUNTS)

    expected, by = shelf.count(where, COUNTS)
    assert total == expected
    assert {what: counts[what] for what in COUNTS if what not in {"session", "tag"}} == {
        what: by[what] for what in COUNTS if what not in {"session", "tag"}
    }
    # Long values are counted under the beginning and the digest of them.
    for what in ("session", "tag"):
        assert sorted(counts[what].values()) == sorted(by[what].values())
        short = {name for name in by[what] if len(name) < 200}
        assert {name: counts[what].get(name) for name in short} == {
            name: by[what][name] for name in short
        }


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[Entry], list[Ref], int]]:
    """Batches over six memories, some of them late or repeated."""
    batches: list[tuple[list[Entry], list[Ref], int]] = []
    revision = 0
    for _ in range(draw(st.integers(1, 5))):
        some: list[Entry] = []
        for number in draw(st.lists(st.integers(1, 6), max_size=5)):
            revision += 1
            late = max(1, revision - draw(st.sampled_from([0, 0, 0, 4])))
            name = Ref("alice", "docs.a", f"{number:032x}")
            some.append(entry(late, ref=name, author="alice", expires=None))
        names = [
            Ref("alice", "docs.a", f"{n:032x}")
            for n in draw(st.lists(st.integers(1, 6), max_size=2))
        ]
        gone = [name for name in names if name not in {one.ref for one in some}]
        batches.append((some, gone, max(1, revision - draw(st.sampled_from([0, 0, 5])))))
    return batches


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(batches=histories(), times=st.integers(1, 2))
async def test_what_was_applied_is_there_in_its_newest_revision(
    engine: str, tmp_path_factory: pytest.TempPathFactory, batches: Any, times: int
) -> None:
    index = await open_index(engine, tmp_path_factory.mktemp("one") / uuid.uuid4().hex)
    shelf = ShelfIndex()
    try:
        for some, gone, position in batches:
            for _ in range(times):
                await index.apply(some, gone, position)
                shelf.apply(some, gone, position)
        rows = await index.select(EVERYTHING, "stored", 100, None)
        assert {(row.ref, row.revision) for row in rows} == {
            (one.ref, one.revision) for one in shelf.held.values()
        }
        for ref, one in shelf.held.items():
            assert_same(await index.get(ref), one)
    finally:
        await index.destroy()


def assert_same(found: Entry | None, expected: Entry) -> None:
    """Equal, but for values that are kept as digests."""
    assert found is not None
    for field in Entry.__struct_fields__:
        want, have = getattr(expected, field), getattr(found, field)
        if field == "vectors":
            np.testing.assert_allclose(have.bare, want.bare, atol=1e-6)
            assert have.words.indices == want.words.indices
            assert have.words.values == pytest.approx(want.words.values, abs=1e-6)
        elif len(str(want)) < 200 and field != "text":
            assert have == want, field


async def test_a_thousand_light_memories_of_one_result_are_one_hit(index: Index) -> None:
    chance = random.Random(1)
    same, result = made.vectors(chance), made.RESULTS[0]
    light = [
        entry(
            number,
            expires=None,
            shows=result,
            access="pii" if number % 2 else "shared",
            vectors=same,
        )
        for number in range(1, 1001)
    ]
    others = [entry(1000 + number, expires=None, shows=None) for number in range(1, 21)]
    await index.apply([*light, *others], [], 1020)

    found = await index.search(same, EVERYTHING, 10)
    seen = await index.search(same, Where(Filter(), (Grant("shared"),), NOW), 10)

    assert [keys(hits).count(str(result)) for hits in found.values()] == [1, 1]
    assert len(found["bare"]) == 10
    assert found["bare"][0].candidate.shows == str(result)
    shared = {str(one.ref) for one in [*light, *others] if one.access == "shared"}
    assert {hit.candidate.ref for hits in seen.values() for hit in hits} <= shared
    assert seen["bare"][0].candidate.shows == str(result)


async def test_the_rights_are_applied_before_the_limit(index: Index) -> None:
    same = made.vectors(random.Random(2))
    hidden = [entry(n, access="pii", expires=None, shows=None, vectors=same) for n in range(1, 500)]
    open_ = [entry(n, access="shared", expires=None, shows=None) for n in range(500, 505)]
    await index.apply([*hidden, *open_], [], 505)

    found = await index.search(same, Where(Filter(), (Grant("shared"),), NOW), 5)

    assert {hit.candidate.ref for hit in found["bare"]} == {str(one.ref) for one in open_}
    assert await index.search(same, Where(Filter(), (), NOW), 5) == {
        "bare": [],
        "words": [],
    }
    assert await index.count(Where(Filter(), (), NOW), ["agent"]) == (0, {"agent": {}})
    assert await index.select(Where(Filter(), (), NOW), "stored", 5, None) == []


@pytest.mark.parametrize("order", ["-stored", "priority", "-happened", "agent", "-topic"])
async def test_paging_neither_skips_nor_repeats_while_others_write(
    index: Index, order: Order
) -> None:
    there = [entry(number, expires=None) for number in range(1, 201)]
    await index.apply(there, [], 200)
    written = 200

    seen: list[Ref] = []
    last: Row | None = None
    while page := await index.select(EVERYTHING, order, 17, last):
        seen += [row.ref for row in page]
        last = page[-1]
        # Also the row that the next page goes on behind.
        await index.apply(
            [entry(written + n, expires=None) for n in range(1, 12)], [], written + 11
        )
        written += 11
        if len(seen) < 100:
            await index.apply([], [last.ref], written)
    mine = {one.ref for one in there}

    assert len(seen) == len(set(seen))
    assert mine <= set(seen)


async def test_what_expires_is_not_found_and_is_listed_for_removal(index: Index) -> None:
    short = entry(1, expires=NOW)
    long = entry(2, expires=NOW + timedelta(microseconds=1))
    await index.apply([short, long], [], 2)

    assert [row.ref for row in await index.select(EVERYTHING, "stored", 9, None)] == [long.ref]
    assert await index.expired(NOW, 9) == [short.ref]
    assert await index.expired(NOW + timedelta(1), 1) == [short.ref]
    assert await index.expired(NOW - timedelta(1), 9) == []


async def test_the_newest_of_a_company_is_of_nobody_else(index: Index) -> None:
    usual = Company("s1", "shared", "docs.a")

    def one(number: int, **other: Any) -> Entry:
        ref = Ref("alice", other.pop("topic", "docs.a"), f"{number:032x}")
        same: dict[str, Any] = {"session": "s1", "access": "shared", "user": None, "shows": None}
        return entry(number, None, ref=ref, expires=None, **(same | other))

    await index.apply(
        [
            one(1),
            one(2, user="customer-1"),
            one(3, access="pii"),
            one(4, session="s2"),
            one(5, topic="docs.a.b"),
            one(6, shows=made.RESULTS[0]),
            one(7),
            one(8),
        ],
        [],
        8,
    )

    assert await index.newest(usual, 9, 5) == [one(n).ref.pinned(n) for n in (8, 7, 1)]
    assert await index.newest(usual, 8, 1) == [one(7).ref.pinned(7)]
    assert await index.newest(usual, 1, 5) == []
    (other,) = await index.newest(Company("s1", "shared", "docs.a", "customer-1"), 9, 5)
    assert other.revision == 2


async def test_who_borrowed_words_is_known(index: Index) -> None:
    lender, other = entry(1, borrowed=()), entry(2, borrowed=())
    first = entry(3, borrowed=(lender.ref, other.ref))
    second = entry(4, borrowed=(first.ref, lender.ref))
    await index.apply([lender, other, first, second], [], 4)

    found = await index.borrowers([lender.ref])
    assert {(ref, ref.revision) for ref in found} == {
        (first.ref.pinned(3), 3),
        (second.ref.pinned(4), 4),
    }
    assert await index.borrowers([other.ref.pinned(7)]) == [first.ref.pinned(3)]
    assert await index.borrowers([second.ref]) == []
    assert await index.borrowers([]) == []
    await index.apply([msgspec.structs.replace(second, borrowed=(first.ref,))], [lender.ref], 5)
    assert await index.borrowers([lender.ref]) == [first.ref.pinned(3)]


async def test_vectors_that_would_be_stored_and_never_found_are_refused(index: Index) -> None:
    good = made.vectors(random.Random(1))
    bad = [
        Vectors(np.full(made.DIMENSIONS, np.nan, dtype=np.float32), good.words),
        Vectors(np.ones(3, dtype=np.float32), good.words),
        Vectors(good.bare, Sparse((1, 2), (1.0,))),
        Vectors(good.bare, Sparse((1,), (float("inf"),))),
        Vectors(good.bare, Sparse((-1,), (1.0,))),
    ]
    for vectors in bad:
        with pytest.raises(InvalidError):
            await index.apply([entry(1), entry(2, vectors=vectors)], [], 2)
        with pytest.raises(InvalidError):
            await index.search(vectors, EVERYTHING, 5)

    assert await index.count(EVERYTHING, []) == (0, {})
    with pytest.raises(InvalidError, match="blackboard reindex"):
        await index.apply([entry(1, vectors=bad[1])], [], 1)


async def test_a_search_without_words_has_the_other_parts(index: Index) -> None:
    await index.apply([entry(1, expires=None)], [], 1)
    asked = made.vectors(random.Random(1))

    found = await index.search(Vectors(asked.bare, Sparse()), EVERYTHING, 5)

    assert (len(found["bare"]), len(found["words"])) == (1, 0)


async def test_a_pattern_that_is_none_is_refused(index: Index) -> None:
    for where in (Where(Filter(topic="a.>.b"), None, NOW), Where(Filter(), (Grant("*", ""),), NOW)):
        with pytest.raises(InvalidError):
            await index.select(where, "stored", 5, None)


async def test_the_position_follows_what_was_applied(index: Index) -> None:
    assert await index.position() == 0
    await index.apply([entry(1), entry(7)], [], 9)
    await index.flush()
    assert await index.position() == 9
    await index.apply([], [], 12)
    await index.flush()
    assert await index.position() == 12


async def test_searches_go_on_while_memories_come_in(index: Index) -> None:
    await index.apply([entry(number, expires=None) for number in range(1, 101)], [], 100)
    asked = made.vectors(random.Random(1))
    searches = 0

    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            for start in range(101, 600, 100):
                some = [entry(number, expires=None) for number in range(start, start + 100)]
                await index.apply(some, [], start + 99)
            tasks.cancel_scope.cancel()

        tasks.start_soon(write)
        while True:
            found = await index.search(asked, EVERYTHING, 10)
            assert len(found["bare"]) == 10
            searches += 1
            await anyio.lowlevel.checkpoint()  # the client's local mode never waits

    assert searches
    assert (await index.count(EVERYTHING, []))[0] == 600


async def test_an_index_of_another_format_is_refused(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "server":
        pytest.skip("the collection outlives the test's client; covered by the local mode")
    client = AsyncQdrantClient(":memory:")

    async def opened() -> Index:
        if engine == "edge":
            return await EdgeIndex.open(tmp_path / "i", SIGNATURE)
        return await QdrantIndex.over(client, "i", SIGNATURE)

    with monkeypatch.context() as older:
        older.setattr(points, "FORMAT", points.FORMAT - 1)
        index = await opened()
        await index.apply([entry(1)], [], 1)
        if engine == "edge":
            await index.close()

    with pytest.raises(BrokenIndexError, match=f"{points.FORMAT - 1} instead of {points.FORMAT}"):
        await opened()
    await client.close()


def test_points_of_this_format_look_like_this() -> None:
    # If this has to be changed, so has `points.FORMAT`.
    full = entry(
        7,
        ref=Ref("bob", "docs.a", "0" * 32),
        access="pii",
        author="bob",
        session="s1",
        user="customer-1",
        kind="summary",
        tags={"dept": "billing"},
        priority=0.5,
        stored=NOW,
        happened=NOW,
        expires=NOW,
        sources=(Ref("bob", "docs.a", "1" * 32),),
        shows=Ref("*", "once.sum", "k1"),
        borrowed=(Ref("bob", "docs.a", "2" * 32),),
        text="a summary",
    )
    stamp = 1_777_636_800_000_000
    named = f"bob/docs.a/{'0' * 32}"

    assert points.FORMAT == 3
    assert points.payload(full) == {
        "ref": named,
        "revision": 7,
        "access": "pii",
        "agent": "bob",
        "session": "s1",
        "user": "customer-1",
        "kind": "summary",
        "topic": "docs.a",
        "places": ["0:docs", "1:a"],
        "depth": 2,
        "tags": ["4:dept=billing"],
        "priority": 0.5,
        "stored": stamp,
        "happened": stamp,
        "expires": stamp,
        "sources": [f"bob/docs.a/{'1' * 32}"],
        "shows": "*/once.sum/k1",
        "borrowed": [f"bob/docs.a/{'2' * 32}"],
        "text": "a summary",
        "candidate": f'["{named}",7,{stamp},0.5,"*/once.sum/k1","s1"]',
    }


async def test_another_signature_names_the_command(engine: str, tmp_path: Path) -> None:
    if engine == "server":
        pytest.skip("the collection outlives the test's client; covered by the local mode")
    other = SIGNATURE.__class__("main", "another", 4, 2)
    async with AsyncExitStack() as stack:
        if engine == "edge":
            await (await EdgeIndex.open(tmp_path / "i", SIGNATURE)).close()
            with pytest.raises(MismatchError, match="blackboard reindex"):
                await EdgeIndex.open(tmp_path / "i", other)
        else:
            client = AsyncQdrantClient(":memory:")
            stack.push_async_callback(client.close)
            await QdrantIndex.over(client, "i", SIGNATURE)
            with pytest.raises(MismatchError, match="blackboard reindex"):
                await QdrantIndex.over(client, "i", other)
