"""No bytes and no headers that a broker can carry do worse to a decoder than one clear error."""

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import example, given, settings, strategies as st

from blackboard import Cost, Memory, Ref
from blackboard.codec import decode_record
from blackboard.envelope import is_expired, to_memory
from blackboard.errors import InvalidError
from blackboard.jetstream import Message
from blackboard.messages import Blob, decode, encode
from blackboard.records import (
    AuditBatch,
    Card,
    Cause,
    DeadLetter,
    GroupRecord,
    HandlerRecord,
    Lease,
    Retry,
    RunRecord,
    SpanBatch,
)

REF = Ref("alice", "t", "0" * 32, 7)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = encode(
    Memory(
        content={"a": [1, 2.5, "ü", None, True]},
        text="t",
        kind="summary",
        session="s",
        user="u",
        tags={"team": "x"},
        priority=0.25,
        sources=(REF,),
        links=(Ref("*", "t", "k"),),
        cost=Cost("m", 10, 0.5, 2),
        happened=NOW,
        hops=3,
    )
)
LARGE = encode(Memory(blob=Blob("0" * 32, 9, 1, "0" * 64, "alice")))
SHOWN = encode(Memory(content_of=Ref("*", "once.sum", "k", 3)))
RECORDS: list[msgspec.Struct] = [
    Lease("h", NOW, "failed", "x"),
    HandlerRecord("a/t/k@1 a--b v1 run1", (REF,)),
    GroupRecord(run=1, parts=(REF,), last=REF, merged="m", refs=(REF,)),
    RunRecord(1, "launch"),
    Retry(REF),
]
KINDS: list[type[msgspec.Struct]] = [
    *(type(record) for record in RECORDS),
    DeadLetter,
    Card,
    AuditBatch,
    SpanBatch,
]
SUBJECT = st.one_of(
    st.text(max_size=40),
    st.just("mem.main.shared.alice.t." + "0" * 32),
    st.just("mem.main.shared.alice.t.k"),
)
HEADER = st.one_of(
    st.text(max_size=30),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    st.sampled_from(["alice", "retired", "forgotten", "moved", "%", "%ff%00", "9" * 40]),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Bb-Agent", "Bb-Gone", "Bb-Expires", "Bb-Reason", "Bb-Cause", "Bb-Origin", "traceparent"]
    ),
    HEADER,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """An honest body with some of its bytes lost, doubled or changed."""
    body = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 12)))
        body[start:end] = draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(body[start:end] * 2)))
        )
    return bytes(body)


BODY = st.one_of(
    st.binary(max_size=100), *(damaged(whole) for whole in (FULL, LARGE, SHOWN)), st.just(FULL)
)


@settings(max_examples=1_000)
@given(SUBJECT, HEADERS, BODY)
@example("mem.main.shared.alice.t.k", {"Bb-Agent": "alice"}, b"[" * 100_000)
@example("mem.main.shared.alice.t.k", {"Bb-Agent": "alice"}, b'{"content":' + b"[" * 5_000)
@example("mem.main.shared.alice.t.k", {"Bb-Agent": "alice"}, b'{"content": 1e999}')
def test_any_message_is_a_memory_or_one_clear_error(
    subject: str, headers: dict[str, str], body: bytes
) -> None:
    message = Message(subject, {"Bb-Agent": "alice", **headers}, body, 1, NOW)
    try:
        memory = to_memory(message)
    except InvalidError:
        return
    assert memory.agent == "alice"
    assert memory.ref.unpinned == memory.pinned.unpinned
    assert is_expired(memory) in (True, False)


@settings(max_examples=1_000)
@given(BODY)
def test_what_a_decoder_takes_can_be_written_again(body: bytes) -> None:
    try:
        payload = decode(body)
    except InvalidError:
        return
    with contextlib.suppress(InvalidError):  # it may be empty where a writer must say something
        assert decode(encode(payload)) == payload


@settings(max_examples=1_000)
@given(
    st.sampled_from(KINDS),
    st.one_of(
        st.binary(max_size=100), *(damaged(msgspec.json.encode(r, enc_hook=str)) for r in RECORDS)
    ),
)
def test_any_record_is_read_or_one_clear_error(kind: type[Any], body: bytes) -> None:
    try:
        record = decode_record(body, kind)
    except InvalidError:
        return
    assert isinstance(record, kind)


@given(st.one_of(st.text(max_size=60), st.from_regex(r"a/t/k@\d+ [a-z]+--[a-z]+ v.* run\d+")))
def test_any_text_is_a_cause_or_one_clear_error(text: str) -> None:
    try:
        cause = Cause.parse(text)
    except InvalidError:
        return
    assert Cause.parse(str(cause)) == cause
