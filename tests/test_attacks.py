"""Attacks, each made with a plain client and a stolen credential of little use: at the broker.

Whatever is tried here is refused by the broker or the steward, or ignored by every reader. In each
test the honest call beside the attack works, so that none passes because nothing does.
"""

import json
from uuid import uuid4

import pytest

from blackboard.access.identity import PREFIX
from blackboard.envelope import EXPECTED, EXPECTED_SUBJECT
from blackboard.errors import NotFoundError
from tests.scene import (
    JS,
    READ,
    SECRET,
    Scene,
    at,
    empty,
    gone,
    honest,
    named,
    note,
    own,
    part,
    refused,
    replayed,
)
from tests.waiting import wait_until

# Writing


@pytest.mark.parametrize("prefix", [PREFIX, ""])
async def test_writing_as_another_agent(scene: Scene, prefix: str) -> None:
    await honest(scene)
    before = await scene.size()
    for subject in (
        "mem.main.shared.alice.notes.a.{id}",
        "mem.main.shared.alice.docs.public.a.{id}",
        "mem.main.shared.*.notes.a.{id}",
        "mem.main.*.mallory.notes.a.{id}",
        "mem.*.shared.mallory.notes.a.{id}",
        "mem.main.shared.nobody.notes.a.{id}",
        "mem.main.shared.>",
        "blob.main.shared.alice.{id}.0",
        "claim.main.shared.alice.o-{id}",
        "audit.main.alice",
        "spans.main.alice",
        "dead.main.alice.work",
        "retry.main.mallory.own",
        "$KV.agents_main.alice.{id}",
        "$KV.state_main.plan",
        "access.main.mallory",
        "rd.main.alice.MEM_main.x",
    ):
        where = prefix + subject.format(id=uuid4().hex)
        assert await scene.thief.ask(where, note(), timeout=0.2) is None, where
    assert await scene.size() == before


async def test_writing_a_label_or_topic_without_the_right(scene: Scene) -> None:
    await honest(scene)
    before = await scene.size()
    for where in (
        "shared.mallory.docs.public.a",
        "shared.mallory.notesx.a",
        "shared.mallory.state.plan",
        "pii.mallory.notes.a",
        "pii.mallory.once.summary",
        "probe.mallory.notes.a",
    ):
        subject = f"{PREFIX}mem.main.{where}.{uuid4().hex}"
        assert await scene.thief.ask(subject, note(), headers=named("mallory")) is None, where
    for other in (f"blob.main.pii.mallory.{uuid4().hex}.0", "claim.main.pii.mallory.o-1"):
        assert await scene.thief.ask(PREFIX + other, b"x") is None, other
    assert await scene.size() == before


async def test_a_message_that_names_another_author_is_seen_by_nobody(scene: Scene) -> None:
    subject = own()
    answer = await scene.thief.ask(PREFIX + subject, note(), headers=named("alice"))
    assert answer is not None  # it is stored, on the thief's own subject

    async with scene.broker.board("cli") as operator:
        with pytest.raises(NotFoundError):
            await operator.get(f"mallory/notes.a/{subject.rsplit('.', 1)[-1]}")
        good = await honest(scene)
        found = [memory async for memory in await replayed(operator, "notes.>")]
    assert [memory.id for memory in found] == [good.rsplit(".", 1)[-1]]


async def test_rollup_purge_schedules_and_batches_reach_nothing_of_others(scene: Scene) -> None:
    await honest(scene)
    secret = at(scene.secret)
    for headers in (
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-Schedule": "@at 2009-11-10T23:00:00Z", "Nats-Schedule-Target": secret},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Source": secret,
         "Nats-Schedule-Target": own()},
        {"Nats-Incr": "+1"},
    ):  # fmt: skip
        answer = await scene.thief.ask(PREFIX + own(), note(), headers=named("mallory", headers))
        assert answer is not None
        assert b'"error"' in answer.data, (headers, answer.data)
    # A batch commits all or nothing, and what is refused never comes to it.
    batch = uuid4().hex
    mine, theirs = own(), f"mem.main.shared.alice.notes.a.{uuid4().hex}"
    await scene.thief.ask(PREFIX + mine, note(), headers=part(batch, 1))
    assert not await scene.thief.publish(PREFIX + theirs, note(), headers=part(batch, 2))
    end = await scene.thief.ask(
        PREFIX + own(), note(), headers={**part(batch, 3), "Nats-Batch-Commit": "1"}
    )
    assert end is None or b'"error"' in end.data
    assert await scene.newest(theirs) is None
    assert await scene.newest(mine) is None
    assert (await scene.alice.get(scene.secret)).content == SECRET


