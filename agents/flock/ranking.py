"""Which documents a team reads: the best for its question by BM25."""

from collections.abc import Mapping
from typing import Any, cast

import bm25s  # pyright: ignore[reportMissingTypeStubs]

_bm25s = cast("Any", bm25s)  # it declares no types


def best(question: str, texts: Mapping[str, str], count: int) -> list[str]:
    """Rank documents for a question.

    Args:
        question: What somebody asks, in plain words; English stop words do not count.
        texts: The documents by name.
        count: How many to return at most.

    Returns:
        Names, best first; equal scores are in order of name, so that every run ranks alike.
    """
    names = sorted(texts)
    words = _tokens([f"{_spaced(name)}\n{texts[name]}" for name in names])
    if not any(words):
        return names[:count]
    index = _bm25s.BM25()
    index.index(words, show_progress=False)
    known: set[str] = {word for document in words for word in document}
    asked = [word for word in _tokens([question])[0] if word in known]
    if not asked:
        return names[:count]
    scores: list[float] = [round(float(score), 5) for score in index.get_scores(asked)]
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [name for name, _ in ranked[:count]]


def _spaced(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _tokens(texts: list[str]) -> list[list[str]]:
    found = _bm25s.tokenize(
        texts, stopwords="en", return_ids=False, show_progress=False, allow_empty=True
    )
    return cast("list[list[str]]", found)
