"""Every way to alter a ledger behind the steward's back, and the sentence that says so.

The attacker may do anything at the broker, but has not the board's key.
"""

import hashlib
from collections.abc import Callable

import msgspec
import pytest

from blackboard.access.identity import PREFIX
from blackboard.errors import NotFoundError, SettingsError
from blackboard.jetstream import Message, Outgoing, Start, Stream, follow
from blackboard.ledger import Read, Served, load_key
from blackboard.ledger.chain import Chain
from blackboard.ledger.items import Journal
from blackboard.ledger.receipt import Receipt, read_receipt
from blackboard.ledger.record import seal
from blackboard.ledger.streams import ledger_stream, ledger_streams, ledger_subject
from blackboard.ledger.verify import verify
from tests.credentials import BOARD
from tests.ledger_bench import LIMITS, Bench, read_from
from tests.waiting import wait_until

LEDGER = ledger_stream(BOARD)
Rewrite = Callable[[list[bytes]], list[bytes]]


@pytest.fixture
async def kept(bench: Bench) -> Bench:
    """A ledger of a dozen records, two checkpoints, three reads and two journal batches."""
    receipt = bench.folder / "receipt.json"
    async with (
        bench.agent("alice") as alice,
        bench.kept(checkpoint_records=4, receipt=receipt) as ledger,
    ):
        for number in range(3):
            await alice.request(read_from("alice", f"t{number}"))
            await alice.publish(Outgoing(f"audit.{BOARD}.alice", b'{"events": []}%d' % number))

            async def there(count: int = number + 1) -> bool:
                return await bench.reads() == count

            await wait_until(there, "the read is in the chain")
        for number in range(8):
            await ledger.noted(Served(agent="alice", verb="recall", what=f"query-{number}"))
    assert (await bench.verified()).findings == []
    return bench


async def bodies(bench: Bench) -> list[bytes]:
    found: list[Message] = []
    async with follow(bench.operator, LEDGER, ledger_subject(BOARD), Start.all()) as follower:
        while follower.pending and (message := await follower.step()) is not None:
            found.append(message)
    return [message.data for message in found]


async def rewrite(bench: Bench, change: Rewrite) -> None:
    """Make the stream anew with other bodies, as somebody may who owns the broker."""
    changed = change(await bodies(bench))
    await bench.operator.delete_stream(LEDGER)
    await bench.operator.create_stream(ledger_streams(BOARD, LIMITS)[1])
    for body in changed:
        await bench.operator.publish(Outgoing(ledger_subject(BOARD), body))


async def sentences(bench: Bench, *receipts: Receipt) -> list[str]:
    result = await verify(bench.operator, BOARD, receipts=receipts)
    return [str(finding) for finding in result.findings]


def receipt_of(bench: Bench) -> Receipt:
    found = read_receipt(bench.folder / "receipt.json", BOARD)
    assert found is not None
    return found


def resealed(body: bytes, **changes: object) -> bytes:
    """A record changed by somebody who makes its hash anew."""
    encoder = msgspec.json.Encoder(order="sorted")
    tree = msgspec.json.decode(body) | changes
    del tree["hash"]
    tree["hash"] = hashlib.sha256(encoder.encode(tree)).hexdigest()
    return encoder.encode(tree)


async def test_one_byte_is_flipped(kept: Bench) -> None:
    def flip(found: list[bytes]) -> list[bytes]:
        found[2] = found[2].replace(b"alice", b"alicf", 1)
        return found

    await rewrite(kept, flip)

    said = await sentences(kept)
    assert any(one.startswith("record 3: altered: its content has the hash") for one in said)


@pytest.mark.parametrize("place", [0, 1, -1])
async def test_any_byte_of_a_record_that_is_changed_shows(kept: Bench, place: int) -> None:
    def blank(found: list[bytes]) -> list[bytes]:
        found[3] = found[3][:-1] + b" }" if place == -1 else found[3][:1] + b" " + found[3][1:]
        return found

    await rewrite(kept, blank)

    assert any(one.startswith("record 4: altered") for one in await sentences(kept))


async def test_a_record_is_deleted(kept: Bench) -> None:
    assert await kept.operator.delete(LEDGER, 5)

    assert "record 5: removed: record 4 is followed by 6" in await sentences(kept)


async def test_a_record_is_left_out_of_a_chain_that_is_made_anew(kept: Bench) -> None:
    await rewrite(kept, lambda found: [*found[:4], *found[5:]])

    assert "record 5: removed: record 4 is followed by 6" in await sentences(kept)


async def test_a_record_is_replaced_with_its_hash_made_anew(kept: Bench) -> None:
    def replace(found: list[bytes]) -> list[bytes]:
        found[4] = resealed(found[4], items=[])
        return found

    await rewrite(kept, replace)

    said = await sentences(kept)
    assert any(one.startswith("record 6: follows a record 5 with the hash") for one in said)


async def test_two_records_change_places(kept: Bench) -> None:
    def swap(found: list[bytes]) -> list[bytes]:
        found[3], found[4] = found[4], found[3]
        return found

    await rewrite(kept, swap)

    assert "record 4: stands behind record 5: the order was changed" in await sentences(kept)


async def test_the_tail_is_replaced_by_a_chain_that_fits(kept: Bench) -> None:
    def replace(found: list[bytes]) -> list[bytes]:
        fresh: list[bytes] = found[:2]
        for body in found[2:]:
            previous = msgspec.json.decode(fresh[-1])["hash"]
            items = [i for i in msgspec.json.decode(body)["items"] if i["kind"] != "served"]
            fresh.append(resealed(body, previous=previous, items=items))
        return fresh

    await rewrite(kept, replace)

    said = await sentences(kept)
    assert any("is not the one that was signed: the checkpoint in record" in one for one in said)


