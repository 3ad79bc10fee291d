"""The four acts: isolated, shared, a kill, an edit; and one team alone: what sharing costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import msgspec

from blackboard.demo.edits import choose
from blackboard.demo.example import Example, choose_example
from blackboard.demo.flock import Flock, flock
from blackboard.demo.matrix import State
from blackboard.demo.programs import Program
from blackboard.demo.report import Alone, EditFigures, Figures, KillFigures, sentence
from blackboard.demo.screen import Screen
from blackboard.demo.stage import Stage
from blackboard.errors import SettingsError

PACE_S = 0.2
"""Extractive summaries take no time, so in the kill act each call is made to last this long."""
KILL_AFTER = 0.25
"""Share of the sections that are served when the kill comes."""
FREEZE_S = 0.02
"""A signal to stop is carried out a moment after it was sent."""


@dataclass(slots=True)
class Played:
    """What the acts leave for the end of the demo.

    Attributes:
        reports: Of every whole run over the same documents, by the run's name.
        example: A memory of the newest run on one board, to explain.
    """

    reports: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    example: Example | None = None

    def identical(self) -> bool | None:
        """Whether all runs gave the same reports, byte for byte; None with fewer than two runs."""
        runs = list(self.reports.values())
        return None if len(runs) < 2 else all(run == runs[0] for run in runs)


async def isolated(stage: Stage, screen: Screen, played: Played) -> Figures:
    """Every team for itself: a board of its own."""
    screen.title("Isolated: each team has a board of its own")
    boards = {team: stage.board("isolated", team) for team in stage.questions}
    async with flock(stage, screen, "isolated", boards) as run:
        return await _whole(run, played)


async def shared(stage: Stage, screen: Screen, played: Played) -> Figures:
    """All teams at one board."""
    screen.title("Shared: the same processes, all on one board")
    async with flock(stage, screen, "shared", _one_board(stage, "shared")) as run:
        return await _whole(run, played)


async def alone(stage: Stage, screen: Screen) -> Alone:
    """One team alone in either setting: what sharing costs when there is nothing to share."""
    team = next(iter(stage.questions))
    seconds: list[float] = []
    for name, board in (
        ("alone-isolated", stage.board("alone-isolated", team)),
        ("alone-shared", stage.board("alone-shared")),
    ):
        async with flock(stage, screen, name, {team: board}) as run:
            await run.ask(stage.documents)
            await run.until_reports()
            seconds.append(run.seconds())
    return Alone(team=team, isolated_seconds=seconds[0], shared_seconds=seconds[1])


async def kill(stage: Stage, screen: Screen, played: Played) -> KillFigures:
    """Shared, and a summarizer is killed in the middle of its work."""
    pace_s = 0.0 if stage.has_endpoint else PACE_S
    screen.title("Kill: kill -9 of a summarizer while it works")
    if pace_s:
        screen.say(
            f"(each call is made to last {pace_s:g} s here, so that there is work in flight)"
        )
    boards = _one_board(stage, "kill")
    async with flock(stage, screen, "kill", boards, pace_s=pace_s) as run:
        with screen.picture(run.matrix):
            await run.ask(stage.documents)
            victim = await _catch(run)
            run.calls.look()
            in_flight = run.calls.open([victim.pid])
            await victim.kill()
            killed_at = anyio.current_time()
            run.matrix.interrupted |= {line.section for line in in_flight}
            screen.say(
                f"killed {victim.name} (pid {victim.pid}) with {_count(len(in_flight), 'call')} "
                "in flight; another takes its place"
            )
            await run.replace(victim)
            await run.until(_taken_over(run), lambda: "waiting for the interrupted sections")
            seconds = round(anyio.current_time() - killed_at, 3)
            await run.until_reports()
        figures = await run.figures()
        _record(run, played)
    screen.say(sentence(figures))
    bound = figures.distinct + len(in_flight)
    screen.say(
        f"{figures.model_calls} calls {'≤' if figures.model_calls <= bound else '>'} "
        f"{figures.distinct} distinct + {len(in_flight)} in flight in the killed process = {bound}"
    )
    return KillFigures(
        **msgspec.structs.asdict(figures),
        in_flight=len(in_flight),
        taken_over=len(run.matrix.interrupted),
        seconds_to_take_over=seconds,
        pace_s=pace_s,
    )


async def edit(stage: Stage, screen: Screen, played: Played) -> EditFigures:
    """Shared, and then one line of one document changes."""
    screen.title("Edit: one line of one document changes")
    async with flock(stage, screen, "edit", _one_board(stage, "edit")) as run:
        await run.ask(stage.documents)
        await run.until_reports()
        _record(run, played)
        change = choose(stage.library.documents, _readers(run), len(run.teams))
        if change is None:
            raise SettingsError("no document that was read has a line of prose to edit")
        copy = stage.documents.parent / "edited"
        stage.library.write(copy, {change.document: change.text})
        screen.say(f"{change.document}, line {change.number}: {change.line.strip()!r} is changed")
        before, sections, seen = run.calls.count(), _sections(run), len(run.events)
        run.matrix.rest()
        with screen.picture(run.matrix):
            await run.ask(copy)
            await run.until_reports()
        run.calls.look()
        after, events = run.calls.count(), run.events[seen:]
        seconds = run.seconds()
    put = [memory for memory in events if memory.topic.startswith("docs.section.")]
    figures = EditFigures(
        document=change.document,
        line=change.number,
        sections=len(sections),
        sections_redone=len({memory.id for memory in put if memory.gone is None}),
        sections_retired=len({memory.id for memory in put if memory.gone is not None}),
        reports=len(run.teams),
        reports_redone=sum(memory.topic.startswith("docs.report.") for memory in events),
        model_calls=after.made - before.made,
        tokens=after.tokens - before.tokens,
        seconds=seconds,
    )
    screen.say(
        f"{_count(figures.sections_redone, 'section')} of {figures.sections} made again with "
        f"{_count(figures.model_calls, 'call')}; {figures.reports_redone} of {figures.reports} "
        f"reports written again · {figures.seconds:.1f} s"
    )
    return figures


async def _whole(run: Flock, played: Played) -> Figures:
    with run.screen.picture(run.matrix):
        await run.ask(run.stage.documents)
        await run.until_reports()
    figures = await run.figures()
    _record(run, played)
    run.screen.say(sentence(figures))
    return figures


async def _catch(run: Flock) -> Program:
    """Freeze a summarizer that has calls under way; looking at one that runs would be too late."""
    found: list[Program] = []

    def busy() -> bool:
        counts = run.matrix.counts()
        served = counts.total() - counts[State.WAITING]
        if not counts or served < KILL_AFTER * counts.total():
            return False
        workers = [one for one in run.troupe.programs if one.name.endswith("-summarizer")]
        found[:] = sorted(workers, key=lambda one: -len(run.calls.open([one.pid])))
        return bool(run.calls.open([found[0].pid]))

    while True:
        await run.until(busy, lambda: "waiting for a summarizer that is at work")
        victim = found[0]
        victim.freeze()
        await anyio.sleep(FREEZE_S)
        run.calls.look()
        if run.calls.open([victim.pid]):
            return victim
        victim.thaw()


def _taken_over(run: Flock) -> Callable[[], bool]:
    interrupted = run.matrix.interrupted
    return lambda: all(
        cell.state is not State.WAITING
        for cells in run.matrix.rows.values()
        for cell in cells.values()
        if cell.digest in interrupted
    )


def _one_board(stage: Stage, act: str) -> dict[str, str]:
    return dict.fromkeys(stage.questions, stage.board(act))


def _record(run: Flock, played: Played) -> None:
    played.reports[run.name] = run.reports()
    if played.example is None or run.name != "isolated":
        played.example = choose_example(run)


def _readers(run: Flock) -> dict[str, int]:
    """How many teams read each document."""
    readers: dict[str, int] = {}
    for team in run.teams.values():
        rows = cast(
            "list[dict[str, Any]]", team.outline.content["sections"] if team.outline else []
        )
        for document in {str(row["document"]) for row in rows}:
            readers[document] = readers.get(document, 0) + 1
    return readers


def _sections(run: Flock) -> set[str]:
    return {key for cells in run.matrix.rows.values() for key in cells}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
