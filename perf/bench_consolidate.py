"""What consolidation keeps: words of answers within 500 words that recall returns, on LoCoMo.

    python -m perf.bench_consolidate --data PATH [--ratio 2 --ratio 5 --ratio 10] [--cache PATH]

PATH is a file of LoCoMo conversations (Maharana et al., ACL 2024; CC BY-NC 4.0, so it is read where
it lies and never copied here). Each turn is a memory of a board of its own conversation, as in
`bench_locomo`; each session is a group, and all of them are condensed when all is said. "at random"
picks sentences at random, to the same size and in the same form.

The score of a question is the share of its answer's words (function words left out) in the first
500 words of the hits, as a reader sees them: author, day and content. Evidence counts as found when
a turn is among those hits itself (direct), or is a source of one (by way of sources). What was
chosen, was chosen on `TUNED`; the others stand apart.

Where OPENAI_BASE_URL names an endpoint, its model (BLACKBOARD_MODEL) condenses too, and what that
takes is shown; answers that are no summary are counted and their session is left out.

The search is exact, in numpy; `--cache` keeps vectors for the next run.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import anyio
import msgspec
import numpy as np

from blackboard.consolidate.extract import (
    Condensed,
    Layout,
    Piece,
    Said,
    condense,
    learnt,
    pieces_of,
)
from blackboard.consolidate.lexicon import Lexicon
from blackboard.consolidate.sentences import words_of
from blackboard.consolidator.service import asking
from blackboard.consolidator.writers import checked, instructions, prompt_of
from blackboard.envelope import Write, seal
from blackboard.errors import ModelRefusedError
from blackboard.messages import Cost, Memory
from blackboard.models import Model
from blackboard.recall.embed import MiniLM
from blackboard.recall.rank import rank
from blackboard.recall.text import Texts, question, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.settings import load
from blackboard.subjects import Ref, derived_id
from blackboard.tokens import tokens
from perf.bench_locomo import NOW, Asked, Talk, exact, searched, talks
from perf.bench_summarize import FUNCTION_WORDS

RATIOS = (2, 5, 10)
WORDS = 500
"""What a reader is given."""
TUNED = ("conv-26", "conv-43", "conv-47")
KEEP, OVER_RANDOM, SMALLER = 0.70, 1.25, 3.0
"""To be reached at ratio 5: of before, of random, and how much less the board weighs."""
GOAL_RATIO = 5

Condenser = Callable[[Sequence[Said], int, Lexicon], Awaitable[Condensed | None]]


class Query(NamedTuple):
    """A question, and the words of its answer."""

    asked: Asked
    answer: frozenset[str]


class Held(NamedTuple):
    """What a board holds: memories, and what was said before each."""

    memories: list[Memory]
    previous: list[list[Memory]]


class Score(NamedTuple):
    """Of one question: shares of its answer's words, and of its evidence."""

    answer: float
    direct: float
    by_sources: float


class Outcome(NamedTuple):
    """A board and how its questions fared."""

    held: Held
    scores: list[Score]
    seconds: float


class Vectors:
    """MiniLM's vectors, kept in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, FloatArray] = {}
        self._model: MiniLM | None = None
        if path is not None and path.exists():
            with np.load(path, allow_pickle=False) as kept:
                self._rows = dict(zip(kept["texts"].tolist(), kept["rows"], strict=True))

    async def of(self, texts: set[str]) -> dict[str, FloatArray]:
        """The vectors of some texts, by text."""
        missing = sorted(texts - self._rows.keys())
        if missing:
            self._model = self._model or await MiniLM.open()
            self._rows.update(zip(missing, await self._model.embed(missing), strict=True))
        return {text: self._rows[text] for text in texts}

    def keep(self) -> None:
        """Write the file."""
        if self._path is not None:
            names = sorted(self._rows)
            np.savez(self._path, texts=names, rows=np.stack([self._rows[name] for name in names]))


def queries(path: Path) -> dict[str, list[Query]]:
    """The questions that have an answer and name evidence, by conversation."""
    found: dict[str, list[Query]] = {}
    for item, talk in zip(json.loads(path.read_text()), talks(path), strict=True):
        by_text = {each.text: each for each in talk.questions}
        found[talk.name] = [
            Query(by_text[one["question"]], answer)
            for one in item["qa"]
            if one["question"] in by_text
            and (answer := frozenset(words_of(str(one.get("answer", "")))) - FUNCTION_WORDS)
        ]
    return found


def day_of(moment: datetime | None) -> str:
    return f"{moment.day} {moment:%B %Y}" if moment else ""


def shown(memory: Memory) -> str:
    """A hit as a reader sees it."""
    return f"{memory.agent} {day_of(memory.happened)} {memory.content}"


async def asked(held: Held, talk: Talk, ask: list[Query], vectors: Vectors) -> list[Score]:
    """Recall each question's hits and score them."""
    texts: list[Texts] = []
    for memory, previous in zip(held.memories, held.previous, strict=True):
        made = texts_of(memory, previous)
        assert made is not None  # noqa: S101 - none is a tombstone
        texts.append(made)
    board = Talk(talk.name, held.memories, held.previous, [each.asked for each in ask])
    different = {text for each in texts for text in (each.bare, each.author) if text}
    different |= {question(each.asked.text).bare for each in ask}
    rows = await vectors.of(different)
    place = {memory.ref.unpinned: memory for memory in held.memories}
    scores: list[Score] = []
    for one, parts in zip(ask, exact(searched(board, texts, rows), board, rows), strict=True):
        hits = (place[hit.ref.unpinned] for hit in rank(parts, limit=100, now=NOW))
        scores.append(_score(one, hits, talk))
    return scores