async def test_a_deletion_that_comes_with_its_own_time_touches_only_ones_own(scene: Scene) -> None:
    mine = own()
    answer = await scene.thief.ask(
        PREFIX + mine, note(), headers=named("mallory", {"Nats-TTL": "1"})
    )
    assert answer is not None
    assert not await scene.thief.publish(PREFIX + at(scene.secret), b"", headers={"Nats-TTL": "1"})
    assert not await scene.thief.publish(
        PREFIX + at(scene.secret), b"", headers={"Bb-Gone": "forgotten"}
    )

    await wait_until(lambda: gone(scene, mine), "its own memory has expired")
    assert (await scene.alice.get(scene.secret)).content == SECRET


async def test_expected_sequences_over_others_subjects_tell_a_number_at_most(scene: Scene) -> None:
    """Known, and left: who guesses a subject may learn its sequence, and nothing of the content."""
    wanted = at(scene.secret)
    headers = {EXPECTED: "0", EXPECTED_SUBJECT: wanted}
    answer = await scene.thief.ask(PREFIX + own(), note(), headers=headers)
    assert answer is not None
    refused = json.loads(answer.data)["error"]

    assert set(refused) <= {"code", "err_code", "description"}
    assert SECRET not in refused["description"]
    assert (await scene.alice.revise(scene.secret, SECRET)).written


async def test_taking_anothers_place_in_shared_state_takes_the_right_to_the_topic(
    scene: Scene,
) -> None:
    """An index entry and a key belong to board and reference; a label or topic away is another."""
    key = await scene.alice.put("docs.public.state", "true", key="plan")
    for topic in ("docs.public.state", "docs.secret.state"):
        assert not await scene.thief.publish(PREFIX + own(topic, "plan"), note("false"))
    assert not await scene.thief.publish(
        f"{PREFIX}mem.main.pii.mallory.docs.public.state.plan", note("false")
    )
    same = await scene.thief.ask(
        PREFIX + own("notes.state", "plan"), note("false"), headers=named("mallory")
    )
    twin = await scene.thief.ask(
        PREFIX + own("notes.a", scene.public.id), note("false"), headers=named("mallory")
    )
    assert same is not None
    assert twin is not None

    assert (await scene.alice.get(key)).content == "true"
    assert (await scene.alice.get(scene.public)).content == "for everybody"


# Reading


async def test_direct_gets_outside_the_rights(scene: Scene) -> None:
    allowed = await scene.thief.get(at(scene.public))
    assert allowed is not None
    assert b"for everybody" in allowed.data
    mem = "MEM_main.mem.main"
    for subject in (
        f"mallory.MEM_main.{at(scene.secret)}",
        f"mallory.MEM_main.{at(scene.private, 'pii')}",
        f"mallory.{mem}.shared.*.docs.*.a.*",
        f"mallory.{mem}.shared.*.docs.>",
        f"mallory.{mem}.shared.*.>",
        f"mallory.{mem}.shared.>",
        f"mallory.{mem}.*.*.docs.public.a.*",
        f"mallory.{mem}.>",
        "mallory.MEM_main.>",
        "mallory.MEM_main",
        f"mallory.MEM_other.{at(scene.public)}",
        f"mallory.BLOB_main.{at(scene.public)}",
        f"alice.MEM_main.{at(scene.secret)}",
        f"*.MEM_main.{at(scene.secret)}",
        "mallory.ACCESS.access.main.alice",
        "mallory.ACCESS.access.main.*",
        "mallory.ACCESS.access.>",
    ):
        answer = await scene.thief.ask(READ + subject, timeout=0.2)
        assert empty(answer), (subject, answer)
    direct = f"{JS}DIRECT.GET.MEM_main"
    for subject in (f"{direct}.{at(scene.public)}", direct, f"bbread.main.mallory.{mem}.>"):
        assert await scene.thief.ask(subject, b'{"seq": 2}', timeout=0.2) is None, subject


async def test_a_wildcard_in_a_right_is_no_arrow_for_who_sends_one(scene: Scene) -> None:
    """A `>` that a client publishes passes for the one token of a `*`; it must select no more."""
    below = await scene.alice.put("docs.public.a.deep", "also for everybody")
    assert await scene.thief.get(f"mem.main.shared.*.docs.public.a.deep.{below.id}") is not None

    answer = await scene.thief.ask(f"{READ}mallory.MEM_main.mem.main.shared.>.docs.public.a.x")
    assert empty(answer)
    arrow = await scene.thief.ask(
        f"{READ}mallory.MEM_main.mem.main.shared.*.docs.public.>", timeout=0.2
    )
    assert empty(arrow)