async def test_the_tail_is_signed_with_another_key(kept: Bench) -> None:
    stranger = load_key(kept.folder / "another.key")

    def replace(found: list[bytes]) -> list[bytes]:
        fresh: list[bytes] = []
        for body in found:
            tree = msgspec.json.decode(body)
            for item in tree["items"]:
                if "key" in item:
                    item["key"] = stranger.public
            previous = msgspec.json.decode(fresh[-1])["hash"] if fresh else ""
            fresh.append(resealed(body, previous=previous, items=tree["items"]))
        return fresh

    await rewrite(kept, replace)

    said = await sentences(kept, receipt_of(kept))
    assert any(
        one.startswith(f"record 1: is signed with the key {stranger.public}") for one in said
    )


async def test_the_end_is_deleted(kept: Bench) -> None:
    last = len(await bodies(kept))
    for sequence in (last, last - 1):
        await kept.operator.delete(LEDGER, sequence)

    said = await sentences(kept)
    assert any(
        one.startswith(f"end of the chain: 2 messages behind record {last - 2}") for one in said
    )


async def test_the_end_is_cut_off_behind_a_checkpoint_and_the_stream_made_anew(kept: Bench) -> None:
    receipt = receipt_of(kept)

    def cut(found: list[bytes]) -> list[bytes]:
        signed = max(n for n, body in enumerate(found[:-1]) if b'"kind":"checkpoint"' in body)
        return found[: signed + 1]

    await rewrite(kept, cut)

    assert await sentences(kept) == []  # nothing at the broker tells
    said = await sentences(kept, receipt)
    assert [one for one in said if one.startswith(f"record {receipt.n}: removed: a receipt")]


async def test_a_steward_that_comes_back_to_a_shorter_chain_says_so_in_it(kept: Bench) -> None:
    await rewrite(kept, lambda found: found[:5])
    receipt = kept.folder / "receipt.json"
    async with kept.kept(receipt=receipt) as ledger:
        await ledger.noted(Served(agent="alice", verb="recall", what="later"))

    gaps = (await kept.verified()).gaps
    assert any("the chain ended at 5: its end was removed" in one for one in gaps)


async def test_a_journal_batch_is_removed(kept: Bench) -> None:
    await kept.operator.delete(f"AUDIT_{BOARD}", 2)

    said = await sentences(kept)
    assert [one.partition(" (record")[0] for one in said] == [
        "AUDIT_main message 2 of agent 'alice': removed"
    ]


async def test_the_first_journal_batch_is_removed(kept: Bench) -> None:
    await kept.operator.delete(f"AUDIT_{BOARD}", 1)

    said = await sentences(kept)
    assert [one.partition(" (record")[0] for one in said] == [
        "AUDIT_main message 1 of agent 'alice': removed"
    ]


async def test_a_journal_batch_is_changed(kept: Bench) -> None:
    """As if on disk: the chain pins another body than the one that lies there."""
    await kept.operator.publish(Outgoing(f"audit.{BOARD}.alice", b"altered"))
    head, sequence = await Chain(kept.operator, BOARD).head()
    assert head is not None
    position = msgspec.structs.replace(head.positions["audit"], sequence=4)
    pinned = f"alice {hashlib.sha256(b'original').hexdigest()}"
    record = msgspec.structs.replace(
        head,
        n=head.n + 1,
        previous=head.hash,
        positions=head.positions | {"audit": position},
        items=(Journal(first=4, last=head.at, batches=(pinned,)),),
    )
    await Chain(kept.operator, BOARD).append(seal(record)[1], sequence)

    assert await sentences(kept) == [
        f"AUDIT_main message 4 of agent 'alice': changed since record {head.n + 1} pinned it"
    ]


async def test_the_stream_of_the_journals_is_made_anew(kept: Bench) -> None:
    stream = Stream(
        name=f"AUDIT_{BOARD}", subjects=(f"audit.{BOARD}.>",), max_bytes=1 << 26, prefix=PREFIX
    )
    await kept.operator.delete_stream(stream.name)
    await kept.operator.create_stream(stream)

    said = await sentences(kept)
    assert said[0].startswith("AUDIT_main: the stream was deleted and made anew: 3 messages")


async def test_the_record_of_a_read_is_removed(kept: Bench) -> None:
    await kept.operator.delete(f"READS_{BOARD}", 2)

    said = await sentences(kept)
    assert [one.partition(" (record")[0] for one in said] == ["READS_main message 2: removed"]


async def test_a_read_is_added_to_the_brokers_record_of_what_is_counted(kept: Bench) -> None:
    items = [one for one in await kept.items(Read) if isinstance(one, Read)]
    assert [one.high for one in items] == [1, 2, 3]
    later = await kept.verified()

    assert (later.reads, later.journals, later.waiting) == (3, 3, 0)


async def test_a_receipt_that_was_altered_is_refused(kept: Bench) -> None:
    path = kept.folder / "receipt.json"
    path.write_bytes(path.read_bytes().replace(b'"n":', b'"n":1'))

    with pytest.raises(SettingsError, match="its signature does not fit"):
        read_receipt(path, BOARD)


async def test_a_board_without_credentials_has_no_ledger(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="its broker has no credentials"):
        await verify(bench.operator, "other")
