"""`blackboard run`: an agent's file, as one process or several."""

from datetime import datetime
from pathlib import Path

from blackboard.cli.output import say_json
from blackboard.cli.place import HERE, Place
from blackboard.errors import InvalidError
from blackboard.runtime.process import log_to_stderr, parse_start
from blackboard.runtime.replicas import run_file


async def run(
    file: Path,
    /,
    *,
    replicas: int = 1,
    start: str | None = None,
    grace: float | None = None,
    place: Place = HERE,
) -> int:
    """Run the agent of a Python file.

    Its replicas share the work. Ctrl-C has them finish what is in hand; a
    second one ends them now. What they log goes to standard error.

    Args:
        file: Defines one agent, like `agent = Agent("summarizer")`.
        replicas: How many processes.
        start: Begin anew at now, start, a time, or so long ago, like 1h; by default go on.
        grace: Seconds to finish what is in hand.
        place: The board.

    Returns:
        The worst exit code of the replicas.
    """
    if replicas < 1:
        raise InvalidError(f"--replicas {replicas} must be at least 1")
    if grace is not None and grace < 0:
        raise InvalidError(f"--grace {grace} must be 0 or more seconds")
    begin = parse_start(start)
    if isinstance(begin, datetime):
        begin = begin.isoformat()  # so long ago means the same to all replicas
    settings = place.settings()
    log_to_stderr()
    code = await run_file(file, replicas=replicas, start=begin, grace_s=grace, settings=settings)
    if place.as_json:
        say_json({"file": str(file), "replicas": replicas, "exit_code": code})
    return code
