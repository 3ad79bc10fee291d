"""`blackboard demo`: the flock over real documents, in four acts; and the support desk."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from blackboard.demo.play import demo as play
from blackboard.demo.report import Act
from blackboard.demo.support import support as visit

demo = App(
    name="demo",
    help_epilogue="Example:\n\n"
    "    blackboard demo --act shared --act kill docs/\n"
    "    blackboard demo support",
)


@demo.default
async def flock(
    *paths: Path,
    act: tuple[Act, ...] = (),
    keep: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Let a flock of agents read real documents, with and without a shared board.

    Six teams of three agents each ask one question of the same documents.
    Four acts: every team by itself; all on one board; a summarizer killed
    in the middle of its work; one line edited. It runs on a local stack of
    its own, which is gone afterwards. With OPENAI_BASE_URL set that model
    writes the summaries, else sentences are picked.

    Args:
        paths: Files and folders to read; by default the Python Language Reference.
        act: Play only this one; may be given several times.
        keep: Keep the boards in this folder, to look at them afterwards.
        as_json: Print one JSON object and nothing else.

    Returns:
        The exit code.
    """
    return await play(paths, acts=act, as_json=as_json, keep=keep)


@demo.command(
    help_epilogue="Example:\n\n"
    "    blackboard demo support\n"
    "    blackboard demo support --full --keep desk",
)
async def support(
    *,
    full: bool = False,
    keep: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Let three customers visit a support desk, with and without a shared board.

    Billing, returns and technical support each need to know some things of a
    customer. Every visit is served by a new process; the questions that the
    customers had answered before are counted. It runs on a local stack of its
    own, which is gone afterwards. With OPENAI_BASE_URL set that model reads
    and words, else rules do.

    Args:
        full: Show every conversation instead of those of the first customer.
        keep: Keep the boards in this folder, to look at them afterwards.
        as_json: Print one JSON object and nothing else.

    Returns:
        The exit code.
    """
    return await visit(full=full, as_json=as_json, keep=keep)
