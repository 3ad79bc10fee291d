"""Many memories into one text of a given length, by picking sentences: the offline consolidator.

What is kept: the sentences that say most about what the board hardly holds otherwise, each word
counting less once it was kept (so the same is not said twice), first sentences a little before
later ones; and, in the last fifth, what was left out as bare key words, names and numbers first,
so that a search still ends here and who needs more can follow the sources. Who said it, and when
it was on different days, stands before it, because a summary has one author and one time.

Chosen by measurement (`perf/bench_consolidate.py`, figures in perf/README.md). All sums are
integers, so every machine picks the same from the same memories and the same lexicon.
"""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from blackboard.consolidate.lexicon import FUNCTION_WORDS, Lexicon, stems_of
from blackboard.consolidate.sentences import Unit, units_of, words_of
from blackboard.tokens import tokens

KEYWORDS = 5
"""One token in so many goes to key words."""
LEAST_KEYWORDS = 8
FEWEST_WORDS = 3
"""Shorter sentences ("Yes.") say nothing by themselves."""
EXTRA = 3
"""Added to a sentence's length: else the shortest would always be the densest."""
AGAIN = 5
"""A word that was kept once counts a fifth the second time."""
LONGEST_PHRASE = 3
ALSO = "Also: "
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_GAP = re.compile(r"[^\s-]")


class Said(NamedTuple):
    """A memory as the extractor reads it."""

    text: str
    who: str
    day: str


class Condensed(NamedTuple):
    """What is left of some memories.

    Attributes:
        text: Lines: days, who, what; the last may be key words.
        read: Tokens of what was read.
        tokens: Tokens of `text`.
    """

    text: str
    read: int
    tokens: int


class Piece(NamedTuple):
    """A sentence, or a block of code."""

    place: int
    """Of the memory it comes from."""
    number: int
    """In that memory."""
    unit: Unit
    stems: frozenset[str]


def condense(said: Sequence[Said], budget: int, lexicon: Lexicon | None = None) -> Condensed:
    """Condense memories.

    Args:
        said: In order.
        budget: Tokens the text may take, names and days included. What is shorter comes back whole.
        lexicon: Knows what the board holds, these memories included; None knows these alone.

    Raises:
        ValueError: The budget is less than one token.
    """
    if budget < 1:
        raise ValueError(f"budget={budget} leaves no token; give at least 1")
    pieces = pieces_of(said)
    if lexicon is None:
        lexicon = Lexicon()
        lexicon.learn([piece.stems for piece in pieces])
    read = sum(tokens(one.text) for one in said)
    layout = Layout(said)
    whole = layout.text(pieces)
    if tokens(whole) <= budget:
        return Condensed(whole, read, tokens(whole))
    weights = {stem: lexicon.weight(stem) for piece in pieces for stem in piece.stems}
    keywords = budget // KEYWORDS if budget // KEYWORDS >= LEAST_KEYWORDS else 0
    kept = _pick(pieces, weights, budget - keywords, layout)
    spent = tokens(layout.text(kept)) + tokens(ALSO) + 1
    listed = _keywords(pieces, kept, weights, budget - spent) if keywords else []
    text = layout.text(kept, listed)
    return Condensed(text, read, tokens(text))


def learnt(text: str) -> list[frozenset[str]]:
    """A text as a lexicon takes it in."""
    return [stems_of(unit.words) for unit in units_of(text)]


def pieces_of(said: Sequence[Said]) -> list[Piece]:
    """What may be kept or left out, in order."""
    return [
        Piece(place, number, unit, stems_of(unit.words))
        for place, one in enumerate(said)
        for number, unit in enumerate(units_of(one.text))
    ]


class Layout:
    """How what was kept is written: by day if there are several, and by who said it that day."""

    def __init__(self, said: Sequence[Said]) -> None:
        self._said = said
        self._one_day = len({one.day for one in said}) == 1
        self._alone = len({one.who for one in said}) == 1

    def heading(self, place: int) -> tuple[str, str]:
        """The day and the name under which a memory's sentences stand; empty where all agree."""
        one = self._said[place]
        return "" if self._one_day else one.day, "" if self._alone else one.who

    def cost(self, heading: tuple[str, str]) -> int:
        """Tokens of opening a paragraph under a heading, at most."""
        day, who = heading
        return (tokens(day) + 1 if day else 0) + (tokens(f"{who}:") if who else 0) + 1

    def text(self, pieces: Iterable[Piece], keywords: Sequence[str] = ()) -> str:
        """The text of what was kept."""
        paragraphs: dict[tuple[str, str], list[Piece]] = {}
        for piece in sorted(pieces, key=lambda piece: (piece.place, piece.number)):
            paragraphs.setdefault(self.heading(piece.place), []).append(piece)
        lines: list[str] = []
        # A day's paragraphs stand together, whoever spoke on it first.
        days = list(dict.fromkeys(day for day, _ in paragraphs))
        for (day, who), kept in sorted(paragraphs.items(), key=lambda one: days.index(one[0][0])):
            if day and day not in lines:
                lines.append(day)
            lines.append(f"{who}: {_joined(kept)}" if who else _joined(kept))
        if keywords:
            lines.append(ALSO + ", ".join(keywords))
        return "\n".join(lines)


