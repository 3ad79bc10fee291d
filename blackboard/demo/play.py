"""The demo from beginning to end: sets the stage, plays the acts, draws the conclusions."""

import sys
from collections.abc import Sequence
from pathlib import Path

from blackboard.demo.acts import Played, alone, edit, isolated, kill, shared
from blackboard.demo.documents import load as load_documents
from blackboard.demo.example import Example, show_example
from blackboard.demo.programs import ProgramError
from blackboard.demo.recalled import show_recall
from blackboard.demo.report import ACTS, Act, Results, as_json as written, compare, faults
from blackboard.demo.screen import Screen
from blackboard.demo.signals import interruptible
from blackboard.demo.stage import Stage, machine, set_up
from blackboard.demo.teams import DOCUMENTS_READ, GENERAL_QUESTIONS, PYTHON_QUESTIONS
from blackboard.errors import SettingsError
from blackboard.settings import Settings, load as load_settings


async def demo(
    paths: Sequence[Path] = (),
    *,
    acts: Sequence[Act] = (),
    as_json: bool = False,
    keep: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Let six teams of agents read documents, with and without a shared board, and compare.

    It runs on a local stack of its own, whatever the settings say about a board, and leaves nothing
    running. SIGINT, SIGTERM and SIGHUP end it, with all its processes, within some seconds.

    Args:
        paths: Files and folders to read; none means the Python Language Reference.
        acts: Which to play, in their usual order; none means all.
        as_json: Print one JSON object on standard output and nothing else.
        keep: A folder where the boards stay afterwards; None throws them away.
        settings: Only the model's are used; None reads them from the environment.

    Returns:
        The exit code: 0, or 1 when a promise was broken (it says which), 130 when interrupted.

    Raises:
        SettingsError: A path or a setting cannot be used.
        BlackboardError: An act could not be finished; the text says why.
    """
    unknown = [act for act in acts if act not in ACTS]
    if unknown:
        raise SettingsError(f"no act {unknown[0]!r}; choose of {', '.join(ACTS)}")
    chosen: list[Act] = [act for act in ACTS if act in acts or not acts]
    library = load_documents([Path(path) for path in paths])
    questions = GENERAL_QUESTIONS if paths else PYTHON_QUESTIONS
    screen = Screen(as_json=as_json)
    used = settings or load_settings()

    async def perform() -> int:
        async with set_up(library, questions, used, keep) as stage:
            return await _play(stage, screen, chosen, as_json=as_json, keep=keep)

    try:
        return await interruptible(perform)
    except ProgramError as error:
        if error.said:
            print(error.said, file=sys.stderr)  # noqa: T201 - more than the one line of an error
        raise


def _introduce(stage: Stage, screen: Screen) -> None:
    library = stage.library
    screen.say(
        f"{len(stage.questions)} teams of three agents read {library.title} "
        f"({len(library.documents)} documents); each has one question and reads the "
        f"{DOCUMENTS_READ} best documents for it"
    )
    for team, question in stage.questions.items():
        screen.say(f"  {team}: {question}")
    if library.passed_over:
        more = len(library.passed_over) - 3
        screen.say(
            f"passed over: {'; '.join(library.passed_over[:3])}"
            + (f" and {more} more" if more > 0 else "")
        )
    how = "" if stage.has_endpoint else " (shows reuse, not prose)"
    screen.say(f"summaries: {stage.model}{how}; machine: {machine()}")


async def _play(
    stage: Stage, screen: Screen, chosen: Sequence[Act], *, as_json: bool, keep: Path | None
) -> int:
    _introduce(stage, screen)
    results, played = Results(), Played()
    for act in chosen:
        match act:
            case "isolated":
                results.isolated = await isolated(stage, screen, played)
            case "shared":
                results.shared = await shared(stage, screen, played)
            case "kill":
                results.kill = await kill(stage, screen, played)
            case "edit":
                results.edit = await edit(stage, screen, played)
    if results.isolated is not None and results.shared is not None:
        results.alone = await alone(stage, screen)
    identical = None if stage.has_endpoint else played.identical()
    screen.title("Reports" if results.alone is None else "What it took")
    compare(results, screen.console)
    screen.say(_verdict(played, identical, has_endpoint=stage.has_endpoint))
    broken = faults(results, reports_identical=identical, exact=not stage.has_endpoint)
    for fault in broken:
        print(f"promise broken: {fault}", file=sys.stderr)  # noqa: T201 - seen with --json too
    if played.example is not None:
        await _look(played.example, stage, screen, keep, as_json=as_json)
    if as_json:
        text = written(results, reports_identical=identical, model=stage.model, machine=machine())
        print(text, flush=True)  # noqa: T201 - the one thing on standard output
    return 1 if broken else 0


async def _look(
    example: Example, stage: Stage, screen: Screen, keep: Path | None, *, as_json: bool
) -> None:
    """Look at what the flock left: one memory, and what a question finds."""
    await show_example(example, stage, screen, keep)
    if not as_json:
        await show_recall(example, stage, screen)


def _verdict(played: Played, identical: bool | None, *, has_endpoint: bool) -> str:  # noqa: FBT001
    runs = ", ".join(played.reports)
    if has_endpoint:
        return "reports identical: not to be expected, a model never says the same thing twice"
    if identical is None:
        return f"reports identical: only one run ({runs}), nothing to compare"
    return f"reports identical: {'yes, byte for byte' if identical else 'NO'} ({runs})"
