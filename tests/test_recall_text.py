import string
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from blackboard.messages import Blob, Memory
from blackboard.recall.text import (
    HISTORY,
    LEAN,
    MAX_CHARS,
    Texts,
    leaning,
    plain,
    question,
    texts_of,
)
from blackboard.subjects import Ref

MONDAY = datetime(2023, 5, 8, 13, tzinfo=UTC)
HOSTILE = st.text(st.characters(), max_size=200) | st.sampled_from(
    [
        "\ud800",
        "\0",
        "\u202e",
        "e\u0301" * 50,
        "😀👩‍👩‍👧",
        "ﷺ" * 40,
        "{'a': [1, 2",
        "def f(x): return x",
        "SELECT 1; --",
    ]
)


def memory(content: Any = "I went to a support group.", **fields: Any) -> Memory:
    usual: dict[str, Any] = {"agent": "caroline", "topic": "talk", "happened": MONDAY}
    return Memory(content=content, **usual | fields)


def made(it: Memory, *previous: Memory) -> Texts:
    texts = texts_of(it, previous)
    assert texts is not None
    return texts


def weights(texts: Texts) -> dict[int, float]:
    return dict(zip(texts.words.indices, texts.words.values, strict=True))


def word(text: str) -> int:
    (index,) = question(text).words.indices
    return index


def finds(asked: str, it: Memory, *previous: Memory) -> bool:
    return bool(set(question(asked).words.indices) & weights(made(it, *previous)).keys())


# Stability: what was indexed on one machine is searched on another.


def test_ids_of_words_never_change():
    asked = question("When did Caroline join the support group?")

    assert asked.words.indices == (276369190, 927368467, 1021187622, 1100855371)
    assert asked.words.values == (1.0, 1.0, 1.0, 1.0)
    assert question("テキスト").words.indices == (2130592633,)


def test_weights_never_change_within_a_recipe():
    texts = made(memory("A support group, a great group."), memory("What's new, Caroline?"))

    assert texts.bare == "A support group, a great group."
    assert texts.author == "caroline"
    assert {name: round(weights(texts)[word(name)], 4) for name in PINNED} == PINNED


# By hand: caroline counts 1 + 0.7 of a length of 10.4 words, so 1.7 * 1.9 / (1.7 + 0.6336).
PINNED = {"caroline": 1.3841, "group": 1.4429, "support": 1.1631, "new": 0.9973, "may": 1.1631}


# What a memory says.


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  as it is\n", "as it is"),
        ({"city": "Oslo", "since": 2019, "left": None}, "city: Oslo\nsince: 2019"),
        ({"who": {"name": "Ada", "likes": ["tea", "go"]}}, "name: Ada\nlikes: tea\nlikes: go"),
        (["a", [["b"]], {"c": True}], "a\nb\nc: True"),
        (42, "42"),
        (0, "0"),
        ({}, "support desk note billing"),
        ("", "support desk note billing"),
        (None, "support desk note billing"),
        ("\t \n", "support desk note billing"),
    ],
)
def test_every_kind_of_content_has_a_text(content: Any, text: str):
    it = memory(content, topic="support.desk", tags={"team": "billing"})

    assert plain(it) == text
    assert made(it).bare == text


def test_text_says_what_to_index_of_content_that_is_no_string():
    it = memory({"rows": [[1, 2]]}, text="Revenue by month")

    assert plain(it) == "Revenue by month"
    assert plain(memory("the content itself", text="other")) == "the content itself"
    assert plain(memory("", text="of an empty one")) == "of an empty one"


def test_a_blob_that_is_not_loaded_is_indexed_by_its_text_or_its_place():
    blob = Blob("0" * 32, 10**9, 4000, "0" * 64, "caroline")

    assert plain(memory(None, blob=blob, text="The scan of the contract")) == (
        "The scan of the contract"
    )
    assert plain(memory(None, blob=blob, topic="scans.contract-7")) == "scans contract 7 note"


def test_a_light_memory_says_what_it_shows_and_who_shows_it():
    result = Ref.parse(f"*/once.summary/{'ab' * 32}@7")
    shown = memory("Refunds take five days.", agent="returns", content_of=result, kind="reuse")
    own = memory("Refunds take five days.", agent="billing", kind="result")

    assert plain(shown) == plain(own)
    assert (made(shown).bare, made(shown).author) == ("Refunds take five days.", "returns")


@pytest.mark.parametrize("gone", ["retired", "forgotten", "moved"])
def test_a_tombstone_is_not_indexed_and_lends_nothing(gone: str):
    tombstone = memory(None, gone=gone, topic="secret")

    assert texts_of(tombstone) is None
    assert made(memory(), tombstone) == made(memory())


