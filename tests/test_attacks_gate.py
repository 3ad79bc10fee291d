"""Attacks on the steward's gate, and by way of it: requests that ask for more than one may."""

import json
from typing import Any
from uuid import uuid4

import pytest

from blackboard.access.identity import PREFIX
from blackboard.errors import DeniedError
from blackboard.jetstream import consumers
from tests.scene import (
    JS,
    SECRET,
    Scene,
    at,
    bodies,
    durable,
    make_handler,
    named,
    own,
    refused,
)

# The gate


async def test_reads_by_sequence_time_and_batch_show_what_may_be_read_only(scene: Scene) -> None:
    secret = (await scene.alice.get(scene.secret)).revision
    public = (await scene.alice.get(scene.public)).revision
    good = await scene.thief.gate("DIRECT.GET.MEM_main", {"seq": public})
    assert b"for everybody" in bodies(good)

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
        assert SECRET.encode() not in bodies(answer), (verb, body)


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
    assert b"of 42" in bodies(everything)
    assert SECRET.encode() not in bodies(everything)


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
        assert refused(answer), (config, answer)
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
    await make_handler(scene, "alice", "work", "mem.main.*.*.docs.>")
    async with scene.broker.raw("mallory", "other") as elsewhere:
        await elsewhere.gate("CONSUMER.CREATE.MEM_other.mallory--own", durable("mem.other.>"))
    mine = await scene.thief.gate(
        "CONSUMER.CREATE.MEM_main.mallory--own", durable("mem.main.*.*.docs.>")
    )
    assert mine is not None
    assert mine["config"]["filter_subject"] == "mem.main.shared.*.docs.public.>"

    for name in ("MEM_main.alice--work", "MEM_other.mallory--own", "MEM_main.*", "MEM_main.>"):
        assert refused(await scene.thief.gate(f"CONSUMER.INFO.{name}")), name
        assert refused(await scene.thief.gate(f"CONSUMER.DELETE.{name}")), name
    for name in ("alice--work", "alice--own", "mallory--other", "mallory--own--x", "mallory"):
        answer = await scene.thief.gate(
            f"CONSUMER.CREATE.MEM_main.{name}", durable("mem.main.*.*.docs.public.>")
        )
        assert refused(answer), name
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


async def test_what_is_too_large_for_an_answer_is_refused_and_not_swallowed(scene: Scene) -> None:
    large = own()
    stored = await scene.thief.ask(PREFIX + large, b"x" * 900_000, headers=named("mallory"))
    assert stored is not None
    wanted = {"seq": json.loads(stored.data)["seq"]}
    for verb in ("DIRECT.GET.MEM_main", "STREAM.MSG.GET.MEM_main"):
        answer = await scene.thief.gate(verb, wanted)
        assert answer is not None
        assert "do not fit" in answer["text"]


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
    hostile: list[tuple[str, Any]] = [
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
    ]
    for verb, more in hostile:
        assert refused(await thief.gate(verb, more)), (verb[:80], more if more is None else "…")
    # One that would have had the broker end the steward's connection would be seen by others.
    assert (await scene.alice.get(scene.public.pinned())).content == "for everybody"
    assert "Traceback" not in scene.broker.steward_log.read_text()
    assert scene.broker.log.read_text().count("Maximum Control Line") == 0