async def test_a_body_does_not_make_a_direct_get_another(scene: Scene) -> None:
    sequence = (await scene.alice.get(scene.secret)).revision
    for body in (
        {"seq": sequence},
        {"last_by_subj": at(scene.secret)},
        {"next_by_subj": at(scene.secret), "seq": 1},
        {"multi_last": [">"], "batch": 100},
        {"batch": 100, "seq": 1},
        {"start_time": "2020-01-01T00:00:00Z", "batch": 100},
    ):
        answer = await scene.thief.get(at(scene.public), body=json.dumps(body).encode())
        assert answer is None or SECRET.encode() not in answer.data, body
    assert await scene.thief.get(at(scene.public), body=b'{"no_hdr": true}') is not None


async def test_the_jetstream_api_is_closed_to_agents(scene: Scene) -> None:
    assert await scene.thief.gate("STREAM.NAMES") is not None
    work = "MEM_main.alice--work"
    for verb, body in (
        ("INFO", None),
        ("ACCOUNT.PURGE.BB", None),
        ("STREAM.INFO.MEM_main", {"subjects_filter": ">"}),
        ("STREAM.LIST", None),
        ("STREAM.NAMES", None),
        ("STREAM.MSG.GET.MEM_main", {"seq": 2}),
        ("STREAM.CREATE.COPY", {"name": "COPY", "subjects": ["x"], "sources": [
            {"name": "MEM_main"}]}),
        ("STREAM.UPDATE.MEM_main", {"name": "MEM_main", "subjects": ["mem.>"]}),
        ("STREAM.PURGE.MEM_main", None),
        ("STREAM.DELETE.MEM_main", None),
        ("STREAM.MSG.DELETE.MEM_main", {"seq": 2}),
        ("STREAM.SNAPSHOT.MEM_main", {"deliver_subject": "_INBOX.main.mallory.s"}),
        ("STREAM.RESTORE.MEM_main", {}),
        ("STREAM.LEADER.STEPDOWN.MEM_main", None),
        ("CONSUMER.CREATE.MEM_main", {}),
        ("CONSUMER.CREATE.MEM_main.mallory--own", {}),
        ("CONSUMER.CREATE.MEM_main.mallory--own.mem.main.shared.*.docs.public.>", {}),
        ("CONSUMER.DURABLE.CREATE.MEM_main.mallory--own", {}),
        ("CONSUMER.LIST.MEM_main", None),
        ("CONSUMER.NAMES.MEM_main", None),
        (f"CONSUMER.INFO.{work}", None),
        (f"CONSUMER.DELETE.{work}", None),
        (f"CONSUMER.PAUSE.{work}", {"pause_until": "2100-01-01T00:00:00Z"}),
        (f"CONSUMER.RESET.{work}", {"seq": 1}),
        (f"CONSUMER.UNPIN.{work}", {"group": "g"}),
        (f"CONSUMER.MSG.NEXT.{work}", {"batch": 1}),
        ("CONSUMER.MSG.NEXT.MEM_main.*", {"batch": 1}),
        ("CONSUMER.MSG.NEXT.MEM_other.mallory--own", {"batch": 1}),
    ):  # fmt: skip
        subject = JS + verb
        data = b"" if body is None else json.dumps(body).encode()
        assert await scene.thief.ask(subject, data, timeout=0.2) is None, verb
        # The steward does not do it for them either.
        served = await scene.thief.gate(verb, body) if verb != "STREAM.NAMES" else {"code": 403}
        assert refused(served), (verb, served)
    assert (await scene.alice.get(scene.secret)).content == SECRET


async def test_listening_where_others_are_answered_or_told(scene: Scene) -> None:
    for subject in (
        ">",
        "_INBOX.>",
        "_INBOX.main.>",
        "_INBOX.main.alice.>",
        "_INBOX.steward.>",
        f"{PREFIX}>",
        "mem.>",
        "svc.>",
        "svc.main.api.*",
        "hint.main.*.*",
        "$JS.EVENT.>",
        "$JS.ACK.>",
        "$SRV.>",
        "bbread.>",
    ):
        before = len(scene.thief.refused)
        await scene.thief.client.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        await scene.thief.flush()
        assert len(scene.thief.refused) > before, subject


async def test_a_tombstone_takes_nothing_from_labels_that_its_writer_may_not_write(
    scene: Scene,
) -> None:
    async with scene.broker.board("bella") as bella:
        kept = await bella.put("notes.plan", "kept", key="main", access="pii")
        mine = own("notes.plan", "main")
        first = await scene.thief.ask(PREFIX + mine, note("mine"), headers=named("mallory"))
        assert first is not None
        gone = named("mallory", {"Bb-Gone": "forgotten"})
        assert await scene.thief.ask(PREFIX + mine, b"", headers=gone) is not None
        sequence = json.loads(first.data)["seq"]

        async def is_deleted() -> bool:
            return await scene.operator.leader_at_sequence("MEM_main", sequence) is None

        await wait_until(is_deleted, "the steward deleted what lies behind the tombstone", 20)
        assert (await bella.get(kept)).content == "kept"
