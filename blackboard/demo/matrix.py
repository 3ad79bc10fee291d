"""The picture: teams by sections, a cell for each section that a team needs, filled when served.

The matrix knows nothing of terminals; `draw` shows it in one. Without colours and beyond ASCII it
stays readable, because each state has a sign of its own.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from rich.console import Console, Group, RenderableType
from rich.text import Text


class State(Enum):
    """What became of a cell: sign, sign where only ASCII can be shown, colour, and the word."""

    WAITING = ("·", ".", "dim", "waiting")
    PAID = ("█", "#", "yellow", "paid call")
    REUSED = ("░", "+", "green", "reused")
    TAKEN_OVER = ("▲", "!", "magenta", "taken over")
    KEPT = ("─", "-", "dim", "untouched")

    def __init__(self, sign: str, plain: str, style: str, word: str) -> None:
        self.sign = sign
        self.plain = plain
        self.style = style
        self.word = word


@dataclass(slots=True)
class Cell:
    """One section that one team needs."""

    digest: str
    state: State = State.WAITING


@dataclass(slots=True)
class Matrix:
    """The cells of all teams.

    Attributes:
        rows: For each team its sections by key, in the order of its report.
        interrupted: Digests of the sections that a killed process was working on.
    """

    rows: dict[str, dict[str, Cell]]
    interrupted: set[str] = field(default_factory=set[str])

    @classmethod
    def of(cls, teams: Iterable[str]) -> "Matrix":
        """An empty matrix for these teams."""
        return cls({team: {} for team in teams})

    def plan(self, team: str, sections: Iterable[tuple[str, str]]) -> None:
        """Set which sections (key and digest) a team needs; served ones of the same text stay."""
        before = self.rows[team]
        self.rows[team] = {
            key: before[key] if key in before and before[key].digest == digest else Cell(digest)
            for key, digest in sections
        }

    def serve(self, team: str, key: str, digest: str, *, made: bool) -> None:
        """Record that a team has the summary of a section: `made` by its own call, or not.

        A summary of a text that the outline does not (or no longer) ask for changes nothing.
        """
        cell = self.rows[team].get(key)
        if cell is None or cell.digest != digest:
            return
        if made and digest in self.interrupted:
            cell.state = State.TAKEN_OVER
        else:
            cell.state = State.PAID if made else State.REUSED

    def rest(self) -> None:
        """Take what was served so far as the ground on which a change shows."""
        for cells in self.rows.values():
            for cell in cells.values():
                if cell.state is not State.WAITING:
                    cell.state = State.KEPT

    def waiting(self, team: str) -> bool:
        """Whether a team lacks its outline or a summary."""
        cells = self.rows[team].values()
        return not cells or any(cell.state is State.WAITING for cell in cells)

    def counts(self, teams: Collection[str] | None = None) -> Counter[State]:
        """How many cells are in each state, of some teams or of all."""
        return Counter(
            cell.state
            for team, cells in self.rows.items()
            if teams is None or team in teams
            for cell in cells.values()
        )


def draw(matrix: Matrix, console: Console) -> RenderableType:
    """Show a matrix: a strip of cells for each team, and the legend."""
    plain = not console.encoding.lower().startswith("utf")
    label = max(map(len, matrix.rows), default=0) + 2
    width = max(console.width - label - 14, 16)
    lines: list[Text] = []
    for team, cells in matrix.rows.items():
        states = [cell.state for cell in cells.values()]
        served = sum(state is not State.WAITING for state in states)
        count = f"  {served}/{len(states)}" if states else "  reading"
        for begin in range(0, max(len(states), 1), width):
            line = Text(f"{team if begin == 0 else '':{label}}")
            for state in states[begin : begin + width]:
                line.append(state.plain if plain else state.sign, state.style)
            if begin + width >= len(states):
                line.append(count, "dim")
            lines.append(line)
    return Group(*lines, _legend(matrix, plain=plain, label=label))


def _legend(matrix: Matrix, *, plain: bool, label: int) -> Text:
    counts = matrix.counts()
    legend = Text(" " * label)
    for state in State:
        if counts[state] or state in {State.PAID, State.REUSED}:
            legend.append(state.plain if plain else state.sign, state.style)
            legend.append(f" {state.word} {counts[state]}   ", "dim")
    return legend