def _score(one: Query, hits: Iterable[Memory], talk: Talk) -> Score:
    words: list[str] = []
    direct: set[Ref] = set()
    through: set[Ref] = set()
    for memory in hits:
        direct.add(memory.ref.unpinned)
        through.update(source.unpinned for source in memory.sources)
        words += words_of(shown(memory))
        if len(words) >= WORDS:
            break
    seen = set(words[:WORDS])
    evidence = [talk.memories[each].ref.unpinned for each in one.asked.evidence]
    return Score(
        len(one.answer & seen) / len(one.answer),
        statistics.mean(ref in direct for ref in evidence),
        statistics.mean(ref in through for ref in evidence),
    )


async def extracted(said: Sequence[Said], budget: int, lexicon: Lexicon) -> Condensed:
    return condense(said, budget, lexicon)


async def at_random(said: Sequence[Said], budget: int, _lexicon: Lexicon) -> Condensed:
    """Sentences at random, in the form that the extractor gives its own."""
    layout = Layout(said)
    pieces = pieces_of(said)
    random.Random(3).shuffle(pieces)
    kept: list[Piece] = []
    headings: set[tuple[str, str]] = set()
    for piece in pieces:
        heading = layout.heading(piece.place)
        cost = tokens(piece.unit.text) + (0 if heading in headings else layout.cost(heading))
        if cost <= budget:
            kept.append(piece)
            headings.add(heading)
            budget -= cost
    text = layout.text(kept)
    return Condensed(text, 0, tokens(text))


