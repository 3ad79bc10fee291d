"""`blackboard demo`: the flock over real documents, in four acts."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from blackboard.demo.play import demo as play
from blackboard.demo.report import Act


async def demo(
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
