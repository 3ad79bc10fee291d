"""What content may be, and that no bytes from the wire can do worse than raise one error."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from blackboard import Cost, Memory, Ref
from blackboard.codec import canonical, content_hash, encode_content, to_json
from blackboard.errors import InvalidError, TooLargeError
from blackboard.messages import decode, encode
from blackboard.records import Cause

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e15, 1e15)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
).filter(lambda value: "\\ud" not in json.dumps(value))


@given(JSON)
def test_content_reads_back_as_it_was_written(content: Any) -> None:
    body = encode(Memory(content=to_json(content)))

    assert decode(body).content == content


@given(JSON)
def test_canonical_json_is_the_same_however_the_keys_are_ordered(content: Any) -> None:
    shuffled = json.loads(json.dumps(content, sort_keys=True))

    assert canonical(content) == canonical(shuffled)
    assert canonical(json.loads(canonical(content))) == canonical(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_one_clear_error(body: bytes) -> None:
    try:
        payload = decode(body)
    except InvalidError:
        return
    assert decode(encode(payload)) == payload


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "content",
                "content_of",
                "blob",
                "tags",
                "sources",
                "cost",
                "priority",
                "hops",
                "happened",
                "kind",
                "new_field",
            ]
        ),
        JSON,
    )
)
def test_any_json_object_is_a_payload_or_one_clear_error(fields: dict[str, Any]) -> None:
    try:
        payload = decode(json.dumps(fields).encode())
    except InvalidError:
        return
    assert payload.__struct_fields__


def test_every_field_reads_back() -> None:
    memory = Memory(
        content={"a": [1, "ü", None]},
        text="t",
        kind="summary",
        session="s",
        user="u",
        tags={"team": "x"},
        priority=0.25,
        sources=(Ref("a", "t", "0" * 32, 3),),
        links=(Ref("*", "t", "k"),),
        cost=Cost("m", 10, 0.5, 2),
        happened=datetime(2026, 1, 2, tzinfo=UTC),
        hops=3,
    )

    payload = decode(encode(memory))

    for name in payload.__struct_fields__:
        assert getattr(payload, name) == getattr(memory, name), name


def test_the_payload_holds_nothing_that_the_broker_vouches_for() -> None:
    memory = Memory(content=1, agent="a", revision=5, topic="t", id="k", gone="retired", delivery=2)

    assert json.loads(encode(memory)) == {"content": 1}


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"content": 1, "from_the_future": {"a": 2}}').content == 1


@pytest.mark.parametrize(
    "content",
    [
        b"bytes",
        {"a": b"x"},
        math.nan,
        [math.inf],
        {1: "a"},
        {None: 1},
        object(),
        {"a": object()},
        1j,
    ],
)
def test_what_is_no_json_is_refused(content: object) -> None:
    with pytest.raises(InvalidError, match="no JSON"):
        to_json(content)


def test_what_json_cannot_hold_in_every_language_has_no_canonical_form() -> None:
    for value in (2**60, -(2**60)):
        with pytest.raises(InvalidError):
            canonical(value)
    with pytest.raises(InvalidError):
        encode_content("\ud800")
    with pytest.raises(InvalidError, match="64 bits"):
        to_json([2**63])


def test_content_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(InvalidError, match="contains itself"):
        to_json(loop)


def test_structs_dates_and_references_become_json() -> None:
    class Point(msgspec.Struct):
        x: int

    ref = Ref("a", "t", "0" * 32, 4)

    assert to_json({"p": Point(1), "r": ref, "t": (1, 2)}) == {
        "p": {"x": 1},
        "r": str(ref),
        "t": [1, 2],
    }


def test_fields_are_checked_before_anything_is_sent() -> None:
    wrong: list[dict[str, Any]] = [
        {"priority": 1.5},
        {"priority": -0.1},
        {"kind": ""},
        {"kind": 3},
        {"tags": {"a": 1}},
        {"session": 7},
        {"happened": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is the mistake
        {"happened": "2026-01-01"},
        {"priority": "high"},
        # What follows would be stored, and then no reader could read it.
        {"priority": True},
        {"cost": 5},
        {"cost": Cost("m", tokens="many")},  # pyright: ignore[reportArgumentType]
        {"hops": -1},
        {"links": ("nonsense",)},
        {"content_of": "nonsense"},
        {"blob": {"id": "x"}},
    ]
    for fields in wrong:
        with pytest.raises(InvalidError):
            encode(Memory(content=1, **fields))
    with pytest.raises(TooLargeError):
        encode(Memory(content=1, text="x" * 1_000_000))


def test_a_cause_reads_back_and_orders_by_run_then_revision() -> None:
    early = Cause(Ref("a", "t", "k1", 9), "agent", "sum", "1.0 beta", 1)
    late = Cause(Ref("a", "t", "k1", 5), "agent", "sum", "1", 2)

    assert Cause.parse(str(early)) == Cause(Ref("*", "t", "k1", 9), "agent", "sum", "1.0 beta", 1)
    assert early.age < late.age
    for text in ("", "x", "a/t/k@1 agent v1 run1", "a/t/k@1 a--b v1 runx"):
        with pytest.raises(InvalidError):
            Cause.parse(text)


def test_the_hash_of_content_is_that_of_its_canonical_json() -> None:
    assert content_hash({"b": 1, "a": [True, None]}) == content_hash({"a": [True, None], "b": 1})
    assert content_hash("x") == "ba2df4903a2c14e86dc3bcca58911b44ac1d2514b7227bf6eb08cfb978f55a1b"