# Who, when, and what was before.


def test_a_memory_is_found_by_agent_day_topic_and_data_subject():
    it = memory("Done.", topic="cases.refund", user="customer-42")

    for asked in ("caroline", "on 8 May 2023", "refunds", "customer 42"):
        assert finds(asked, it), asked
    assert not finds("returns", it)


def test_the_day_is_that_of_the_event_where_it_happened():
    there = datetime(2023, 5, 9, 3, tzinfo=timezone(timedelta(hours=9)))

    happened = memory("x", happened=there, stored=MONDAY + timedelta(days=9))
    assert finds("9 May", happened)
    assert not finds("17", happened)
    assert finds("8 May", memory("x", happened=None, stored=there))
    assert not finds("May 2023", memory("x", happened=None))


def test_a_vector_leans_to_its_author_and_keeps_its_length():
    text, name = np.eye(4, dtype=np.float32)[:2]

    leant = leaning(text, name)

    assert leant.dtype == np.float32
    assert np.linalg.norm(leant) == pytest.approx(1.0)
    assert leant @ name == pytest.approx(LEAN * float(leant @ text))
    assert leaning(text, None) is text
    assert leaning(text, -text) == pytest.approx(text)


def test_a_name_is_embedded_as_words():
    assert made(memory(agent="support-desk_2")).author == "support desk 2"
    assert made(memory(agent="")).author == ""


def test_words_of_the_memories_before_count_for_less_the_farther_they_are():
    near, far, farther = (memory(name, agent=name) for name in ("zebra", "quartz", "invoice"))

    found = weights(made(memory("Yes, in June.", agent="june"), near, far, farther))

    assert found[word("june")] > found[word("zebra")] > found[word("quartz")] > 0
    assert word("invoice") not in found
    assert HISTORY == 2


def test_a_document_before_does_not_drown_what_follows_it():
    document = memory("contract " * 5000)

    drowned = weights(made(memory("Signed."), document))[word("signed")]

    assert drowned > 0.2 * weights(made(memory("Signed.")))[word("signed")]


# Words.


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("running", "She runs every day"),
        ("parse url", "def parse_url(text): ..."),
        ("CAFE", "the café"),
        ("2023", "released 2023-05-07"),
        ("E-MAIL", "by e-mail"),
        ("テキスト", "日本語のテキスト"),
        ("北京", "你好世界,我们去北京"),
        ("Москва", "в Москва"),
    ],
)
def test_a_word_is_found_in_its_other_forms(asked: str, text: str):
    assert finds(asked, memory(text, agent="x", happened=None, topic="t"))


def test_words_that_say_nothing_are_no_words():
    assert question("What is the a of?").words.indices == ()
    assert question("").words.indices == ()
    assert question("").bare


def test_a_word_weighs_more_the_more_often_it_comes_and_less_in_a_longer_text():
    once = weights(made(memory("zebra and quartz")))[word("zebra")]

    assert weights(made(memory("zebra zebra and quartz")))[word("zebra")] > once
    longer = "zebra and quartz " + " ".join(string.ascii_letters)
    assert weights(made(memory(longer)))[word("zebra")] < once


@settings(max_examples=300, deadline=None)
@given(HOSTILE, st.lists(HOSTILE, max_size=3))
def test_whatever_the_text_is_its_vectors_are_well_formed(text: str, before: list[str]):
    texts = made(memory(text), *[memory(each) for each in before])
    asked = question(text)

    for each in (texts, asked):
        each.bare.encode()
        assert each.bare
        assert list(each.words.indices) == sorted(set(each.words.indices))
        assert all(0 <= index < 2**32 for index in each.words.indices)
        assert all(0 < value < 1.9 + 1e-9 for value in each.words.values)
    assert set(asked.words.indices) <= set(texts.words.indices)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | HOSTILE,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE, inner, max_size=4),
    )
)
def test_any_json_has_a_text(content: Any):
    assert 0 < len(plain(memory(content))) <= MAX_CHARS


HUGE: dict[str, Any] = {
    "text": "word " * 4_000_000,
    "words": ["word"] * 1_000_000,
    "nothing": [[]] * 1_000_000,
    "name": {"k" * 1_000_000: "v" * 10_000_000},
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE.keys())
def test_huge_content_takes_no_more_time_than_its_beginning(content: Any):
    start = time.process_time()

    texts = made(memory(content))

    assert len(texts.bare) <= MAX_CHARS
    assert time.process_time() - start < 2.0


def test_content_nested_beyond_all_bounds_is_walked():
    content: Any = "at the bottom"
    for _ in range(10_000):
        content = [content]

    assert plain(memory(content)) == "at the bottom"
