"""One ranking from the candidates of each part of a search.

The scores of two parts cannot be added as they are: a cosine ends at 1, BM25 has no end. So each
part's scores are measured from the lowest of its candidates, in units of their root mean square
distance from it. Unlike a division by the standard deviation, this is monotone: what scores higher
in a part is never ranked lower for it. Both parts then count alike.

A memory is also lifted by the best match of its session, because what answers a question is often
said beside what sounds like it. What that brings, and what brought nothing, is in perf/README.md.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from blackboard.recall.index import Scored
from blackboard.search import Found
from blackboard.subjects import Ref

DEPTH = 100
"""Candidates to ask each part for. More changes nothing that can be measured (perf/README.md)."""
WEIGHTS = {"words": 1.0, "bare": 1.0}
"""Parts that count, and for how much."""
LIFT = 0.3
"""Share of the best match in its session that is added to a memory's own."""
FAR = 1e100
"""No engine gives such a score, and the squares of larger ones have no number."""
HALF_LIFE_DAYS = 7.0
"""Age at which half of the bonus for being new is left."""


class _Result(msgspec.Struct):
    """A memory, or all that show the same result: they make one hit."""

    best: Scored
    """The memory that stands for all: the one that matches best, of equal ones the newest."""
    most: float
    """Its share."""
    shares: dict[str, float]
    sessions: set[str]

    def add(self, part: str, candidate: Scored, share: float) -> None:
        self.shares[part] = max(share, self.shares.get(part, 0.0))
        if candidate.session is not None:
            self.sessions.add(candidate.session)
        if (share, candidate.revision) > (self.most, self.best.revision):
            self.best, self.most = candidate, share


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
        parts: Candidates by part; parts that have no weight are ignored, any may be empty.
        limit: Hits wanted.
        now: For the age of memories.
        recency: Weight of being new, 0 to 1: at 1, a memory of this moment gains as much as the
            best match has, one of a week ago half of that.
        priority: Weight of the memory's own priority, likewise.

    Returns:
        Hits, best first, pinned to the revision that was indexed; equal ones newest first. Memories
        that show the same result are one hit. The best match has the score 1 before what recency
        and priority add; `why` has the parts of a score, which add up to it.
    """
    results = _results(parts)
    _lift(results)
    top = max((math.fsum(each.shares.values()) for each in results), default=0.0) or 1.0
    scored: list[tuple[float, int, _Result]] = []
    for each in results:
        why = each.shares = {part: share / top for part, share in each.shares.items()}
        if recency:
            why["recency"] = recency * _newness(each.best.stored, now)
        if priority:
            why["priority"] = priority * each.best.priority
        scored.append((math.fsum(why.values()), each.best.revision, each))
    scored.sort(key=lambda each: each[:2], reverse=True)
    return [
        Found(each.best.ref.pinned(revision), score, each.shares)
        for score, revision, each in scored[:limit]
    ]


def _results(parts: Mapping[str, Sequence[Scored]]) -> list[_Result]:
    results: dict[Ref, _Result] = {}
    for part in sorted(WEIGHTS.keys() & parts.keys()):
        candidates = parts[part]
        for each, share in zip(candidates, _shares(candidates), strict=True):
            shown = (each.shows or each.ref).unpinned
            result = results.setdefault(shown, _Result(each, -1.0, {}, set()))
            result.add(part, each, WEIGHTS[part] * share)
    return list(results.values())


def _shares(candidates: Sequence[Scored]) -> list[float]:
    """Distances of the scores from the lowest, of which the root mean square is 1.

    What a part does not name has 0. It lies at the part's lowest or below; where the part had room
    for more, it has nothing in common with the question, and 0 is the lowest.
    """
    scores = [
        max(-FAR, min(each.score, FAR)) if math.isfinite(each.score) else -math.inf
        for each in candidates
    ]
    lowest = min((score for score in scores if score > -math.inf), default=0.0)
    if len(scores) < DEPTH:
        lowest = min(lowest, 0.0)
    above = [max(score - lowest, 0.0) for score in scores]
    unit = math.hypot(*above) / math.sqrt(len(above) or 1)
    if unit > 0.0:
        return [each / unit for each in above]
    return [1.0 if score > -math.inf else 0.0 for score in scores]


def _lift(results: Sequence[_Result]) -> None:
    """Add to each result a share of the best of its session; of its own where it has none."""
    own = [math.fsum(each.shares.values()) for each in results]
    best: dict[str, float] = {}
    for each, match in zip(results, own, strict=True):
        for session in each.sessions:
            best[session] = max(match, best.get(session, 0.0))
    for each, match in zip(results, own, strict=True):
        nearby = max((best[session] for session in each.sessions), default=match)
        each.shares["session"] = LIFT * nearby


def _newness(stored: datetime, now: datetime) -> float:
    days = max(0.0, (now - stored).total_seconds()) / 86_400
    return 0.5 ** (days / HALF_LIFE_DAYS)
