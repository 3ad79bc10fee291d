"""How much of what is asked later survives a summary: words of answers kept in 500 words.

    python perf/bench_summarize.py --data PATH [--centrality]

PATH is a file of LoCoMo conversations (Maharana et al., ACL 2024; CC BY-NC 4.0, so it is read where
it lies and never copied here). A text is four sessions of a conversation in a row, 2,200 words.
For each question with its evidence in the text: the share of the answer's words (function words
left out) that the summary has. "everything" is the text itself, the most that can be kept; in "the
same, asked" the extractor knows the questions.
"""

import argparse
import json
import random
import re
import statistics
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from blackboard.consolidate.sentences import units_of, words_of
from blackboard.consolidate.summarize import ExtractiveSummarizer

FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an the and or but if of to in on at for with by from is are was were be been am do does",
        "did have has had i you he she it we they my your his her its our their me him them this",
        "that these those as so not no yes what when where who how which there here will would can",
        "could should just about up out",
    )
    for word in line.split()
)
Extractor = Callable[[str, int, list[str]], Awaitable[str]]


class Case(NamedTuple):
    """A text and the questions that it answers."""

    text: str
    questions: list[tuple[str, set[str]]]


def cases(path: Path, sessions: int) -> Iterator[Case]:
    for conversation in json.loads(path.read_text()):
        talk = conversation["conversation"]
        count = sum(re.fullmatch(r"session_\d+", key) is not None for key in talk)
        for first in range(1, count + 1, sessions):
            numbers = range(first, min(first + sessions, count + 1))
            turns = [turn for number in numbers for turn in talk[f"session_{number}"]]
            text = "\n\n".join(_said(turn) for turn in turns)
            yield Case(
                text, list(_questions(conversation["qa"], {turn["dia_id"] for turn in turns}))
            )


def _said(turn: dict[str, Any]) -> str:
    return "\n\n".join(filter(None, (turn["text"], turn.get("blip_caption"))))


def _questions(asked: list[dict[str, Any]], here: set[str]) -> Iterator[tuple[str, set[str]]]:
    for item in asked:
        found = re.findall(r"D(\d+):(\d+)", " ".join(item["evidence"]))
        answer = set(words_of(str(item.get("answer", "")))) - FUNCTION_WORDS
        if answer and any(f"D{int(day)}:{int(turn)}" in here for day, turn in found):
            yield item["question"], answer


async def everything(text: str, _budget: int, _questions: list[str]) -> str:
    return text


async def at_random(text: str, budget: int, _questions: list[str]) -> str:
    return _first(random.Random(3), text, budget)


async def from_the_start(text: str, budget: int, _questions: list[str]) -> str:
    return _first(None, text, budget)


async def rare_words(text: str, budget: int, _questions: list[str]) -> str:
    return (await ExtractiveSummarizer().summarize(text, budget=budget)).text


async def rare_words_asked(text: str, budget: int, questions: list[str]) -> str:
    asked = " ".join(questions)
    return (await ExtractiveSummarizer().summarize(text, question=asked, budget=budget)).text


async def by_centrality() -> Extractor:
    """Sentences nearest to the mean of all, by embedding."""
    # An extra of the library, and only loaded when asked for.
    from blackboard.recall.embed import MiniLM  # noqa: PLC0415

    model = await MiniLM.open()

    async def centrality(text: str, budget: int, _questions: list[str]) -> str:
        pieces = [unit.text for unit in units_of(text)]
        vectors = await model.embed(pieces)
        nearest = (-(vectors @ vectors.mean(axis=0))).argsort(kind="stable")
        return _within(budget, [pieces[int(place)] for place in nearest])

    return centrality


def _first(order: random.Random | None, text: str, budget: int) -> str:
    pieces = [unit.text for unit in units_of(text)]
    if order is not None:
        order.shuffle(pieces)
    return _within(budget, pieces)


def _within(budget: int, pieces: list[str]) -> str:
    kept: list[str] = []
    for piece in pieces:
        if len(words_of(piece)) <= budget:
            budget -= len(words_of(piece))
            kept.append(piece)
    return "\n".join(kept)


async def kept(extract: Extractor, texts: list[Case], budget: int) -> tuple[float, float]:
    """Share of the answers' words kept, and the mean length of the summaries in words."""
    shares: list[float] = []
    lengths: list[int] = []
    for case in texts:
        summary = words_of(await extract(case.text, budget, [asked for asked, _ in case.questions]))
        lengths.append(len(summary))
        shares += [len(answer & set(summary)) / len(answer) for _, answer in case.questions]
    return statistics.mean(shares), statistics.mean(lengths)


async def main(arguments: argparse.Namespace) -> None:
    texts = list(cases(arguments.data, arguments.sessions))
    extractors: dict[str, Extractor] = {
        "everything": everything,
        "at random": at_random,
        "from the start": from_the_start,
        "mass of rare words": rare_words,
        "the same, asked": rare_words_asked,
    }
    if arguments.centrality:
        extractors["centrality"] = await by_centrality()
    asked = sum(len(case.questions) for case in texts)
    print(f"{len(texts)} texts, {asked} questions, {arguments.budget} words")
    for name, extract in extractors.items():
        share, words = await kept(extract, texts, arguments.budget)
        print(f"{name:18} {share:.3f}  ({words:.0f} words)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=4, help="sessions in a text")
    parser.add_argument("--centrality", action="store_true", help="by embedding too; takes minutes")
    options = parser.parse_args()
    if options.data is None:
        print("bench_summarize: no --data given, nothing to measure")
    else:
        anyio.run(main, options)
