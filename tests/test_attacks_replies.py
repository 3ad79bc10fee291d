"""Attacks with the broker's own answers, on records and audit, across boards, and by flooding."""

import json
from uuid import uuid4

import anyio
import pytest

from blackboard import Memory
from blackboard.access.identity import PREFIX
from blackboard.errors import BlackboardError, SettingsError
from blackboard.jetstream import Connection, consumers
from blackboard.subjects import claim_subject
from tests.scene import (
    JS,
    READ,
    SECRET,
    Scene,
    at,
    durable,
    grew,
    in_ledger,
    is_size,
    make_handler,
    named,
    note,
    own,
    refused,
)
from tests.waiting import wait_until

# Replies


async def test_forged_replies_are_stored_nowhere(scene: Scene) -> None:
    bait = own()
    await scene.thief.ask(PREFIX + bait, note("forged"), headers=named("alice"))
    targets = [
        at(scene.secret),
        f"mem.main.shared.alice.docs.public.a.{uuid4().hex}",
        "claim.main.shared.alice.h-1",
        "blob.main.shared.alice.b.0",
        "audit.main.alice",
        "spans.main.alice",
        "dead.main.alice.work",
        "retry.main.alice.work",
        "$KV.agents_main.alice.x",
        "$KV.state_main.plan",
        "rd.main.alice.MEM_main.x",
        "access.main.mallory",
    ]
    streams = ("MEM_main", "BLOB_main", "DEAD_main", "KV_agents_main", "KV_state_main", "ACCESS")
    await scene.thief.gate("CONSUMER.CREATE.MEM_main.mallory--own", durable("mem.main.>"))
    before = {stream: await scene.size(stream) for stream in streams}
    for target in (*targets, *(PREFIX + target for target in targets)):
        for request, body in (
            (f"{READ}mallory.MEM_main.{bait}", b""),
            (f"{READ}mallory.MEM_main.{bait}", b'{"no_hdr": true}'),
            (f"{JS}CONSUMER.MSG.NEXT.MEM_main.mallory--own", b'{"batch": 1, "no_wait": true}'),
            ("$JS.ACK.MEM_main.mallory--own.1.1.1.1.0", b"+NXT"),
            ("svc.main.api.mallory", b'{"verb": "STREAM.NAMES"}'),
        ):
            await scene.thief.publish(request, body, reply=target)
    assert await scene.thief.get(bait) is not None
    await scene.alice.put("docs.public.a", "after all that")
    size = {stream: await scene.size(stream) for stream in streams}
    before["MEM_main"] += 1
    assert size == before

    # Answers to what is stored on its own subject: one more message there for each, and no other.
    for target in targets:
        await scene.thief.publish(PREFIX + bait, note("again"), reply=target)
    full = size["MEM_main"] + len(targets)
    await wait_until(lambda: is_size(scene, full), "its own messages are stored")
    for stream in streams[1:]:
        assert await scene.size(stream) == size[stream]


async def test_forged_revisions_cannot_push_the_true_ones_out(scene: Scene) -> None:
    bait = own()
    await scene.thief.ask(PREFIX + bait, note("forged"), headers=named("alice"))
    first = await scene.alice.get(scene.secret)
    for _ in range(70):
        await scene.thief.client.publish(
            f"{READ}mallory.MEM_main.{bait}", b'{"no_hdr": true}', reply=at(scene.secret)
        )
    await scene.thief.flush()
    assert await scene.thief.get(bait) is not None

    second = await scene.alice.revise(scene.secret, "second", expected=first.revision)
    assert (await scene.alice.get(scene.secret.pinned(first.revision))).content == SECRET
    assert (await scene.alice.get(second)).content == "second"


