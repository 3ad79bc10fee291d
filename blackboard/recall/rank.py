"""One ranking from the candidates of each part of a search.

Scores of different parts are not comparable: a cosine lies within 1, BM25 is open above. So each
part's scores are standardised over its own candidates before they are added.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime

from blackboard.recall.index import Scored
from blackboard.search import Found
from blackboard.subjects import Ref

DEPTH = 200
"""Candidates to ask each part for, whatever the limit of the answer."""
WEIGHTS = {"words": 1.0, "context": 0.5, "bare": 0.3}
HALF_LIFE_DAYS = 7.0
"""Age at which a memory has half of the bonus for being new."""


def rank(
    parts: Mapping[str, Sequence[Scored]],
    *,
    limit: int,
    now: datetime,
    recency: float = 0.0,
    priority: float = 0.0,
) -> list[Found]:
    """Rank candidates; the order in which they come does not matter.

    Args:
        parts: Candidates of `bare`, `context` and `words`; a part may be empty or missing.
        limit: Hits wanted.
        now: For the age of memories.
        recency: Weight of being new, 0 to 1; at 1 a memory of now gains as much as the whole
            spread of the candidates.
        priority: Weight of the memory's priority, likewise.

    Returns:
        Hits, best first, their scores from 0 to 1 (before the bonuses). Those that show the same
        result are folded into the best of them. Equal ones are ordered newest first.
    """
    known: dict[Ref, Scored] = {}
    why: dict[Ref, dict[str, float]] = {}
    for name, candidates in parts.items():
        for ref, share in _standard(candidates, WEIGHTS.get(name, 0.0)).items():
            why.setdefault(ref, {})[name] = share
        for each in candidates:
            known[each.ref] = each
    scores = _bounded({ref: math.fsum(shares.values()) for ref, shares in why.items()})
    for ref, each in known.items():
        if recency:
            why[ref]["recency"] = recency * _newness(each.stored, now)
        if priority:
            why[ref]["priority"] = priority * each.priority
        scores[ref] += why[ref].get("recency", 0.0) + why[ref].get("priority", 0.0)
    order = sorted(known, key=lambda ref: (-scores[ref], -known[ref].revision, str(ref)))
    found: list[Found] = []
    shown: set[Ref] = set()
    for ref in order:
        result = known[ref].shows or ref
        if result in shown:
            continue
        shown.add(result)
        found.append(Found(ref.pinned(known[ref].revision), scores[ref], why[ref]))
    return found[:limit]


def _standard(candidates: Sequence[Scored], weight: float) -> dict[Ref, float]:
    """Each score's distance from the lowest of the part, in standard deviations, weighted.

    What a part does not name lies at or below its lowest, so it has zero there.
    """
    scores = {each.ref: each.score for each in candidates if math.isfinite(each.score)}
    if len(scores) == 0:
        return {}
    lowest, spread = min(scores.values()), statistics.pstdev(scores.values())
    if spread == 0.0:
        return dict.fromkeys(scores, weight)
    return {ref: weight * (score - lowest) / spread for ref, score in scores.items()}


def _bounded(scores: dict[Ref, float]) -> dict[Ref, float]:
    top = max(scores.values(), default=0.0)
    return {ref: score / top if top > 0.0 else 0.0 for ref, score in scores.items()}


def _newness(stored: datetime, now: datetime) -> float:
    age = max(0.0, (now - stored).total_seconds()) / 86_400
    return 0.5 ** (age / HALF_LIFE_DAYS)
