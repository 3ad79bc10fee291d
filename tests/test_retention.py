"""Retention: what the policy says ends by itself, and what does not, the steward takes away."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from blackboard import Agent, Blackboard, Memory, Ref
from blackboard.archive import export, load
from blackboard.consolidator.policy import Policy, Rules
from blackboard.consolidator.service import Consolidator
from blackboard.errors import ConflictError, GoneError, NotFoundError
from blackboard.messages import OUTLIVED
from blackboard.oblivion import Oblivion
from blackboard.receipts import Receipt
from blackboard.retention import Removed
from tests.children import children
from tests.consolidated import consolidator, heads, summaries
from tests.forgetting import Steward, files_with
from tests.retained import foreign, keep_to, later, removed, retaining, tally
from tests.servers import Server
from tests.waiting import wait_until

MONTH = timedelta(days=30)
PRECISION = timedelta(seconds=2)
DAYS_30 = "[[retain]]\nmax_age = '30d'\n"


def lives(memory: Memory) -> timedelta | None:
    """How long after it was stored a memory ends, to the second."""
    if memory.expires is None:
        return None
    assert memory.stored is not None
    return timedelta(seconds=round((memory.expires - memory.stored).total_seconds()))


async def gone(board: Blackboard, ref: Ref) -> str | None:
    """How a memory is gone; None when it is not."""
    head = await board.log.head(ref.unpinned)
    return "absent" if head is None else head.gone


# At put


async def test_everything_that_is_put_ends_when_the_policy_says(board: Blackboard):
    await keep_to(board, DAYS_30)
    week = timedelta(days=7)

    async def life(ref: Ref) -> timedelta | None:
        return lives(await board.get(ref))

    assert await life(await board.put("a", 1)) == MONTH
    assert await life(await board.put("a", 1, ttl=week)) == week
    assert await life(await board.put("a", 1, ttl=2 * MONTH)) == MONTH
    assert await life(await board.put("state.a", 1, key="k")) == MONTH
    assert [await life(ref) for ref in await board.put_many("a", [1, 2])] == [MONTH, MONTH]
    assert await life(await board.put("a", 1, priority=0.9)) is None
    once = await board.once("double", 2, lambda: 4, topic="b")
    assert await life(once.ref) == MONTH
    assert once.content_of is not None
    assert await life(once.content_of) == MONTH


async def test_a_revision_does_not_make_a_memory_younger(board: Blackboard):
    await keep_to(board, DAYS_30)
    ref = await board.put("a", 1, ttl=timedelta(days=1))
    key = await board.put("state.a", 1, key="k")
    ends = [(await board.get(one)).expires for one in (ref, key)]

    await board.revise(ref, 2)
    await board.update(key, lambda _: 2)
    await board.put("state.a", 3, key="k")
    assert [(await board.get(one)).expires for one in (ref, key)] == ends

    await board.revise(ref, 3, ttl=timedelta(days=3))
    assert lives(await board.get(ref)) == timedelta(days=3)
    longest = (await board.get(ref)).stored
    await board.revise(ref, 4, ttl=timedelta(days=300))
    end = (await board.get(ref)).expires
    assert end is not None
    assert longest is not None
    assert abs(end - longest - MONTH) < PRECISION


async def test_what_was_there_before_the_policy_is_not_cut_short_by_a_revision(board: Blackboard):
    ref = await board.put("a", 1)
    await keep_to(board, DAYS_30)
    other = board.sibling(agent="alice")

    await other.revise(ref, 2)

    # It would end before the revision without an end, and that would come back.
    assert (await board.get(ref)).expires is None


async def test_an_end_begins_anew_with_what_is_put_where_something_was_taken_back(
    board: Blackboard,
):
    key = await board.put("state.a", 1, key="k")
    await board.retire(key)
    await keep_to(board, DAYS_30)
    late = board.sibling(agent="late")

    assert lives(await late.get(await late.put("state.a", 2, key="k"))) == MONTH


async def test_the_outputs_of_handlers_end_too_also_those_of_a_second_run(board: Blackboard):
    await keep_to(board, "[[retain]]\ntopics = ['out']\nmax_age = '30d'\n")
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def make(item: Memory, bound: Blackboard) -> str:
        extra = await bound.put("out", "put")
        await bound.revise(extra, "put and revised")
        return f"of {item.content}"

    async def outputs() -> list[Memory]:
        return [one for one in (await heads(board)).values() if one.topic == "out"]

    source = await board.put("in", "one")
    async with agent.running(board):
        source = await board.put("in", "one")
        await wait_until(lambda: _count(outputs, 2), "it is handled")
        first = {one.ref: one.expires for one in await outputs()}
        await board.revise(source, "two")
        await wait_until(lambda: _said(outputs, "of two"), "it is handled again")

    again = await outputs()
    assert {one.ref: one.expires for one in again} == first
    assert all(one.expires is not None for one in again)


async def _count(outputs: Callable[[], Awaitable[list[Memory]]], count: int) -> bool:
    return len(await outputs()) == count


async def _said(outputs: Callable[[], Awaitable[list[Memory]]], content: str) -> bool:
    return content in [one.content for one in await outputs()]


async def test_an_agent_that_runs_follows_another_policy_within_seconds(
    board: Blackboard, server: Server
):
    assert (await board.get(await board.put("a", 1))).expires is None
    async with Blackboard.open(server.url, agent="cli") as operator:
        await keep_to(operator, DAYS_30)

        async def ends() -> bool:
            return lives(await board.get(await board.put("a", 1))) == MONTH

        await wait_until(ends, "the agent knows")


async def test_what_is_imported_keeps_its_age(board: Blackboard, tmp_path: Path):
    ref = await board.put("a", "old")
    stored = (await board.get(ref)).stored
    await export(board.log, tmp_path / "archive")
    copies = board.sibling(board="copies", agent="cli")
    await copies.put("a", "there is a board")
    await keep_to(copies, DAYS_30)
    fresh = copies.sibling(agent="importer")

    await load(fresh.log, tmp_path / "archive")

    copy = await copies.get(ref.unpinned)
    assert stored is not None
    assert copy.expires == stored + MONTH


# What the steward takes away


async def test_what_sets_no_end_is_taken_away_when_it_is_too_old(board: Blackboard):
    before = await board.put("docs", "before the policy")
    theirs = await foreign(board, "docs", "without an end")
    revised = await foreign(board, "docs", "young", id=theirs.id, before=theirs.written or 0)
    shield = await foreign(board, "docs", "important", priority=0.9)
    elsewhere = await foreign(board, "notes", "under no rule")
    policy = await keep_to(board, "[[retain]]\ntopics = ['docs']\nmax_age = '30d'\n")
    late = board.sibling(agent="late")
    ours = await late.put("docs", "ends by itself")

    await retaining(board, later(days=29.9)).look(policy)
    assert [await gone(board, ref) for ref in (before, theirs, ours)] == [None, None, None]

    for _ in range(2):  # a second look finds nothing more
        await retaining(board, later(days=30.1)).look(policy)
        assert [await gone(board, ref) for ref in (before, revised)] == ["retired", "retired"]
        assert [await gone(board, ref) for ref in (shield, elsewhere, ours)] == [None, None, None]
        assert await removed(board) == Removed(ended=1, removed=2)
    head = await board.log.head(before.unpinned)
    assert head is not None
    assert head.reason is not None
    assert head.reason.startswith(OUTLIVED)
    with pytest.raises(GoneError):
        await board.get(theirs.unpinned)
    assert (await board.get(await board.undo(before))).content == "before the policy"


async def test_an_age_counts_from_when_something_was_put_again(board: Blackboard):
    policy = await keep_to(board, DAYS_30)
    old = await foreign(board, "docs", "old")
    key = await board.put("state.a", "old", key="k", priority=0.1)
    await board.retire(key)
    await keep_to(board, "[[retain]]\nmax_age = '30d'\ntopics = ['x']\n")
    other = board.sibling(agent="other")
    await other.put("state.a", "new", key="k")
    assert (await other.get(key.unpinned)).expires is None
    head = await board.log.head(key.unpinned)
    assert head is not None
    assert head.stored is not None
    boundary = head.stored

    await retaining(board, lambda: boundary + MONTH - timedelta(microseconds=1)).look(policy)

    assert await gone(board, old) == "retired"
    assert await gone(board, key) is None
    await retaining(board, lambda: boundary + MONTH + timedelta(seconds=1)).look(policy)
    assert await gone(board, key) == "retired"


async def test_what_a_high_priority_kept_goes_when_it_has_lost_it(board: Blackboard):
    policy = await keep_to(board, DAYS_30)
    ref = await foreign(board, "docs", "important", priority=0.9)
    await retaining(board, later(days=31)).look(policy)
    assert await gone(board, ref) is None

    await foreign(board, "docs", "not now", priority=0.1, id=ref.id, before=ref.written or 0)
    await retaining(board, later(days=62)).look(policy)

    assert await gone(board, ref) == "retired"


async def test_another_policy_is_held_against_the_whole_board_again(board: Blackboard):
    narrow = await keep_to(board, "[[retain]]\ntopics = ['a']\nmax_age = '30d'\n")
    refs = [await foreign(board, topic, "x") for topic in ("a", "b")]
    await retaining(board, later(days=31)).look(narrow)
    assert [await gone(board, ref) for ref in refs] == ["retired", None]

    wide = await keep_to(
        board, "[[retain]]\ntopics = ['a']\nmax_age = '30d'\n[[retain]]\nmax_age = '30d'\n"
    )
    await retaining(board, later(days=31)).look(wide)

    assert [await gone(board, ref) for ref in refs] == ["retired", "retired"]
    # The first rule is as it was, and so are its figures.
    assert [one.removed for one in (await tally(board)).removed.values()] == [1, 1]


async def test_two_stewards_at_once_count_what_they_remove_once(board: Blackboard):
    await board.put_many("docs", list(range(1_200)))
    policy = await keep_to(board, DAYS_30)
    refused = 0

    async def look() -> None:
        nonlocal refused
        try:
            await retaining(board, later(days=31)).look(policy)
        except ConflictError:
            refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look)
    await look()

    assert await removed(board) == Removed(removed=1_200)
    assert {one.gone for one in (await heads(board)).values()} == {"retired"}
    assert refused


async def test_a_steward_that_is_killed_anywhere_loses_and_doubles_nothing(
    board: Blackboard, server: Server, tmp_path: Path
):
    count = 600
    await board.put_many("docs", list(range(count)))
    policy = await keep_to(board, DAYS_30)
    killed = 0
    with children(tmp_path) as start:
        for at in range(1, 20):
            child = start("retaining", f"steward-{at}", url=server.url, agent="steward", at=at)
            await wait_until(lambda one=child: not one.running, "it has ended", 20)
            now = [one.gone for one in (await heads(board)).values()]
            assert (await removed(board)).removed == now.count("retired")
            if child.code_now == 0:
                break
            killed += 1
            assert child.code_now == -9, child.complaints()

    assert killed == 4  # two batches, and each is cut off before and behind
    await retaining(board, later(days=31)).look(policy)
    assert await removed(board) == Removed(removed=count)


# Sessions


async def test_a_session_keeps_what_was_written_last(board: Blackboard):
    policy = await keep_to(board, "[[retain]]\ntopics = ['chat.>']\nmax_per_session = 3\n")
    first = [await board.put("chat.a", n, session="s1") for n in range(4)]
    kept = await board.put("chat.a", "kept", session="s1", priority=1.0)
    more = [await foreign(board, "chat.b", str(n), session="s1") for n in range(2)]
    others = [await board.put("chat.a", n, session="s2") for n in range(3)]
    others += [await board.put("chat.a", n) for n in range(5)]
    others += [await board.put("docs", n, session="s1") for n in range(5)]
    await board.revise(first[0], "revised")
    steward = retaining(board)

    await steward.look(policy)

    assert [await gone(board, ref) for ref in first] == [None, "retired", "retired", "retired"]
    assert [await gone(board, ref) for ref in (*more, kept, *others)] == [None] * 16
    assert await removed(board) == Removed(removed=3)
    await board.put("chat.a", "one more", session="s1")
    await steward.look(policy)
    await retaining(board).look(policy)  # one that was started again counts from the start
    assert await gone(board, more[0]) == "retired"
    assert await removed(board) == Removed(removed=4)


async def test_a_session_that_eight_processes_write_to_keeps_to_its_number(
    board: Blackboard, server: Server, tmp_path: Path
):
    await keep_to(board, "[[retain]]\nmax_per_session = 20\n")
    steward = Steward(server.url, tmp_path / "steward.log", "--retention-seconds", "0.1")
    steward.start()
    try:
        with children(tmp_path) as start:
            writers = [
                start("retaining", f"writer-{n}", url=server.url, agent=f"w{n}", writes=30)
                for n in range(8)
            ]
            for writer in writers:
                await writer.ended()

        async def is_shortened() -> bool:
            return sum(one.gone is None for one in (await heads(board)).values()) == 20

        await wait_until(is_shortened, "only as many as may be are left", 20)
    finally:
        steward.stop()

    found = sorted((await heads(board)).values(), key=_written)
    last = [one for one in found if one.gone is None]
    assert len(found) == 240
    lost = {one.ref for one in found} - {one.ref for one in last}
    assert await removed(board) == Removed(removed=len(lost))
    # Nothing that stayed was written before something that went.
    assert {one.gone for one in found if one.ref in lost} == {"retired"}
    went = [await board.log.next_after(1, ref) for ref in lost]
    assert max(one.revision for one in went if one is not None) < last[0].revision


def _written(memory: Memory) -> int:
    return memory.revision


# Summarised first


async def test_what_is_to_be_summarised_first_stays_until_a_summary_stands_for_it(
    board: Blackboard,
):
    policy = await keep_to(board, "[[retain]]\nmax_age = '1s'\nbefore = 'summarise'\n")
    # By themselves these settings would condense nothing for a day, and then fifty at once.
    rules = Rules(policy=(Policy(sources="keep"),))
    refs = await board.put_many("cases.a", _texts("a"), session="s1")
    assert (await board.get(refs[0])).expires is None
    await retaining(board, later(seconds=10)).look(policy)
    assert [await gone(board, ref) for ref in refs] == [None] * 4

    condensing = consolidator(board, rules)
    await wait_until(lambda: _condensed(condensing), "they are condensed")
    (summary,) = await summaries(board)
    assert {source.unpinned for source in summary.sources} == {ref.unpinned for ref in refs}
    # One that was revised since is not what the summary stands for.
    await board.revise(refs[0], "This one says something else by now.")
    more = await board.put_many("cases.b", _texts("b"), session="s2")
    await wait_until(lambda: _two(board, rules), "those are condensed too")

    # The first were old enough before there was a summary, the others are now that there is one.
    await retaining(board, later(seconds=10)).look(policy)

    assert [await gone(board, ref) for ref in refs] == [None, *["retired"] * 3]
    assert [await gone(board, ref) for ref in more] == ["retired"] * 4
    assert len(await summaries(board)) == 2
    assert await removed(board) == Removed(removed=7)


def _texts(mark: str) -> list[str]:
    return [f"Pump {mark}{n} in Bergen runs at {40 + n} bar and was looked at." for n in range(4)]


async def _condensed(one: Consolidator) -> bool:
    return (await one.once()).summaries == 1


async def _two(board: Blackboard, rules: Rules) -> bool:
    await consolidator(board, rules).once()
    return len(await summaries(board)) == 2


# What is personal


@pytest.mark.parametrize("waits", [False, True])
async def test_what_is_personal_is_erased_with_all_its_revisions(
    board: Blackboard,
    server: Server,
    tmp_path: Path,
    waits: bool,  # noqa: FBT001
):
    secret = "planted-7d21"  # noqa: S105 - a word to look for
    await keep_to(board, "personal = ['pii']\n[[retain]]\nlabels = ['pii']\nmax_age = '1s'\n")
    late = board.sibling(agent="late")
    ref = await foreign(board, "people", f"{secret} 0", access="pii", priority=1.0)
    for number in range(1, 4):
        ref = await foreign(
            board, "people", f"{secret} {number}", access="pii", id=ref.id, before=ref.written or 0
        )
    ours = await late.put("people", f"{secret} ours", access="pii")
    large = await late.put("people", [secret] * 60_000, access="pii")
    derived = await board.put("reports", "made from it", sources=[ref, ours])
    head = await late.log.head(ours)
    assert head is not None
    assert head.expires is not None
    steward = Steward(server.url, tmp_path / "steward.log", "--retention-seconds", "0.1")
    if waits:  # what ended by itself is erased all the same, if it comes too late
        await wait_until(lambda: _absent(late, ours), "its time is over")
    steward.start()
    try:
        await wait_until(lambda: _is_clean(server.directory, secret), "no byte is left", 30)
        await wait_until(lambda: _all_forgotten(board, [ref, ours, large]), "they are gone", 10)
        receipts = await _receipts(board)
        # Nobody wanted it forgotten, so what was made from it has its own age.
        other = await board.put("notes", "something else")
        await board.forget(other, timeout=20)
        assert (await board.get(derived)).content == "made from it"
        late_one = await board.put("reports", "made later", sources=[ref.pinned()])
        await board.forget(await board.put("notes", "once more"), timeout=20)
        assert (await board.get(late_one)).content == "made later"
    finally:
        steward.stop()
    assert sum(receipt.memories for receipt in receipts) == 3
    assert all(receipt.reason.startswith(OUTLIVED) for receipt in receipts)
    assert (await removed(board)).removed == 3


def _is_clean(directory: Path, secret: str) -> bool:
    try:
        return not files_with(directory, secret)
    except FileNotFoundError:
        return False  # the broker ended a batch, and removed its folder, under our eyes


async def _receipts(board: Blackboard) -> list[Receipt]:
    """Those that the retention policy left, once all is removed."""
    oblivion = Oblivion(board.log)

    async def are_through() -> bool:
        return all(one.state != "removing" for one in await oblivion.receipts())

    await wait_until(are_through, "all is removed", 20)
    return await oblivion.receipts()


async def _absent(board: Blackboard, ref: Ref) -> bool:
    try:
        await board.get(ref)
    except NotFoundError:
        return True
    return False


async def _all_forgotten(board: Blackboard, refs: list[Ref]) -> bool:
    return all([await gone(board, ref) == "forgotten" for ref in refs])
