"""What the acts measured, and how it is said: one JSON object, or sentences for a reader.

Words that have to mean one thing: a *call* is a request at the model's door, retries included;
*distinct* is the number of different pairs of prompt and section text among the calls; a *use* is a
section that a team's report needs; the *reuse rate* is 1 - calls / uses; *seconds* run from the
first reader's question to the last report, by the broker's clock; *bytes moved* are the broker's
counts of all connections but the demo's own.
"""

from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

Act = Literal["isolated", "shared", "kill", "edit"]
ACTS: tuple[Act, ...] = ("isolated", "shared", "kill", "edit")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the flock took."""

    model_calls: int
    distinct: int
    uses: int
    reuse_rate: float
    tokens: int
    bytes_moved: int
    seconds: float


class KillFigures(Figures, frozen=True, kw_only=True):
    """The run in which a summarizer was killed; its calls are at most `distinct + in_flight`."""

    in_flight: int
    """Requests of the killed process that had no answer."""
    taken_over: int
    """Sections it was working on, and that others served."""
    seconds_to_take_over: float
    """From the kill until the last of those was served."""
    pace_s: float
    """How long each call was made to last, so that there was something to interrupt."""


class EditFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one changed line made the flock do again, after a whole run."""

    document: str
    line: int
    sections: int
    """Distinct sections before the edit."""
    sections_redone: int
    """Distinct sections put again; each may be used by several teams."""
    sections_retired: int
    reports: int
    reports_redone: int
    model_calls: int
    tokens: int
    seconds: float


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """One team alone, where there is nothing to share: what sharing costs."""

    team: str
    isolated_seconds: float
    shared_seconds: float


class Results(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that `--json` prints; acts that were not played are left out."""

    isolated: Figures | None = None
    shared: Figures | None = None
    kill: KillFigures | None = None
    edit: EditFigures | None = None
    alone: Alone | None = None


def as_json(results: Results, *, reports_identical: bool | None, model: str, machine: str) -> str:
    """Write the results as one line of JSON.

    Args:
        results: Of the acts that were played.
        reports_identical: Whether all runs gave the same reports, byte for byte; None when that
            cannot be said: a model wrote them, or there was one run only.
        model: Who wrote the summaries.
        machine: Where.
    """
    tree: dict[str, object] = msgspec.to_builtins(results)
    tree["reports_identical"] = reports_identical
    tree["model"] = model
    tree["machine"] = machine
    return msgspec.json.encode(tree).decode()


def faults(results: Results, *, reports_identical: bool | None, exact: bool) -> list[str]:
    """Tell which promises were broken; none is the normal case.

    Args:
        results: Of the acts that were played.
        reports_identical: As `as_json` has it.
        exact: No call can have been a retry, so that calls and distinct must agree.
    """
    found: list[str] = []
    if reports_identical is False:
        found.append("the reports differ between the runs")
    if exact and results.shared and results.shared.model_calls != results.shared.distinct:
        found.append("on the shared board a section was summarised more than once")
    killed = results.kill
    if exact and killed and killed.model_calls > killed.distinct + killed.in_flight:
        found.append("after the kill more was done again than was in flight")
    return found


def sentence(figures: Figures) -> str:
    """One run in one line."""
    return (
        f"{figures.model_calls} model calls for {figures.uses} uses of {figures.distinct} distinct "
        f"sections · reuse {figures.reuse_rate:.0%} · {figures.tokens:,} tokens · "
        f"{_megabytes(figures.bytes_moved)} moved · {figures.seconds:.1f} s"
    )


def compare(results: Results, console: Console) -> None:
    """Print isolated beside shared, when both were played."""
    isolated, shared = results.isolated, results.shared
    if isolated is None or shared is None:
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for title in ("", "isolated", "shared", ""):
        table.add_column(title, justify="right" if title else "left")
    rows = (
        ("model calls", isolated.model_calls, shared.model_calls, "d"),
        ("distinct", isolated.distinct, shared.distinct, "d"),
        ("tokens", isolated.tokens, shared.tokens, ",d"),
        ("bytes moved", isolated.bytes_moved, shared.bytes_moved, ",d"),
        ("seconds", isolated.seconds, shared.seconds, ".2f"),
    )
    for name, before, after, form in rows:
        ratio = f"{after / before:.2f} x" if before else ""
        table.add_row(name, format(before, form), format(after, form), ratio)
    console.print(table)
    if (alone := results.alone) is not None:
        console.print(
            f"with nothing to share (team {alone.team!r} alone): "
            f"isolated {alone.isolated_seconds:.2f} s, shared {alone.shared_seconds:.2f} s"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
