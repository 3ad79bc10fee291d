"""How much of what answers a question is among the first k hits, on LoCoMo.

    python -m perf.bench_locomo --data PATH [--index]

PATH is a file of LoCoMo conversations (Maharana et al., ACL 2024; CC BY-NC 4.0, so it is read where
it lies and never copied here). Each turn is a memory of a board of its own conversation: agent,
session, the session's date as `happened`, the text with the caption of a shared picture below it.
The score of a question is the share of its evidence turns among the first k. Questions whose
evidence names no turn are left out.

Without `--index`, parts are searched exactly, in numpy; with it, through the embedded index, at the
depth that the service uses.
"""

import argparse
import json
import math
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import numpy as np
from msgspec.structs import replace

from blackboard.messages import Memory
from blackboard.recall.edge import EdgeIndex
from blackboard.recall.embed import MiniLM
from blackboard.recall.index import Candidate, Entry, Scored, Signature, Sparse, Vectors, Where
from blackboard.recall.predicate import microseconds
from blackboard.recall.rank import DEPTH, rank
from blackboard.recall.text import HISTORY, RECIPE, Texts, leaning, question, texts_of
from blackboard.recall.weights import FloatArray
from blackboard.search import Filter
from blackboard.subjects import derived_id

KS = (5, 10, 25, 50)
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
PUBLISHED = {
    "DRAGON, turns (LoCoMo paper, arXiv 2402.17753, table 3)": (0.588, 0.675, 0.799, 0.848),
    "best of 89 models: Nemotron-3-Embed-8B (MTEB results f4cc6c8)": (0.702, 0.776, 0.857, 0.899),
    "the same: bge-multilingual-gemma2": (0.697, 0.780, 0.859, 0.903),
    "the same: baseline bm25s": (0.541, 0.615, 0.706, 0.760),
    "the same: all-MiniLM-L6-v2": (0.345, 0.438, 0.569, 0.684),
    "BM25 of agent, date, text, previous turn (our own floor)": (0.635, 0.726, 0.809, 0.855),
}
"""Over all ten conversations; the paper's counts fit conv-26 alone."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Asked(NamedTuple):
    """A question, the places of its evidence among the memories, and its category."""

    text: str
    evidence: tuple[int, ...]
    category: int


class Talk(NamedTuple):
    """A conversation as a board."""

    name: str
    memories: list[Memory]
    previous: list[list[Memory]]
    questions: list[Asked]


class Searched(NamedTuple):
    """A conversation as an index holds it, without an index."""

    memories: list[Memory]
    words: list[Sparse]
    dense: FloatArray


Parts = dict[str, list[Scored]]
Recall = dict[str, list[tuple[Asked, tuple[float, ...]]]]


def talks(path: Path) -> Iterator[Talk]:
    for item in json.loads(path.read_text()):
        talk, name = item["conversation"], item["sample_id"]
        memories: list[Memory] = []
        previous: list[list[Memory]] = []
        places: dict[str, int] = {}
        numbers = sorted(int(key[8:]) for key in talk if re.fullmatch(r"session_\d+", key))
        for number in numbers:
            said = f"{talk[f'session_{number}_date_time']} +0000"
            day = datetime.strptime(said, "%I:%M %p on %d %B, %Y %z")
            start = len(memories)
            for turn in talk[f"session_{number}"]:
                places[turn["dia_id"]] = len(memories)
                previous.append(memories[start:][::-1][:HISTORY])
                memories.append(_memory(turn, name, number, day, len(memories)))
        yield Talk(name, memories, previous, list(_questions(item["qa"], places)))


def _memory(turn: dict[str, Any], talk: str, session: int, day: datetime, place: int) -> Memory:
    return Memory(
        content="\n".join(filter(None, (turn["text"], turn.get("blip_caption")))),
        agent=re.sub(r"\W+", "_", turn["speaker"].lower()),
        access="shared",
        topic="talk",
        id=derived_id(f"{talk} {turn['dia_id']}".encode()),
        session=f"session-{session}",
        happened=day,
        revision=place + 1,
        stored=NOW - timedelta(days=1) + timedelta(seconds=place),
    )


def _questions(asked: list[dict[str, Any]], places: dict[str, int]) -> Iterator[Asked]:
    for item in asked:
        found = re.findall(r"D(\d+):(\d+)", " ".join(item["evidence"]))
        names = dict.fromkeys(f"D{int(day)}:{int(turn)}" for day, turn in found)
        if evidence := tuple(places[name] for name in names if name in places):
            yield Asked(item["question"], evidence, item["category"])


def alone(memory: Memory) -> Memory:
    """The memory without who and when."""
    return msgspec.structs.replace(memory, agent="", happened=None, stored=None)


def texts(talk: Talk, *, who_when: bool, history: bool) -> list[Texts]:
    made: list[Texts] = []
    for memory, previous in zip(talk.memories, talk.previous, strict=True):
        it = texts_of(memory if who_when else alone(memory), previous if history else ())
        assert it is not None  # noqa: S101 - no turn is a tombstone
        made.append(it)
    return made


async def embedded(model: MiniLM, talk: Talk) -> dict[str, FloatArray]:
    """Vectors by text: of turns, agents and questions."""
    made = texts(talk, who_when=True, history=False)
    different = {text for each in made for text in (each.bare, each.author)}
    different |= {question(each.text).bare for each in talk.questions}
    ordered = sorted(different)
    return dict(zip(ordered, await model.embed(ordered), strict=True))


def searched(talk: Talk, made: Sequence[Texts], rows: dict[str, FloatArray]) -> Searched:
    dense = [leaning(rows[each.bare], rows[each.author] if each.author else None) for each in made]
    return Searched(talk.memories, [each.words for each in made], np.stack(dense))


def exact(index: Searched, talk: Talk, rows: dict[str, FloatArray]) -> list[Parts]:
    """What an engine answers that looks at everything: the candidates of each question."""
    count = len(index.memories)
    frequency = Counter(word for words in index.words for word in words.indices)
    rare = {word: math.log(1 + (count - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    holding: dict[int, list[tuple[int, float]]] = {}
    for place, words in enumerate(index.words):
        for word, weight in zip(words.indices, words.values, strict=True):
            holding.setdefault(word, []).append((place, weight * rare[word]))
    answers: list[Parts] = []
    for each in talk.questions:
        asked = question(each.text)
        scores = np.zeros(count)
        for word, weight in zip(asked.words.indices, asked.words.values, strict=True):
            for place, value in holding.get(word, ()):
                scores[place] += weight * value
        answers.append(
            {
                "words": _best(index.memories, scores, above=0.0),
                "bare": _best(index.memories, index.dense @ rows[asked.bare]),
            }
        )
    return answers


async def indexed(index: Searched, talk: Talk, rows: dict[str, FloatArray]) -> list[Parts]:
    """What the embedded index answers."""
    signature = Signature(talk.name, "all-MiniLM-L6-v2", index.dense.shape[1], RECIPE)
    everything = Where(Filter(), None, NOW)
    with tempfile.TemporaryDirectory() as directory:
        engine = await EdgeIndex.open(Path(directory) / "index", signature)
        entries = [
            _entry(memory, Vectors(dense, words))
            for memory, words, dense in zip(index.memories, index.words, index.dense, strict=True)
        ]
        await engine.apply(entries, [], len(entries))
        answers: list[Parts] = []
        for each in talk.questions:
            asked = question(each.text)
            vectors = Vectors(rows[asked.bare], asked.words)
            answers.append(await engine.search(vectors, everything, DEPTH))
        await engine.close()
    return answers


def _entry(memory: Memory, vectors: Vectors) -> Entry:
    return Entry(
        ref=memory.ref.unpinned,
        revision=memory.revision,
        access=memory.access,
        author=memory.agent,
        session=memory.session,
        stored=memory.stored or NOW,
        happened=memory.happened,
        vectors=vectors,
    )


def _best(
    memories: Sequence[Memory], scores: np.ndarray[Any, Any], above: float = -math.inf
) -> list[Scored]:
    order = np.argsort(-scores, kind="stable")[:DEPTH]
    return [
        _scored(memories[int(place)], float(scores[place]))
        for place in order
        if scores[place] > above
    ]


def _scored(memory: Memory, score: float) -> Scored:
    one = Candidate(
        str(memory.ref.unpinned),
        memory.revision,
        microseconds(memory.stored or NOW),
        memory.priority,
        session=memory.session,
    )
    return Scored(one, score)


def recalled(talk: Talk, answers: Sequence[Parts]) -> Iterator[tuple[Asked, tuple[float, ...]]]:
    for asked, parts in zip(talk.questions, answers, strict=True):
        hits = rank(parts, limit=max(KS), now=NOW)
        place = {hit.ref.unpinned: number for number, hit in enumerate(hits)}
        ranks = [place.get(talk.memories[each].ref.unpinned, math.inf) for each in asked.evidence]
        yield asked, tuple(statistics.mean(at < k for at in ranks) for k in KS)


def only(*names: str) -> Callable[[Parts], Parts]:
    return lambda parts: {name: parts[name] for name in names}


def without_session(parts: Parts) -> Parts:
    return {
        name: [Scored(replace(each.candidate, session=None), each.score) for each in candidates]
        for name, candidates in parts.items()
    }


def words_without_session(parts: Parts) -> Parts:
    return without_session(only("words")(parts))


def dense_without_session(parts: Parts) -> Parts:
    return without_session(only("bare")(parts))


def as_it_is(parts: Parts) -> Parts:
    return parts


ROWS: list[tuple[str, dict[str, bool], Callable[[Parts], Parts]]] = [
    ("words: text", {"who_when": False, "history": False}, words_without_session),
    ("words: + agent, date", {"who_when": True, "history": False}, words_without_session),
    ("words: + 2 memories before", {"who_when": True, "history": True}, words_without_session),
    ("dense: text", {"who_when": False, "history": True}, dense_without_session),
    ("dense: + agent", {"who_when": True, "history": True}, dense_without_session),
    ("recipe without agent, date", {"who_when": False, "history": True}, as_it_is),
    ("recipe without memories before", {"who_when": True, "history": False}, as_it_is),
    ("recipe without dense", {"who_when": True, "history": True}, only("words")),
    ("recipe without words", {"who_when": True, "history": True}, only("bare")),
    ("recipe without session", {"who_when": True, "history": True}, without_session),
    ("recipe", {"who_when": True, "history": True}, as_it_is),
]


async def measure(
    model: MiniLM, boards: Sequence[Talk], *, through_index: bool
) -> dict[str, Recall]:
    rows: dict[str, Recall] = {name: {} for name, _, _ in ROWS}
    for talk in boards:
        vectors = await embedded(model, talk)
        kept: dict[tuple[bool, bool], list[Parts]] = {}
        for name, how, change in ROWS:
            kind = how["who_when"], how["history"]
            if kind not in kept:
                held = searched(talk, texts(talk, **how), vectors)
                if through_index:
                    kept[kind] = await indexed(held, talk, vectors)
                else:
                    kept[kind] = exact(held, talk, vectors)
            rows[name][talk.name] = list(recalled(talk, [change(each) for each in kept[kind]]))
    return rows


def show(name: str, row: Sequence[tuple[float, ...]]) -> None:
    print(f"{name:64}", *(f"{statistics.mean(each):.3f}" for each in zip(*row, strict=True)))


def report(rows: dict[str, Recall]) -> None:
    print(f"{'recall at':64}", *(f"{k:5}" for k in KS))
    for name, figures in PUBLISHED.items():
        show(name, [figures])
    for name, recall in rows.items():
        show(name, [found for each in recall.values() for _, found in each])
    recall = rows["recipe"]
    for category, word in CATEGORIES.items():
        found = [
            found for each in recall.values() for asked, found in each if asked.category == category
        ]
        show(f"recipe, {word} ({len(found)})", found)
    for name, each in recall.items():
        show(f"recipe, {name} alone ({len(each)})", [found for _, found in each])


async def main(arguments: argparse.Namespace) -> None:
    boards = list(talks(arguments.data))
    turns = sum(len(talk.memories) for talk in boards)
    questions = sum(len(talk.questions) for talk in boards)
    print(f"{len(boards)} conversations, {turns} turns, {questions} questions")
    model = await MiniLM.open()
    report(await measure(model, boards, through_index=arguments.index))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--index", action="store_true", help="through the embedded index")
    options = parser.parse_args()
    if options.data is None:
        print("bench_locomo: no --data given, nothing to measure")
    else:
        anyio.run(main, options)
