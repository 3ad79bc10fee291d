"""Forgetting: what is selected and made from it is gone from every reader and every store."""

from collections.abc import AsyncGenerator

import anyio
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import GoneError, HistoryGoneError, InvalidError, NotFoundError
from blackboard.messages import Payload, memory_of
from blackboard.receipts import Receipt, digest
from blackboard.runtime.dead import bury, list_dead
from tests.forgetting import Steward, files_with
from tests.servers import Server
from tests.waiting import wait_until

SECRET = "swordfish"  # noqa: S105 - a word to look for


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


async def gone(board: Blackboard, *refs: Ref) -> None:
    for ref in refs:
        with pytest.raises(GoneError) as error:
            await board.get(ref)
        assert error.value.reason == "forgotten", ref


async def test_what_is_selected_and_what_was_made_from_it_are_forgotten(
    alice: Blackboard, steward: Steward
):
    source = await alice.put("cases", SECRET, user="customer-42")
    await alice.revise(source, f"{SECRET} again")
    made = await alice.put("notes", f"of {SECRET}", sources=[source])
    from_made = await alice.put("notes", f"of that: {SECRET}", sources=[made])
    other = await alice.put("cases", "sunfish", user="customer-43")
    linked = await alice.put("notes", "see also", links=[source])

    receipt = await alice.forget(user="customer-42", reason="request 881")

    assert (receipt.state, receipt.memories, receipt.reason) == ("complete", 3, "request 881")
    assert receipt.selectors == {"users": [digest("customer-42")]}
    await gone(alice, source, made, from_made)
    with pytest.raises(GoneError):
        await alice.get(source.pinned())
    assert (await alice.get(other)).content == "sunfish"
    assert (await alice.get(linked)).content == "see also"
    removed = {(store.name, store.what): store for store in receipt.stores}
    memories = removed["MEM_b", "memories"]
    assert memories.removed == 4
    assert memories.ranges == ((1, 4),)


async def test_a_preview_says_what_would_go_and_why_and_changes_nothing(alice: Blackboard):
    source = await alice.put("cases", SECRET, user="u1")
    made = await alice.put("notes", SECRET, sources=[source])
    await alice.put("notes", "sunfish")

    plan = await alice.preview_forget(user="u1")

    assert [(one.ref, one.why) for one in plan.memories] == [
        (source, "selected"),
        (made, f"made from {source.pinned()}"),
    ]
    assert (plan.selected, plan.everything, plan.scanned) == (1, False, 3)
    assert (await alice.get(made)).content == SECRET


SELECTORS: list[dict[str, object]] = [
    {"user": "u1"},
    {"tags": {"case": "7"}},
    {"session": "s1"},
    {"agent": "bob"},
    {"topic": "cases.>"},
    {"access": "pii"},
    {"user": ["u0", "u1"], "topic": "cases.*"},
]


@pytest.mark.parametrize("where", SELECTORS, ids=[" ".join(one) for one in SELECTORS])
async def test_each_selector_selects(alice: Blackboard, steward: Steward, where: dict[str, object]):
    bob = alice.sibling(agent="bob")
    hit = await bob.put(
        "cases.open", SECRET, user="u1", tags={"case": "7"}, session="s1", access="pii"
    )
    miss = await alice.put("notes", "x", user="u2", tags={"case": "8"}, session="s2")

    receipt = await alice.forget(**where)  # pyright: ignore[reportArgumentType]

    assert receipt.memories == 1
    await gone(alice, hit)
    assert (await alice.get(miss)).content == "x"


async def test_a_time_range_selects_and_several_references_do(alice: Blackboard, steward: Steward):
    first = await alice.put("notes", "1")
    second = await alice.put("notes", "2")
    stored = (await alice.get(second)).stored
    assert stored is not None
    third = await alice.put("notes", "3")
    fourth = await alice.put("notes", "4")

    assert (await alice.forget(since=stored, until=stored)).memories == 1
    await gone(alice, second)
    assert (await alice.forget([str(first), third])).memories == 2
    await gone(alice, first, third)
    assert (await alice.get(fourth)).content == "4"


