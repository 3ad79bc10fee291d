"""How rare words are on a board: what the extractor holds a word against.

A word says the more, the fewer pieces of what the board already holds have it. Counted by stems, so
that "paint" and "painting" are one; function words, which every piece has, are left out. Both are
for English; in other languages rarity alone does the work, a little worse.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an the and or but if of to in on at for with by from is are was were be been am do",
        "does did have has had i you he she it we they my your his her its our their me him",
        "them this that these those as so what when where who how which there here will would",
        "can could should just about up out im ve re ll d s t m don didn really very too also",
        "much like get got go going gon na gotta wan being yeah yes oh hey hi okay ok thanks",
        "thank wow haha great good nice cool awesome sure definitely glad hope let sounds keep",
        "always know think see look make made things thing one lot some any all more even well",
        "than then while because into over after before still back way want need take",
    )
    for word in line.split()
)
"""What is said in every other sentence of English prose and talk, negations left out."""
ENDINGS = ("ing", "ies", "ed", "es", "ly", "s")
SHORTEST_STEM = 3
MAX_STEMS = 400_000
"""About 50 MB. Beyond it, stems that occurred once are forgotten, which makes them rarer still."""
SCALE = 16
"""Steps of weight for each halving of how many pieces have a word."""


def stem(word: str) -> str:
    """A word in lower case without its ending; crude, and the same on every machine."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word[: -len(ending)]
    return word


def stems_of(words: Iterable[str]) -> frozenset[str]:
    """The stems of the words that say something."""
    return frozenset(stem(word) for word in words if word not in FUNCTION_WORDS)


class Lexicon:
    """In how many pieces of text each stem occurs.

    Attributes:
        pieces: Pieces learnt.
    """

    def __init__(self) -> None:
        self.pieces = 0
        self._holders: Counter[str] = Counter()

    def __len__(self) -> int:
        """Stems known."""
        return len(self._holders)

    def learn(self, pieces: Sequence[frozenset[str]]) -> None:
        """Take in pieces of text, each as its stems."""
        for stems in pieces:
            self._holders.update(stems)
        self.pieces += len(pieces)
        if len(self._holders) > MAX_STEMS:
            self._shorten()

    def weight(self, word: str) -> int:
        """What a stem says, from 0: `SCALE` times the binary logarithm of its rarity.

        In integers, so that it is the same on every machine.
        """
        rarity = (self.pieces + 1) ** SCALE // (self._holders[word] + 1) ** SCALE
        return max(0, rarity.bit_length() - 1)

    def _shorten(self) -> None:
        least = 1
        while len(self._holders) > MAX_STEMS // 2:
            over = [word for word, count in self._holders.items() if count <= least]
            for word in islice(over, len(self._holders) - MAX_STEMS // 2):
                del self._holders[word]
            least *= 2
