"""One memory of a run, explained: the work that most teams shared."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from blackboard.demo.flock import Flock
from blackboard.demo.screen import Screen
from blackboard.demo.stage import Stage
from blackboard.explain import Explanation, explain
from blackboard.messages import Memory
from blackboard.subjects import Ref


@dataclass(frozen=True, slots=True)
class Example:
    """A memory worth a look.

    Attributes:
        board: Name of its board.
        ref: Of the memory.
    """

    board: str
    ref: Ref


def choose_example(run: Flock) -> Example | None:
    """Choose a summary of the section that most teams share, best one that was reused.

    Returns:
        None when the run made no summary.
    """
    found = [memory for memory in run.events if memory.kind in {"result", "reuse"}]
    uses = Counter(memory.tags.get("digest", "") for memory in found)

    def order(memory: Memory) -> tuple[int, bool, str, int]:
        digest = memory.tags.get("digest", "")
        return -uses[digest], memory.kind == "result", digest, memory.revision

    best = min(found, key=order, default=None)
    if best is None:
        return None
    team = run.teams[best.topic.rsplit(".", 1)[-1]]
    return Example(team.board.name, best.ref)


async def show_example(example: Example, stage: Stage, screen: Screen, keep: Path | None) -> None:
    """Print the explanation of a memory, and the commands that show more."""
    screen.title("One memory, explained")
    screen.say(str(example.ref))
    async with stage.open(example.board) as board:
        for line in _lines(await explain(board, example.ref)):
            screen.say(f"  {line}")
    where = f"--data {stage.settings.data_dir} --board {example.board}"
    if keep is None:
        where = "--data DIR/data --board BOARD"
        screen.say("these boards are gone now; after `blackboard demo --keep DIR` they stay:")
    for command in ("explain", "trace"):
        screen.say(f"  blackboard {command} {example.ref if keep else 'REF'} {where}")


def _lines(explanation: Explanation) -> list[str]:
    memory = explanation.memory
    lines = [f"put by agent {memory.agent}, handler {memory.handler}, because of {memory.input}"]
    if (shown := memory.shows) is not None:
        lines.append(f"shows {shown.ref}, which {shown.agent} made: {shown.spent}")
    makers = [use.agent for use in explanation.shown_by if use.kind == "reuse"]
    if makers:
        times = "once" if len(makers) == 1 else f"{len(makers)} times"
        agents = ", ".join(sorted(set(makers)))
        lines.append(f"reused {times}, by {agents}, which saved {explanation.saved}")
    if explanation.used_by:
        lines.append(f"went into {', '.join(use.ref for use in explanation.used_by[:3])}")
    if memory.trace is not None:
        lines.append(f"in trace {memory.trace}")
    return lines