async def test_what_names_nothing_matches_nothing_or_is_everything_is_asked_back(
    alice: Blackboard, steward: Steward
):
    with pytest.raises(InvalidError, match="say what to forget"):
        await alice.forget()
    with pytest.raises(NotFoundError, match="nothing was done"):
        await alice.forget(user="nobody")
    one = await alice.put("notes", "one", user="u1")
    with pytest.raises(InvalidError, match="every memory"):
        await alice.forget(user="u1")
    assert (await alice.get(one)).content == "one"

    nothing = await alice.forget(user="nobody", confirmed=True)
    assert (nothing.state, nothing.memories) == ("complete", 0)
    everything = await alice.forget(topic=">", confirmed=True)
    assert (everything.state, everything.memories) == ("complete", 1)


# Lineage


async def test_chains_ten_deep_of_a_thousand_are_followed_to_the_end(
    alice: Blackboard, steward: Steward
):
    root = await alice.put("notes", SECRET)
    layer = [root]
    every = [root]
    for depth in range(10):
        layer = await alice.put_many(
            f"made.d{depth}",
            [
                Memory(content=f"{SECRET} {number}", sources=(layer[number % len(layer)].pinned(),))
                for number in range(100)
            ],
        )
        every += layer
    keep = await alice.put_many("keep", [str(number) for number in range(100)])

    receipt = await alice.forget(root)

    assert receipt.memories == 1001
    assert receipt.state == "complete"
    for ref in every[::100]:
        await gone(alice, ref)
    left = [memory async for memory in _all(alice)]
    assert {memory.ref for memory in left if memory.gone is None} == set(keep)


async def _all(board: Blackboard) -> AsyncGenerator[Memory]:
    async with board.replay(">") as memories:
        async for memory in memories:
            yield memory


async def test_a_key_that_was_put_again_is_another_memory(alice: Blackboard, steward: Steward):
    key = await alice.put("state.x", SECRET, key="k")
    made = await alice.put("notes", SECRET, sources=[key])
    await alice.forget(key, confirmed=True)
    again = await alice.put("state.x", "sunfish", key="k")
    made_again = await alice.put("notes", "of sunfish", sources=[again])
    await alice.forget(await alice.put("notes", "something else"))

    assert (await alice.get("*/state.x/k")).content == "sunfish"
    assert (await alice.get(made_again)).content == "of sunfish"
    await gone(alice, made)
    for old in (key, made):
        with pytest.raises((GoneError, HistoryGoneError)):
            await alice.get(old.pinned())


async def test_a_result_of_once_goes_with_its_inputs_and_with_the_last_that_shows_it(
    alice: Blackboard, steward: Steward
):
    source = await alice.put("cases", SECRET)
    memory = await alice.get(source)
    direct = await alice.once("direct", memory, lambda: f"of {SECRET}", topic="notes")
    plain = await alice.once("plain", SECRET, lambda: f"of {SECRET}")
    only = await alice.put(
        "notes", Memory(content_of=plain.pinned, kind="reuse", sources=(source.pinned(),))
    )
    shared = await alice.once("shared", "sunfish", lambda: "of sunfish", topic="notes")
    both = await alice.put(
        "notes", Memory(content_of=shared.content_of, kind="reuse", sources=(source.pinned(),))
    )

    receipt = await alice.forget(source)

    assert direct.content_of is not None
    assert shared.content_of is not None
    await gone(alice, source, direct.ref, direct.content_of.unpinned, plain.ref, only, both)
    assert (await alice.get(shared.ref)).content == "of sunfish"
    assert receipt.memories == 6


