"""The four acts: isolated, shared, a kill, an edit; and one team alone: what sharing costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import msgspec

from blackboard.demo.edits import Edit, choose
from blackboard.demo.example import Example, choose_example
from blackboard.demo.flock import Flock, flock
from blackboard.demo.matrix import State
from blackboard.demo.programs import Program
from blackboard.demo.report import Alone, EditFigures, Figures, KillFigures, sentence
from blackboard.demo.screen import Screen
from blackboard.demo.stage import Stage

PACE_S = 0.2
"""Extractive summaries take no time, so in the kill act each call is made to last this long."""
KILL_AFTER = 0.25
"""Share of the calls that are made when the kill comes."""
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


async def kill(stage: Stage, screen: Screen, played: Played) -> KillFigures | None:
    """Shared, and a summarizer is killed in the middle of its work; None if there was no work."""
    pace_s = 0.0 if stage.has_endpoint else PACE_S
    screen.title("Kill: kill -9 of a summarizer while it works")
    if pace_s:
        screen.say(f"(here each call is made to last {pace_s:g} s, so that work is in flight)")
    boards = _one_board(stage, "kill")
    async with flock(stage, screen, "kill", boards, pace_s=pace_s) as run:
        with screen.picture(run.matrix):
            await run.ask(stage.documents)
            victim = await _catch(run)
            if victim is None:
                screen.say("there was never a call to interrupt; this act is left out")
                return None
            in_flight, seconds = await _strike(run, victim)
            await run.until_reports()
        figures = await run.figures()
        _record(run, played)
    screen.say(sentence(figures))
    bound = figures.distinct + in_flight
    screen.say(
        f"{figures.model_calls} calls {'≤' if figures.model_calls <= bound else '>'} "
        f"{figures.distinct} distinct + {in_flight} in flight in the killed process = {bound}; "
        f"what it was working on was taken over within {seconds:.1f} s"
    )
    return KillFigures(
        **msgspec.structs.asdict(figures),
        in_flight=in_flight,
        taken_over=len(run.matrix.interrupted),
        seconds_to_take_over=seconds,
        pace_s=pace_s,
    )


async def edit(stage: Stage, screen: Screen, played: Played) -> EditFigures | None:
    """Shared, and then one line of one document changes; None if there is no line to change."""
    screen.title("Edit: one line of one document changes")
    async with flock(stage, screen, "edit", _one_board(stage, "edit")) as run:
        await run.ask(stage.documents)
        await run.until_reports()
        _record(run, played)
        change = choose(stage.library.documents, _readers(run), len(run.teams))
        if change is None:
            screen.say("no document that was read has a line of prose; this act is left out")
            return None
        screen.say(f"{change.document}, line {change.number}: {change.line.strip()!r} is changed")
        figures = await _redo(run, change)
    screen.say(
        f"{_count(figures.sections_redone, 'section')} of {figures.sections} made again with "
        f"{_count(figures.model_calls, 'call')}; {figures.reports_redone} of {figures.reports} "
        f"reports written again · {figures.seconds:.1f} s"
    )
    return figures


async def _redo(run: Flock, change: Edit) -> EditFigures:
    """Ask again, over a copy of the documents with one line changed, and count what is done."""
    copy = run.stage.documents.parent / "edited"
    run.stage.library.write(copy, {change.document: change.text})
    before, seen = run.calls.count(), len(run.events)
    sections = {key for cells in run.matrix.rows.values() for key in cells}
    run.matrix.rest()
    with run.screen.picture(run.matrix):
        await run.ask(copy)
        await run.until_reports()
    run.calls.look()
    after, events = run.calls.count(), run.events[seen:]
    put = [memory for memory in events if memory.topic.startswith("docs.section.")]
    reports = [memory for memory in events if memory.topic.startswith("docs.report.")]
    return EditFigures(
        document=change.document,
        line=change.number,
        sections=len(sections),
        sections_redone=len({memory.id for memory in put if memory.gone is None}),
        sections_retired=len({memory.id for memory in put if memory.gone is not None}),
        reports=len(run.teams),
        reports_redone=len(reports),
        model_calls=after.made - before.made,
        tokens=after.tokens - before.tokens,
        seconds=run.seconds() if reports else 0.0,
    )


async def _whole(run: Flock, played: Played) -> Figures:
    with run.screen.picture(run.matrix):
        await run.ask(run.stage.documents)
        await run.until_reports()
    figures = await run.figures()
    _record(run, played)
    run.screen.say(sentence(figures))
    return figures


async def _catch(run: Flock) -> Program | None:
    """Freeze a summarizer that has calls under way; looking at one that runs would be too late."""
    found: list[Program] = []

    def busy() -> bool:
        sections = {cell.digest for cells in run.matrix.rows.values() for cell in cells.values()}
        if run.calls.count().made < KILL_AFTER * len(sections):
            return False
        workers = [one for one in run.troupe.programs if one.name.endswith("-summarizer")]
        found[:] = sorted(workers, key=lambda one: -len(run.calls.open([one.pid])))
        return bool(run.calls.open([found[0].pid]))

    while True:
        await run.until(lambda: busy() or run.is_done, lambda: "waiting for a busy summarizer")
        if run.is_done:
            return None
        victim = found[0]
        victim.freeze()
        await anyio.sleep(FREEZE_S)
        run.calls.look()
        if run.calls.open([victim.pid]):
            return victim
        victim.thaw()


async def _strike(run: Flock, victim: Program) -> tuple[int, float]:
    """Kill a program, start another, and wait until its work was taken over.

    Returns:
        Its calls without an answer, and the seconds until all those sections were served.
    """
    in_flight = run.calls.open([victim.pid])
    await victim.kill()
    killed_at = anyio.current_time()
    run.matrix.interrupted |= {line.section for line in in_flight}
    run.screen.say(
        f"killed {victim.name} (pid {victim.pid}) with {_count(len(in_flight), 'call')} in flight; "
        "another takes its place"
    )
    await run.replace(victim)
    await run.until(_taken_over(run), lambda: "waiting for the interrupted sections")
    return len(in_flight), round(anyio.current_time() - killed_at, 3)


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