class Endpoint:
    """A model as condenser, with what it took."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.tokens = self.refused = 0

    async def __call__(  # noqa: D102 - a condenser
        self, said: Sequence[Said], budget: int, _lexicon: Lexicon
    ) -> Condensed | None:
        try:
            answer = await self._model.complete(prompt_of(said), system=instructions(budget))
            self.tokens += answer.cost.tokens
            text = checked(answer.text, said, budget)
        except ModelRefusedError:
            self.refused += 1
            return None
        return Condensed(text, 0, tokens(text))


async def condensed(talk: Talk, condenser: Condenser, ratio: int) -> Held:
    """The board when every session is a summary."""
    lexicon = Lexicon()
    for memory in talk.memories:
        lexicon.learn(learnt(str(memory.content)))
    groups: dict[str, list[Memory]] = {}
    for memory in talk.memories:
        groups.setdefault(memory.session or "", []).append(memory)
    summaries: list[Memory] = []
    for session, memories in groups.items():
        said = [Said(str(one.content), one.agent, day_of(one.happened)) for one in memories]
        budget = max(1, sum(tokens(one.text) for one in said) // ratio)
        found = await condenser(said, budget, lexicon)
        if found is not None:
            summaries.append(_summary(talk, session, memories, found.text, len(summaries)))
    return Held(summaries, [[] for _ in summaries])


def _summary(talk: Talk, session: str, memories: list[Memory], text: str, place: int) -> Memory:
    return Memory(
        content=text,
        kind="summary",
        agent="consolidator",
        access="shared",
        topic="talk",
        id=derived_id(f"{talk.name} {session}".encode()),
        session=session,
        happened=memories[-1].happened,
        revision=len(talk.memories) + place + 1,
        stored=NOW,
        sources=tuple(memory.pinned for memory in memories),
        cost=Cost("extractive", tokens(text), 0.01),
    )


async def measured(
    talk: Talk, ask: list[Query], vectors: Vectors, condenser: Condenser, ratio: int
) -> Outcome:
    began = time.process_time()
    held = await condensed(talk, condenser, ratio)
    seconds = time.process_time() - began
    return Outcome(held, await asked(held, talk, ask, vectors), seconds)


def weight(held: Held) -> int:
    """Bytes of the messages, as they lie on the board."""
    total = 0
    for memory in held.memories:
        write = Write(
            ref=memory.ref.unpinned,
            access=memory.access,
            agent=memory.agent,
            expected=0,
            memory=msgspec.structs.replace(memory),
        )
        message = seal(write, "bench", "0" * 32)
        headers = sum(len(name) + len(value) + 4 for name, value in message.headers.items())
        total += len(message.subject) + headers + len(message.data)
    return total


def row(name: str, outcomes: Sequence[Outcome], before: float | None = None) -> float:
    scores = [score for each in outcomes for score in each.scores]
    held = [each.held for each in outcomes]
    answer, direct, by_sources = (statistics.mean(part) for part in zip(*scores, strict=True))
    texts = [str(memory.content) for each in held for memory in each.memories]
    share = f"{answer / before:.2f}" if before else ""
    print(
        f"{name:34}{len(texts):8,}{sum(map(weight, held)):11,}{sum(map(tokens, texts)):9,}"
        f"{answer:9.3f}{share:>7}{direct:9.3f}{by_sources:9.3f}"
    )
    return answer


async def report(
    boards: Sequence[Talk],
    ask: dict[str, list[Query]],
    vectors: Vectors,
    ratios: Sequence[int],
    model: Model | None = None,
) -> None:
    names = ", ".join(talk.name for talk in boards)
    print(f"\n{names}: {sum(len(ask[talk.name]) for talk in boards)} questions")
    print(f"{'':34}{'entries':>8}{'bytes':>11}{'tokens':>9}{'answer':>9}", end="")
    print(f"{'share':>7}{'direct':>9}{'sources':>9}")
    before = [
        Outcome(
            whole := Held(talk.memories, talk.previous),
            await asked(whole, talk, ask[talk.name], vectors),
            0.0,
        )
        for talk in boards
    ]
    kept = row("before", before)
    for ratio in ratios:
        chance = [
            await measured(talk, ask[talk.name], vectors, at_random, ratio) for talk in boards
        ]
        ours = [await measured(talk, ask[talk.name], vectors, extracted, ratio) for talk in boards]
        by_chance = row(f"1/{ratio}, at random", chance, kept)
        answer = row(f"1/{ratio}, extracted", ours, kept)
        turns = sum(len(talk.memories) for talk in boards)
        if model is not None:
            endpoint = Endpoint(model)
            by_model = [
                await measured(talk, ask[talk.name], vectors, endpoint, ratio) for talk in boards
            ]
            row(f"1/{ratio}, {model.name}", by_model, kept)
            print(
                f"  {1000 * endpoint.tokens / turns:,.0f} tokens per 1,000 memories; "
                f"{endpoint.refused} answers were no summary"
            )
        smaller = sum(weight(each.held) for each in before) / sum(weight(one.held) for one in ours)
        seconds = sum(one.seconds for one in ours)
        goals = ""
        if ratio == GOAL_RATIO:
            met = answer >= KEEP * kept and answer >= OVER_RANDOM * by_chance and smaller >= SMALLER
            goals = f"; goal {KEEP}, {OVER_RANDOM} x, {SMALLER} x: {'met' if met else 'MISSED'}"
        print(
            f"  {answer / kept:.2f} of before, {answer / by_chance:.2f} x random, bytes fall "
            f"{smaller:.1f} x; {1000 * seconds / turns:.2f} s per 1,000 memories{goals}"
        )


async def main(arguments: argparse.Namespace) -> None:
    boards = list(talks(arguments.data))
    ask = queries(arguments.data)
    vectors = Vectors(arguments.cache)
    tuned = [talk for talk in boards if talk.name in TUNED]
    others = [talk for talk in boards if talk.name not in TUNED]
    ratios = arguments.ratio or RATIOS
    async with asking(load()) as model:
        for part in (tuned, others):
            await report(part, ask, vectors, ratios)
        await report(boards, ask, vectors, ratios, model)
    vectors.keep()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ratio", type=int, action="append", help="of tokens; 2, 5 and 10")
    parser.add_argument("--cache", type=Path, help="a file that keeps vectors, .npz")
    options = parser.parse_args()
    if options.data is None:
        print("bench_consolidate: no --data given, nothing to measure")
    else:
        anyio.run(main, options)
