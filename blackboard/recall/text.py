"""From a memory to what is indexed: its text, its text in context, and its words with weights.

A memory alone says little ("Yes, in June"). What makes it findable is who said it, when, and what
was said before; so that goes into the indexed text.
"""

import calendar
import re
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import cast

import msgspec
from qdrant_edge import Bm25, Bm25Config, TokenizerType

from blackboard.codec import Json
from blackboard.messages import Memory
from blackboard.recall.index import Sparse

RECIPE = 1
"""Counted up when the same memory would give other texts or words: an index of another recipe is
built again."""
HISTORY = 2
"""Memories before this one, of the same session, label and data subject, that are used."""
MAX_CHARS = 16_384
"""Of one memory; what follows is not indexed."""
MAX_PREVIOUS_CHARS = 1_000
"""Of each memory before, so that a document does not drown the remark that follows it."""

_HISTORY_WEIGHTS = (0.7, 0.35)
_SATURATION = 1.2
_LENGTH_WEIGHT = 0.4
_USUAL_LENGTH = 40.0
_COUNTS = Bm25(
    Bm25Config(k=1.0, b=0.0, language="english", ascii_folding=True, tokenizer=TokenizerType.Word)
)
"""With these constants a weight is 2n/(n+1) for a word that occurs n times, so n can be had."""


class Texts(msgspec.Struct, frozen=True):
    """What of a memory, or of a question, is embedded and indexed.

    Attributes:
        bare: The text alone, to be embedded; never empty.
        context: The text with who, when and what was before, to be embedded; never empty.
        words: For the sparse vector, which the engine multiplies by the rarity of each word (IDF).
    """

    bare: str
    context: str
    words: Sparse


def texts_of(memory: Memory, previous: Sequence[Memory] = ()) -> Texts | None:
    """What of a memory is indexed; the same on every machine.

    Args:
        memory: With its content: a blob loaded, a light memory with the content it shows. One
            without is indexed by its `text`, else by its topic and tags.
        previous: The memories before it in the same session, label and data subject, the nearest
            first; `HISTORY` of them are used. Of another label they must not be: their words would
            show in the ranking of this one.

    Returns:
        None for a tombstone.
    """
    if memory.gone is not None:
        return None
    own = plain(memory)
    said = [before for each in previous[:HISTORY] if (before := _before(each))]
    head = " ".join(filter(None, (memory.agent, _date(memory))))
    nearest = f"\n{said[0]}" if said else ""
    fields = [(f"{head}\n{own}", 1.0), *zip(said, _HISTORY_WEIGHTS, strict=False)]
    return Texts(own, f"{head}: {own}{nearest}", _document(fields))


def question(text: str) -> Texts:
    """What of a question is compared with the memories; an empty one has no words."""
    clean = _clean(text)
    found = _COUNTS.embed_query(clean)
    return Texts(clean or " ", clean or " ", Sparse(tuple(found.indices), tuple(found.values)))


def plain(memory: Memory) -> str:
    """The text of a memory for reading; of one that has none, its topic and tags."""
    if isinstance(memory.content, str):
        text = memory.content
    elif memory.text is not None:
        text = memory.text
    else:
        text = "\n".join(_values(memory.content))
    return _clean(text) or _clean(memory.text or "") or _label(memory)


def _label(memory: Memory) -> str:
    words = [*memory.topic.split("."), memory.kind, *memory.tags.values()]
    return _clean(re.sub(r"[_-]+", " ", " ".join(words)))


def _before(memory: Memory) -> str:
    return "" if memory.gone is not None else plain(memory)[:MAX_PREVIOUS_CHARS]


def _date(memory: Memory) -> str:
    when = memory.happened or memory.stored
    if when is None:
        return ""
    day = when.astimezone(UTC) if memory.happened is None else when
    return f"{day.day} {calendar.month_name[day.month]} {day.year}"


def _clean(text: str) -> str:
    # A lone surrogate is legal in a Python string and refused by tokenizers.
    return text[:MAX_CHARS].encode("utf-8", "replace").decode().replace("\0", " ").strip()


def _values(value: Json, name: str = "") -> Iterator[str]:
    """Every value of a JSON tree as a line with its name, until there is enough text."""
    left = MAX_CHARS
    stack: list[tuple[str, Json]] = [(name, value)]
    while stack and left > 0:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(reversed(cast("dict[str, Json]", value).items()))
        elif isinstance(value, list):
            stack.extend((name, each) for each in reversed(cast("list[Json]", value)))
        elif value is not None:
            line = f"{name}: {value}" if name else str(value)
            left -= len(line)
            yield line


def _document(fields: Sequence[tuple[str, float]]) -> Sparse:
    """BM25F: counts of all fields added up by weight, then saturated, and scaled by length."""
    counts: dict[int, float] = {}
    for text, weight in fields:
        found = _COUNTS.embed_document(text)
        for token, value in zip(found.indices, found.values, strict=True):
            counts[token] = counts.get(token, 0.0) + weight * value / (2.0 - value)
    length = sum(counts.values()) / _USUAL_LENGTH
    norm = _SATURATION * (1.0 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length)
    return Sparse(
        tuple(sorted(counts)),
        tuple(
            counts[token] * (_SATURATION + 1.0) / (counts[token] + norm) for token in sorted(counts)
        ),
    )
