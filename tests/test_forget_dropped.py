"""What the broker drops by itself, a revision too many or what expires, leaves no bytes either."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from blackboard import Blackboard, Ref
from blackboard.erasure import verify
from blackboard.errors import NotFoundError
from blackboard.receipts import Receipt
from tests.forgetting import Steward, files_with
from tests.servers import Server
from tests.waiting import wait_until

REVISIONS = 150


def secret(number: int) -> str:
    return f"planted-{number:03d}-e19b"


@pytest.fixture
def beside(server: Server, tmp_path: Path) -> Iterator[Steward]:
    """A steward on the machine of its broker."""
    steward = Steward(
        server.url, tmp_path / "beside.log", stores=str(server.directory / "jetstream")
    )
    try:
        yield steward
    finally:
        steward.kill()


def on_disk(server: Server) -> list[int]:
    return [n for n in range(REVISIONS) if files_with(server.directory, secret(n))]


async def plant(board: Blackboard, *, user: str | None = None) -> Ref:
    """A key with more revisions than are kept, each with a secret of its own."""
    ref = await board.put("cases", secret(0), key="k", user=user)
    for number in range(1, REVISIONS):
        ref = await board.put("cases", secret(number), key="k", user=user)
    return ref


async def ended(board: Blackboard, order: str) -> Receipt:
    async def is_complete() -> bool:
        receipt = await board.receipt(order)
        return receipt is not None and receipt.state == "complete"

    await wait_until(is_complete, "the receipt is complete", 40)
    receipt = await board.receipt(order)
    assert receipt is not None
    return receipt


async def test_revisions_about_a_person_are_overwritten_before_they_are_too_many(
    server: Server, steward: Steward
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        await alice.put("notes", "sunfish")
        ref = await alice.put("cases", secret(0), key="k", user="u1")
        for number in range(1, REVISIONS):
            ref = await alice.put("cases", secret(number), key="k", user="u1")
            if number % 10 == 0:  # as fast as that has to be kept up with
                await wait_until(lambda: len(on_disk(server)) < 60, "the old ones are gone", 20)

        kept = on_disk(server)
        assert kept == list(range(kept[0], REVISIONS))
        assert 40 <= len(kept) < 60
        assert (await alice.get(ref)).content == secret(REVISIONS - 1)
        receipt = await alice.forget(user="u1")

        assert receipt.state == "complete", receipt
        assert on_disk(server) == []


@pytest.mark.parametrize("label", ["shared", "pii"])
async def test_what_expires_about_a_person_is_overwritten(
    server: Server, steward: Steward, label: str
):
    user = "u1" if label == "shared" else None
    async with Blackboard.open(server.url, agent="alice") as alice:
        ref = await alice.put(
            "cases", secret(0), user=user, access=label, ttl=timedelta(seconds=1.5)
        )
        await alice.revise(ref, secret(1))
        other = await alice.put("notes", "sunfish", user="u2", ttl=timedelta(hours=1))
        assert on_disk(server) == [0, 1]
        steward.kill()
        await wait_until(lambda: _is_over(alice, ref), "it expires")
        assert on_disk(server) == [0, 1]

        steward.start()

        await wait_until(lambda: not on_disk(server), "its bytes are gone", 20)
        assert (await alice.get(other)).content == "sunfish"


async def _is_over(board: Blackboard, ref: Ref) -> bool:
    try:
        await board.get(ref)
    except NotFoundError:
        return True
    return False


async def test_a_receipt_waits_for_revisions_that_the_broker_dropped(
    server: Server, beside: Steward
):
    async with Blackboard.open(server.url, agent="alice") as alice:
        keep = await alice.put_many("notes", [f"{n} sunfish" for n in range(100)])
        ref = await plant(alice)
        assert on_disk(server) == list(range(REVISIONS))
        beside.start()

        receipt = await alice.forget(ref)
        again = await alice.put("cases", "another", key="k")
        receipt = await ended(alice, receipt.order)

        assert on_disk(server) == []
        dropped = next(one for one in receipt.stores if one.what == "revisions dropped before")
        assert "no revision" in dropped.how
        assert (await alice.get(again)).content == "another"
        assert (await alice.get(keep[7])).content == "7 sunfish"
        found = await verify(alice.log, receipt, [server.directory])
        assert all(one.clean for one in found), found


async def test_where_the_files_are_not_seen_it_stays_pending_and_verifying_finds_them(
    server: Server, steward: Steward
):
    steward.kill()
    async with Blackboard.open(server.url, agent="alice") as alice:
        await alice.put("notes", "sunfish")
        ref = await plant(alice)
        steward.start()

        receipt = await alice.forget(ref)

        assert receipt.state == "pending"
        assert "1 of the memories had more revisions" in receipt.waits_for[0]
        assert "BLACKBOARD_STORE" in receipt.waits_for[0]
        assert 0 in on_disk(server)
        found = {one.name: one for one in await verify(alice.log, receipt, [server.directory])}
        assert not found["files"].clean
        assert "MEM_main" in found["files"].text


async def test_a_burst_that_is_too_fast_is_noted_and_not_called_clean(
    server: Server, steward: Steward
):
    steward.kill()
    async with Blackboard.open(server.url, agent="alice") as alice:
        await alice.put("notes", "sunfish")
        ref = await plant(alice, user="u1")
        steward.start()

        async def is_trimmed() -> bool:
            return (await alice.log.reads.at_sequence((ref.written or 0) - 50)) is None

        await wait_until(is_trimmed, "what can still be overwritten is", 20)
        receipt = await alice.forget(user="u1")

        assert receipt.state == "pending"
        assert "1 of the memories had more revisions" in receipt.waits_for[0]
