"""Attacks, each made with a plain client and a stolen credential of little use.

`mallory` may read `docs.public` and write `notes`, both under the label `shared`. Whatever else is
tried here is refused by the broker or the steward, or ignored by every reader. In each test the
honest call beside the attack works, so that none passes because nothing does.
"""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.access.identity import PREFIX
from blackboard.access.rights import Grant
from blackboard.errors import BlackboardError, DeniedError, NotFoundError, SettingsError
from blackboard.jetstream import Connection, Message, consumers
from blackboard.subjects import claim_subject
from tests.guarded import Guarded, Raw, agent
from tests.waiting import wait_until

SECRET = "the launch code is 0000"  # noqa: S105 - what is kept from attackers
PUBLIC, SECRETS = Grant("shared", "docs.public.>"), Grant("shared", "docs.secret.>")
PRIVATE, NOTES = Grant("pii", "cases.>"), Grant("shared", "notes.>")
PEOPLE = (
    agent("alice", read=[PUBLIC, SECRETS, PRIVATE], write=[PUBLIC, SECRETS, PRIVATE],
          handlers=["work"]),
    agent("mallory", read=[PUBLIC], write=[NOTES], handlers=["own"]),
    agent("ursula", read=[Grant("pii", "cases.>", "customer-42")]),
    agent("alice", board="other", read=[PUBLIC], write=[PUBLIC], handlers=["work", "own"]),
    agent("mallory", board="other", read=[PUBLIC], write=[PUBLIC, NOTES], handlers=["own"]),
)  # fmt: skip
READ = f"{PREFIX}rd.main."
JS = "$JS.API."


class Scene:
    """A guarded broker with memories on it, a victim, and a thief.

    Attributes:
        alice: The victim, through the library.
        thief: Mallory's credential in a plain client.
        operator: Who looks at what is really stored.
        public: What the thief may read.
        secret: What it may not.
    """

    alice: Blackboard
    thief: Raw
    operator: Connection
    public: Ref
    secret: Ref
    private: Ref

    def __init__(self, broker: Guarded) -> None:
        self.broker = broker

    async def newest(self, subject: str, stream: str = "MEM_main") -> Message | None:
        return await self.operator.leader_last(stream, subject)

    async def size(self, stream: str = "MEM_main") -> int:
        info = await self.operator.stream(stream)
        assert info is not None
        return info.state.last_seq


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Guarded]:
    guarded = Guarded(tmp_path / "guarded", PEOPLE)
    try:
        guarded.start()
        await guarded.lay()
        guarded.start_steward()
        await guarded.serving()
        yield guarded
    finally:
        guarded.end_stewards()
        guarded.kill()


@pytest.fixture
async def scene(broker: Guarded) -> AsyncGenerator[Scene]:
    scene = Scene(broker)
    async with AsyncExitStack() as stack:
        scene.operator = await stack.enter_async_context(broker.operator())
        scene.alice = await stack.enter_async_context(broker.board("alice"))
        scene.public = await scene.alice.put("docs.public.a", "for everybody")
        scene.secret = await scene.alice.put("docs.secret.a", SECRET)
        scene.private = await scene.alice.put("cases.1", SECRET, access="pii", user="customer-43")
        scene.thief = await stack.enter_async_context(broker.raw("mallory"))
        yield scene


def at(ref: Ref, label: str = "shared", writer: str | None = None) -> str:
    return f"mem.main.{label}.{writer or ref.agent}.{ref.topic}.{ref.id}"


def own(topic: str = "notes.a", identifier: str | None = None) -> str:
    return f"mem.main.shared.mallory.{topic}.{identifier or uuid4().hex}"


def pretending(name: str, **headers: str) -> dict[str, str]:
    return {"Bb_Agent": name, "Bb_Write": uuid4().hex, **headers}


def note(content: object = "mine") -> bytes:
    return json.dumps({"content": content, "kind": "note"}).encode()


async def honest(scene: Scene) -> str:
    """What the thief may do, done: it writes a note; gives its subject."""
    subject = own()
    answer = await scene.thief.ask(PREFIX + subject, note(), **pretending("mallory"))
    assert answer is not None
    assert b'"seq"' in answer.data
    return subject


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
        named = prefix + subject.format(id=uuid4().hex)
        assert await scene.thief.ask(named, note(), timeout=0.2) is None, named
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
        assert await scene.thief.ask(subject, note(), **pretending("mallory")) is None, where
    for other in (f"blob.main.pii.mallory.{uuid4().hex}.0", "claim.main.pii.mallory.o-1"):
        assert await scene.thief.ask(PREFIX + other, b"x") is None, other
    assert await scene.size() == before


