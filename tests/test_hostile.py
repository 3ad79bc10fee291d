"""What a hostile or broken writer can put on the stream, and that it harms nobody who reads."""

import msgspec
import pytest

from blackboard import Blackboard
from blackboard.errors import GoneError, InvalidError, NotFoundError
from blackboard.jetstream import Outgoing
from blackboard.subjects import Ref
from blackboard.telemetry import INVALID_MESSAGES

GOOD = {"Bb-Agent": "mallory", "Bb-Write": "w"}


async def _plant(
    board: Blackboard, topic: str, body: bytes, headers: dict[str, str], *, agent: str = "mallory"
) -> None:
    subject = f"mem.{board.name}.shared.{agent}.{topic}.k"
    await board.log.connection.publish(Outgoing(subject, body, headers))


PLANTS: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b"not json", GOOD),
    (b"\xff\xfe", GOOD),
    (b'{"content": ', GOOD),
    (b"[]", GOOD),
    (b'"text"', GOOD),
    (b"[" * 50_000, GOOD),
    (b'{"sources": ["nonsense"]}', GOOD),
    (b'{"hops": "many"}', GOOD),
    (b'{"tags": {"a": 1}}', GOOD),
    (b'{"content": 1}', {}),
    (b'{"content": 1}', {"Bb-Agent": "alice"}),
    (b'{"content": 1}', {**GOOD, "Bb-Gone": "vanished"}),
    (b'{"content": 1}', {**GOOD, "Bb-Expires": "soon"}),
    (b'{"content": 1}', {**GOOD, "Bb-Expires": "2030-01-01T00:00:00"}),
]
FORGED: list[dict[str, str]] = [
    {**GOOD, "Nats-Subject": "mem.main.shared.alice.t.k"},
    {**GOOD, "Nats-Stream": "MEM_main"},
]


@pytest.mark.parametrize(("body", "headers"), PLANTS)
async def test_what_is_no_honest_memory_is_skipped_and_counted(
    board: Blackboard, body: bytes, headers: dict[str, str]
) -> None:
    async with board.watch("t") as live:
        await _plant(board, "t", body, headers)
        honest = await board.put("t", "honest")

        assert (await anext(live)).ref == honest
    assert board.telemetry.counters[INVALID_MESSAGES.name] >= 1
    with pytest.raises(NotFoundError):
        await board.get(Ref("*", "t", "k"))
    async with board.view("t") as view:
        assert list(view) == [honest]
    assert (await board.get(honest)).content == "honest"


@pytest.mark.parametrize("headers", FORGED)
async def test_a_copy_that_names_another_subject_is_skipped(
    board: Blackboard, headers: dict[str, str]
) -> None:
    async with board.watch("t") as live:
        await _plant(board, "t", b'{"content": "forged"}', headers)
        honest = await board.put("t", "honest")

        assert (await anext(live)).ref == honest


async def test_unknown_headers_and_fields_are_ignored(board: Blackboard) -> None:
    await _plant(board, "t", b'{"content": 1, "new": 2}', {**GOOD, "Bb-New": "x"})

    assert (await board.get("*/t/k")).content == 1


async def test_a_subject_with_too_few_tokens_harms_nobody(board: Blackboard) -> None:
    async with board.watch(">") as live:
        for subject in (f"mem.{board.name}.x", f"mem.{board.name}.shared.mallory.t"):
            await board.log.connection.publish(Outgoing(subject, b"{}", GOOD))
        honest = await board.put("t", "honest")

        assert (await anext(live)).ref == honest


async def test_a_memory_cannot_show_what_is_no_result_of_once(board: Blackboard) -> None:
    secret = await board.put("secret", "s", access="pii")
    for target in (str(secret.pinned()), "*/once.x/k", "*/once.x/k@999"):
        body = msgspec.json.encode({"content_of": target})
        await _plant(board, "t", body, GOOD)
        with pytest.raises((InvalidError, NotFoundError)):
            await board.get("*/t/k")


async def test_a_memory_cannot_show_a_result_under_another_label(board: Blackboard) -> None:
    result = await board.once("work", 1, lambda: "secret", access="pii")
    body = msgspec.json.encode({"content_of": str(result.pinned)})
    await _plant(board, "t", body, GOOD)

    with pytest.raises(InvalidError, match="another label"):
        await board.get("*/t/k")


async def test_a_forged_record_of_a_lease_stops_nobody(board: Blackboard) -> None:
    seen = await board.once("probe", 1, lambda: 1)
    digest = seen.id
    for body, author in (
        (b"garbage", "mallory"),
        (b'{"holder": "x"}', "mallory"),
        (b"{}", "alice"),
    ):
        subject = f"claim.{board.name}.shared.mallory.o-{digest}"
        await board.log.connection.publish(Outgoing(subject, body, {"Bb-Agent": author}))
    await board.retire(seen)

    again = await board.once("probe", 1, lambda: 2)

    assert again.content == 2


async def test_a_dishonest_message_above_shared_state_hides_and_blocks_nothing(
    board: Blackboard,
) -> None:
    ref = await board.put("t", "honest", key="k")
    await _plant(board, "t", b"garbage", GOOD)

    assert (await board.get(ref)).content == "honest"
    await board.put("t", "put again", key="k")
    await _plant(board, "t", b'{"content": "forged"}', {"Bb-Agent": "alice"})
    updated = await board.update(ref, lambda memory: f"{memory and memory.content}, updated")
    assert updated.content == "put again, updated"
    await _plant(board, "t", b"", {})
    seen = await board.get(ref)
    await board.revise(ref, "revised", expected=seen.revision)
    await _plant(board, "t", b"", {})
    await board.retire(ref)
    with pytest.raises(GoneError):
        await board.get(ref)