def _joined(pieces: Sequence[Piece]) -> str:
    """Sentences in a row; code on lines of its own."""
    text = ""
    for piece in pieces:
        if text and not text.endswith("\n"):
            text += "\n" if piece.unit.code else " "
        text += piece.unit.text + ("\n" if piece.unit.code else "")
    return text.rstrip("\n")


def _pick(
    pieces: Sequence[Piece], weights: dict[str, int], budget: int, layout: Layout
) -> list[Piece]:
    """Take the sentence that says most for its length, again and again, while one fits."""
    covered: Counter[str] = Counter()

    def worth(place: int) -> int:
        stems = pieces[place].stems
        mass = sum(1000 * weights[stem] // AGAIN ** covered[stem] for stem in stems)
        # A first sentence counts 1.3, a second 1.15, and so on.
        mass = mass * (100 + 30 // (pieces[place].number + 1))
        return mass // (tokens(pieces[place].unit.text) + EXTRA)

    heap = [
        (-worth(place), place)
        for place, piece in enumerate(pieces)
        if len(piece.unit.words) >= FEWEST_WORDS
    ]
    heapq.heapify(heap)
    kept: list[Piece] = []
    opened: set[tuple[str, str]] = set()
    while heap and budget > 0:
        value, place = heapq.heappop(heap)
        piece = pieces[place]
        fresh = (-worth(place), place)
        # Worth only falls as words are covered, so a fresh figure that still leads is the best.
        if fresh[0] > value and heap and fresh > heap[0]:
            heapq.heappush(heap, fresh)
            continue
        heading = layout.heading(piece.place)
        cost = tokens(piece.unit.text) + (0 if heading in opened else layout.cost(heading))
        if cost > budget:
            continue
        kept.append(piece)
        opened.add(heading)
        budget -= cost
        covered.update(piece.stems)
    return kept


def _keywords(
    pieces: Sequence[Piece], kept: Sequence[Piece], weights: dict[str, int], budget: int
) -> list[str]:
    """The phrases that say most of what was left out, in the order of their worth."""
    covered = {stem for piece in kept for stem in piece.stems}
    taken = set(kept)
    found: dict[str, tuple[str, frozenset[str], int, bool]] = {}
    for piece in pieces:
        if piece not in taken:
            for phrase, name in _phrases(piece.unit.text):
                found.setdefault(
                    phrase.lower(), (phrase, stems_of(words_of(phrase)), tokens(phrase) + 1, name)
                )
    phrases = list(found.values())

    def worth(place: int) -> int:
        _, stems, length, name = phrases[place]
        mass = sum(weights.get(stem, 0) for stem in stems - covered)
        return mass * (3000 if name else 2000) // length

    heap = [(-worth(place), place) for place in range(len(phrases))]
    heapq.heapify(heap)
    listed: list[str] = []
    while heap and budget > 0:
        _, place = heapq.heappop(heap)
        fresh = (-worth(place), place)
        if heap and fresh > heap[0]:
            heapq.heappush(heap, fresh)
            continue
        phrase, stems, length, _ = phrases[place]
        if fresh[0] == 0 or length > budget:
            continue
        listed.append(phrase)
        budget -= length
        covered |= stems
    return listed


def _phrases(text: str) -> Iterator[tuple[str, bool]]:
    """Runs of up to three words that say something, each with whether it names somebody."""
    run: list[str] = []
    name = False
    last = 0
    for match in _WORD.finditer(text):
        word = match.group()
        if run and (_GAP.search(text, last, match.start()) or len(run) == LONGEST_PHRASE):
            yield " ".join(run), name
            run, name = [], False
        if _says_something(word):
            run.append(word)
            # A capital at the beginning of a sentence says nothing.
            name = name or word[0].isdigit() or (word[0].isupper() and match.start() > 0)
        elif run:
            yield " ".join(run), name
            run, name = [], False
        last = match.end()
    if run:
        yield " ".join(run), name


def _says_something(word: str) -> bool:
    short = len(word) < FEWEST_WORDS and word.isascii() and not word[0].isdigit()
    return not short and "'" not in word and "’" not in word and word.lower() not in FUNCTION_WORDS