async def test_a_message_that_names_another_author_is_seen_by_nobody(scene: Scene) -> None:
    subject = own()
    answer = await scene.thief.ask(PREFIX + subject, note(), **pretending("alice"))
    assert answer is not None  # it is stored, on the thief's own subject

    async with scene.broker.board("cli") as operator:
        with pytest.raises(NotFoundError):
            await operator.get(f"mallory/notes.a/{subject.rsplit('.', 1)[-1]}")
        good = await honest(scene)
        found = [memory async for memory in await _replayed(operator, "notes.>")]
    assert [memory.id for memory in found] == [good.rsplit(".", 1)[-1]]


async def test_rollup_purge_schedules_and_batches_reach_nothing_of_others(scene: Scene) -> None:
    await honest(scene)
    secret = at(scene.secret)
    for headers in (
        {"Nats_Rollup": "all"},
        {"Nats_Rollup": "sub"},
        {"Nats_Schedule": "@at 2009-11-10T23:00:00Z", "Nats_Schedule_Target": secret},
        {"Nats_Schedule": "@every 1s", "Nats_Schedule_Source": secret,
         "Nats_Schedule_Target": own()},
        {"Nats_Incr": "+1"},
    ):  # fmt: skip
        answer = await scene.thief.ask(PREFIX + own(), note(), **pretending("mallory", **headers))
        assert answer is not None
        assert b'"error"' in answer.data, (headers, answer.data)
    # A batch commits all or nothing, and what is refused never comes to it.
    batch = {"Nats_Batch_Id": uuid4().hex}
    mine, theirs = own(), f"mem.main.shared.alice.notes.a.{uuid4().hex}"
    await scene.thief.ask(PREFIX + mine, note(), **batch, Nats_Batch_Sequence="1")
    assert not await scene.thief.publish(PREFIX + theirs, note(), **batch, Nats_Batch_Sequence="2")
    end = await scene.thief.ask(
        PREFIX + own(), note(), **batch, Nats_Batch_Sequence="3", Nats_Batch_Commit="1"
    )
    assert end is None or b'"error"' in end.data
    assert await scene.newest(theirs) is None
    assert await scene.newest(mine) is None
    assert (await scene.alice.get(scene.secret)).content == SECRET


async def test_a_deletion_that_comes_with_its_own_time_touches_only_ones_own(scene: Scene) -> None:
    mine = own()
    answer = await scene.thief.ask(PREFIX + mine, note(), **pretending("mallory", Nats_TTL="1"))
    assert answer is not None
    assert not await scene.thief.publish(PREFIX + at(scene.secret), b"", Nats_TTL="1")
    assert not await scene.thief.publish(PREFIX + at(scene.secret), b"", Bb_Gone="forgotten")

    await wait_until(lambda: _gone(scene, mine), "its own memory has expired")
    assert (await scene.alice.get(scene.secret)).content == SECRET