async def test_what_arrives_with_a_forgotten_source_is_forgotten_on_arrival(
    alice: Blackboard, steward: Steward
):
    source = await alice.put("cases", SECRET)
    keep = await alice.put("cases", "sunfish")
    await alice.forget(source)

    late = await alice.put("notes", SECRET * 100_000, sources=[source.pinned()])
    later = await alice.put("notes", SECRET, sources=[late.pinned()])
    fine = await alice.put("notes", "of sunfish", sources=[keep])

    async def is_gone() -> bool:
        heads = [await alice.log.head(ref) for ref in (late, later)]
        return all(head is not None and head.gone == "forgotten" for head in heads)

    await wait_until(is_gone, "what was made from it is forgotten")
    assert (await alice.get(fine)).content == "of sunfish"

    # Also while no steward runs.
    steward.kill()
    while_away = await alice.put("notes", SECRET, sources=[late.pinned()])
    steward.start()

    async def away_is_gone() -> bool:
        head = await alice.log.head(while_away)
        return head is not None and head.gone == "forgotten"

    await wait_until(away_is_gone, "what came while it was away is forgotten", 20)


async def test_what_a_killed_steward_buried_on_arrival_is_ordered_by_the_next(
    alice: Blackboard, steward: Steward, server: Server
):
    source = await alice.put("cases", SECRET)
    await alice.put("cases", "sunfish")
    await alice.forget(source)
    known = await _orders(alice)
    for _ in range(5):
        late = await alice.put("notes", [SECRET] * 60_000, sources=[source.pinned()])
        await wait_until(lambda late=late: _is_forgotten(alice, late), "it is forgotten")
        steward.kill()
        if await _orders(alice) == known:
            break
        steward.start()  # it had ordered the rest already
        known = await _orders(alice)
    else:
        pytest.fail("the steward was killed too late each time")
    had = memory_of(
        Payload(),
        agent="alice",
        access="shared",
        topic=late.topic,
        id=late.id,
        revision=late.written or 0,
    )
    await bury(alice.log, "summarize", "1", had, ValueError(SECRET), occasion="run1")
    assert files_with(server.directory, SECRET)
    steward.start()

    async def is_clean() -> bool:
        return not files_with(server.directory, SECRET) and not await list_dead(alice)

    await wait_until(is_clean, "the next one orders what is left of it", 20)


async def _is_forgotten(board: Blackboard, ref: Ref) -> bool:
    head = await board.log.head(ref)
    return head is not None and head.gone == "forgotten"


async def _orders(board: Blackboard) -> int:
    """The sequence of the newest record of forgetting."""
    message = await board.log.reads.last(f"claim.{board.name}.forget.steward.*")
    return 0 if message is None else message.sequence


async def test_views_and_watchers_drop_it_at_once(alice: Blackboard, steward: Steward):
    source = await alice.put("cases", SECRET)
    keep = await alice.put("cases", "sunfish")
    async with alice.view("cases.>") as view, alice.watch("cases.>") as memories:
        assert source in view
        await alice.forget(source)
        with anyio.fail_after(5):
            tombstone = await anext(memories)
            await wait_until(lambda: source not in view, "the view drops it")
        assert (tombstone.ref, tombstone.gone, tombstone.content) == (source, "forgotten", None)
        assert keep in view


async def test_a_gathering_of_agents_that_derive_meanwhile_leaves_nothing(
    alice: Blackboard, steward: Steward
):
    source = await alice.put("cases", SECRET)
    keep = await alice.put("cases", "sunfish")
    written: list[Ref] = []
    stop = anyio.Event()

    async def derive(number: int) -> None:
        board = alice.sibling(agent=f"agent-{number}")
        last = source
        while not stop.is_set():
            last = await board.put("made", f"{SECRET} {number}", sources=[last.pinned()])
            written.append(last)
            await anyio.sleep(1.0)

    receipt: Receipt | None = None
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(derive, number)
        await wait_until(lambda: len(written) > 200, "the agents write")
        receipt = await alice.forget(source, confirmed=True, timeout=40)
        await anyio.sleep(0.3)
        stop.set()
    assert receipt is not None
    assert receipt.memories > 200

    async def none_left() -> bool:
        return not [
            memory async for memory in _all(alice) if memory.gone is None and memory.sources
        ]

    await wait_until(none_left, "nothing that was made from it is left", 30)
    assert (await alice.get(keep)).content == "sunfish"
