"""From a memory to what is indexed: a text to embed, and its words with weights.

A memory alone says little ("Yes, in June"). What makes it findable is who said it, when, and what
was said before. All of that goes into its words; into its vector goes who said it. What was
measured, and what did not help, stands in perf/README.md.
"""

import re
from collections.abc import Sequence
from itertools import repeat

import msgspec
import numpy as np
from qdrant_edge import Bm25, Bm25Config, TokenizerType

from blackboard.messages import Memory
from blackboard.plaintext import MAX_CHARS, clean, day_of, plain
from blackboard.recall.index import Sparse
from blackboard.recall.weights import FloatArray

RECIPE = 2
"""Counted up when the same memory would give another text or other words: an index of another
recipe is built again."""
HISTORY = 2
"""Memories before this one, of the same company (`index.Company`), whose words it borrows."""
MAX_BORROWED_CHARS = 1_000
"""Of each memory before, so that a document does not drown the remark that follows it."""

LEAN = 0.7
"""How much of the vector of its author's name is added to a memory's."""

_BORROWED = (0.7, 0.35)
"""What a word of the memory before counts for, and of the one before that."""
_SATURATION, _LENGTH = 0.9, 0.4
"""BM25's k and b, as Anserini and Pyserini have them."""
_USUAL_LENGTH = 40.0
"""Words of a memory with its surroundings; a constant, so that a memory's words depend on it
alone. Anything from 20 to 100 gives the same recall to 0.5 points."""


def _counter(tokenizer: TokenizerType) -> Bm25:
    # With these constants a word that occurs n times weighs 2n/(n+1), so that n can be had back.
    return Bm25(
        Bm25Config(k=1.0, b=0.0, language="english", ascii_folding=True, tokenizer=tokenizer)
    )


_SPACED = _counter(TokenizerType.Word)
_UNSPACED = _counter(TokenizerType.Multilingual)
"""Finds the words of scripts that put no space between them. Of the others it finds the same, but
takes 2023-05-07 and v1.2.3 for one word each. The first such text loads dictionaries, which takes
about half a second for each language."""
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


class Texts(msgspec.Struct, frozen=True):
    """What of a memory, or of a question, is compared.

    Attributes:
        bare: To be embedded; never empty.
        author: The name of who wrote it, to be embedded apart (see `leaning`); may be empty.
        words: For the sparse vector, which the engine multiplies by the rarity of each word (IDF).
    """

    bare: str
    author: str
    words: Sparse


def texts_of(memory: Memory, previous: Sequence[Memory] = ()) -> Texts | None:
    """What of a memory is indexed; the same on every machine.

    Args:
        memory: With its content: a blob loaded, a light memory with the content that it shows. One
            without is indexed by its `text`, else by topic, kind and tags.
        previous: The memories before it in the same company (`index.Company`), the nearest first;
            `HISTORY` of them are used.

    Returns:
        None for a tombstone.
    """
    if memory.gone is not None:
        return None
    text = plain(memory)
    surroundings = (memory.agent, day_of(memory), memory.topic, memory.user or "")
    fields = [(text, 1.0), *zip(surroundings, repeat(1.0), strict=False)]
    for before, weight in zip(previous, _BORROWED, strict=False):
        fields.append((_before(before), weight))
    return Texts(text, re.sub(r"[_-]+", " ", memory.agent).strip(), _weighted(fields))


def question(text: str) -> Texts:
    """What of a question is compared with the memories; one without a word has no words."""
    text = clean(text, MAX_CHARS)
    return Texts(text or "?", "", Sparse(*_sorted(dict.fromkeys(_counts(text), 1.0))))


def leaning(text: FloatArray, author: FloatArray | None) -> FloatArray:
    """The vector of a text, leaning to its author's name.

    So a question that names who is asked about finds what they wrote. Names are few: embedding
    them apart costs next to nothing, while a name in each text costs tokens and brings less.

    Args:
        text: (d,) of unit length.
        author: Likewise; None where there is none.
    """
    if author is None:
        return text
    both = text + LEAN * author
    return (both / np.linalg.norm(both)).astype(np.float32)


def _before(memory: Memory) -> str:
    return "" if memory.gone is not None else plain(memory)[:MAX_BORROWED_CHARS]


def _weighted(fields: Sequence[tuple[str, float]]) -> Sparse:
    """BM25F: the counts of all fields added up by their weights, then saturated as one text's."""
    counts: dict[int, float] = {}
    for text, weight in fields:
        for word, count in _counts(text).items():
            counts[word] = counts.get(word, 0.0) + weight * count
    length = sum(counts.values()) / _USUAL_LENGTH
    norm = _SATURATION * (1.0 - _LENGTH + _LENGTH * length)
    return Sparse(
        *_sorted({word: n * (_SATURATION + 1.0) / (n + norm) for word, n in counts.items()})
    )


def _counts(text: str) -> dict[int, int]:
    """How often each word occurs, by the hash of its stem; words that say nothing left out."""
    counter = _UNSPACED if _NO_SPACES.search(text) else _SPACED
    found = counter.embed_document(text)
    weights = zip(found.indices, found.values, strict=True)
    return {word: round(weight / (2.0 - weight)) for word, weight in weights}


def _sorted(weights: dict[int, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    words = tuple(sorted(weights))
    return words, tuple(weights[word] for word in words)
