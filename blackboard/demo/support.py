"""The support desk, with and without a shared board: the same customers, programs and words."""

import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import uuid4

import msgspec
from rich.table import Table

from blackboard.board import Blackboard
from blackboard.demo.customers import Script, load as load_customers
from blackboard.demo.screen import Screen
from blackboard.demo.signals import interruptible
from blackboard.demo.stage import machine, own_stack
from blackboard.demo.visits import NAME, Cite, Conversation, Desk
from blackboard.settings import Settings, load as load_settings

QUOTE_CHARS = 70


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the desk took."""

    conversations: int
    questions: int
    """Questions to the customers."""
    repeated: int
    """Questions to which somebody at the desk had been told the answer."""
    citing: int
    """Conversations whose answer cites a memory of another conversation."""
    by_tag: int
    """Cited notes that were found by the tag of their fact."""
    by_meaning: int
    """Cited notes that nothing but their words could find."""
    wrong: int
    """Cited notes that are another customer's or do not tell the fact."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `--json` prints."""

    without: Figures
    shared: Figures
    model: str
    machine: str


async def support(
    *,
    full: bool = False,
    as_json: bool = False,
    keep: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Let three customers visit a support desk of three departments; see `blackboard demo support`.

    It runs on a local stack of its own and leaves nothing running.

    Args:
        full: Print every conversation instead of those of the first customer.
        as_json: Print one JSON object on standard output and nothing else.
        keep: A folder where the boards stay afterwards; None throws them away.
        settings: Only the model's are used; None reads them from the environment.

    Returns:
        The exit code: 0, or 1 when a promise was broken (it says which), 130 when interrupted.

    Raises:
        SettingsError: Recall is not installed, or a setting cannot be used.
        BlackboardError: A conversation could not be finished; the text says why.
    """
    scripts, screen = load_customers(), Screen(as_json=as_json)
    used = settings or load_settings()

    async def perform() -> int:
        async with own_stack(used, keep) as (folder, _, own):
            _introduce(scripts, screen, own)
            results = await _play(scripts, screen, folder, own, full=full, kept=keep is not None)
        # What a model reads and words, nobody can promise.
        broken = faults(results) if used.model_url is None else []
        for fault in broken:
            print(f"promise broken: {fault}", file=sys.stderr)  # noqa: T201 - seen with --json too
        if as_json:
            print(msgspec.json.encode(results).decode(), flush=True)  # noqa: T201 - the one thing on standard output
        return 1 if broken else 0

    return await interruptible(perform)


async def _play(
    scripts: Sequence[Script],
    screen: Screen,
    folder: Path,
    settings: Settings,
    *,
    full: bool,
    kept: bool,
) -> Results:
    run = uuid4().hex[:6]  # part of the boards' names: a kept folder may have those of other runs
    board = f"desk-{run}"

    def opened(name: str) -> AbstractAsyncContextManager[Blackboard]:
        return Blackboard.local(settings.data_dir, name, NAME)

    def name_alone(script: Script, number: int) -> str:
        return f"{script.user}-{number + 1}-{run}"

    alone = Desk(folder / f"alone-{run}", settings, opened, name_alone)
    together = Desk(folder / board, settings, opened, lambda _script, _number: board)
    screen.title("Each visit with a board of its own")
    without = figures(await alone.run(scripts))
    screen.say(f"{without.questions} questions, {without.repeated} of them asked before")
    screen.title("All visits on one board")
    held = await together.run(scripts)
    _show(held, screen, full=full)
    results = Results(
        without=without,
        shared=figures(held),
        model=settings.model_name if settings.model_url else "rules",
        machine=machine(),
    )
    _compare(results, screen)
    if kept:
        screen.say(_look_around(held, f"--data {settings.data_dir} --board {board}"))
    return results


def figures(held: Sequence[Conversation]) -> Figures:
    """Count what happened in some conversations."""
    cites = [cite for one in held for cite in one.cites]
    return Figures(
        conversations=len(held),
        questions=sum(len(one.questions) for one in held),
        repeated=sum(len(one.repeated) for one in held),
        citing=sum(bool(one.cites) for one in held),
        by_tag=sum(cite.how == "tag" for cite in cites),
        by_meaning=sum(cite.how == "meaning" for cite in cites),
        wrong=sum(len(one.wrong) for one in held),
    )


def faults(results: Results) -> list[str]:
    """Tell which promises were broken; none is the normal case."""
    found: list[str] = []
    if results.shared.repeated:
        found.append(f"with the board {results.shared.repeated} questions were repeated")
    if results.shared.wrong or results.without.wrong:
        found.append("a memory was cited that does not tell the fact, or is another customer's")
    if not results.without.repeated:
        found.append("without the board no question was repeated: nothing was shown")
    return found


def _introduce(scripts: Sequence[Script], screen: Screen, settings: Settings) -> None:
    names = ", ".join(script.name for script in scripts)
    clerk = settings.model_name if settings.model_url else "rules (retrieval and templates)"
    screen.say(
        f"A support desk of three departments: billing, returns, technical. {names} each visit all "
        "three. Every visit is served by a process of its own that has just started."
    )
    screen.say(f"reading and wording: {clerk}; machine: {machine()}")


def _show(held: Sequence[Conversation], screen: Screen, *, full: bool) -> None:
    first = held[0].customer
    for one in sorted(held, key=lambda one: one.customer != first):
        heading = f"visit {one.number + 1}: {one.customer} and {one.department} (process {one.pid})"
        if not full and one.customer != first:
            screen.say(
                f"{heading}: asked {_listed(one.questions)}; cited {len(one.cites)} memories"
            )
            continue
        screen.say(f"\n{heading}")
        for line in one.lines:
            mark = "  (asked before!)" if line.repeated else ""
            screen.say(f"  {line.who:>9}  {line.text}{mark}")
            for number, cite in enumerate(line.cites, 1):
                screen.say(f"             {_cited(number, cite)}")
    screen.say("" if full else "(all conversations: --full)")


def _cited(number: int, cite: Cite) -> str:
    said = cite.said if len(cite.said) <= QUOTE_CHARS else f"{cite.said[:QUOTE_CHARS]}…"
    return (
        f"[m{number}] {cite.fact}, found by {cite.how}: “{said}” "
        f"({cite.agent}, {cite.stored:%Y-%m-%d %H:%M}, {cite.ref})"
    )


def _listed(facts: Sequence[str]) -> str:
    return ", ".join(facts) or "nothing"


def _compare(results: Results, screen: Screen) -> None:
    screen.title("What it took")
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for title in ("", "each visit alone", "one board"):
        table.add_column(title, justify="right" if title else "left")
    rows = (
        ("conversations", "conversations"),
        ("questions asked", "questions"),
        ("repeated questions", "repeated"),
        ("answers that cite a memory", "citing"),
        ("memories cited, found by tag", "by_tag"),
        ("memories cited, found by meaning", "by_meaning"),
        ("wrong memories cited", "wrong"),
    )
    for title, name in rows:
        table.add_row(
            title, *(str(getattr(one, name)) for one in (results.without, results.shared))
        )
    screen.console.print(table)


def _look_around(held: Sequence[Conversation], where: str) -> str:
    cited = next((cite.ref for one in held for cite in one.cites), None)
    lines = [
        "\nlook around:",
        f"  blackboard recall 'what was tried to repair it?' --topic 'support.said.>' {where}",
        f"  blackboard watch 'support.>' --since start {where}",
    ]
    if cited is not None:
        lines.append(f"  blackboard explain '{cited}' {where}")
    return "\n".join(lines)
