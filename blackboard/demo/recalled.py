"""The end of the demo: a question to a board that the flock has filled, answered with sources."""

import anyio

from blackboard.board import Blackboard
from blackboard.demo.example import Example
from blackboard.demo.screen import Screen
from blackboard.demo.stage import Stage
from blackboard.errors import BlackboardError, SettingsError
from blackboard.hits import Hits

INDEX_S = 30.0
"""How long the first question waits for a board to be indexed."""
HITS = 3
KINDS = ["result", "reuse"]
"""What a model, or who stands in for one, has written."""
WIDTH = 88


async def show_recall(example: Example, stage: Stage, screen: Screen) -> None:
    """Ask a board what a person would ask, and print what is found and where it came from.

    Where recall is not installed, or does not get ready, it says so; nothing else depends on it.
    """
    question = next(iter(stage.questions.values()))
    screen.title("A question to the whole board")
    screen.say(f"recall: {question}")
    async with stage.open(example.board) as board:
        try:
            hits = await _ask(board, question)
        except SettingsError as error:
            screen.say(f"  not here: {error}")
            return
        except BlackboardError as error:
            screen.say(f"  not answered: {error}")
            return
    for number, hit in enumerate(hits, 1):
        memory = hit.memory
        parts = ", ".join(f"{name} {value:.2f}" for name, value in hit.why.items())
        screen.say(f"  m{number} {hit.score:.2f} ({parts}) by agent {memory.agent}: {memory.ref}")
        screen.say(f"     {_short(memory.content)}")
        for source in (*memory.sources, *filter(None, (memory.content_of,)))[:2]:
            screen.say(f"     from {source}")
    if hits.catching_up:
        screen.say(f"  the board is still being indexed, {hits.lag} messages to go")


async def _ask(board: Blackboard, question: str) -> Hits:
    """Ask, and ask again while the index is being built."""
    began = anyio.current_time()
    while True:
        hits = await board.recall(question, topic="docs.summary.>", kind=KINDS, limit=HITS)
        if not hits.catching_up or anyio.current_time() - began > INDEX_S:
            return hits


def _short(content: object) -> str:
    text = " ".join(str(content).split())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
