"""References, patterns and names: what they accept, and that the broker reads them the same way."""

import random
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import given, strategies as st

from blackboard import Blackboard
from blackboard.errors import InvalidError
from blackboard.jetstream import Outgoing
from blackboard.subjects import (
    Address,
    Pattern,
    Ref,
    check_key,
    check_name,
    check_topic,
    subject_matches,
)
from tests.servers import Server

TOKEN = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
TOPIC = st.lists(TOKEN, min_size=1, max_size=5).map(".".join)
NAME = st.from_regex(r"[a-z0-9_]{1,8}(-[a-z0-9_]{1,8}){0,2}", fullmatch=True)
ID = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
PIN = st.one_of(st.none(), st.integers(1, 2**40))


@given(NAME, TOPIC, ID, PIN)
def test_a_reference_reads_back_as_it_was_written(
    agent: str, topic: str, identifier: str, pin: int | None
) -> None:
    ref = Ref(agent, topic, identifier, pin)

    assert Ref.parse(str(ref)) == ref


@given(NAME, TOPIC, st.from_regex(r"[A-Za-z0-9_-]{1,31}", fullmatch=True))
def test_a_key_has_no_owner(agent: str, topic: str, key: str) -> None:
    assert Ref.parse(f"{agent}/{topic}/{key}") == Ref("*", topic, key)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_clear_error(text: str) -> None:
    try:
        ref = Ref.parse(text)
    except InvalidError:
        return
    assert Ref.parse(str(ref)) == ref


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_a_clear_error(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except InvalidError:
        return
    assert not set(pattern.subject("b")) & set(" \r\n\t\0")


@given(TOKEN, TOKEN, NAME, TOPIC, ID)
def test_an_address_reads_back_from_its_subject(
    board: str, access: str, agent: str, topic: str, identifier: str
) -> None:
    address = Address(board, access, agent, topic, identifier)

    assert Address.parse(str(address)) == address
    assert address.ref == Ref(agent, topic, identifier)


def test_references_that_differ_only_in_what_was_written_are_equal() -> None:
    written = Ref("a", "t", "k", None, 7)

    assert written == Ref("a", "t", "k")
    assert hash(written) == hash(Ref("a", "t", "k"))
    assert str(written.pinned()) == "a/t/k@7"


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/b", "a/b/c/d", "A B/t/k", "a/t/", "a/t/k@", "a/t/k@0", "a/t/k@x", "a/t..u/k"],
)
def test_what_is_no_reference_says_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidError):
        Ref.parse(text)


def test_names_topics_and_keys_are_checked() -> None:
    for name in ("Upper", "a--b", "-a", "a-", "", "ä", "a" * 65, "a\n"):
        with pytest.raises(InvalidError):
            check_name("agent", name)
    for topic in ("", "a..b", ".a", "a.", "a b", "a*", ">", "a" * 65, "ü", "a\n", "a." * 300 + "a"):
        with pytest.raises(InvalidError):
            check_topic(topic)
    for key in ("", "a.b", "a/b", "0" * 32, "a" * 129, "a\n"):
        with pytest.raises(InvalidError):
            check_key(key)


@pytest.mark.parametrize("value", [42, None, b"a", ["a"]])
def test_names_that_are_no_text_are_refused_by_their_type(value: Any) -> None:
    checks: list[Callable[[Any], object]] = [
        check_topic,
        check_key,
        Pattern.parse,
        partial(check_name, "agent"),
    ]
    for check in checks:
        with pytest.raises(InvalidError, match=f"must be a str, not {type(value).__name__}"):
            check(value)


def test_a_last_arrow_means_zero_or_more_and_a_star_means_one() -> None:
    below, one = Pattern.parse("docs.>"), Pattern.parse("docs.*")

    assert below.matches("docs")
    assert below.matches("docs.a.b")
    assert not below.matches("doc")
    assert one.matches("docs.a")
    assert not one.matches("docs")
    assert not one.matches("docs.a.b")


def _random_topic(rng: random.Random) -> str:
    return ".".join(rng.choice("abc") for _ in range(rng.randint(1, 4)))


def _random_pattern(rng: random.Random) -> str:
    tokens = [rng.choice(["a", "b", "c", "*"]) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.5:
        tokens[-1] = ">"
    return ".".join(tokens)


def test_pattern_and_filter_agree_on_ten_thousand_pairs() -> None:
    rng = random.Random(20)
    for _ in range(10_000):
        pattern, topic = Pattern.parse(_random_pattern(rng)), _random_topic(rng)
        subject = str(Address("b", "shared", "x", topic, "0" * 32))

        assert pattern.matches(topic) == subject_matches(pattern.subject("b"), subject), (
            pattern,
            topic,
        )


async def test_the_broker_selects_what_a_pattern_matches_on_ten_thousand_pairs(
    server: Server,
) -> None:
    rng = random.Random(21)
    topics = [".".join(tokens) for n in (1, 2, 3, 4) for tokens in product("abc", repeat=n)]
    patterns: set[str] = set()
    while len(topics) * len(patterns) < 10_000:
        patterns.add(_random_pattern(rng))
    async with Blackboard.open(server.url, agent="x") as board:
        await board.log.connection.publish_batch(
            [
                Outgoing(str(Address(board.name, "shared", "x", topic, "k")), b"{}")
                for topic in topics
            ]
        )
        for text in sorted(patterns):
            pattern = Pattern.parse(text)
            info = await board.log.connection.stream(
                board.log.stream, subjects=pattern.subject(board.name)
            )
            assert info is not None
            found = {Address.parse(subject).topic for subject in info.state.subjects}

            assert found == {topic for topic in topics if pattern.matches(topic)}, text
