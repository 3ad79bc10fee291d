"""What was taken back or has expired is gone everywhere at once, and stays gone."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import GoneError, InvalidError, LabelError, NotFoundError
from blackboard.subjects import state_bucket
from tests.waiting import wait_until


async def _projected(board: Blackboard, key: str) -> dict[str, str] | None:
    bucket = state_bucket(board.name)
    message = await board.log.connection.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
    return None if message is None else dict(message.headers)


async def _shown_from_start(board: Blackboard, pattern: str) -> list[Memory]:
    """Everything a watcher that begins at the start is shown, up to a marker put now."""
    marker = await board.put("marker", "end")
    shown: list[Memory] = []
    async with board.watch(">", since="start") as memories:
        async for memory in memories:
            if memory.ref == marker:
                return [one for one in shown if one.topic == pattern]
            shown.append(memory)
    raise AssertionError("the watcher ended")


async def test_what_was_retired_is_gone_from_every_reader(board: Blackboard) -> None:
    ref = await board.put("state.plan", "secret one", key="k")
    await board.put("state.plan", "secret two", key="k")
    await wait_until(lambda: _projected(board, "plan.k"), "the projection shows the key")
    async with board.view("state.>") as view, board.watch("state.>") as live:
        assert view[ref].content == "secret two"

        await board.retire(ref, reason="wrong, ünd old")

        tombstone = await anext(live)
        assert (tombstone.gone, tombstone.content) == ("retired", None)
        assert tombstone.reason == "wrong, ünd old"
        await view.changed()
        assert ref not in view

    with pytest.raises(GoneError) as gone:
        await board.get(ref)
    assert gone.value.reason == "retired"
    shown = await _shown_from_start(board, "state.plan")
    assert [(memory.gone, memory.content) for memory in shown] == [("retired", None)]

    async def deleted() -> bool:
        return (await _projected(board, "plan.k") or {}).get("KV-Operation") == "DEL"

    await wait_until(deleted, "the projection shows the deletion")
    with pytest.raises(TimeoutError):
        await board.wait("state.plan", timeout=0.2)


async def test_a_replay_shows_the_past_as_it_was(board: Blackboard) -> None:
    ref = await board.put("t", "one")
    await board.retire(ref)

    async with board.replay("t") as memories:
        seen = [(memory.content, memory.gone) async for memory in memories]

    assert seen == [("one", None), (None, "retired")]


async def test_undo_brings_a_retired_memory_back(board: Blackboard) -> None:
    ref = await board.put("t", "one", tags={"a": "b"})
    await board.revise(ref, "two")
    await board.retire(ref)

    undone = await board.undo(ref)

    memory = await board.get(ref)
    assert (memory.content, memory.tags) == ("two", {"a": "b"})
    assert memory.revision == undone.written
    with pytest.raises(InvalidError, match="not retired"):
        await board.undo(ref)


async def test_what_is_gone_cannot_be_retired_or_revised(board: Blackboard) -> None:
    ref = await board.put("t", "one")
    await board.retire(ref)

    for attempt in (board.retire(ref), board.revise(ref, "x"), board.reclassify(ref, "pii")):
        with pytest.raises(GoneError):
            await attempt


async def test_a_reclassified_memory_keeps_its_reference(board: Blackboard) -> None:
    ref = await board.put("t", "one", tags={"a": "b"})
    big = await board.put("t", "x" * 700_000)
    key = await board.put("t", "shared one", key="k")

    for moved in (ref, big, key):
        await board.reclassify(moved, "pii")

    assert (await board.get(ref)).access == "pii"
    assert (await board.get(ref)).tags == {"a": "b"}
    assert (await board.get(big)).content == "x" * 700_000
    assert (await board.get(key)).access == "pii"
    await board.revise(ref, "two")
    assert (await board.get(ref)).access == "pii"
    with pytest.raises(LabelError):
        await board.reclassify(ref, "pii")
    await board.reclassify(ref, "shared")
    assert (await board.get(ref)).access == "shared"
    async with board.view("t") as view:
        assert {one.access for one in view.values()} == {"shared", "pii"}
        assert len(view) == 3


async def test_the_projection_drops_what_was_moved_and_shows_what_came_back(
    board: Blackboard,
) -> None:
    async def shown(content: str | None) -> bool:
        bucket = state_bucket(board.name)
        message = await board.log.connection.last(f"KV_{bucket}", f"$KV.{bucket}.plan.k")
        if message is None or message.headers.get("KV-Operation") == "DEL":
            return content is None
        return json.loads(message.data)["content"] == content

    ref = await board.put("state.plan", "by alice", key="k")
    await board.sibling(agent="bob").put("state.plan", "by bob", key="k")
    await wait_until(lambda: shown("by bob"), "the newest revision, whoever put it")
    await board.retire(ref)
    await wait_until(lambda: shown(None), "nothing: it was retired, by another than its last agent")
    await board.undo(ref)
    await wait_until(lambda: shown("by bob"), "what came back")
    await board.reclassify(ref, "pii")
    await wait_until(lambda: shown(None), "nothing: it is not open any more")
    await board.revise(ref, "private")
    await board.put("state.marker", "m", key="m")
    await wait_until(lambda: _projected(board, "marker.m"), "what came later")
    assert await shown(None)


async def test_what_expired_is_gone_from_every_reader(board: Blackboard) -> None:
    ref = await board.put("state.t", "one", key="k", ttl=timedelta(seconds=2))
    await board.revise(ref, "two")
    first = await board.get(ref)
    assert first.expires is not None
    async with board.view("state.>") as view:
        assert view[ref].content == "two"
        expires = first.expires
        await wait_until(lambda: datetime.now(UTC) > expires, "its time is over")

        assert ref not in view
        assert len(view) == 0
        with pytest.raises(NotFoundError):
            await board.get(ref)
        with pytest.raises(NotFoundError):
            await board.get(first.pinned)
        assert await _shown_from_start(board, "state.t") == []

        async def erased() -> bool:
            return await board.log.head(ref) is None and await _projected(board, "t.k") is None

        await wait_until(erased, "the broker deleted every revision, none came back")
        again = await board.put("state.t", "three", key="k", expected=0)
        await view.changed()
        assert view[again].content == "three"
        assert view[again].expires is None


async def test_a_revision_inherits_the_ttl_and_may_only_lengthen_it(board: Blackboard) -> None:
    ref = await board.put("t", "one", ttl=timedelta(hours=1))
    first = (await board.get(ref)).expires

    await board.revise(ref, "two")
    assert (await board.get(ref)).expires == first
    await board.revise(ref, "three", ttl=timedelta(hours=2))
    longer = (await board.get(ref)).expires

    assert first is not None
    assert longer is not None
    assert longer > first
    forever = await board.put("t", "for good")
    for attempt in (
        board.revise(ref, "four", ttl=timedelta(minutes=1)),
        board.revise(forever, "x", ttl=timedelta(days=900)),
    ):
        with pytest.raises(InvalidError, match="shortened"):
            await attempt


async def test_a_forgotten_memory_is_gone_for_every_pin(board: Blackboard) -> None:
    from blackboard.envelope import Write  # noqa: PLC0415 - only the steward writes these

    ref = await board.put("t", "one")
    retired = await board.put("t", "two")
    await board.retire(retired)
    await board.log.append(
        Write(
            ref=ref.unpinned,
            access="shared",
            agent="alice",
            expected=ref.written or 0,
            gone="forgotten",
        )
    )

    for reference in (ref, ref.pinned()):
        with pytest.raises(GoneError) as gone:
            await board.get(reference)
        assert gone.value.reason == "forgotten"
    assert (await board.get(retired.pinned())).content == "two"
    with pytest.raises(InvalidError):
        await board.undo(Ref("alice", "t", ref.id))