async def test_a_service_is_not_called_under_another_name(scene: Scene) -> None:
    """The broker's answers can be sent to a service's subject, with a body of the thief's."""
    await make_handler(scene, "alice", "work", "mem.main.*.*.docs.>")
    order = json.dumps({"verb": "CONSUMER.DELETE.MEM_main.alice--work"}).encode()
    deputy = "svc.main.api.alice"
    assert not await scene.thief.publish(deputy, order, reply="_INBOX.main.mallory.x")
    # As a direct get: the order lies on the thief's own subject.
    mine = own("notes.a", "alice")
    assert await scene.thief.ask(PREFIX + mine, order) is not None
    read = f"{READ}mallory.MEM_main.{mine}"
    await scene.thief.publish(read, b'{"no_hdr": true}', reply=deputy)
    await scene.thief.publish(read, reply=deputy)
    # As a delivery of the thief's own consumer, under a subject that ends in the victim's name.
    async with scene.broker.raw("mallory", "other") as elsewhere:
        body = order.replace(b"MEM_main", b"MEM_other")
        there = "mem.other.shared.mallory.docs.public.alice"
        assert await elsewhere.ask(PREFIX + there, body) is not None
        await elsewhere.gate("CONSUMER.CREATE.MEM_other.mallory--own", durable("mem.other.>"))
        async with scene.broker.raw("alice", "other") as victim:
            await victim.gate("CONSUMER.CREATE.MEM_other.alice--work", durable("mem.other.>"))
        for service in ("svc.other.api.alice", "svc.main.api.alice"):
            await elsewhere.publish(
                f"{JS}CONSUMER.MSG.NEXT.MEM_other.mallory--own", b'{"batch": 1}', reply=service
            )
        assert await elsewhere.gate("STREAM.NAMES") is not None
    assert await scene.thief.gate("STREAM.NAMES") is not None

    names = [one.name for stream in ("MEM_main", "MEM_other")
             for one in await consumers(scene.operator, stream)]  # fmt: skip
    assert names.count("alice--work") == 2
    assert "Traceback" not in scene.broker.steward_log.read_text()
    # And alice herself may end it.
    async with scene.broker.raw("alice") as alice:
        assert await alice.gate("CONSUMER.DELETE.MEM_main.alice--work") == {
            "type": "io.nats.jetstream.api.v1.consumer_delete_response",
            "success": True,
        }


async def test_services_answer_nobody_but_who_asks(scene: Scene) -> None:
    inbox = "_INBOX.main.alice.answers"
    heard: list[object] = []
    async with scene.broker.raw("alice") as alice:

        async def hear(msg: object) -> None:
            heard.append(msg)

        await alice.client.subscribe(inbox, cb=hear)  # pyright: ignore[reportUnknownMemberType]
        await alice.flush()
        for reply in (
            inbox,
            "_INBOX.steward.x",
            "mem.main.shared.alice.docs.a.b",
            "svc.main.api.x",
        ):
            await scene.thief.publish(
                "svc.main.api.mallory", b'{"verb": "STREAM.NAMES"}', reply=reply
            )
        assert await scene.thief.gate("STREAM.NAMES") is not None
        await alice.flush()
    assert heard == []


# Records, audit and secrets


async def test_records_of_others_are_out_of_reach(scene: Scene) -> None:
    leases = claim_subject("main", "shared", "mallory", "o-1")
    assert await scene.thief.ask(PREFIX + leases, b"{}", headers=named("mallory")) is not None
    for name in ("o-1", "h-1", "g-1", "r-work"):
        for label, writer in (("shared", "alice"), ("pii", "mallory"), ("pii", "alice")):
            subject = PREFIX + claim_subject("main", label, writer, name)
            assert not await scene.thief.publish(subject, b"{}"), subject
    # One that names another holder than its subject is no record.
    await scene.thief.ask(PREFIX + leases, b"{}", headers=named("alice"))
    record, sequence = await scene.alice.log.record_at(leases, Memory)
    assert record is None
    assert sequence


async def test_once_goes_on_though_a_stranger_holds_and_claims_everything(scene: Scene) -> None:
    async with scene.broker.board("mallory") as mallory:
        assert (await mallory.once("sum", 1, lambda: "mine")).content == "mine"
    made: list[str] = []

    def make() -> str:
        made.append("alice")
        return "private"

    result = await scene.alice.once("sum", 1, make, access="pii", topic="cases.sum")
    assert result.content == "private"
    assert made == ["alice"]
    key = result.content_of
    assert key is not None
    for label in ("shared", "pii"):
        got = await scene.thief.get(f"mem.main.{label}.*.{key.topic}.{key.id}")
        assert got is None or b"private" not in got.data