async def test_expected_sequences_over_others_subjects_tell_a_number_at_most(scene: Scene) -> None:
    """Known, and left: who guesses a subject may learn its sequence, and nothing of the content."""
    wanted = at(scene.secret)
    answer = await scene.thief.ask(
        PREFIX + own(), note(), Nats_Expected_Last_Subject_Sequence="0",
        Nats_Expected_Last_Subject_Sequence_Subject=wanted,
    )  # fmt: skip
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
        PREFIX + own("notes.state", "plan"), note("false"), **pretending("mallory")
    )
    twin = await scene.thief.ask(
        PREFIX + own("notes.a", scene.public.id), note("false"), **pretending("mallory")
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
        assert _empty(answer), (subject, answer)
    direct = f"{JS}DIRECT.GET.MEM_main"
    for subject in (f"{direct}.{at(scene.public)}", direct, f"bbread.main.mallory.{mem}.>"):
        assert await scene.thief.ask(subject, b'{"seq": 2}', timeout=0.2) is None, subject


async def test_a_wildcard_in_a_right_is_no_arrow_for_who_sends_one(scene: Scene) -> None:
    """A `>` that a client publishes passes for the one token of a `*`; it must select no more."""
    below = await scene.alice.put("docs.public.a.deep", "also for everybody")
    assert await scene.thief.get(f"mem.main.shared.*.docs.public.a.deep.{below.id}") is not None

    answer = await scene.thief.ask(f"{READ}mallory.MEM_main.mem.main.shared.>.docs.public.a.x")
    assert _empty(answer)
    arrow = await scene.thief.ask(
        f"{READ}mallory.MEM_main.mem.main.shared.*.docs.public.>", timeout=0.2
    )
    assert _empty(arrow)


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
        assert _refused(served), (verb, served)
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


# The gate


async def test_reads_by_sequence_time_and_batch_show_what_may_be_read_only(scene: Scene) -> None:
    secret = (await scene.alice.get(scene.secret)).revision
    public = (await scene.alice.get(scene.public)).revision
    good = await scene.thief.gate("DIRECT.GET.MEM_main", {"seq": public})
    assert b"for everybody" in _bodies(good)

    for verb, body in (
        ("DIRECT.GET.MEM_main", {"seq": secret}),
        ("STREAM.MSG.GET.MEM_main", {"seq": secret}),
        ("DIRECT.GET.MEM_main", {"seq": 1, "next_by_subj": at(scene.secret)}),
        ("DIRECT.GET.MEM_main", {"seq": public + 1, "next_by_subj": "mem.main.>"}),
        ("DIRECT.GET.MEM_main", {"multi_last": [at(scene.secret)]}),
        ("DIRECT.GET.MEM_main", {"multi_last": [">"], "up_to_time": "2100-01-01T00:00:00Z"}),
        ("DIRECT.GET.MEM_main", {"last_by_subj": at(scene.secret)}),
        ("STREAM.MSG.GET.MEM_main", {"last_by_subj": "mem.main.shared.*.docs.secret.>"}),
        ("STREAM.MSG.GET.MEM_main", {"seq": public + 1, "next_by_subj": "mem.>"}),
        (f"DIRECT.GET.MEM_main.{at(scene.secret)}", None),
        ("DIRECT.GET.MEM_main.>", None),
        (f"DIRECT.GET.MEM_other.{at(scene.public)}", None),
        ("DIRECT.GET.ACCESS.access.main.alice", None),
        ("DIRECT.GET.AUDIT_main.audit.main.alice", None),
        ("DIRECT.GET.BLOB_main.blob.main.*.*.*.*", None),
        ("DIRECT.GET.BLOB_main.blob.main.pii.alice.x.0", None),
        ("DIRECT.GET.BLOB_main.blob.other.shared.alice.x.0", None),
    ):
        answer = await scene.thief.gate(verb, body)
        assert answer is not None, (verb, body)
        assert SECRET.encode() not in _bodies(answer), (verb, body)


async def test_users_are_told_apart_where_only_services_can(scene: Scene) -> None:
    mine = await scene.alice.put("cases.1", "of 42", access="pii", user="customer-42")
    async with scene.broker.board("ursula") as ursula:
        assert (await ursula.get(mine)).content == "of 42"
        with pytest.raises(DeniedError):
            await ursula.get(scene.private)
        with pytest.raises(DeniedError, match="single users"):
            async with ursula.watch("cases.>"):
                pass
    async with scene.broker.raw("ursula") as raw:
        for ref in (mine, scene.private):
            assert await raw.get(at(ref, "pii")) is None
        everything = await raw.gate(
            "DIRECT.GET.MEM_main", {"multi_last": ["mem.main.pii.*.cases.>"]}
        )
    assert b"of 42" in _bodies(everything)
    assert SECRET.encode() not in _bodies(everything)


async def test_consumers_get_their_own_inbox_and_filters_whatever_they_say(scene: Scene) -> None:
    name = f"follow-{uuid4().hex}"
    inbox = "_INBOX.main.mallory.reads"
    allowed = "mem.main.*.*.docs.public.>"
    good = await scene.thief.gate(
        f"CONSUMER.CREATE.MEM_main.{name}",
        {"config": {"filter_subject": allowed, "deliver_subject": inbox}},
    )
    assert good is not None
    assert good["config"]["filter_subject"] == "mem.main.shared.*.docs.public.>"

    for config in (
        {"filter_subject": "mem.main.*.*.docs.secret.>", "deliver_subject": inbox},
        {"filter_subject": "claim.main.>", "deliver_subject": inbox},
        {"filter_subjects": [allowed, ">"], "deliver_subject": inbox},
        {"filter_subject": allowed, "filter_subjects": [">"], "deliver_subject": inbox},
        {"filter_subject": "", "deliver_subject": inbox},
        {"deliver_subject": inbox},
        {"filter_subject": allowed},
        {"filter_subject": allowed, "deliver_subject": "_INBOX.main.alice.reads"},
        {"filter_subject": allowed, "deliver_subject": "_INBOX.main.mallory"},
        {"filter_subject": allowed, "deliver_subject": "_INBOX.main.malloryx.reads"},
        {"filter_subject": allowed, "deliver_subject": "_INBOX.main.mallory.*"},
        {"filter_subject": allowed, "deliver_subject": "_INBOX.main.mallory.a b"},
        {"filter_subject": allowed, "deliver_subject": f"{PREFIX}mem.main.shared.alice.x.y"},
        {"filter_subject": allowed, "deliver_subject": "svc.main.api.alice"},
        {"filter_subject": allowed, "deliver_subject": inbox, "deliver_policy": "undelete"},
        {"filter_subject": allowed, "deliver_subject": inbox,
         "deliver_policy": "by_start_sequence", "opt_start_seq": "1"},
        {"filter_subject": ["x"], "deliver_subject": inbox},
        {"filter_subject": allowed, "deliver_subject": {"a": 1}},
    ):  # fmt: skip
        name = f"follow-{uuid4().hex}"
        answer = await scene.thief.gate(f"CONSUMER.CREATE.MEM_main.{name}", {"config": config})
        assert _refused(answer), (config, answer)
        assert name not in {one.name for one in await consumers(scene.operator, "MEM_main")}


async def test_what_a_consumer_says_beside_its_filter_changes_nothing(scene: Scene) -> None:
    name = f"follow-{uuid4().hex}"
    config = {
        "name": "alice--work",
        "durable_name": "alice--work",
        "filter_subject": "mem.main.>",
        "deliver_subject": "_INBOX.main.mallory.reads",
        "ack_policy": "explicit",
        "metadata": {"blackboard-agent": "alice", "blackboard-filter": ">"},
        "inactive_threshold": 10**18,
        "num_replicas": 5,
        "mem_storage": False,
        "headers_only": True,
        "flow_control": False,
        "deliver_group": "everybody",
        "rate_limit_bps": 1,
        "sample_freq": "100",
        "backoff": [1],
    }
    answer = await scene.thief.gate(
        f"CONSUMER.CREATE.MEM_main.{name}.>", {"config": config, "action": "update"}
    )
    assert answer is not None
    made = answer["config"]
    assert made["name"] == name
    assert "durable_name" not in made
    assert "deliver_group" not in made
    assert made["filter_subjects"] == [
        "mem.main.shared.*.docs.public.>",
        "mem.main.shared.*.once.>",
    ]
    assert made["metadata"]["blackboard-agent"] == "mallory"
    assert made["inactive_threshold"] == 60 * 10**9
    assert made["mem_storage"] is True


async def test_anothers_consumer_cannot_be_used_or_ended(scene: Scene) -> None:
    await _handler(scene, "alice", "work", "mem.main.*.*.docs.>")
    async with scene.broker.raw("mallory", "other") as elsewhere:
        await elsewhere.gate("CONSUMER.CREATE.MEM_other.mallory--own", _durable("mem.other.>"))
    mine = await scene.thief.gate(
        "CONSUMER.CREATE.MEM_main.mallory--own", _durable("mem.main.*.*.docs.>")
    )
    assert mine is not None
    assert mine["config"]["filter_subject"] == "mem.main.shared.*.docs.public.>"

    for name in ("MEM_main.alice--work", "MEM_other.mallory--own", "MEM_main.*", "MEM_main.>"):
        assert _refused(await scene.thief.gate(f"CONSUMER.INFO.{name}")), name
        assert _refused(await scene.thief.gate(f"CONSUMER.DELETE.{name}")), name
    for name in ("alice--work", "alice--own", "mallory--other", "mallory--own--x", "mallory"):
        answer = await scene.thief.gate(
            f"CONSUMER.CREATE.MEM_main.{name}", _durable("mem.main.*.*.docs.public.>")
        )
        assert _refused(answer), name
    for subject in (
        "$JS.ACK.MEM_main.alice--work.1.1.1.1.0",
        "$JS.ACK.*.*.MEM_main.alice--work.1.1.1.1.0",
        "$JS.ACK.MEM_main.*.1.1.1.1.0",
        f"{JS}CONSUMER.MSG.NEXT.MEM_main.alice--work",
    ):
        assert not await scene.thief.publish(subject, b"+TERM"), subject
    there = {one.name: one for one in await consumers(scene.operator, "MEM_main")}
    assert there["alice--work"].ack_floor.consumer_seq == 0
    # And its own it may pull from, within its rights.
    pulled = await scene.thief.ask(
        f"{JS}CONSUMER.MSG.NEXT.MEM_main.mallory--own", {"batch": 1, "no_wait": True}
    )
    assert pulled is not None
    assert b"for everybody" in pulled.data


async def test_the_gate_survives_hostile_requests(scene: Scene) -> None:
    thief = scene.thief
    subject = f"svc.main.api.{thief.me}"
    deep = b"[" * 100_000
    for body in (
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        deep,
        b'{"verb": 1}',
        b'{"verb": "DIRECT.GET.MEM_main", "body": ' + deep + b"}",
        b'{"verb": "DIRECT.GET.MEM_main", "body": {"seq": 1e999}}',
        b'{"verb": "DIRECT.GET.MEM_main", "body": {"seq": ' + b"9" * 400 + b"}}",
        b'{"verb": "DIRECT.GET.MEM_main", "body": {"seq": -1}}',
        b'{"verb": "DIRECT.GET.MEM_main", "body": {"multi_last": ">"}}',
        b'{"verb": "DIRECT.GET.MEM_main", "body": {"up_to_time": "now", "multi_last": [">"]}}',
    ):
        answer = await thief.ask(subject, body)
        assert answer is not None, body[:60]
        assert (answer.headers or {}).get("Nats-Service-Error-Code"), body[:60]
    long = "x" * 5000
    public = "mem.main.shared.alice.docs.public"
    for verb, more in (
        ("", None),
        (".", None),
        ("*", None),
        ("DIRECT", None),
        ("DIRECT.GET", None),
        ("DIRECT.GET.", None),
        ("DIRECT.GET.*", None),
        ("DIRECT.GET.MEM_main.", None),
        (f"DIRECT.GET.MEM_main.{public}.{long}", None),
        (f"DIRECT.GET.MEM_main.{public}.a b", None),
        (f"DIRECT.GET.MEM_main.{public}.a\r\nPUB x 0\r\n\r\n", None),
        (f"CONSUMER.INFO.MEM_main.{long}", None),
        ("CONSUMER.INFO.MEM_main.a\r\nPUB x 0", None),
        ("CONSUMER.CREATE.MEM_main.follow-x", {"config": {}}),
        ("CONSUMER.CREATE.MEM_main", {"config": None}),
        ("STREAM.INFO.*", None),
        ("STREAM.INFO.MEM_main.x", None),
        ("STREAM.INFO.MEM_main", {"subjects_filter": 5}),
        ("STREAM.INFO.MEM_main", {"subjects_filter": "mem.main.shared.mallory.>"}),
        ("STREAM.INFO.MEM_other", None),
        ("STREAM.MSG.DELETE.DEAD_main", {"seq": 10**30}),
        ("STREAM.CREATE.KV_agents_other", None),
        ("DIRECT.GET.MEM_main", {"multi_last": [public + ".*"] * 10_000}),
        ("DIRECT.GET.MEM_main", {"multi_last": [f"{public}.{long}"]}),
        ("DIRECT.GET.MEM_main", {"seq": 1, "next_by_subj": f"{public}.a b"}),
    ):
        assert _refused(await thief.gate(verb, more)), (verb[:80], more if more is None else "…")
    # One that would have had the broker end the steward's connection would be seen by others.
    assert (await scene.alice.get(scene.public.pinned())).content == "for everybody"
    assert "Traceback" not in scene.broker.steward_log.read_text()
    assert scene.broker.log.read_text().count("Maximum Control Line") == 0


# Replies


async def test_forged_replies_are_stored_nowhere(scene: Scene) -> None:
    bait = own()
    await scene.thief.ask(PREFIX + bait, note("forged"), **pretending("alice"))
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
    await scene.thief.gate("CONSUMER.CREATE.MEM_main.mallory--own", _durable("mem.main.>"))
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
    await wait_until(lambda: _is_size(scene, full), "its own messages are stored")
    for stream in streams[1:]:
        assert await scene.size(stream) == size[stream]


async def test_forged_revisions_cannot_push_the_true_ones_out(scene: Scene) -> None:
    bait = own()
    await scene.thief.ask(PREFIX + bait, note("forged"), **pretending("alice"))
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
    await _handler(scene, "alice", "work", "mem.main.*.*.docs.>")
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
        await elsewhere.gate("CONSUMER.CREATE.MEM_other.mallory--own", _durable("mem.other.>"))
        async with scene.broker.raw("alice", "other") as victim:
            await victim.gate("CONSUMER.CREATE.MEM_other.alice--work", _durable("mem.other.>"))
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
    assert await scene.thief.ask(PREFIX + leases, b"{}", **pretending("mallory")) is not None
    for name in ("o-1", "h-1", "g-1", "r-work"):
        for label, writer in (("shared", "alice"), ("pii", "mallory"), ("pii", "alice")):
            subject = PREFIX + claim_subject("main", label, writer, name)
            assert not await scene.thief.publish(subject, b"{}"), subject
    # One that names another holder than its subject is no record.
    await scene.thief.ask(PREFIX + leases, b"{}", **pretending("alice"))
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
                PREFIX + own("notes.light", identifier), body, **pretending("mallory")
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
    await wait_until(lambda: _grew(scene, before), "the broker has noted the read")
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
    await wait_until(lambda: _audited(scene, "denied", "CONSUMER.DELETE"), "the denial is noted")


# Tenants, revocation, floods


async def test_another_board_is_another_world(scene: Scene) -> None:
    async with scene.broker.raw("mallory", "other") as tenant:
        mine = f"{PREFIX}mem.other.shared.mallory.docs.public.a.{uuid4().hex}"
        assert await tenant.ask(mine, note(), **pretending("mallory")) is not None
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
            assert _refused(await tenant.gate(verb)), verb


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


async def _replayed(board: Blackboard, pattern: str) -> Any:
    found: list[Memory] = []
    async with board.replay(pattern) as memories:
        found.extend([memory async for memory in memories])

    async def each() -> AsyncGenerator[Memory]:
        for memory in found:
            yield memory

    return each()


async def _handler(scene: Scene, name: str, handler: str, pattern: str) -> None:
    async with scene.broker.raw(name) as raw:
        answer = await raw.gate(f"CONSUMER.CREATE.MEM_main.{name}--{handler}", _durable(pattern))
        assert not _refused(answer), answer


def _durable(pattern: str) -> dict[str, Any]:
    config = {"filter_subject": pattern, "ack_wait": 10**9, "max_ack_pending": 10}
    return {"config": config}


def _refused(answer: dict[str, Any] | None) -> bool:
    """Whether the gate said no, in the words of either the service or the broker."""
    if answer is None:
        return False
    return answer.get("code") in (400, 403) or "error" in answer


def _bodies(answer: dict[str, Any] | None) -> bytes:
    """All that an answer shows."""
    assert answer is not None
    shown = json.dumps(answer).encode()
    for message in (*answer.get("messages", ()), *filter(None, [answer.get("message")])):
        shown += base64.b64decode(message["data"])
    return shown


def _empty(answer: Any) -> bool:
    return answer is None or (answer.headers or {}).get("Status") in ("404", "408")


async def _gone(scene: Scene, subject: str) -> bool:
    return await scene.newest(subject) is None


async def _is_size(scene: Scene, size: int) -> bool:
    return await scene.size() == size


async def _grew(scene: Scene, before: int) -> bool:
    return await scene.size("READS_main") > before


async def _audited(scene: Scene, act: str, what: str) -> bool:
    last = await scene.newest("audit.main.steward", "AUDIT_main")
    return last is not None and act.encode() in last.data and what.encode() in last.data
