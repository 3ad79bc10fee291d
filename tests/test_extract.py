"""What the offline consolidator keeps of many memories."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings, strategies

from blackboard.consolidate.extract import Said, condense, learnt
from blackboard.consolidate.lexicon import MAX_STEMS, Lexicon
from blackboard.tokens import tokens

CHATTER = [
    "That sounds really good, I am glad to hear about it.",
    "Good to know, thanks for telling me about that.",
    "I think that is what we should do about it.",
]
FACT = "The pump in Rotterdam failed at 61 bar because of a worn Viton seal."


def said(*texts: str, who: str = "ann", day: str = "8 May 2023") -> list[Said]:
    return [Said(text, who, day) for text in texts]


def board(*texts: str) -> Lexicon:
    lexicon = Lexicon()
    for text in texts:
        lexicon.learn(learnt(text))
    return lexicon


def test_what_fits_comes_back_whole() -> None:
    text = condense(said("One thing. Another thing.", "A third."), 100).text

    assert text == "One thing. Another thing. A third."


def test_what_is_rare_on_the_board_is_kept() -> None:
    texts = [*CHATTER, FACT, *CHATTER]

    found = condense(said(*texts), 30, board(*CHATTER * 10, FACT))

    assert FACT in found.text
    assert not any(chatter in found.text for chatter in CHATTER)


def test_what_everybody_on_the_board_says_is_news_to_nobody() -> None:
    known = "The harbour of Antwerp handles chemicals, containers and fruit."
    texts = [known, FACT]

    new = condense(said(*texts), 24, board(*[known] * 40, FACT)).text
    other = condense(said(*texts), 24, board(known, *[FACT] * 40)).text

    assert FACT in new
    assert known in other


def test_the_same_is_not_kept_twice() -> None:
    again = FACT.replace("because of", "due to")
    other = "Marit Oskarsen ordered twelve spare gaskets from Bergen on Thursday."

    found = condense(said(FACT, again, other), 45)

    assert found.text.count("Viton") == 1
    assert other in found.text


def test_names_and_numbers_of_what_is_left_out_are_listed() -> None:
    plain = [f"We talked about the schedule and {what}." for what in ("plans", "budgets", "lunch")]
    long = "Later that day we also saw the people from Kristiansund and waited there for an hour."
    texts = [FACT, *plain * 4, long]

    found = condense(said(*texts), 45)

    last = found.text.splitlines()[-1]
    assert last.startswith("Also: ")
    assert "Kristiansund" in last


def test_who_said_it_and_when_is_kept_where_it_differs() -> None:
    both = [
        Said("Ships left at noon.", "ann", "8 May 2023"),
        Said("Trucks came late.", "bob", "9 May 2023"),
        Said("Cranes were idle.", "ann", "9 May 2023"),
        Said("Tugs went home.", "bob", "9 May 2023"),
    ]

    text = condense(both, 200).text

    assert text == (
        "8 May 2023\nann: Ships left at noon.\n"
        "9 May 2023\nbob: Trucks came late. Tugs went home.\nann: Cranes were idle."
    )


def test_code_stands_on_lines_of_its_own() -> None:
    text = condense(said("Run this.\n\n```\nx = 1\ny = 2\n```\n\nThen look."), 200).text

    assert text == "Run this.\nx = 1\ny = 2\nThen look."


def test_nothing_of_nothing() -> None:
    assert condense([], 10).text == ""
    assert condense(said("...", "!!!"), 10).text == ""


def test_a_budget_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="budget=0"):
        condense(said("x"), 0)


texts = strategies.lists(strategies.text(max_size=400), max_size=8)


@settings(max_examples=150, deadline=None)
@given(texts, strategies.integers(1, 120), strategies.lists(strategies.sampled_from("abc")))
def test_any_text_is_condensed_to_its_budget(
    texts: list[str], budget: int, names: list[str]
) -> None:
    memories = [
        Said(text, (names or ["a"])[place % max(1, len(names))], f"{place // 3} May")
        for place, text in enumerate(texts)
    ]

    found = condense(memories, budget)

    assert found.tokens == tokens(found.text) <= budget
    assert found.text == condense(memories, budget).text


def test_other_processes_keep_the_same() -> None:
    words = ["harbour", "pump", "Viton", "Rotterdam", "seal", "gasket", "crane", "tide", "61"]
    chance = random.Random(5)
    memories = [" ".join(chance.choices(words, k=12)) + "." for _ in range(40)]
    program = (
        "import sys; from blackboard.consolidate.extract import Said, condense\n"
        "print(condense([Said(t, 'ann', '') for t in sys.argv[1:]], 90).text)"
    )

    kept = {
        subprocess.run(
            [sys.executable, "-c", program, *memories],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(kept) == 1
    assert tokens(kept.pop().strip()) <= 90


def test_a_lexicon_does_not_grow_for_ever() -> None:
    lexicon = Lexicon()
    lexicon.learn([frozenset({"usual"})] * 50)
    for start in range(0, 2 * MAX_STEMS, 10_000):
        lexicon.learn([frozenset(f"w{number}" for number in range(start, start + 10_000))])

    assert len(lexicon) <= MAX_STEMS
    assert lexicon.weight("usual") < lexicon.weight("unheard-of")
