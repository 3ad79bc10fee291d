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

from blackboard.recall import points
from blackboard.recall.index import Candidate, Scored
from blackboard.recall.predicate import microseconds
from blackboard.search import Found

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
_DAY = 86_400e6


class _Result:
    """A memory, or all that show the same result: they make one hit.

    Attributes:
        best: The memory that stands for all: the one that matches best, of equal ones the newest.
        most: Its share.
        shares: The best of each part.
        sessions: In which any of them is.
        score: What it has in all.
    """

    __slots__ = ("best", "most", "score", "sessions", "shares")

    def __init__(self, best: Candidate) -> None:
        self.best = best
        self.most = -1.0
        self.shares: dict[str, float] = {}
        self.sessions: list[str] = []
        self.score = 0.0

    def add(self, part: str, candidate: Candidate, share: float) -> None:
        """Take in what one part says of one memory."""
        if share >= self.shares.get(part, 0.0):
            self.shares[part] = share
        if candidate.session is not None:
            self.sessions.append(candidate.session)
        if share > self.most or (share == self.most and candidate.revision > self.best.revision):
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
    top = max((each.score for each in results), default=0.0) or 1.0
    if recency or priority:
        for each in results:
            each.score += top * sum(_bonus(each.best, now, recency, priority).values())
    results.sort(key=_place, reverse=True)
    # Only what is given back is spelled out.
    hits: list[Found] = []
    for each in results[:limit]:
        why = {part: share / top for part, share in each.shares.items()}
        why |= _bonus(each.best, now, recency, priority)
        ref = points.ref(each.best.ref).pinned(each.best.revision)
        hits.append(Found(ref, each.score / top, why))
    return hits


def _place(result: _Result) -> tuple[float, int]:
    return result.score, result.best.revision


def _bonus(
    candidate: Candidate, now: datetime, recency: float, priority: float
) -> dict[str, float]:
    """What a memory gains beside its match."""
    bonus: dict[str, float] = {}
    if recency:
        bonus["recency"] = recency * _newness(candidate.stored, now)
    if priority:
        bonus["priority"] = priority * candidate.priority
    return bonus


def _results(parts: Mapping[str, Sequence[Scored]]) -> list[_Result]:
    results: dict[str, _Result] = {}
    for part in sorted(WEIGHTS.keys() & parts.keys()):
        candidates, weight = parts[part], WEIGHTS[part]
        for each, share in zip(candidates, _shares(candidates), strict=True):
            one = each.candidate
            key = one.key
            result = results.get(key)
            if result is None:
                result = results[key] = _Result(one)
            result.add(part, one, weight * share)
    return list(results.values())


def _shares(candidates: Sequence[Scored]) -> list[float]:
    """Distances of the scores from the lowest, of which the root mean square is 1.

    What a part does not name has 0. It lies at the part's lowest or below; where the part had room
    for more, it has nothing in common with the question, and 0 is the lowest.
    """
    scores = [each.score for each in candidates]
    if not all(-FAR <= score <= FAR for score in scores):
        scores = [_sound(score) for score in scores]
    lowest = min((score for score in scores if score > -math.inf), default=0.0)
    if len(scores) < DEPTH:
        lowest = min(lowest, 0.0)
    above = [max(score - lowest, 0.0) for score in scores]
    unit = math.hypot(*above) / math.sqrt(len(above) or 1)
    if unit > 0.0:
        return [each / unit for each in above]
    return [1.0 if score > -math.inf else 0.0 for score in scores]


def _sound(score: float) -> float:
    return max(-FAR, min(score, FAR)) if math.isfinite(score) else -math.inf


def _lift(results: Sequence[_Result]) -> None:
    """Add to each result a share of the best of its session; of its own where it has none."""
    best: dict[str, float] = {}
    for each in results:
        each.score = sum(each.shares.values())
        for session in each.sessions:
            best[session] = max(each.score, best.get(session, 0.0))
    for each in results:
        nearby = max(map(best.__getitem__, each.sessions)) if each.sessions else each.score
        each.shares["session"] = lift = LIFT * nearby
        each.score += lift


def _newness(stored: int, now: datetime) -> float:
    days = max(0, microseconds(now) - stored) / _DAY
    return 0.5 ** (days / HALF_LIFE_DAYS)
