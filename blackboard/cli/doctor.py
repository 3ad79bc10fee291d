"""`blackboard doctor`: shows what was found, and what to do about it."""

from blackboard.cli.output import clean, say, say_json
from blackboard.cli.place import AGENT, HERE, Place, check_readable
from blackboard.doctor import examine


async def doctor(*, monitor: str | None = None, place: Place = HERE) -> int:
    """Check the broker, the board and who may do what.

    Args:
        monitor: The servers' monitoring, like http://nats-1:8222, several
            separated by commas: only it tells how they sync their disks. That of
            a local stack is known.
        place: The board.

    Returns:
        The exit code: 1 when something does not work or data is at risk.
    """
    settings = place.settings()
    check_readable(settings)
    monitors = [one.strip() for one in (monitor or "").split(",") if one.strip()]
    checks = await examine(settings, AGENT, monitors)
    if place.as_json:
        say_json(checks)
    else:
        for check in checks:
            say(clean(f"{check.state:<8}{check.name}: {check.found}"))
            if check.do:
                say(clean(f"{'':<8}→ {check.do}"))
    return 1 if any(check.state == "fail" for check in checks) else 0