async def test_content_of_opens_no_door(scene: Scene) -> None:
    shown = await scene.alice.once("secret", 1, lambda: SECRET, access="pii", topic="cases.s")
    assert shown.content == SECRET
    async with scene.broker.board("mallory") as mallory:
        good = await mallory.once("open", 1, lambda: "fine", topic="notes.light")
        assert (await mallory.get(good.ref)).content == "fine"
        for target in (
            str(shown.content_of),
            str(scene.secret.pinned()),
            str(scene.private.pinned()),
            f"{shown.content_of}".split("@", maxsplit=1)[0],
        ):
            identifier = uuid4().hex
            body = json.dumps({"content_of": target, "kind": "reuse"}).encode()
            answer = await scene.thief.ask(
                PREFIX + own("notes.light", identifier), body, headers=named("mallory")
            )
            assert answer is not None
            ref = f"mallory/notes.light/{identifier}"
            with pytest.raises(BlackboardError):
                await mallory.get(ref)
            # Nor does it trick those who may read the target into showing it as an open memory.
            async with scene.broker.board("cli") as reader:
                with pytest.raises(BlackboardError):
                    await reader.get(ref)


async def test_reads_are_noted_by_the_broker_and_cannot_be_noted_for_others(scene: Scene) -> None:
    noted = "rd.main.mallory.MEM_main." + at(scene.public)
    before = await scene.size("READS_main")
    assert await scene.thief.get(at(scene.public)) is not None
    await wait_until(lambda: grew(scene, before), "the broker has noted the read")
    last = await scene.newest(PREFIX + noted, "READS_main")
    assert last is not None

    size = await scene.size("READS_main")
    for subject in (
        f"{READ}alice.MEM_main.{at(scene.public)}",
        f"rd.main.mallory.MEM_main.{at(scene.public)}",
        f"{PREFIX}rd.other.mallory.MEM_main.{at(scene.public)}",
    ):
        assert await scene.thief.ask(subject, timeout=0.2) is None, subject
    assert not await scene.thief.publish(f"{PREFIX}audit.main.steward", b"{}")
    assert not await scene.thief.publish(f"{PREFIX}audit.main.alice", b"{}")
    assert await scene.size("READS_main") == size
    # The steward notes what it serves and what it refuses before it answers.
    await scene.thief.gate("CONSUMER.DELETE.MEM_main.alice--work")
    await wait_until(lambda: in_ledger(scene, "denied", "CONSUMER.DELETE"), "the denial is noted")


# Tenants, revocation, floods


async def test_another_board_is_another_world(scene: Scene) -> None:
    async with scene.broker.raw("mallory", "other") as tenant:
        mine = f"{PREFIX}mem.other.shared.mallory.docs.public.a.{uuid4().hex}"
        assert await tenant.ask(mine, note(), headers=named("mallory")) is not None
        for subject in (
            f"{PREFIX}mem.main.shared.mallory.notes.a.{uuid4().hex}",
            f"{READ}mallory.MEM_main.{at(scene.public)}",
            f"{PREFIX}rd.other.mallory.MEM_main.{at(scene.public)}",
            "svc.main.api.mallory",
            f"{JS}CONSUMER.MSG.NEXT.MEM_main.mallory--own",
        ):
            assert await tenant.ask(subject, timeout=0.2) is None, subject
        for verb in (
            "STREAM.INFO.MEM_main",
            f"DIRECT.GET.MEM_main.{at(scene.public)}",
            "CONSUMER.INFO.MEM_main.mallory--own",
        ):
            assert refused(await tenant.gate(verb)), verb


async def test_a_revoked_credential_is_worth_nothing(scene: Scene) -> None:
    broker = scene.broker
    identity = broker.identity("mallory")
    assert await scene.thief.gate("STREAM.NAMES") is not None
    await broker.revoke("mallory")

    await wait_until(lambda: not scene.thief.client.is_connected, "the thief is cut off")
    await broker.serving()
    with pytest.raises(SettingsError, match="refused the credential"):
        async with Connection.open(broker.url, identity=identity):
            pass
    assert (await scene.alice.get(scene.public)).content == "for everybody"


async def test_a_flood_of_one_agents_requests_leaves_room_for_others(scene: Scene) -> None:
    """How much one may publish at all is a matter of its quota."""
    wanted = {"multi_last": ["mem.main.*.*.docs.public.>"] * 16}
    body = json.dumps({"verb": "DIRECT.GET.MEM_main", "body": wanted}).encode()
    for _ in range(2_000):
        await scene.thief.client.publish(
            "svc.main.api.mallory", body, reply="_INBOX.main.mallory.flood"
        )
    await scene.thief.flush()
    with anyio.fail_after(3):
        assert (await scene.alice.get(scene.public.pinned())).content == "for everybody"
        async with scene.alice.watch("docs.>", since="start") as memories:
            async for memory in memories:
                assert memory.ref == scene.public
                break
