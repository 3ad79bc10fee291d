"""The index of a board, as far as it has come."""

from blackboard.board import Blackboard
from blackboard.doctor.check import Check
from blackboard.errors import BlackboardError, SettingsError

LAGS = 1_000
"""Messages behind from which on the index is worth a warning."""


async def check(board: Blackboard) -> Check:
    """Look at the index of a board."""
    try:
        index = await board.finder.status()
    except SettingsError as error:
        return Check("index", "unknown", str(error))
    except BlackboardError as error:
        return Check("index", "unknown", str(error), "blackboard recall begins it")
    text = f"{index.memories} memories, {index.embedder}, {index.engine}"
    if index.trouble is not None:
        return Check("index", "warn", f"{text}: {index.trouble}")
    if index.state.lag > LAGS:
        do = "wait; when it does not get less, give the recall service more cores"
        return Check("index", "warn", f"{text}, {index.state.lag} messages behind", do)
    if index.skipped:
        do = "the service's log names them"
        return Check("index", "warn", f"{text}; {index.skipped} could not be indexed", do)
    behind = f", {index.state.lag} messages behind" if index.state.lag else ""
    return Check("index", "ok", f"{text}{behind}")
